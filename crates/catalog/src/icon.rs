//! Icons in memory: what there is of each, encoded for answers. Their bytes are apart, in `icon_bytes`, by their hash.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use serde_json::{Map, Value};
use steadfast_api::registry::v1 as api;
use steadfast_store::IconRow;
use steadfast_upstream::{IconFormat, IconShape};

use crate::{entry::PackageEntry, package::content_hash, snapshot::Content};

/// How much of a hash is part of a path: enough to tell the icons that one name ever had apart.
pub const PATH_HASH_LENGTH: usize = 8;

/// The number of `GetIconResponse.data`.
const DATA_FIELD: u32 = 3;

/// `GetIconResponse { not_modified: true }`.
const NOT_MODIFIED: &[u8] = &[0x10, 0x01];

/// One icon, but for its bytes.
#[derive(Debug)]
pub struct IconEntry {
    /// What it looks like.
    pub shape: IconShape,
    /// What it is made of.
    pub format: IconFormat,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub hash: String,
    /// The message that lists show.
    pub message: api::Icon,
    /// Sorts icons by package, shape and format.
    pub(crate) key: String,
    /// A `GetIconResponse` up to the bytes of `data`.
    with_data: Bytes,
    /// A whole `GetIconResponse` without data, but for its read state.
    unmodified: Bytes,
}

/// What is known of one package's icons.
#[derive(Debug, Default)]
pub struct Icons {
    present: Vec<Arc<IconEntry>>,
    asked: BTreeSet<IconShape>,
}

/// What is known of one icon.
#[derive(Debug, Clone)]
pub enum IconSlot {
    /// This one.
    Some(Arc<IconEntry>),
    /// The source was asked and has none.
    None,
    /// The source was not asked.
    Unknown,
}

/// All icons, as browsers look them up: package to shape to format to path.
#[derive(Debug)]
pub struct IconManifest {
    /// The file.
    pub json: Bytes,
    /// Changes with the file.
    pub etag: String,
}

// === impl IconEntry ===

impl IconEntry {
    fn new(row: &IconRow) -> Option<Self> {
        let shape = IconShape::parse(&row.shape)?;
        let format = IconFormat::parse(&row.ext)?;
        let hash = row.hash.clone()?;
        let short = hash.get(..PATH_HASH_LENGTH)?;
        let message = api::Icon {
            package: row.package.clone(),
            shape: shape_message(shape).into(),
            format: format_message(format).into(),
            etag: hash.clone(),
            size: row.size,
            media_type: format.media_type().to_owned(),
            path: format!("/icons/{}/{}-{short}.{}", row.package, row.shape, row.ext),
        };
        let answer = api::GetIconResponse {
            icon: Some(message.clone()),
            ..Default::default()
        };
        let mut unmodified = answer.encode_to_vec();
        let mut with_data = unmodified.clone();
        unmodified.extend_from_slice(NOT_MODIFIED);
        encode_key(DATA_FIELD, WireType::LengthDelimited, &mut with_data);
        encode_varint(u64::try_from(row.size).ok()?, &mut with_data);
        Some(Self {
            shape,
            format,
            hash,
            // A NUL sorts before whatever a longer name goes on with.
            key: format!("{}\0{}{}", row.package, shape as u8, format as u8),
            message,
            with_data: with_data.into(),
            unmodified: unmodified.into(),
        })
    }

    /// The answer to `GetIcon` up to its bytes, which follow as they are.
    #[must_use]
    pub fn head(&self) -> Bytes {
        self.with_data.clone()
    }

    /// The answer to a caller who has them.
    #[must_use]
    pub fn not_modified(&self) -> Bytes {
        self.unmodified.clone()
    }

    /// The last part of its path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.message.path
    }
}

// === impl Icons ===

impl Icons {
    /// From stored rows of one package. Rows that cannot be read are left out; that happens if a newer program wrote them.
    pub(crate) fn new<'r>(rows: impl IntoIterator<Item = &'r IconRow>) -> Self {
        let mut icons = Self::default();
        for row in rows {
            icons.asked.extend(IconShape::parse(&row.shape));
            icons.present.extend(IconEntry::new(row).map(Arc::new));
        }
        icons.present.sort_by_key(|icon| (icon.shape, icon.format));
        icons
    }

    /// All that there are, by shape and format.
    #[must_use]
    pub fn present(&self) -> &[Arc<IconEntry>] {
        &self.present
    }

    /// One of them; without a format, the first that there is.
    #[must_use]
    pub fn get(&self, shape: IconShape, format: Option<IconFormat>) -> IconSlot {
        let found = self
            .present
            .iter()
            .find(|icon| icon.shape == shape && format.is_none_or(|format| format == icon.format));
        match found {
            Some(icon) => IconSlot::Some(Arc::clone(icon)),
            None if self.asked.contains(&shape) => IconSlot::None,
            None => IconSlot::Unknown,
        }
    }
}

// === impl Content ===

impl Content {
    /// All icons, by package, shape and format.
    pub fn icons(&self) -> impl Iterator<Item = &Arc<IconEntry>> {
        self.packages()
            .iter()
            .flat_map(|entry| entry.icons.present())
    }

    /// Makes the manifest.
    pub(crate) fn icon_manifest(&self) -> IconManifest {
        let with_icons = self.packages().iter().filter_map(|entry| {
            let shapes = shapes_of(entry);
            (!shapes.is_empty()).then(|| (entry.name().to_owned(), Value::Object(shapes)))
        });
        let mut manifest = Map::new();
        manifest.insert("icons".to_owned(), with_icons.collect::<Map<_, _>>().into());
        let json = Value::Object(manifest).to_string();
        IconManifest {
            etag: content_hash(json.as_bytes()),
            json: json.into(),
        }
    }
}

fn shapes_of(entry: &PackageEntry) -> Map<String, Value> {
    let mut shapes = Map::new();
    for icon in entry.icons.present() {
        let formats = shapes
            .entry(icon.shape.as_str())
            .or_insert_with(|| Map::new().into());
        if let Value::Object(formats) = formats {
            formats.insert(icon.format.ext().to_owned(), icon.path().into());
        }
    }
    shapes
}

const fn shape_message(shape: IconShape) -> api::IconShape {
    match shape {
        IconShape::Square => api::IconShape::Square,
        IconShape::Rectangle => api::IconShape::Rectangle,
    }
}

const fn format_message(format: IconFormat) -> api::IconFormat {
    match format {
        IconFormat::Png => api::IconFormat::Png,
        IconFormat::Svg => api::IconFormat::Svg,
    }
}

/// What a caller means; unspecified is square. `None` if it is no shape.
pub(crate) fn shape_from_proto(shape: i32) -> Option<IconShape> {
    match api::IconShape::try_from(shape).ok()? {
        api::IconShape::Unspecified | api::IconShape::Square => Some(IconShape::Square),
        api::IconShape::Rectangle => Some(IconShape::Rectangle),
    }
}

/// What a caller means; unspecified is whichever there is. `None` if it is no format.
pub(crate) fn format_from_proto(format: i32) -> Option<Option<IconFormat>> {
    match api::IconFormat::try_from(format).ok()? {
        api::IconFormat::Unspecified => Some(None),
        api::IconFormat::Png => Some(Some(IconFormat::Png)),
        api::IconFormat::Svg => Some(Some(IconFormat::Svg)),
    }
}
