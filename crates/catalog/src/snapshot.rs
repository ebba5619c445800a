//! The catalogue in memory, as of one revision.
//!
//! A snapshot is immutable and swapped whole. Its content (packages and schemas, with their answers encoded) changes rarely;
//! its stamp (which revision it reflects, and when the upstream was last asked) changes often. They are apart, so that a
//! stamp can move without the content being touched. Each answer is content bytes followed by stamp bytes: concatenated
//! messages are one message in the protocol buffer encoding, and the read state is the last field of each answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use bytes::{Buf as _, Bytes};
use prost::Message;
use steadfast_api::{
    common::v1::{Cursor as CursorMessage, ReadState},
    registry::v1::GetPackageResponse,
};
use steadfast_types::{Cursor, Mark, Revision, Timestamp};

use crate::{entry::PackageEntry, error::Error, icon::IconManifest, package::to_proto_time};

/// When each source was last asked with success about all of its packages.
pub type CheckedTimes = BTreeMap<String, Timestamp>;

/// Packages and schemas.
#[derive(Debug, Default)]
pub struct Content {
    by_name: HashMap<Arc<str>, Arc<PackageEntry>>,
    /// By name.
    sorted: Vec<Arc<PackageEntry>>,
    /// Made for the first who wants it.
    manifest: OnceLock<IconManifest>,
}

/// Where the content stands in history.
#[derive(Debug, Default)]
pub struct Stamp {
    /// The content reflects everything up to here.
    pub cursor: Cursor,
    checked: CheckedTimes,
    /// By source.
    by_source: HashMap<String, EncodedState>,
    /// For answers about packages of several sources: the oldest check counts.
    overall: EncodedState,
}

/// A read state, plain and encoded.
#[derive(Debug, Default)]
struct EncodedState {
    message: ReadState,
    bytes: Bytes,
}

/// The catalogue as of one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Packages and schemas.
    pub content: Arc<Content>,
    /// Where they stand.
    pub stamp: Arc<Stamp>,
}

/// An encoded answer in parts: written one after the other they are one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedAnswer {
    /// Encoded once per change.
    pub body: Bytes,
    /// What only this question has; often empty.
    pub detail: Bytes,
    /// Encoded once per stamp.
    pub read_state: Bytes,
}

// === impl EncodedAnswer ===

impl EncodedAnswer {
    /// The parts, in their order.
    #[must_use]
    pub fn parts(&self) -> [&Bytes; 3] {
        [&self.body, &self.detail, &self.read_state]
    }

    /// In bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts().map(Bytes::len).into_iter().sum()
    }

    /// Whether the message has no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decodes the whole as a message.
    ///
    /// # Errors
    /// If it is not one of this type.
    pub fn decode<M: Message + Default>(&self) -> Result<M, prost::DecodeError> {
        // Only together are they a message: a field may begin in one part and end in the next.
        let [body, detail, read_state] = self.parts().map(Bytes::clone);
        M::decode(body.chain(detail).chain(read_state))
    }
}

// === impl Content ===

impl Content {
    /// From all packages.
    #[must_use]
    pub fn new(packages: impl IntoIterator<Item = Arc<PackageEntry>>) -> Self {
        let by_name: HashMap<Arc<str>, Arc<PackageEntry>> = packages
            .into_iter()
            .map(|entry| (Arc::from(entry.name()), entry))
            .collect();
        let mut sorted: Vec<_> = by_name.values().cloned().collect();
        sorted.sort_by(|a, b| a.name().cmp(b.name()));
        Self {
            by_name,
            sorted,
            manifest: OnceLock::new(),
        }
    }

    /// The same with some packages replaced, or removed where there is none.
    #[must_use]
    pub fn with(&self, changed: BTreeMap<String, Option<Arc<PackageEntry>>>) -> Self {
        let mut by_name = self.by_name.clone();
        let mut sorted: Vec<_> = self
            .sorted
            .iter()
            .filter(|entry| !changed.contains_key(entry.name()))
            .cloned()
            .collect();
        for (name, entry) in changed {
            match entry {
                Some(entry) => {
                    by_name.insert(Arc::from(name), Arc::clone(&entry));
                    sorted.push(entry);
                }
                None => {
                    by_name.remove(name.as_str());
                }
            }
        }
        sorted.sort_by(|a, b| a.name().cmp(b.name()));
        Self {
            by_name,
            sorted,
            manifest: OnceLock::new(),
        }
    }

    /// The package of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<PackageEntry>> {
        self.by_name.get(name)
    }

    /// All icons, as browsers look them up.
    pub fn manifest(&self) -> &IconManifest {
        self.manifest.get_or_init(|| self.icon_manifest())
    }

    /// All packages, by name.
    #[must_use]
    pub fn packages(&self) -> &[Arc<PackageEntry>] {
        &self.sorted
    }

    fn sources(&self) -> BTreeSet<&str> {
        self.sorted
            .iter()
            .map(|entry| entry.document.source.as_str())
            .collect()
    }
}

// === impl Stamp ===

impl Stamp {
    /// Encodes the read states for a content.
    #[must_use]
    pub fn new(content: &Content, cursor: Cursor, checked: CheckedTimes) -> Self {
        let mut sources = content.sources();
        if sources.is_empty() {
            sources.extend(checked.keys().map(String::as_str));
        }
        let by_source = sources
            .iter()
            .map(|source| {
                let state = EncodedState::new(cursor, checked_of(&checked, source));
                ((*source).to_owned(), state)
            })
            .collect();
        let oldest = sources
            .iter()
            .map(|source| checked_of(&checked, source))
            .min()
            .flatten();
        Self {
            cursor,
            by_source,
            overall: EncodedState::new(cursor, oldest),
            checked,
        }
    }

    /// For an answer about one source's package.
    #[must_use]
    pub fn read_state_of(&self, source: &str) -> Bytes {
        self.state_of(source).bytes.clone()
    }

    /// The same as a message.
    #[must_use]
    pub fn read_state_message(&self, source: &str) -> ReadState {
        self.state_of(source).message.clone()
    }

    /// For an answer about the whole catalogue.
    #[must_use]
    pub fn overall_message(&self) -> ReadState {
        self.overall.message.clone()
    }

    fn state_of(&self, source: &str) -> &EncodedState {
        self.by_source.get(source).unwrap_or(&self.overall)
    }

    /// When each source was last asked.
    #[must_use]
    pub fn checked(&self) -> &CheckedTimes {
        &self.checked
    }
}

/// When a source was last asked. A local one is read root by root, each under a key of its own: the oldest counts.
fn checked_of(checked: &CheckedTimes, source: &str) -> Option<Timestamp> {
    let of_roots = format!("{source}:");
    let roots = checked
        .range(of_roots.clone()..)
        .take_while(|(key, _)| key.starts_with(&of_roots));
    let oldest = roots.map(|(_, at)| *at).min();
    checked.get(source).copied().or(oldest)
}

// === impl Snapshot ===

impl Snapshot {
    /// A content as of a cursor.
    #[must_use]
    pub fn new(content: Arc<Content>, cursor: Cursor, checked: CheckedTimes) -> Self {
        let stamp = Arc::new(Stamp::new(&content, cursor, checked));
        Self { content, stamp }
    }

    /// The same content, further on in history.
    #[must_use]
    pub fn stamped(&self, cursor: Cursor, checked: CheckedTimes) -> Self {
        Self::new(Arc::clone(&self.content), cursor, checked)
    }
}

// === impl EncodedState ===

impl EncodedState {
    fn new(cursor: Cursor, checked: Option<Timestamp>) -> Self {
        let message = ReadState {
            store_id: cursor.store_id.to_string(),
            revision: cursor.revision.0,
            mark: cursor.mark.0,
            checked_time: checked.map(to_proto_time),
        };
        // As the last field of an answer: it has the same number in all of them.
        let answer = GetPackageResponse {
            read_state: Some(message.clone()),
            ..Default::default()
        };
        Self {
            message,
            bytes: answer.encode_to_vec().into(),
        }
    }
}

/// Reads a caller's cursor.
///
/// # Errors
/// [`Error::InvalidArgument`] if its store id is not one or its revision is negative.
pub(crate) fn cursor_from_proto(message: &CursorMessage) -> Result<Cursor, Error> {
    let invalid = |message: &str| Error::InvalidArgument {
        field: "min_revision",
        message: message.to_owned(),
    };
    if message.revision < 0 {
        return Err(invalid("`revision` cannot be negative"));
    }
    Ok(Cursor {
        store_id: message.store_id.parse().map_err(|_| {
            invalid("`store_id` is a UUID; copy the whole cursor from an earlier answer")
        })?,
        revision: Revision(message.revision),
        mark: Mark(message.mark),
    })
}
