//! Publishing: changes of a user's own topics, committed in batches, one revision per call.

use std::sync::Arc;

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::{Mark, Revision};
use uuid::Uuid;

use crate::{
    Change, Error, Store,
    engine::{Db, Tx, statements},
    log::{NewEntry, append_all, encode_changes},
    own::{OwnCommits, Tail, TailRow},
    pipeline::Kind,
};

statements! {
    /// The whole batch in one call, which is one transaction.
    BATCH = "publish_batch" => [
        postgres { "SELECT ord, revision, mark, body_hash, replayed FROM publish_batch($1::json, $2)" }
    ];
    /// The same for calls without request ids, none of which was sent before; NULL if one was. They land after the revision that it
    /// returns.
    APPEND = "publish_append" => [
        postgres { "SELECT head, head_mark, now_us FROM publish_append($1, $2, $3, $4)" }
    ];
    /// Records those with a request id, before anything else.
    REQUESTS = "publish_requests" => [
        sqlite {
            "INSERT INTO request_outcome (identity, rpc, request_id, body_hash, write_id, created_us) \
             SELECT e.value ->> 'identity', 'Publish', e.value ->> 'request_id', \
                    e.value ->> 'body_hash', e.value ->> 'write_id', " now
            " FROM json_each($1) e WHERE true ON CONFLICT (identity, rpc, request_id) DO NOTHING"
        }
    ];
    /// Which of those are new.
    FRESH = "publish_fresh" => [
        sqlite {
            "SELECT o.write_id FROM json_each($1) e JOIN request_outcome o \
             ON o.write_id = e.value ->> 'write_id' AND o.revision IS NULL"
        }
    ];
    /// Keeps the outcome of the new ones.
    OUTCOMES = "publish_outcomes" => [
        sqlite {
            "UPDATE request_outcome SET revision = c.revision, mark = c.mark \
             FROM change_log c, json_each($1) e WHERE request_outcome.write_id = e.value ->> 'write_id' \
             AND c.write_id = request_outcome.write_id AND request_outcome.revision IS NULL"
        }
    ];
    /// Where each one landed, now or before.
    LANDED = "publish_landed" => [
        sqlite {
            "SELECT e.key AS ord, coalesce(o.revision, c.revision) AS revision, \
                    coalesce(o.mark, c.mark) AS mark, o.body_hash, \
                    (o.write_id IS NOT NULL AND o.write_id <> e.value ->> 'write_id') AS replayed \
             FROM json_each($1) e LEFT JOIN change_log c ON c.write_id = e.value ->> 'write_id' \
             LEFT JOIN request_outcome o ON o.identity = e.value ->> 'identity' \
                 AND o.rpc = 'Publish' AND o.request_id = e.value ->> 'request_id'"
        }
    ];
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Checked by the caller: sizes, and no NUL characters.
    pub changes: Vec<Change>,
    /// The publisher's incarnation.
    pub origin: String,
    /// Makes it safe to repeat: who calls, and the id.
    pub request: Option<(String, String)>,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its revision.
    pub revision: Revision,
    /// Its mark.
    pub mark: Mark,
    /// It had been committed before.
    pub replayed: bool,
}

/// A call on its way through the pipeline.
pub(crate) struct Pending {
    write_id: String,
    mark: i64,
    origin: String,
    changes: String,
    request: Option<(String, String)>,
    body_hash: Option<String>,
}

/// Commits batches of publishes.
pub(crate) struct Publishes {
    pub(crate) db: Db,
    /// Who is told.
    pub(crate) own: OwnCommits,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    entry: NewEntry,
    identity: Option<&'a str>,
    request_id: Option<&'a str>,
    body_hash: Option<&'a str>,
}

#[derive(FromRow)]
struct LandedRow {
    ord: i32,
    revision: Option<i64>,
    mark: Option<i64>,
    body_hash: Option<String>,
    replayed: bool,
}

#[derive(FromRow)]
struct WriteId {
    write_id: String,
}

impl Store {
    /// Commits the changes as one revision, together with whatever else is being published.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`]; [`Error::Unavailable`] if the database is away, after trying for the write deadline;
    /// [`Error::Overloaded`].
    pub async fn publish(&self, publish: Publish) -> Result<Published, Error> {
        self.publishes().submit(Pending::from(publish)).await
    }
}

impl From<Publish> for Pending {
    fn from(publish: Publish) -> Self {
        let changes = encode_changes(&publish.changes);
        let body_hash = publish
            .request
            .is_some()
            .then(|| crate::Request::hash(format!("{}\n{changes}", publish.origin).as_bytes()));
        Self {
            write_id: Uuid::now_v7().to_string(),
            mark: Mark::random().to_sql(),
            origin: publish.origin,
            changes,
            request: publish.request,
            body_hash,
        }
    }
}

// === impl Publishes ===

impl Kind for Publishes {
    type Input = Pending;
    type Output = Published;

    const NAME: &'static str = "publish";

    fn conflict_key(input: &Pending) -> Option<String> {
        input
            .request
            .as_ref()
            .map(|(identity, id)| format!("{identity}\0{id}"))
    }

    fn size(input: &Pending) -> usize {
        input.changes.len() + 128
    }

    async fn commit(
        &self,
        inputs: &[Arc<Pending>],
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let with_requests = inputs.iter().any(|input| input.request.is_some());
        if matches!(self.db, Db::Postgres { .. })
            && !with_requests
            && let Some(tail) = self.append(inputs).await?
        {
            self.tell(tail, inputs);
            return Ok(published_after(tail, inputs));
        }
        let rows: Vec<Row<'_>> = inputs.iter().enumerate().map(Row::new).collect();
        let json = serde_json::to_string(&rows).map_err(|_| Error::Corrupt("publish"))?;
        let landed: Vec<LandedRow> = match &self.db {
            Db::Postgres { .. } => {
                self.db
                    .write(&BATCH)
                    .bind(json)
                    .bind(with_requests)
                    .all()
                    .await?
            }
            Db::Sqlite { .. } if with_requests => {
                let mut tx = self.db.begin().await?;
                let landed = commit_requests(&mut tx, &rows, &json).await?;
                tx.commit().await?;
                landed
            }
            Db::Sqlite { .. } => {
                let mut tx = self.db.begin().await?;
                let entries: Vec<NewEntry> = rows.iter().map(|row| row.entry.clone()).collect();
                if let Some(tail) = append_all(&mut tx, &entries).await? {
                    tx.commit().await?;
                    self.tell(tail, inputs);
                    return Ok(published_after(tail, inputs));
                }
                let landed = tx.statement(&LANDED).bind(&json).all().await?;
                tx.commit().await?;
                landed
            }
        };
        self.own.untold();
        collect(inputs, landed)
    }
}

impl Publishes {
    /// Appends calls that need nothing but their revisions, and says where. `None` if one of them is in the log already, of a call
    /// whose answer was lost: then nothing was written.
    async fn append(&self, inputs: &[Arc<Pending>]) -> Result<Option<Tail>, Error> {
        let text = |of: fn(&Pending) -> &str| inputs.iter().map(|input| of(input)).collect();
        let (ids, origins): (Vec<&str>, Vec<&str>) = (text(|i| &i.write_id), text(|i| &i.origin));
        let changes: Vec<&str> = text(|input| &input.changes);
        let marks: Vec<i64> = inputs.iter().map(|input| input.mark).collect();
        let appended: TailRow = self
            .db
            .write(&APPEND)
            .bind_column(ids)
            .bind_column(marks)
            .bind_column(origins)
            .bind_column(changes)
            .one()
            .await?;
        Ok(appended.tail())
    }

    fn tell(&self, tail: Tail, inputs: &[Arc<Pending>]) {
        let revisions = inputs.iter().map(|input| {
            let mark = Mark::from_sql(input.mark);
            (mark, input.origin.as_str(), input.changes.as_str())
        });
        self.own.tell_encoded(tail, revisions);
    }
}

fn published_after(tail: Tail, inputs: &[Arc<Pending>]) -> Vec<Result<Published, Error>> {
    let published = |(revision, input): (i64, &Arc<Pending>)| {
        Ok(Published {
            revision: Revision(revision),
            mark: Mark::from_sql(input.mark),
            replayed: false,
        })
    };
    (tail.head.0 + 1..).zip(inputs).map(published).collect()
}

/// The same steps as the function `publish_batch` takes on PostgreSQL.
async fn commit_requests(
    tx: &mut Tx,
    rows: &[Row<'_>],
    json: &str,
) -> Result<Vec<LandedRow>, Error> {
    let requests: Vec<&Row<'_>> = rows.iter().filter(|row| row.request_id.is_some()).collect();
    let requests_json = serde_json::to_string(&requests).map_err(|_| Error::Corrupt("publish"))?;
    tx.statement(&REQUESTS)
        .bind(&requests_json)
        .execute()
        .await?;
    let fresh: Vec<WriteId> = tx.statement(&FRESH).bind(&requests_json).all().await?;
    let fresh: std::collections::HashSet<_> = fresh.into_iter().map(|row| row.write_id).collect();
    let entries: Vec<NewEntry> = rows
        .iter()
        .filter(|row| row.request_id.is_none() || fresh.contains(&row.entry.write_id))
        .map(|row| row.entry.clone())
        .collect();
    append_all(tx, &entries).await?;
    tx.statement(&OUTCOMES)
        .bind(&requests_json)
        .execute()
        .await?;
    tx.statement(&LANDED).bind(json).all().await
}

/// Puts each row's outcome where its input was.
fn collect(
    inputs: &[Arc<Pending>],
    landed: Vec<LandedRow>,
) -> Result<Vec<Result<Published, Error>>, Error> {
    let mut outcomes: Vec<Option<Result<Published, Error>>> = inputs.iter().map(|_| None).collect();
    for row in landed {
        let (Some(revision), Some(mark), Ok(ord)) =
            (row.revision, row.mark, usize::try_from(row.ord))
        else {
            return Err(Error::Corrupt("a published write has no revision"));
        };
        let input = inputs.get(ord).ok_or(Error::Corrupt("publish order"))?;
        outcomes[ord] = Some(if row.body_hash == input.body_hash {
            Ok(Published {
                revision: Revision(revision),
                mark: Mark::from_sql(mark),
                replayed: row.replayed,
            })
        } else {
            Err(Error::RequestIdReused)
        });
    }
    outcomes
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or(Error::Corrupt("a published write has no outcome"))
}

impl<'a> Row<'a> {
    fn new((ord, input): (usize, &'a Arc<Pending>)) -> Self {
        let (identity, request_id) = input
            .request
            .as_ref()
            .map_or((None, None), |(identity, id)| {
                (Some(identity.as_str()), Some(id.as_str()))
            });
        Self {
            entry: NewEntry {
                ord,
                mark: input.mark,
                write_id: input.write_id.clone(),
                origin: input.origin.clone(),
                changes: input.changes.clone(),
            },
            identity,
            request_id,
            body_hash: input.body_hash.as_deref(),
        }
    }
}
