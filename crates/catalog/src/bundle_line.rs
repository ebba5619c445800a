//! One line of a bundle: a thing of the catalogue as JSON, and back.
//!
//! Nothing is believed that was not checked: each text and icon has the hash that it is stored under, each icon is what its name says,
//! and names are names.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use steadfast_store::{BundlePackage, IconBlob, IconRow, PackageRow, SchemaBlob, SchemaRow};
use steadfast_types::Timestamp;
use steadfast_upstream::{IconFormat, IconShape, PackageName};

use crate::package::{PackageDocument, content_hash};

/// One thing in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BundleItem {
    /// When a source was last asked about all of its packages.
    Source(String, Timestamp),
    /// A package with all that belongs to it.
    Package(Box<BundlePackage>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum ItemLine {
    Source(SourceLine),
    Package(PackageLine),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceLine {
    pub(crate) name: String,
    pub(crate) checked_us: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackageLine {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) document: String,
    pub(crate) texts: Vec<String>,
    pub(crate) schemas: Vec<SchemaLine>,
    pub(crate) icons: Vec<IconLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchemaLine {
    pub(crate) version: String,
    /// Of a text; `null` if the version carries no schema.
    pub(crate) sha256: Option<String>,
    pub(crate) integrity: String,
    pub(crate) label: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IconLine {
    pub(crate) shape: String,
    pub(crate) format: String,
    pub(crate) base64: String,
}

// === impl ItemLine ===

impl ItemLine {
    pub(crate) fn of(item: &BundleItem) -> Self {
        match item {
            BundleItem::Source(name, checked) => Self::Source(SourceLine {
                name: name.clone(),
                checked_us: checked.0,
            }),
            BundleItem::Package(package) => Self::Package(PackageLine::of(package)),
        }
    }

    /// The name of the package that it is, or says to be.
    pub(crate) fn package(&self) -> Option<&str> {
        match self {
            Self::Source(_) => None,
            Self::Package(package) => Some(&package.name),
        }
    }

    /// Checks everything; the error is what is wrong with it, for people.
    pub(crate) fn check(self) -> Result<BundleItem, String> {
        match self {
            Self::Source(source) => {
                let checked = Timestamp(source.checked_us);
                Ok(BundleItem::Source(source.name, checked))
            }
            Self::Package(package) => {
                let package = package.check()?;
                Ok(BundleItem::Package(Box::new(package)))
            }
        }
    }
}

// === impl PackageLine ===

impl PackageLine {
    pub(crate) fn of(package: &BundlePackage) -> Self {
        Self {
            name: package.row.name.clone(),
            source: package.row.source.clone(),
            document: package.row.document.clone(),
            texts: package
                .texts
                .iter()
                .map(|text| text.document.clone())
                .collect(),
            schemas: package
                .schemas
                .iter()
                .map(|schema| SchemaLine {
                    version: schema.version.clone(),
                    sha256: schema.hash.clone(),
                    integrity: schema.integrity.clone(),
                    label: schema.label.clone(),
                })
                .collect(),
            icons: package
                .icons
                .iter()
                .map(|(icon, blob)| IconLine {
                    shape: icon.shape.clone(),
                    format: icon.ext.clone(),
                    base64: STANDARD.encode(&blob.bytes),
                })
                .collect(),
        }
    }

    /// Checks everything, and makes rows of it.
    fn check(self) -> Result<BundlePackage, String> {
        let name = PackageName::parse(&self.name).map_err(|error| error.to_string())?;
        let document: PackageDocument = serde_json::from_str(&self.document)
            .map_err(|error| format!("its document cannot be read: {error}"))?;
        if document.name != self.name || document.source != self.source {
            return Err("its document is another package's".to_owned());
        }
        let texts: Vec<SchemaBlob> = self
            .texts
            .into_iter()
            .map(|document| SchemaBlob {
                hash: content_hash(document.as_bytes()),
                document,
            })
            .collect();
        let mut schemas = Vec::with_capacity(self.schemas.len());
        for line in self.schemas {
            if let Some(hash) = &line.sha256
                && !texts.iter().any(|text| text.hash == *hash)
            {
                return Err(format!("the schema of version {} is missing", line.version));
            }
            schemas.push(SchemaRow {
                package: self.name.clone(),
                version: line.version,
                hash: line.sha256,
                integrity: line.integrity,
                label: line.label,
                origin: String::new(),
                misses: 0,
                retry_us: None,
            });
        }
        let icons = self.icons.into_iter().map(|line| line.check(&name));
        let package = BundlePackage {
            row: PackageRow {
                name: self.name.clone(),
                source: self.source,
                content_hash: content_hash(self.document.as_bytes()),
                document: self.document,
                upstream_etag: String::new(),
            },
            schemas,
            texts,
            icons: icons.collect::<Result<_, _>>()?,
        };
        // Text with a NUL is no text to PostgreSQL.
        let texts = package.texts.iter().map(|text| &text.document);
        let stated = package
            .schemas
            .iter()
            .flat_map(|schema| [&schema.version, &schema.integrity, &schema.label]);
        let row = [&package.row.source, &package.row.document];
        if texts
            .chain(stated)
            .chain(row)
            .any(|text| text.contains('\0'))
        {
            return Err("it holds a NUL".to_owned());
        }
        Ok(package)
    }
}

// === impl IconLine ===

impl IconLine {
    pub(crate) fn check(self, package: &PackageName) -> Result<(IconRow, IconBlob), String> {
        let what = format!("its icon {}.{}", self.shape, self.format);
        if IconShape::parse(&self.shape).is_none() {
            return Err(format!("{what} is of no known shape"));
        }
        let bytes = STANDARD
            .decode(&self.base64)
            .map_err(|error| format!("{what} is no base64: {error}"))?;
        if IconFormat::parse(&self.format).is_none()
            || IconFormat::sniff(&bytes) != IconFormat::parse(&self.format)
        {
            return Err(format!("{what} is of another format"));
        }
        let hash = content_hash(&bytes);
        let row = IconRow {
            package: package.to_string(),
            shape: self.shape,
            ext: self.format,
            hash: Some(hash.clone()),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            upstream_etag: String::new(),
            misses: 0,
            due: false,
        };
        Ok((row, IconBlob { hash, bytes }))
    }
}
