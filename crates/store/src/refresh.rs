//! Refreshes: who asked, what is underway, and what became of each item. The writes of the one that runs are in
//! `refresh_run`.

use sqlx::FromRow;
use steadfast_types::{Revision, Timestamp};
use uuid::Uuid;

use crate::{
    Error, Request, Store,
    engine::{Tx, statements},
};

statements! {
    /// Lets one request at a time look for a run to join.
    GATE = "refresh_gate" => ["SELECT id FROM refresh_gate WHERE id = 1" for_update];
    /// Runs that have not ended, the running one first.
    UNDERWAY = "refresh_underway" => [
        "SELECT * FROM refresh_run WHERE state IN ('queued', 'running') ORDER BY state DESC, id" for_update
    ];
    /// Whether there is anything to do.
    PENDING = "refresh_pending" => [
        "SELECT count(*) AS count FROM refresh_run WHERE state IN ('queued', 'running')"
    ];
    /// Whether anything was ever brought, but by these sources.
    ANY_PACKAGE = "refresh_any_package" => [
        postgres {
            "SELECT count(*) AS count FROM (SELECT name FROM package \
             WHERE source NOT IN (SELECT json_array_elements_text($1::json)) LIMIT 1) AS one"
        }
        sqlite {
            "SELECT count(*) AS count FROM (SELECT name FROM package \
             WHERE source NOT IN (SELECT value FROM json_each($1)) LIMIT 1) AS one"
        }
    ];
    /// Adds a run.
    QUEUE = "refresh_queue" => [
        "INSERT INTO refresh_run (id, state, packages, schemas, icons, package, dry_run, forced, cause, requested_by, create_us, \
         start_us, end_us, owner, attempts, error, begun_through, item_count, packages_listed, \
         packages_changed, packages_unchanged, packages_failed, schemas_listed, schemas_changed, \
         schemas_unchanged, schemas_failed) VALUES ($1, 'queued', $2, $3, $9, $4, $5, $6, $7, $8, " now ", \
         NULL, NULL, '', 0, '', NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0)"
    ];
    /// One run.
    GET = "refresh_get" => ["SELECT * FROM refresh_run WHERE id = $1"];
    /// Runs before an id, newest first.
    LIST = "refresh_list" => [
        "SELECT * FROM refresh_run WHERE id < $1 ORDER BY id DESC LIMIT $2"
    ];
    /// Cancels a run.
    CANCEL = "refresh_cancel" => [
        "UPDATE refresh_run SET state = 'cancelled', error = $2, end_us = " now " \
         WHERE id = $1 AND state IN ('queued', 'running')"
    ];
    /// Items after a number.
    ITEMS = "refresh_items" => [
        "SELECT kind, package, version, source, outcome, reason, message, revision FROM refresh_item \
         WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
    ];
}

/// A refresh, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RefreshRow {
    /// A UUIDv7.
    pub id: String,
    /// `queued`, `running`, `succeeded`, `partial`, `failed` or `cancelled`.
    pub state: String,
    /// It reads package metadata.
    pub packages: bool,
    /// It reads schemas.
    pub schemas: bool,
    /// It reads icons.
    pub icons: bool,
    /// Only of this package.
    pub package: Option<String>,
    /// It stores nothing but its own items.
    pub dry_run: bool,
    /// It asks for everything, whatever is known, and trusts a short listing.
    pub forced: bool,
    /// `request`, `schedule` or `empty_catalogue`.
    pub cause: String,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub create_us: i64,
    /// When it was first taken.
    pub start_us: Option<i64>,
    /// When it ended.
    pub end_us: Option<i64>,
    /// The replica that took it last.
    pub owner: String,
    /// How often it was taken.
    pub attempts: i64,
    /// Why it is not a success as a whole.
    pub error: String,
    /// Packages up to this name may have been read.
    pub begun_through: Option<String>,
    /// How many items it has.
    pub item_count: i64,
    /// How many packages there were to read.
    pub packages_listed: i64,
    /// Of these, stored anew.
    pub packages_changed: i64,
    /// Of these, as they were.
    pub packages_unchanged: i64,
    /// Of these, not read.
    pub packages_failed: i64,
    /// How many versions' schemas there were to have.
    pub schemas_listed: i64,
    /// Of these, read now.
    pub schemas_changed: i64,
    /// Of these, known before.
    pub schemas_unchanged: i64,
    /// Of these, not read.
    pub schemas_failed: i64,
    /// How many icons there were to have.
    pub icons_listed: i64,
    /// Of these, stored anew.
    pub icons_changed: i64,
    /// Of these, as they were.
    pub icons_unchanged: i64,
    /// Of these, not read.
    pub icons_failed: i64,
}

/// What became of one package, of one version's schema, of one icon, or of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default, FromRow)]
pub struct RefreshItemRow {
    /// `packages`, `schemas` or `icons`.
    pub kind: String,
    /// The package.
    pub package: String,
    /// The version, for a schema; shape and format, for an icon.
    pub version: String,
    /// The source, for its listing; then there is no package.
    pub source: String,
    /// `changed`, `unchanged` or `failed`.
    pub outcome: String,
    /// Why it failed, for programs.
    pub reason: String,
    /// Why it failed, for people.
    pub message: String,
    /// The revision that stored it; filled in by the store.
    pub revision: Option<i64>,
}

/// A refresh to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRefresh {
    /// Read package metadata.
    pub packages: bool,
    /// Read schemas.
    pub schemas: bool,
    /// Read icons.
    pub icons: bool,
    /// Only of this package.
    pub package: Option<String>,
    /// Store nothing but its own items.
    pub dry_run: bool,
    /// Ask for everything, whatever is known, and trust a short listing.
    pub forced: bool,
}

/// Where a request for a refresh goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshPlacement {
    /// To the run with this id.
    Join(String),
    /// To a new run.
    Queue(NewRefresh),
    /// Nowhere: so many wait already.
    Refuse,
}

/// Who or what asks for a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshAsk {
    /// `request`, `schedule` or `empty_catalogue`.
    pub cause: &'static str,
    /// The caller's identity, or a schedule's name.
    pub requested_by: String,
    /// Makes the call safe to repeat.
    pub request: Option<Request>,
    /// Ask for nothing unless nothing is underway and there is no package but of these sources.
    pub only_if_empty: Option<Vec<String>>,
}

/// What became of a request for a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshAsked {
    /// It led to a run.
    Placed {
        /// The run.
        run: Box<RefreshRow>,
        /// The run was there before.
        joined: bool,
    },
    /// The call was a repetition, and the run that it led to is no longer kept.
    Forgotten {
        /// The run's id.
        id: String,
    },
    /// `only_if_empty`, and it is not.
    HeldBack,
    /// So many wait already.
    Refused,
}

/// What became of a request to cancel a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshCancel {
    /// It was cancelled now.
    Cancelled(Box<RefreshRow>),
    /// It was cancelled before.
    Already(Box<RefreshRow>),
    /// It had ended by itself.
    Ended(Box<RefreshRow>),
    /// There is none with this id.
    Unknown,
}

#[derive(FromRow)]
pub(crate) struct CountRow {
    pub(crate) count: i64,
}

// === impl Store: asking ===

impl Store {
    /// Asks for a refresh: `place` decides, given the runs that have not ended (the running one first), whether the caller joins
    /// one.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`], or if the database does not answer.
    pub async fn ask_refresh(
        &self,
        ask: &RefreshAsk,
        place: impl FnOnce(&[RefreshRow]) -> RefreshPlacement + Send,
    ) -> Result<RefreshAsked, Error> {
        let mut tx = self.db().begin().await?;
        if let Some(request) = &ask.request
            && let Some(outcome) = request.begin(&mut tx).await?
        {
            let (id, joined): (String, bool) = serde_json::from_str(&outcome)
                .map_err(|_| Error::Corrupt("request_outcome.outcome"))?;
            let run: Option<RefreshRow> = tx.statement(&GET).bind(&id).optional().await?;
            tx.rollback().await?;
            return Ok(match run {
                Some(run) => RefreshAsked::Placed {
                    run: Box::new(run),
                    joined,
                },
                None => RefreshAsked::Forgotten { id },
            });
        }
        let _: (i16,) = gate(&mut tx).await?;
        let underway = underway_in(&mut tx).await?;
        if let Some(aside) = &ask.only_if_empty {
            let aside = serde_json::to_string(aside).map_err(|_| Error::Corrupt("sources"))?;
            let any: CountRow = tx.statement(&ANY_PACKAGE).bind(aside).one().await?;
            if any.count > 0 || underway.iter().any(|run| !run.dry_run) {
                tx.rollback().await?;
                return Ok(RefreshAsked::HeldBack);
            }
        }
        let (id, joined) = match place(&underway) {
            RefreshPlacement::Join(id) => (id, true),
            RefreshPlacement::Queue(new) => {
                let id = Uuid::now_v7().to_string();
                tx.statement(&QUEUE)
                    .bind(&id)
                    .bind(new.packages)
                    .bind(new.schemas)
                    .bind(&new.package)
                    .bind(new.dry_run)
                    .bind(new.forced)
                    .bind(ask.cause)
                    .bind(&ask.requested_by)
                    .bind(new.icons)
                    .execute()
                    .await?;
                (id, false)
            }
            RefreshPlacement::Refuse => {
                tx.rollback().await?;
                return Ok(RefreshAsked::Refused);
            }
        };
        if let Some(request) = &ask.request {
            let outcome = serde_json::to_string(&(&id, joined))
                .map_err(|_| Error::Corrupt("request_outcome.outcome"))?;
            request.finish(&mut tx, &outcome).await?;
        }
        let run = run_in(&mut tx, &id).await?;
        tx.commit().await?;
        Ok(RefreshAsked::Placed {
            run: Box::new(run),
            joined,
        })
    }

    /// Ends a refresh where it is: from now on it writes nothing more, whoever runs it. What it wrote stays.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn cancel_refresh(&self, id: &str, error: &str) -> Result<RefreshCancel, Error> {
        let mut tx = self.db().begin().await?;
        let cancelled = tx.statement(&CANCEL).bind(id).bind(error).execute().await?;
        let run: Option<RefreshRow> = tx.statement(&GET).bind(id).optional().await?;
        tx.commit().await?;
        Ok(match run {
            Some(run) if cancelled > 0 => RefreshCancel::Cancelled(Box::new(run)),
            Some(run) if run.state == "cancelled" => RefreshCancel::Already(Box::new(run)),
            Some(run) => RefreshCancel::Ended(Box::new(run)),
            None => RefreshCancel::Unknown,
        })
    }

    /// One refresh with its items after the first `skip`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refresh(
        &self,
        id: &str,
        skip: i64,
        limit: i64,
    ) -> Result<Option<(RefreshRow, Vec<RefreshItemRow>)>, Error> {
        let mut tx = self.db().begin_snapshot().await?;
        let run: Option<RefreshRow> = tx.statement(&GET).bind(id).optional().await?;
        let items = match run {
            None => Vec::new(),
            Some(_) => {
                let items = tx.statement(&ITEMS).bind(id).bind(skip).bind(limit);
                items.all().await?
            }
        };
        tx.rollback().await?;
        Ok(run.map(|run| (run, items)))
    }

    /// Refreshes older than an id, newest first; the empty id means from the newest.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refreshes(&self, before: &str, limit: i64) -> Result<Vec<RefreshRow>, Error> {
        // Above every UUID in text.
        let before = if before.is_empty() { "~" } else { before };
        self.db().read(&LIST).bind(before).bind(limit).all().await
    }

    /// Whether any refresh is queued or running.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn refresh_pending(&self) -> Result<bool, Error> {
        let row: CountRow = self.db().read(&PENDING).one().await?;
        Ok(row.count > 0)
    }
}

/// Runs that have not ended, the running one first; locked.
pub(crate) async fn underway_in(tx: &mut Tx) -> Result<Vec<RefreshRow>, Error> {
    tx.statement(&UNDERWAY).all().await
}

/// A run that is there.
pub(crate) async fn run_in(tx: &mut Tx, id: &str) -> Result<RefreshRow, Error> {
    tx.statement(&GET).bind(id).one().await
}

pub(crate) async fn gate(tx: &mut Tx) -> Result<(i16,), Error> {
    tx.statement(&GATE).one().await
}

// === impl RefreshRow ===

impl RefreshRow {
    /// When it was first taken.
    #[must_use]
    pub fn start(&self) -> Option<Timestamp> {
        self.start_us.map(Timestamp)
    }

    /// When it ended.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        self.end_us.map(Timestamp)
    }
}

// === impl RefreshItemRow ===

impl RefreshItemRow {
    /// The revision that stored it.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.revision.map(Revision)
    }
}
