//! The change log: dense revisions in commit order, and pages read in one snapshot.
//!
//! A revision is one row, whatever number of changes it has, so that it can only be read whole. It is assigned while one lock is
//! held (the row in `log_lock` on PostgreSQL, the single writer on SQLite), as the last lock of its transaction: a sequence
//! would let a later number become visible before an earlier one and leave gaps after rollbacks.

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use steadfast_types::{Cursor, Mark, Revision, StoreId, Timestamp};
use uuid::Uuid;

use crate::{
    Engine, Error,
    engine::{Tx, statements},
    own::Tail,
};

statements! {
    /// Appends entries; on PostgreSQL takes the log lock first.
    APPEND = "log_append" => [
        postgres { "SELECT 1 FROM (SELECT log_append($1::json)) AS appended" }
        sqlite {
            "INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes) \
             SELECT (SELECT max(revision) FROM change_log) + row_number() OVER (ORDER BY e.key), \
                    e.value ->> 'mark', e.value ->> 'write_id', e.value ->> 'origin', "
            now
            ", e.value ->> 'changes' FROM json_each($1) e \
             WHERE NOT EXISTS (SELECT 1 FROM change_log c WHERE c.write_id = e.value ->> 'write_id') \
             RETURNING revision, time_us, \
                 (SELECT p.mark FROM change_log p WHERE p.revision = change_log.revision - 1) AS mark_before"
        }
    ];
    /// Where a write landed.
    LANDED = "log_landed" => [
        "SELECT revision, mark, time_us FROM change_log WHERE write_id = $1"
    ];
    /// The head with the identity of the history.
    HEAD = "log_head" => [
        "SELECT m.store_id, m.compacted_revision, m.compacted_mark, c.revision, c.mark, c.time_us \
         FROM store_meta m JOIN change_log c ON c.revision = (SELECT max(revision) FROM change_log)"
    ];
    /// A page with the identity of the history and the reader's own row, in one statement and so in one snapshot. It ends where
    /// it has enough bytes, which are counted without being read; the first revision after the cursor always fits.
    PAGE = "log_page" => [
        "SELECT m.store_id, m.compacted_revision, m.compacted_mark, \
                (SELECT max(revision) FROM change_log) AS head_revision, \
                c.revision, c.mark, c.origin, c.time_us, c.changes \
         FROM store_meta m LEFT JOIN (\
             SELECT * FROM change_log WHERE revision >= $1 AND revision <= \
                 (SELECT max(revision) FROM \
                     (SELECT revision, sum(bytes) OVER (ORDER BY revision) - bytes AS before FROM \
                         (SELECT revision, CASE WHEN revision > $1 THEN octet_length(changes) \
                                           ELSE 0 END AS bytes \
                          FROM change_log WHERE revision >= $1 ORDER BY revision LIMIT $2) sized) summed \
                  WHERE before < $3) \
             ORDER BY revision LIMIT $2) c ON true \
         ORDER BY c.revision"
    ];
    /// The mark of one revision.
    MARK = "log_mark" => [
        "SELECT m.store_id, m.compacted_revision, m.compacted_mark, \
                (SELECT max(revision) FROM change_log) AS head_revision, \
                (SELECT mark FROM change_log WHERE revision = $1) AS mark FROM store_meta m"
    ];
}

/// Bytes of changes in one page at most, beyond the revision that exceeds it. Every follower that is behind holds a page.
const PAGE_BYTES: i64 = 1 << 20;

/// What happened to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Created or changed.
    #[serde(rename = "u")]
    Upsert,
    /// Gone.
    #[serde(rename = "d")]
    Delete,
}

/// One thing that is no longer as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// For example `registry`, or `app/…`.
    #[serde(rename = "t")]
    pub topic: String,
    /// What changed.
    #[serde(rename = "k")]
    pub key: String,
    /// How.
    #[serde(rename = "o")]
    pub op: Op,
    /// Its new etag; may be empty.
    #[serde(rename = "e", default, skip_serializing_if = "String::is_empty")]
    pub etag: String,
    /// What the publisher attached.
    #[serde(
        rename = "p",
        default,
        skip_serializing_if = "Vec::is_empty",
        with = "payload"
    )]
    pub payload: Vec<u8>,
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub revision: Revision,
    /// Its mark.
    pub mark: Mark,
    /// The incarnation that caused it; empty for Steadfast itself.
    pub origin: String,
    /// When it was written, by the database's clock.
    pub time: Timestamp,
    /// All of its changes.
    pub changes: Vec<Change>,
}

/// The newest revision, and where history begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest.
    pub cursor: Cursor,
    /// The newest that is no longer in the log, and the oldest that can be resumed from.
    pub compacted: Cursor,
    /// When the newest was written.
    pub time: Timestamp,
}

/// Consecutive revisions after a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The cursor.
    pub after: Cursor,
    /// In order, without gaps; the first is the one after the cursor.
    pub entries: Vec<Entry>,
    /// The newest revision in the same snapshot.
    pub head: Revision,
    /// The oldest cursor that can be resumed from, in the same snapshot.
    pub compacted: Cursor,
}

/// What reading after a cursor found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The history goes on.
    Page(Page),
    /// The cursor's successors are no longer in the log.
    Compacted {
        /// The oldest cursor that can be resumed from.
        compacted: Cursor,
        /// The newest revision.
        head: Revision,
    },
    /// The cursor belongs to another history than the database's.
    Diverged {
        /// The database's present identity.
        store_id: StoreId,
    },
}

/// A write for the log, before it has a revision.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NewEntry {
    pub(crate) ord: usize,
    pub(crate) mark: i64,
    pub(crate) write_id: String,
    pub(crate) origin: String,
    pub(crate) changes: String,
}

#[derive(FromRow)]
struct HeadRow {
    store_id: String,
    compacted_revision: i64,
    compacted_mark: i64,
    revision: i64,
    mark: i64,
    time_us: i64,
}

#[derive(FromRow)]
struct PageRow {
    store_id: String,
    compacted_revision: i64,
    compacted_mark: i64,
    head_revision: i64,
    revision: Option<i64>,
    mark: Option<i64>,
    origin: Option<String>,
    time_us: Option<i64>,
    changes: Option<String>,
}

#[derive(FromRow)]
struct MarkRow {
    store_id: String,
    compacted_revision: i64,
    compacted_mark: i64,
    head_revision: i64,
    mark: Option<i64>,
}

#[derive(FromRow)]
struct AppendedRow {
    revision: i64,
    time_us: i64,
    mark_before: i64,
}

#[derive(FromRow)]
struct LandedRow {
    revision: i64,
    mark: i64,
    time_us: i64,
}

/// Where a write landed in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    /// Its revision.
    pub revision: Revision,
    /// Its mark.
    pub mark: Mark,
    /// When, by the database's clock.
    pub time: Timestamp,
}

// === impl NewEntry ===

impl NewEntry {
    /// An entry of Steadfast itself.
    fn of(ord: usize, changes: &[Change]) -> Self {
        Self {
            ord,
            mark: Mark::random().to_sql(),
            write_id: Uuid::now_v7().to_string(),
            origin: String::new(),
            changes: encode_changes(changes),
        }
    }
}

// === impl Landed ===

impl From<LandedRow> for Landed {
    fn from(row: LandedRow) -> Self {
        Self {
            revision: Revision(row.revision),
            mark: Mark::from_sql(row.mark),
            time: Timestamp(row.time_us),
        }
    }
}

// === impl Change ===

impl Change {
    /// A change without a payload.
    pub fn new(topic: &str, key: impl Into<String>, op: Op, etag: impl Into<String>) -> Self {
        Self {
            topic: topic.to_owned(),
            key: key.into(),
            op,
            etag: etag.into(),
            payload: Vec::new(),
        }
    }
}

/// Appends one revision as the last step of a transaction: nothing may be locked after it.
pub(crate) async fn append(tx: &mut Tx, changes: &[Change]) -> Result<Landed, Error> {
    let entry = NewEntry::of(0, changes);
    append_all(tx, std::slice::from_ref(&entry)).await?;
    let row: LandedRow = tx.statement(&LANDED).bind(entry.write_id).one().await?;
    Ok(row.into())
}

/// Appends one revision, for callers who need not know where it landed.
pub(crate) async fn append_one(tx: &mut Tx, changes: &[Change]) -> Result<(), Error> {
    append_all(tx, &[NewEntry::of(0, changes)]).await.map(drop)
}

/// Appends one revision, and says its mark, and where it landed if the engine tells.
pub(crate) async fn append_told(
    tx: &mut Tx,
    changes: &[Change],
) -> Result<(Mark, Option<Tail>), Error> {
    let entry = NewEntry::of(0, changes);
    let mark = Mark::from_sql(entry.mark);
    Ok((mark, append_all(tx, &[entry]).await?))
}

/// Appends a revision for each of the lists that is not empty, in their order, as the last step of a transaction.
pub(crate) async fn append_each(
    tx: &mut Tx,
    revisions: &[Vec<Change>],
) -> Result<Vec<Option<Landed>>, Error> {
    let some = revisions.iter().filter(|changes| !changes.is_empty());
    let entries: Vec<NewEntry> = some
        .enumerate()
        .map(|(ord, changes)| NewEntry::of(ord, changes))
        .collect();
    let Some(last) = entries.last() else {
        return Ok(vec![None; revisions.len()]);
    };
    append_all(tx, &entries).await?;
    // They are dense and the log is locked, so that the last tells where all are.
    let row: LandedRow = tx.statement(&LANDED).bind(&last.write_id).one().await?;
    let mut revision = row.revision - i64::try_from(entries.len()).unwrap_or(i64::MAX);
    let mut marks = entries.iter().map(|entry| entry.mark);
    let landed = revisions.iter().map(|changes| {
        let mark = if changes.is_empty() {
            None
        } else {
            marks.next()
        }?;
        revision += 1;
        Some(Landed {
            revision: Revision(revision),
            mark: Mark::from_sql(mark),
            time: Timestamp(row.time_us),
        })
    });
    Ok(landed.collect())
}

/// Appends entries in their order; one whose write id is in the log already is left out. If none was, SQLite tells where they
/// begin.
pub(crate) async fn append_all(tx: &mut Tx, entries: &[NewEntry]) -> Result<Option<Tail>, Error> {
    let json = serde_json::to_string(entries).map_err(|_| Error::Corrupt("log entry"))?;
    let engine = tx.engine();
    let appending = tx.statement(&APPEND).bind(json);
    if engine == Engine::Postgres {
        appending.execute().await?;
        return Ok(None);
    }
    let rows: Vec<AppendedRow> = appending.all().await?;
    let first = rows.iter().min_by_key(|row| row.revision);
    let whole = rows.len() == entries.len();
    Ok(first.filter(|_| whole).map(|first| Tail {
        head: Revision(first.revision - 1),
        mark: Mark::from_sql(first.mark_before),
        time: Timestamp(first.time_us),
    }))
}

/// The head, in the transaction's snapshot.
pub(crate) async fn head(tx: &mut Tx) -> Result<Head, Error> {
    let row: HeadRow = tx.statement(&HEAD).one().await?;
    row.try_into()
}

/// Up to `limit` revisions after one. Its own row is read in the same snapshot: if it is gone, or has another mark than the one that is
/// expected, the history is another one.
fn interpret_page(
    expected: StoreId,
    after: Revision,
    mark: Option<Mark>,
    rows: Vec<PageRow>,
) -> Result<Read, Error> {
    let first = rows.first().ok_or(Error::Corrupt("store_meta is empty"))?;
    let store_id = parse_store_id(&first.store_id)?;
    let compacted = Cursor {
        store_id,
        revision: Revision(first.compacted_revision),
        mark: Mark::from_sql(first.compacted_mark),
    };
    let head = Revision(first.head_revision);
    if store_id != expected {
        return Ok(Read::Diverged { store_id });
    }
    if after < compacted.revision {
        return Ok(Read::Compacted { compacted, head });
    }
    let mut entries = Vec::with_capacity(rows.len());
    let mut own = (after == compacted.revision).then_some(compacted.mark);
    for row in rows {
        let (Some(revision), Some(mark), Some(origin), Some(time_us), Some(changes)) =
            (row.revision, row.mark, row.origin, row.time_us, row.changes)
        else {
            continue;
        };
        if revision == after.0 {
            own = Some(Mark::from_sql(mark));
            continue;
        }
        entries.push(Entry {
            revision: Revision(revision),
            mark: Mark::from_sql(mark),
            origin,
            time: Timestamp(time_us),
            changes: decode_changes(&changes)?,
        });
    }
    let Some(own) = own.filter(|own| mark.is_none_or(|mark| mark == *own)) else {
        return Ok(Read::Diverged { store_id });
    };
    let dense = (after.0 + 1..).zip(&entries);
    if dense
        .into_iter()
        .any(|(expected, entry)| entry.revision.0 != expected)
    {
        return Err(Error::Corrupt("the change log has a gap"));
    }
    Ok(Read::Page(Page {
        after: Cursor {
            store_id,
            revision: after,
            mark: own,
        },
        entries,
        head,
        compacted,
    }))
}

pub(crate) async fn page_in(tx: &mut Tx, cursor: Cursor, limit: u32) -> Result<Read, Error> {
    let rows: Vec<PageRow> = tx
        .statement(&PAGE)
        .bind(cursor.revision.0)
        .bind(i64::from(limit) + 1)
        .bind(PAGE_BYTES)
        .all()
        .await?;
    interpret_page(cursor.store_id, cursor.revision, Some(cursor.mark), rows)
}

pub(crate) fn encode_changes(changes: &[Change]) -> String {
    serde_json::to_string(changes).expect("strings and bytes always serialise")
}

pub(crate) fn decode_changes(text: &str) -> Result<Vec<Change>, Error> {
    serde_json::from_str(text).map_err(|_| Error::Corrupt("change_log.changes"))
}

pub(crate) fn parse_store_id(text: &str) -> Result<StoreId, Error> {
    text.parse()
        .map_err(|_| Error::Corrupt("store_meta.store_id"))
}

impl crate::Store {
    /// The newest revision, read from the database.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn head(&self) -> Result<Head, Error> {
        let row: HeadRow = self.db().read(&HEAD).one().await?;
        row.try_into()
    }

    /// Reads up to `limit` revisions, or a megabyte of them, after the cursor, in one snapshot that also proves that the cursor is of
    /// this history.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read_log(&self, cursor: Cursor, limit: u32) -> Result<Read, Error> {
        let rows = self.page(cursor.revision, limit).await?;
        interpret_page(cursor.store_id, cursor.revision, Some(cursor.mark), rows)
    }

    /// The same after a revision whose mark the caller does not know: the page tells it.
    ///
    /// # Errors
    /// As [`Store::read_log`](crate::Store::read_log).
    pub async fn read_log_from(
        &self,
        store_id: StoreId,
        after: Revision,
        limit: u32,
    ) -> Result<Read, Error> {
        let rows = self.page(after, limit).await?;
        interpret_page(store_id, after, None, rows)
    }

    async fn page(&self, after: Revision, limit: u32) -> Result<Vec<PageRow>, Error> {
        let page = self.db().read(&PAGE);
        let page = page.bind(after.0).bind(i64::from(limit) + 1);
        page.bind(PAGE_BYTES).all().await
    }

    /// Whether the cursor is of the database's history, without reading what came after it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn locate(&self, cursor: Cursor) -> Result<Located, Error> {
        let row: MarkRow = self.db().read(&MARK).bind(cursor.revision.0).one().await?;
        let store_id = parse_store_id(&row.store_id)?;
        let compacted = Cursor {
            store_id,
            revision: Revision(row.compacted_revision),
            mark: Mark::from_sql(row.compacted_mark),
        };
        if store_id != cursor.store_id || cursor.revision.0 > row.head_revision {
            return Ok(Located::Diverged);
        }
        if cursor.revision < compacted.revision {
            return Ok(Located::Compacted);
        }
        let mark = row.mark.map(Mark::from_sql);
        let held = mark.or((cursor.revision == compacted.revision).then_some(compacted.mark));
        Ok(if held == Some(cursor.mark) {
            Located::Here
        } else {
            Located::Diverged
        })
    }
}

/// How a cursor relates to the database's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// It is a place in it, and what came after it is still in the log.
    Here,
    /// What came after it is no longer in the log.
    Compacted,
    /// It is a place in another history.
    Diverged,
}

impl TryFrom<HeadRow> for Head {
    type Error = Error;

    fn try_from(row: HeadRow) -> Result<Self, Error> {
        let store_id = parse_store_id(&row.store_id)?;
        Ok(Self {
            cursor: Cursor {
                store_id,
                revision: Revision(row.revision),
                mark: Mark::from_sql(row.mark),
            },
            compacted: Cursor {
                store_id,
                revision: Revision(row.compacted_revision),
                mark: Mark::from_sql(row.compacted_mark),
            },
            time: Timestamp(row.time_us),
        })
    }
}

/// Payloads as base64 text inside the JSON of a log row.
mod payload {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD_NO_PAD
            .decode(text.as_bytes())
            .map_err(D::Error::custom)
    }
}
