//! Questions answered from one snapshot: no lock, no database, no parsing of stored JSON, and mostly no encoding.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use steadfast_api::{
    registry::v1::{
        ListIconsRequest, ListIconsResponse, ListPackagesRequest, ListPackagesResponse, MatchKind,
        Resolution,
    },
    schema::v1::{GetSchemaResponse, ListSchemasRequest, ListSchemasResponse, SchemaSummary},
};
use steadfast_types::PageToken;
use steadfast_upstream::{IconFormat, IconShape};

use crate::{
    entry::{PackageEntry, SchemaSlot},
    error::Error,
    icon::IconSlot,
    resolve::{Chosen, nearest},
    schema::Schema,
    snapshot::{EncodedAnswer, Snapshot},
    specifier::{LATEST, Selector, Specifier, parse_name},
};

/// Lists have at most this many entries a page.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// A batch resolves at most this many specifiers.
pub const MAX_BATCH: usize = 1_000;

/// Longer search texts are refused.
pub const MAX_QUERY_BYTES: usize = 256;

const DEFAULT_PAGE_SIZE: usize = 100;

/// `GetPackageResponse { not_modified: true }`.
static PACKAGE_NOT_MODIFIED: &[u8] = &[0x10, 0x01];

/// `GetSchemaResponse { not_modified: true }`.
static SCHEMA_NOT_MODIFIED: &[u8] = &[0x28, 0x01];

/// `Resolution` with its version already encoded: a message and bytes look the same on the wire.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedResolution {
    #[prost(string, tag = "1")]
    specifier: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "bytes", tag = "3")]
    version: Bytes,
    #[prost(enumeration = "MatchKind", tag = "4")]
    by: i32,
    #[prost(string, tag = "5")]
    latest_version: String,
}

/// `ResolvePackageResponse` but for its read state.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedResolve {
    #[prost(message, optional, tag = "1")]
    resolution: Option<EncodedResolution>,
}

/// A version's schema, found.
#[derive(Debug, Clone)]
pub struct FoundSchema {
    /// The package.
    pub package: Arc<PackageEntry>,
    /// What the requested version resolved to.
    pub version: String,
    /// Its schema.
    pub schema: Arc<Schema>,
}

// === impl Snapshot: packages ===

impl Snapshot {
    /// `GetPackage`.
    ///
    /// # Errors
    /// [`Error::PackageNotFound`], or [`Error::InvalidSpecifier`] if it is no package name.
    pub fn lookup_package(&self, name: &str, if_none_match: &str) -> Result<EncodedAnswer, Error> {
        let entry = self.package(name, "name")?;
        let body = if !if_none_match.is_empty() && if_none_match == entry.etag {
            Bytes::from_static(PACKAGE_NOT_MODIFIED)
        } else {
            entry.body()
        };
        Ok(EncodedAnswer {
            body,
            detail: Bytes::new(),
            read_state: self.stamp.read_state_of(&entry.document.source),
        })
    }

    /// `ResolvePackage`.
    ///
    /// # Errors
    /// [`Error::InvalidSpecifier`], [`Error::PackageNotFound`], [`Error::VersionNotFound`].
    pub fn lookup_resolution(&self, specifier: &str) -> Result<EncodedAnswer, Error> {
        let (entry, chosen) = self.resolve(specifier)?;
        let (_, version) = entry
            .version(chosen.index)
            .ok_or(Error::Internal("chosen version"))?;
        let resolution = EncodedResolution {
            specifier: specifier.to_owned(),
            name: entry.name().to_owned(),
            version: version.clone(),
            by: chosen.by.into(),
            latest_version: entry.newest().to_owned(),
        };
        let body = EncodedResolve {
            resolution: Some(resolution),
        };
        Ok(EncodedAnswer {
            body: body.encode_to_vec().into(),
            detail: Bytes::new(),
            read_state: self.stamp.read_state_of(&entry.document.source),
        })
    }

    /// One specifier of a batch.
    ///
    /// # Errors
    /// As [`Snapshot::lookup_resolution`].
    pub fn resolution(&self, specifier: &str) -> Result<Resolution, Error> {
        let (entry, chosen) = self.resolve(specifier)?;
        let (version, _) = entry
            .version(chosen.index)
            .ok_or(Error::Internal("chosen version"))?;
        Ok(Resolution {
            specifier: specifier.to_owned(),
            name: entry.name().to_owned(),
            version: Some(version.to_proto()),
            r#match: chosen.by.into(),
            latest_version: entry.newest().to_owned(),
        })
    }

    /// `ListPackages`.
    ///
    /// # Errors
    /// [`Error::InvalidPageToken`], [`Error::InvalidArgument`].
    pub fn list_packages(
        &self,
        request: &ListPackagesRequest,
    ) -> Result<ListPackagesResponse, Error> {
        let query = lowercase_query(&request.query)?;
        let matching: Vec<_> = self
            .content
            .packages()
            .iter()
            .filter(|entry| request.include_deprecated || !entry.summary.deprecated)
            .filter(|entry| request.include_unlisted || !entry.summary.unlisted)
            .filter(|entry| entry.mentions(&query))
            .collect();
        let deprecated = request.include_deprecated.to_string();
        let unlisted = request.include_unlisted.to_string();
        let page = page(
            &matching,
            |entry| entry.name(),
            request.page_size,
            &request.page_token,
            &["ListPackages", &request.query, &deprecated, &unlisted],
        )?;
        Ok(ListPackagesResponse {
            packages: page
                .items
                .iter()
                .map(|entry| entry.summary.clone())
                .collect(),
            next_page_token: page.next,
            total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
            read_state: Some(self.stamp.overall_message()),
        })
    }

    fn package(&self, name: &str, field: &'static str) -> Result<&Arc<PackageEntry>, Error> {
        if let Some(entry) = self.content.get(name) {
            return Ok(entry);
        }
        let name = parse_name(name).map_err(|source| Error::InvalidSpecifier { field, source })?;
        Err(self.unknown_package(&name))
    }

    /// There is no package of this name; there are similar ones.
    pub(crate) fn unknown_package(&self, name: &str) -> Error {
        let known = self.content.packages().iter().map(|entry| entry.name());
        Error::PackageNotFound {
            nearest: nearest(name, known),
            name: name.to_owned(),
        }
    }

    fn resolve(&self, specifier: &str) -> Result<(&Arc<PackageEntry>, Chosen), Error> {
        let parsed = Specifier::parse(specifier).map_err(|source| Error::InvalidSpecifier {
            field: "specifier",
            source,
        })?;
        let entry = self.package(&parsed.name, "specifier")?;
        let wanted = || {
            let after = specifier.get(parsed.name.len() + 1..);
            after.unwrap_or(LATEST).to_owned()
        };
        choose(entry, &parsed.selector, wanted).map(|chosen| (entry, chosen))
    }
}

// === impl Snapshot: schemas ===

impl Snapshot {
    /// `GetSchema`.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    pub fn lookup_schema(
        &self,
        package: &str,
        version: &str,
        if_none_match: &str,
    ) -> Result<EncodedAnswer, Error> {
        let found = self.schema(package, version)?;
        let unmodified = !if_none_match.is_empty() && if_none_match == found.schema.hash;
        let (body, etag) = if unmodified {
            let etag = found.schema.hash.clone();
            (Bytes::from_static(SCHEMA_NOT_MODIFIED), etag)
        } else {
            (found.schema.body(), String::new())
        };
        let detail = GetSchemaResponse {
            package: found.package.name().to_owned(),
            version: found.version,
            etag,
            ..Default::default()
        };
        Ok(EncodedAnswer {
            body,
            detail: detail.encode_to_vec().into(),
            read_state: self.stamp.read_state_of(&found.package.document.source),
        })
    }

    /// Finds the schema of a version, which may be a tag or a range; empty means `latest`.
    ///
    /// # Errors
    /// [`Error::InvalidSpecifier`], [`Error::PackageNotFound`], [`Error::VersionNotFound`], [`Error::SchemaNotFound`] if the
    /// version has none, [`Error::SchemaNotFetched`] if that is not known.
    pub fn schema(&self, package: &str, version: &str) -> Result<FoundSchema, Error> {
        let entry = self.package(package, "package")?;
        let wanted = if version.is_empty() { LATEST } else { version };
        let selector = Selector::parse(wanted).map_err(|source| Error::InvalidSpecifier {
            field: "version",
            source,
        })?;
        let chosen = choose(entry, &selector, || wanted.to_owned())?;
        let (version, _) = entry
            .version(chosen.index)
            .ok_or(Error::Internal("chosen version"))?;
        let version = version.version.clone();
        let package = entry.name().to_owned();
        match entry.schemas.get(&version) {
            Some(SchemaSlot::Some(schema)) => Ok(FoundSchema {
                package: Arc::clone(entry),
                version,
                schema: Arc::clone(schema),
            }),
            Some(SchemaSlot::None) => Err(Error::SchemaNotFound { package, version }),
            None => Err(Error::SchemaNotFetched { package, version }),
        }
    }

    /// `ListSchemas`.
    ///
    /// # Errors
    /// [`Error::InvalidPageToken`], [`Error::InvalidArgument`].
    pub fn list_schemas(&self, request: &ListSchemasRequest) -> Result<ListSchemasResponse, Error> {
        let query = lowercase_query(&request.query)?;
        let matching: Vec<_> = self
            .content
            .packages()
            .iter()
            .filter(|entry| entry.name().to_lowercase().contains(&query))
            .filter_map(|entry| {
                let (version, schema) = entry.latest_schema()?;
                Some((entry.name(), version, schema))
            })
            .collect();
        let page = page(
            &matching,
            |(name, ..)| name,
            request.page_size,
            &request.page_token,
            &["ListSchemas", &request.query],
        )?;
        let summary = |(name, version, schema): &(&str, &str, &Arc<Schema>)| SchemaSummary {
            package: (*name).to_owned(),
            version: (*version).to_owned(),
            etag: schema.hash.clone(),
            title: schema.title.clone(),
            auth_kind: schema.auth_kind.into(),
            size: i32::try_from(schema.text.len()).unwrap_or(i32::MAX),
        };
        Ok(ListSchemasResponse {
            schemas: page.items.iter().map(summary).collect(),
            next_page_token: page.next,
            total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
            read_state: Some(self.stamp.overall_message()),
        })
    }
}

// === impl Snapshot: icons ===

impl Snapshot {
    /// What is known of an icon, and the source of its package; without a format, the first that there is.
    ///
    /// # Errors
    /// [`Error::InvalidSpecifier`], [`Error::PackageNotFound`].
    pub fn icon(
        &self,
        package: &str,
        shape: IconShape,
        format: Option<IconFormat>,
    ) -> Result<(IconSlot, &str), Error> {
        let entry = self.package(package, "package")?;
        Ok((entry.icons.get(shape, format), &entry.document.source))
    }

    /// `ListIcons`.
    ///
    /// # Errors
    /// [`Error::InvalidPageToken`], [`Error::InvalidArgument`].
    pub fn list_icons(&self, request: &ListIconsRequest) -> Result<ListIconsResponse, Error> {
        let query = lowercase_query(&request.query)?;
        let matching: Vec<_> = self
            .content
            .icons()
            .filter(|icon| icon.message.package.to_lowercase().contains(&query))
            .collect();
        let page = page(
            &matching,
            |icon| &icon.key,
            request.page_size,
            &request.page_token,
            &["ListIcons", &request.query],
        )?;
        Ok(ListIconsResponse {
            icons: page.items.iter().map(|icon| icon.message.clone()).collect(),
            next_page_token: page.next,
            total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
            read_state: Some(self.stamp.overall_message()),
        })
    }
}

fn choose(
    entry: &PackageEntry,
    selector: &Selector,
    wanted: impl Fn() -> String,
) -> Result<Chosen, Error> {
    entry
        .versions()
        .choose(selector)
        .ok_or_else(|| Error::VersionNotFound {
            package: entry.name().to_owned(),
            wanted: wanted(),
            newest: (!entry.newest().is_empty()).then(|| entry.newest().to_owned()),
        })
}

fn lowercase_query(query: &str) -> Result<String, Error> {
    if query.len() > MAX_QUERY_BYTES {
        return Err(Error::InvalidArgument {
            field: "query",
            message: format!("at most {MAX_QUERY_BYTES} bytes"),
        });
    }
    Ok(query.to_lowercase())
}

struct Page<'a, T> {
    items: &'a [T],
    next: String,
}

/// One page of a list sorted by a key.
fn page<'a, T>(
    all: &'a [T],
    key: impl Fn(&T) -> &str,
    page_size: i32,
    page_token: &str,
    arguments: &[&str],
) -> Result<Page<'a, T>, Error> {
    let size = page_size_from(page_size)?;
    let start = match PageToken::decode(page_token, arguments)? {
        None => 0,
        Some(token) => all.partition_point(|item| key(item) <= token.after.as_str()),
    };
    let end = all.len().min(start + size);
    let next = match all[start..end].last() {
        Some(last) if end < all.len() => PageToken::new(key(last)).encode(arguments),
        _ => String::new(),
    };
    Ok(Page {
        items: &all[start..end],
        next,
    })
}

/// The page size that a caller's number means.
///
/// # Errors
/// [`Error::InvalidArgument`] if it is negative.
pub(crate) fn page_size_from(page_size: i32) -> Result<usize, Error> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
        Err(_) => Err(Error::InvalidArgument {
            field: "page_size",
            message: format!("1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}"),
        }),
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
