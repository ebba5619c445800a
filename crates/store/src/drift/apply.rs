//! What a sweep found of one page, written as one transaction.
//!
//! Resources of which a drift opens, changes or closes are locked, and left out if anything about them has changed since they were
//! read: they are due then, and compared again. Everything else is conditional on the generation that was read. A page in which
//! nothing is new writes the sweep's own row.

mod found;

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    event::{self, NewEvent},
    generation, json,
    row::{self, detail},
};
use crate::{
    Change, Engine, Error, Lease, Store,
    engine::{Sql, Statement, Tx, statements},
    log,
};

pub use found::{
    Applied, AppliedPage, Compared, DriftClose, DriftOpen, DriftUpdate, OpenedDrift, SweepWrite,
};

/// Changes in one revision at most.
const CHANGES: usize = 1_000;

statements! {
    /// Locks resources, in the order of their numbers.
    LOCK = "drift_apply_lock" => [
        postgres { "SELECT key, writes AS version FROM drift_resource WHERE key = ANY ($1::bigint[]) ORDER BY key FOR UPDATE" }
        sqlite { "SELECT r.key, r.writes AS version FROM json_each($1) e CROSS JOIN drift_resource r ON r.key = e.value" }
    ];
    /// Locks what is there of them.
    LOCK_LIVE = "drift_apply_lock_live" => [
        postgres { "SELECT key, version FROM drift_live WHERE key = ANY ($1::bigint[]) ORDER BY key FOR UPDATE" }
        sqlite { "SELECT l.key, l.version FROM json_each($1) e CROSS JOIN drift_live l ON l.key = e.value" }
    ];
    /// Their generations.
    GENERATIONS = "drift_apply_generations" => [
        postgres { "SELECT key, generation AS version FROM drift_due WHERE key = ANY ($1::bigint[])" }
        sqlite { "SELECT d.key, d.generation AS version FROM json_each($1) e CROSS JOIN drift_due d ON d.key = e.value" }
    ];
    /// Opens drifts.
    OPEN = "drift_apply_open" => [
        postgres {
            "INSERT INTO drift (id, key, version, spec_version, first_seen_us, changed_us, flips, severity, suppressed_until_us, \
                 resolved_us, secret, state, kind, path, suppressed_by, suppressed_policy, expected, actual, actor, reason) \
             SELECT e.id, e.key, 1, e.spec_version, n.now_us, n.now_us, e.flips, e.severity, e.suppressed_until_us, NULL, e.secret, \
                 'open', e.kind, e.path, e.suppressed_by, e.suppressed_policy, e.expected, e.actual, '', '' \
             FROM json_to_recordset($1::json) AS e(id text, key bigint, spec_version bigint, flips bigint, severity bigint, \
                 suppressed_until_us bigint, secret boolean, kind text, path text, suppressed_by text, suppressed_policy text, \
                 expected text, actual text), (SELECT " now " AS now_us) AS n \
             ON CONFLICT (key, path) WHERE state = 'open' DO NOTHING RETURNING id, version"
        }
        sqlite {
            "INSERT INTO drift (id, key, version, spec_version, first_seen_us, changed_us, flips, severity, suppressed_until_us, \
                 resolved_us, secret, state, kind, path, suppressed_by, suppressed_policy, expected, actual, actor, reason) \
             SELECT e.value ->> 'id', e.value ->> 'key', 1, e.value ->> 'spec_version', " now ", " now ", e.value ->> 'flips', \
                 e.value ->> 'severity', e.value ->> 'suppressed_until_us', NULL, e.value ->> 'secret', 'open', e.value ->> 'kind', \
                 e.value ->> 'path', e.value ->> 'suppressed_by', e.value ->> 'suppressed_policy', e.value ->> 'expected', \
                 e.value ->> 'actual', '', '' FROM json_each($1) e WHERE true \
             ON CONFLICT (key, path) WHERE state = 'open' DO NOTHING RETURNING id, version"
        }
    ];
    /// Changes drifts that are as they were read. That one is open is said by its time: its state would bring the wrong index.
    UPDATE = "drift_apply_update" => [
        postgres {
            "UPDATE drift o SET version = o.version + CASE WHEN e.silent THEN 0 ELSE 1 END, spec_version = e.spec_version, \
                 changed_us = CASE WHEN e.value_changed THEN n.now_us ELSE o.changed_us END, flips = e.flips, severity = e.severity, \
                 suppressed_until_us = e.suppressed_until_us, secret = e.secret, kind = e.kind, suppressed_by = e.suppressed_by, \
                 suppressed_policy = e.suppressed_policy, expected = e.expected, actual = e.actual \
             FROM json_to_recordset($1::json) AS e(id text, version bigint, spec_version bigint, flips bigint, severity bigint, \
                 suppressed_until_us bigint, secret boolean, kind text, suppressed_by text, suppressed_policy text, \
                 expected text, actual text, value_changed boolean, silent boolean), (SELECT " now " AS now_us) AS n \
             WHERE o.id = e.id COLLATE \"C\" AND o.id = ANY ($2::text[]) AND o.version = e.version AND o.resolved_us IS NULL \
             RETURNING o.id, o.version"
        }
        sqlite {
            "UPDATE drift SET version = drift.version + CASE WHEN e.value ->> 'silent' THEN 0 ELSE 1 END, \
                 spec_version = e.value ->> 'spec_version', \
                 changed_us = CASE WHEN e.value ->> 'value_changed' THEN " now " ELSE drift.changed_us END, flips = e.value ->> 'flips', \
                 severity = e.value ->> 'severity', suppressed_until_us = e.value ->> 'suppressed_until_us', \
                 secret = e.value ->> 'secret', kind = e.value ->> 'kind', suppressed_by = e.value ->> 'suppressed_by', \
                 suppressed_policy = e.value ->> 'suppressed_policy', expected = e.value ->> 'expected', actual = e.value ->> 'actual' \
             FROM json_each($1) e WHERE drift.id = e.value ->> 'id' AND drift.version = e.value ->> 'version' \
             AND drift.state = 'open' RETURNING id, version"
        }
    ];
    /// Closes drifts that are as they were read.
    CLOSE = "drift_apply_close" => [
        postgres {
            "UPDATE drift o SET version = o.version + 1, state = e.state, reason = e.reason, resolved_us = n.now_us, suppressed_by = '', \
                 suppressed_policy = '', suppressed_until_us = NULL \
             FROM json_to_recordset($1::json) AS e(id text, version bigint, state text, reason text), (SELECT " now " AS now_us) AS n \
             WHERE o.id = e.id COLLATE \"C\" AND o.id = ANY ($2::text[]) AND o.version = e.version AND o.resolved_us IS NULL \
             RETURNING o.id, o.version"
        }
        sqlite {
            "UPDATE drift SET version = drift.version + 1, state = e.value ->> 'state', reason = e.value ->> 'reason', \
                 resolved_us = " now ", suppressed_by = '', suppressed_policy = '', suppressed_until_us = NULL \
             FROM json_each($1) e WHERE drift.id = e.value ->> 'id' AND drift.version = e.value ->> 'version' \
             AND drift.state = 'open' RETURNING id, version"
        }
    ];
    /// Keeps what was decided, where nothing has changed since.
    DECIDE = "drift_apply_decide" => [
        postgres {
            "INSERT INTO drift_verdict (key, decided_us, verdict) SELECT e.key, (SELECT " now "), e.verdict \
             FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS e(key, generation, verdict) \
             WHERE coalesce((SELECT d.generation FROM drift_due d WHERE d.key = e.key), 0) = e.generation ORDER BY e.key \
             ON CONFLICT (key) DO UPDATE SET decided_us = excluded.decided_us, verdict = excluded.verdict"
        }
        sqlite {
            "INSERT INTO drift_verdict (key, decided_us, verdict) SELECT e.value ->> 'key', " now ", e.value ->> 'verdict' \
             FROM json_each($1) e \
             WHERE coalesce((SELECT d.generation FROM drift_due d WHERE d.key = e.value ->> 'key'), 0) = e.value ->> 'generation' \
             ON CONFLICT (key) DO UPDATE SET decided_us = excluded.decided_us, verdict = excluded.verdict"
        }
    ];
    /// Locks what is due of some, in the order of the numbers. Those of which nothing is due get a row of generation 0 until later.
    LOCK_DUE = "drift_apply_lock_due" => [
        postgres {
            "INSERT INTO drift_due (key, generation, due_us) SELECT e.key, 0, 9223372036854775807 \
             FROM unnest($1::bigint[]) AS e(key) ORDER BY e.key \
             ON CONFLICT (key) DO UPDATE SET generation = drift_due.generation WHERE drift_due.generation < 0"
        }
    ];
    /// Takes away the rows of generation 0 that are left.
    UNLOCK_DUE = "drift_apply_unlock_due" => [
        postgres { "DELETE FROM drift_due WHERE key = ANY ($1::bigint[]) AND generation = 0" }
    ];
    /// Takes away what was compared, where nothing has changed since. It is locked in the order of the numbers.
    CLEAR = "drift_apply_clear" => [
        postgres {
            "DELETE FROM drift_due WHERE key = ANY (ARRAY(\
             SELECT d.key FROM unnest($1::bigint[], $2::bigint[]) AS e(key, generation) CROSS JOIN LATERAL \
             (SELECT d.key FROM drift_due d WHERE d.key = e.key AND d.generation = e.generation FOR UPDATE) d))"
        }
        sqlite {
            "DELETE FROM drift_due WHERE key IN (SELECT e.value ->> 'key' FROM json_each($1) e) \
             AND (key, generation) IN (SELECT e.value ->> 'key', e.value ->> 'generation' FROM json_each($1) e)"
        }
    ];
    /// Says when the next comparison is, where nothing has changed since.
    NEXT = "drift_apply_next" => [
        postgres {
            "INSERT INTO drift_due (key, generation, due_us) SELECT e.key, 1, e.due_us \
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS e(key, generation, due_us) ORDER BY e.key \
             ON CONFLICT (key) DO UPDATE SET due_us = excluded.due_us, generation = greatest(drift_due.generation, 1) \
             WHERE drift_due.generation = ($2::bigint[])[array_position($1::bigint[], excluded.key)]"
        }
        sqlite {
            "INSERT INTO drift_due (key, generation, due_us) \
             SELECT e.value ->> 'key', max(1, e.value ->> 'generation'), e.value ->> 'due_us' FROM json_each($1) e \
             WHERE e.value ->> 'generation' > 0 OR NOT EXISTS (SELECT 1 FROM drift_due d WHERE d.key = e.value ->> 'key') \
             ON CONFLICT (key) DO UPDATE SET due_us = excluded.due_us \
             WHERE drift_due.generation = excluded.generation"
        }
    ];
    /// Says how far the sweep is.
    PROGRESS = "drift_apply_progress" => [
        "UPDATE drift_sweep SET cursor_key = $2, tally = $3, stalls = CASE WHEN cursor_key = $2 THEN stalls ELSE 0 END, \
         failed = CASE WHEN $4 = '' THEN failed ELSE $4 END WHERE id = $1 AND state = 'running' RETURNING cancel_requested"
    ];
}

#[derive(FromRow)]
struct VersionRow {
    key: i64,
    version: i64,
}

#[derive(FromRow)]
struct IdRow {
    id: String,
    version: i64,
}

#[derive(FromRow)]
struct CancelRow {
    cancel_requested: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    key: i64,
    version: i64,
    spec_version: i64,
    flips: i64,
    severity: i64,
    suppressed_until_us: Option<i64>,
    secret: bool,
    kind: &'a str,
    path: &'a str,
    suppressed_by: &'a str,
    suppressed_policy: &'a str,
    expected: Option<&'a str>,
    actual: Option<&'a str>,
    value_changed: bool,
    silent: bool,
}

#[derive(Serialize)]
struct CloseRow<'a> {
    id: &'a str,
    version: i64,
    state: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct GenerationRow {
    key: i64,
    generation: i64,
    verdict: &'static str,
    due_us: i64,
}

impl Store {
    /// Writes what a sweep found of a page, as one transaction. `tally` says how the sweep stands then.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the lease is lost or the sweep has ended; or if the database does not answer.
    pub async fn apply_sweep(
        &self,
        lease: &Lease,
        write: &SweepWrite,
        tally: impl FnOnce(&AppliedPage) -> String + Send,
    ) -> Result<Applied, Error> {
        let mut tx = self.db().begin().await?;
        lease.guard(&mut tx).await?;
        if let Some(outdated) = generation::keep(&mut tx, &write.judged_by).await? {
            tx.rollback().await?;
            return Ok(Applied::Outdated(outdated));
        }
        let mut applied = AppliedPage::default();
        let touched = write.compared.iter().filter(|one| one.touches_drifts());
        let touched: Vec<&Compared> = touched.collect();
        let mut changes = Vec::new();
        if !touched.is_empty() {
            applied.overtaken = overtaken(&mut tx, &touched).await?;
            let still = |one: &&&Compared| !applied.overtaken.contains(&one.key);
            let still: Vec<&Compared> = touched.iter().filter(still).copied().collect();
            changes = write_drifts(&mut tx, &still, &mut applied).await?;
        }
        let settled = |one: &&Compared| !applied.overtaken.contains(&one.key);
        let settled: Vec<&Compared> = write.compared.iter().filter(settled).collect();
        settle(&mut tx, &settled).await?;
        let progress = tx.statement(&PROGRESS).bind(&write.sweep_id);
        let progress: Option<CancelRow> = progress
            .bind(write.cursor_key)
            .bind(tally(&applied))
            .bind(&write.failed)
            .optional()
            .await?;
        let progress = progress.ok_or_else(|| Error::Fenced {
            lease: lease.name.clone(),
        })?;
        applied.cancelled = progress.cancel_requested;
        applied.announced = !changes.is_empty();
        let revisions: Vec<Vec<Change>> = changes.chunks(CHANGES).map(<[_]>::to_vec).collect();
        log::append_each(&mut tx, &revisions).await?;
        tx.commit().await?;
        Ok(Applied::Page(applied))
    }
}

/// A statement about some resources.
fn about<'c>(tx: &'c mut Tx, sql: &'static Sql, keys: &[i64]) -> Result<Statement<'c>, Error> {
    Ok(match tx.engine() {
        Engine::Postgres => tx.statement(sql).bind_column(keys.to_vec()),
        Engine::Sqlite => tx.statement(sql).bind(json(keys)?),
    })
}

/// Locks resources, and says which of them are not as they were read.
async fn overtaken(tx: &mut Tx, touched: &[&Compared]) -> Result<HashSet<i64>, Error> {
    let keys: Vec<i64> = touched.iter().map(|one| one.key).collect();
    let mut versions: Vec<HashMap<i64, i64>> = Vec::new();
    for sql in [&LOCK, &LOCK_LIVE, &GENERATIONS] {
        let rows: Vec<VersionRow> = about(tx, sql, &keys)?.all().await?;
        versions.push(rows.into_iter().map(|row| (row.key, row.version)).collect());
    }
    let now = |which: usize, key: i64| versions[which].get(&key).copied().unwrap_or(0);
    let moved = touched.iter().filter(|one| {
        let found = (now(0, one.key), now(1, one.key), now(2, one.key));
        found != (one.writes, one.live_version, one.generation)
    });
    Ok(moved.map(|one| one.key).collect())
}

/// Opens, changes and closes drifts, adds their events, and returns what to announce.
async fn write_drifts(
    tx: &mut Tx,
    still: &[&Compared],
    applied: &mut AppliedPage,
) -> Result<Vec<Change>, Error> {
    let ids: Vec<String> = still
        .iter()
        .flat_map(|one| &one.opens)
        .map(|_| Uuid::now_v7().to_string())
        .collect();
    let opens = still
        .iter()
        .flat_map(|one| one.opens.iter().map(move |open| (one, open)));
    let opens: Vec<Row<'_>> = opens
        .zip(&ids)
        .map(|((one, open), id)| Row::new(one, id, 0, open))
        .collect();
    let updates = still
        .iter()
        .flat_map(|one| one.updates.iter().map(move |update| (one, update)));
    let updates: Vec<Row<'_>> = updates
        .map(|(one, update)| Row {
            spec_version: update.spec_version,
            value_changed: update.value_changed,
            silent: update.silent,
            ..Row::new(one, &update.id, update.version, &update.now)
        })
        .collect();
    let closing = still
        .iter()
        .flat_map(|one| one.closes.iter().map(move |close| (one.key, close)));
    let closing: Vec<(i64, &DriftClose)> = closing.collect();
    let closes = closing.iter().map(|(_, close)| CloseRow {
        id: &close.id,
        version: close.version,
        state: close.state,
        reason: close.reason,
    });
    let closes: Vec<CloseRow<'_>> = closes.collect();
    // Closed ones first: a path may close as one kind and open as another.
    let closed = run(tx, &CLOSE, &closes, |row| row.id).await?;
    let updated = run(tx, &UPDATE, &updates, |row| row.id).await?;
    let opened = match opens.len() {
        0 => HashMap::new(),
        _ => versions(tx.statement(&OPEN).bind(json(&opens)?)).await?,
    };
    let (mut events, mut changes) = (Vec::new(), Vec::new());
    for (key, close) in &closing {
        if let Some(version) = closed.get(&close.id) {
            changes.push(row::change(&close.id, *version));
            events.push(NewEvent {
                key: *key,
                kind: "drift_closed",
                path: &close.path,
                drift_id: &close.id,
                reason: close.reason,
                ..NewEvent::default()
            });
        }
    }
    for (rows, written, kind) in [
        (&updates, &updated, "drift_changed"),
        (&opens, &opened, "drift_detected"),
    ] {
        for row in rows {
            let Some(version) = written.get(row.id) else {
                continue;
            };
            if !row.silent {
                changes.push(row::change(row.id, *version));
            }
            if row.value_changed || kind == "drift_detected" {
                events.push(row.event(kind));
            }
        }
    }
    event::add(tx, &events).await?;
    applied.closed = super::count(closed.len());
    applied.updated = super::count(updates.iter().filter(|row| row.value_changed).count());
    let was_opened = opens.iter().filter(|row| opened.contains_key(row.id));
    let was_opened = was_opened.map(|row| OpenedDrift {
        key: row.key,
        path: row.path.to_owned(),
        id: row.id.to_owned(),
    });
    applied.opened = was_opened.collect();
    Ok(changes)
}

/// Runs a statement over drifts that are there, and returns the versions of those that it wrote. On PostgreSQL it is told their ids
/// once more, so that a plan has no choice but the index.
async fn run<T: Serialize>(
    tx: &mut Tx,
    sql: &'static Sql,
    rows: &[T],
    id: impl Fn(&T) -> &str,
) -> Result<HashMap<String, i64>, Error> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<String> = rows.iter().map(|row| id(row).to_owned()).collect();
    let engine = tx.engine();
    let statement = tx.statement(sql).bind(json(rows)?);
    versions(match engine {
        Engine::Postgres => statement.bind_column(ids),
        Engine::Sqlite => statement,
    })
    .await
}

async fn versions(statement: Statement<'_>) -> Result<HashMap<String, i64>, Error> {
    let written: Vec<IdRow> = statement.all().await?;
    Ok(written
        .into_iter()
        .map(|row| (row.id, row.version))
        .collect())
}

/// Keeps verdicts, and takes away what is due no more.
async fn settle(tx: &mut Tx, settled: &[&Compared]) -> Result<(), Error> {
    let row = |one: &&&Compared| GenerationRow {
        key: one.key,
        generation: one.generation,
        verdict: one.verdict.unwrap_or_default(),
        due_us: one.next_us.unwrap_or_default(),
    };
    let decided = settled.iter().filter(|one| one.verdict.is_some());
    let done = settled.iter().filter(|one| one.done && one.generation > 0);
    let done = done.filter(|one| one.next_us.is_none());
    let next = settled.iter().filter(|one| one.next_us.is_some());
    let (done, next): (Vec<_>, Vec<_>) = (
        done.map(|one| row(&one)).collect(),
        next.map(|one| row(&one)).collect(),
    );
    // Each of the two goes by the order of the numbers. Both together do only if they are locked before.
    let mut both: Vec<i64> = done.iter().chain(&next).map(|row| row.key).collect();
    if tx.engine() == Engine::Sqlite || done.is_empty() || next.is_empty() {
        both.clear();
    }
    both.sort_unstable();
    if !both.is_empty() {
        about(tx, &LOCK_DUE, &both)?.execute().await?;
    }
    for (sql, rows) in [
        (&DECIDE, decided.map(|one| row(&one)).collect::<Vec<_>>()),
        (&CLEAR, done),
        (&NEXT, next),
    ] {
        if rows.is_empty() {
            continue;
        }
        let statement = tx.engine();
        let statement =
            match statement {
                Engine::Sqlite => tx.statement(sql).bind(json(&rows)?),
                Engine::Postgres => {
                    let statement = tx
                        .statement(sql)
                        .bind_column::<i64>(rows.iter().map(|row| row.key).collect())
                        .bind_column::<i64>(rows.iter().map(|row| row.generation).collect());
                    match sql.name {
                        "drift_apply_decide" => statement
                            .bind_column::<&str>(rows.iter().map(|row| row.verdict).collect()),
                        "drift_apply_next" => statement
                            .bind_column::<i64>(rows.iter().map(|row| row.due_us).collect()),
                        _ => statement,
                    }
                }
            };
        statement.execute().await?;
    }
    if !both.is_empty() {
        about(tx, &UNLOCK_DUE, &both)?.execute().await?;
    }
    Ok(())
}

// === impl Row ===

impl<'a> Row<'a> {
    fn new(one: &Compared, id: &'a str, version: i64, drift: &'a DriftOpen) -> Self {
        Self {
            id,
            key: one.key,
            version,
            spec_version: one.spec_version,
            flips: drift.flips,
            severity: drift.severity,
            suppressed_until_us: drift.suppressed_until_us,
            secret: drift.secret,
            kind: drift.kind,
            path: &drift.path,
            suppressed_by: drift.suppressed_by,
            suppressed_policy: &drift.suppressed_policy,
            expected: drift.expected.as_deref(),
            actual: drift.actual.as_deref(),
            value_changed: false,
            silent: false,
        }
    }

    fn event(&self, kind: &'a str) -> NewEvent<'a> {
        NewEvent {
            key: self.key,
            kind,
            path: self.path,
            drift_id: self.id,
            detail: detail(self.kind, self.secret, self.expected, self.actual),
            ..NewEvent::default()
        }
    }
}
