//! Hiding what was kept before it was known to be secret: specs, what is there, the values of drifts, and what events say.
//!
//! What is secret is not known here: whoever knows says what becomes of each text. All of it is gone through once, a batch at a
//! time; where that stands is written with each batch, so that it goes on where it was interrupted, and several replicas share it.
//! Nobody is shown anything else by it, so that there are no revisions; but what is under way with the old texts is refused when it
//! is committed, since their resources are due again.

mod rows;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    due::{self, Due},
    json,
};
use crate::{Engine, Error, Store, engine::Tx};
use rows::{DriftWrite, EventWrite, LiveWrite, Place, SpecWrite};

#[cfg(any(test, feature = "faults"))]
pub(crate) use rows::STATEMENTS;

/// Rows looked at in one transaction; each has documents of up to 128 KiB.
const ROWS: i64 = 256;
/// Events looked at in one transaction.
const EVENTS: i64 = 2_000;
/// How often the file's own log is asked to be empty.
const CHECKPOINTS: usize = 5;
/// How long that takes between two attempts, if somebody reads.
const CHECKPOINT_WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// Says what becomes of texts that are kept; `None` if one stays as it is.
pub trait Redact: Sync {
    /// Of a document: a spec, or what is there.
    fn document(&self, provider: &str, kind: &str, text: &str) -> Option<String>;
    /// What stands for the meaning of what is there.
    fn digest(&self, provider: &str, kind: &str, text: &str) -> String;
    /// Of a value at a path.
    fn value(&self, provider: &str, kind: &str, path: &str, text: &str) -> Option<String>;
    /// Whether values at a path are known by hashes only.
    fn is_secret(&self, provider: &str, kind: &str, path: &str) -> bool;
    /// Of what an event says about a path.
    fn detail(&self, provider: &str, kind: &str, path: &str, text: &str) -> Option<String>;
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    /// What is gone through for.
    of: String,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Specs and what is there, after a number.
    Documents {
        after: i64,
    },
    /// Drifts, after one.
    Drifts {
        after: Place,
    },
    /// Events, after a number.
    Events {
        after: i64,
    },
    /// What the file of the database still has of what was overwritten.
    File,
    Done,
}

impl Store {
    /// Whether everything was gone through for this.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn is_redacted(&self, of: &str) -> Result<bool, Error> {
        let standing = rows::standing(self.db()).await?;
        Ok(read(&standing, of).stage == Stage::Done)
    }

    /// Goes through the next batch of resources of some types, `PROVIDER/TYPE`, their drifts and events. `of` names what it is done
    /// for. Returns whether there is more.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn redact_next(
        &self,
        of: &str,
        types: &BTreeSet<String>,
        redact: &impl Redact,
    ) -> Result<bool, Error> {
        let mut tx = self.db().begin().await?;
        let standing = read(&rows::lock_standing(&mut tx).await?, of);
        let types = json(types)?;
        let stage = match standing.stage {
            Stage::Documents { after } => match rows::documents(&mut tx, after, ROWS).await? {
                None => Stage::Drifts {
                    after: Place::default(),
                },
                Some(through) => {
                    let found = rows::clear_documents(&mut tx, after, through, &types).await?;
                    let is_clear = |row: &&rows::DocumentRow| {
                        let clear = |text: &str| redact.document(&row.provider, &row.kind, text);
                        clear(&row.spec).is_some() || clear(&row.attributes).is_some()
                    };
                    let keys = found.iter().filter(is_clear).map(|row| row.key);
                    let keys: Vec<i64> = keys.collect();
                    redact_documents(&mut tx, &keys, redact).await?;
                    mark(&mut tx, keys.into_iter()).await?;
                    Stage::Documents { after: through }
                }
            },
            Stage::Drifts { after } => {
                let found = rows::drifts(&mut tx, &after, &types, ROWS).await?;
                match found.last() {
                    None => Stage::Events { after: 0 },
                    Some(last) => {
                        let after = last.place();
                        redact_drifts(&mut tx, &found, redact).await?;
                        Stage::Drifts { after }
                    }
                }
            }
            Stage::Events { after } => {
                let found = rows::events(&mut tx, after, &types, EVENTS).await?;
                match found.last() {
                    None => Stage::File,
                    Some(last) => {
                        let after = last.seq;
                        redact_events(&mut tx, &found, redact).await?;
                        Stage::Events { after }
                    }
                }
            }
            Stage::File => {
                tx.rollback().await?;
                self.rewrite_file().await?;
                tx = self.db().begin().await?;
                Stage::Done
            }
            Stage::Done => {
                tx.rollback().await?;
                return Ok(false);
            }
        };
        let more = stage != Stage::Done;
        let standing = Standing {
            of: of.to_owned(),
            stage,
        };
        rows::set_standing(&mut tx, &json(&standing)?).await?;
        tx.commit().await?;
        Ok(more)
    }

    /// Nothing is secret any more: what comes in from now on is not hidden, whatever was gone through.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn forget_redacted(&self) -> Result<(), Error> {
        rows::forget(self.db()).await
    }

    /// Hides what documents of some resources must not hold, for whoever has read them and knows. They are not due by that.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn redact_resources(&self, keys: &[i64], redact: &impl Redact) -> Result<(), Error> {
        let mut tx = self.db().begin().await?;
        redact_documents(&mut tx, keys, redact).await?;
        tx.commit().await
    }

    /// Lets nothing of what was overwritten stay in the file. PostgreSQL keeps files by itself.
    async fn rewrite_file(&self) -> Result<(), Error> {
        if self.engine() != Engine::Sqlite {
            return Ok(());
        }
        rows::vacuum(self.db()).await?;
        for _ in 0..CHECKPOINTS {
            if rows::checkpoint(self.db()).await? {
                return Ok(());
            }
            tokio::time::sleep(CHECKPOINT_WAIT).await;
        }
        tracing::warn!(
            "somebody reads the database all the time: its write-ahead log has what was overwritten until it is next reset"
        );
        Ok(())
    }
}

/// Where it stands; at the beginning if that was for something else.
fn read(standing: &str, of: &str) -> Standing {
    let standing: Option<Standing> = serde_json::from_str(standing).ok();
    let first = || Standing {
        of: of.to_owned(),
        stage: Stage::Documents { after: 0 },
    };
    standing
        .filter(|standing| standing.of == of)
        .unwrap_or_else(first)
}

/// Locks resources, and hides what their documents must not hold.
async fn redact_documents(tx: &mut Tx, keys: &[i64], redact: &impl Redact) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys = json(keys)?;
    let (mut specs, mut lives) = (Vec::new(), Vec::new());
    for row in rows::lock_specs(tx, &keys).await? {
        if let Some(spec) = redact.document(&row.provider, &row.kind, &row.text) {
            specs.push(SpecWrite { key: row.key, spec });
        }
    }
    for row in rows::lock_live(tx, &keys).await? {
        if let Some(attributes) = redact.document(&row.provider, &row.kind, &row.text) {
            lives.push(LiveWrite {
                key: row.key,
                digest: redact.digest(&row.provider, &row.kind, &attributes),
                attributes,
            });
        }
    }
    rows::write_specs(tx, &json(&specs)?).await?;
    rows::write_live(tx, &json(&lives)?).await
}

/// Hides what drifts must not hold, as they are once they are locked.
async fn redact_drifts(
    tx: &mut Tx,
    found: &[rows::DriftRow],
    redact: &impl Redact,
) -> Result<(), Error> {
    let hide = |row: &rows::DriftRow| {
        let value = |text: &Option<String>| {
            let text = text.as_deref()?;
            redact.value(&row.provider, &row.kind, &row.path, text)
        };
        let (expected, actual) = (value(&row.expected), value(&row.actual));
        let secret = redact.is_secret(&row.provider, &row.kind, &row.path);
        let changes = expected.is_some() || actual.is_some() || (secret && !row.secret);
        changes.then(|| DriftWrite {
            id: row.id.clone(),
            secret: secret || row.secret,
            expected: expected.or_else(|| row.expected.clone()),
            actual: actual.or_else(|| row.actual.clone()),
        })
    };
    let clear = found
        .iter()
        .filter(|row| row.matches && hide(row).is_some());
    let (keys, ids): (BTreeSet<i64>, Vec<&str>) =
        clear.map(|row| (row.key, row.id.as_str())).unzip();
    if ids.is_empty() {
        return Ok(());
    }
    rows::lock_specs(tx, &json(&keys)?).await?;
    let locked = rows::lock_drifts(tx, &json(&ids)?).await?;
    let writes: Vec<DriftWrite> = locked.iter().filter_map(hide).collect();
    rows::write_drifts(tx, &json(&writes)?).await?;
    mark(tx, locked.iter().map(|row| row.key)).await
}

/// Hides what events must not tell. They never change otherwise.
async fn redact_events(
    tx: &mut Tx,
    found: &[rows::EventRow],
    redact: &impl Redact,
) -> Result<(), Error> {
    let hide = |row: &rows::EventRow| {
        let detail = redact.detail(&row.provider, &row.kind, &row.path, &row.detail)?;
        Some(EventWrite {
            seq: row.seq,
            detail,
        })
    };
    let writes: Vec<EventWrite> = found.iter().filter_map(hide).collect();
    if writes.is_empty() {
        return Ok(());
    }
    rows::write_events(tx, &json(&writes)?).await
}

/// What has read the old texts is not to be committed.
async fn mark(tx: &mut Tx, keys: impl Iterator<Item = i64>) -> Result<(), Error> {
    let keys: BTreeSet<i64> = keys.collect();
    let due: Vec<Due> = keys.into_iter().map(Due::now).collect();
    due::mark(tx, &due).await
}
