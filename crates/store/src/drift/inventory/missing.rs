//! What a complete inventory did not see.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::FromRow;

use super::{
    super::{
        ResourceName, count,
        due::{self, Due},
        json, resource, seen,
        told::{self, Told},
    },
    InventoryRow,
    end::PIECE,
};
use crate::{
    Change, Engine, Error, Store,
    engine::{Tx, statements},
    log,
};

/// Resources of a scope looked at in one statement.
const PAGE: i64 = 5_000;

statements! {
    /// Keeps an inventory from being ended by somebody else before the transaction does.
    HOLD = "drift_inventory_hold" => [
        "SELECT key FROM drift_inventory WHERE key = $1 AND ending = 'complete'" for_share
    ];
    /// Resources of a provider, in order of their names.
    SCOPE = "drift_inventory_scope" => [
        "SELECT key, type AS kind, id FROM drift_resource WHERE provider = $1 AND (type, id) > ($2, $3) ORDER BY type, id LIMIT $4"
    ];
    /// The same, of one type.
    SCOPE_OF_TYPE = "drift_inventory_scope_of_type" => [
        "SELECT key, type AS kind, id FROM drift_resource WHERE provider = $1 AND type = $2 AND id > $3 ORDER BY id LIMIT $4"
    ];
    /// Inventories of a provider that began after a time and have not failed.
    LATER = "drift_inventory_later" => [
        "SELECT i.key, i.start_us FROM drift_inventory i WHERE i.provider = $1 AND i.start_us > $2 AND i.state <> 'failed'"
    ];
    /// How things stand with those that were not seen.
    STANDING = "drift_inventory_standing" => [
        postgres {
            "SELECT r.key, r.type AS kind, r.id, r.recorded, r.writes, r.recorded_us, r.applied_us, \
                    coalesce(l.version, 0) AS live_version, coalesce(l.observed_us, 0) AS observed_us, \
                    coalesce(l.misses, 0) AS misses, coalesce(l.missed_us, 0) AS missed_us, \
                    coalesce(l.missed_end_us, 0) AS missed_end_us \
             FROM unnest($1::bigint[]) AS e(key) CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.key = e.key LIMIT 1) r \
             LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = e.key LIMIT 1) l ON true ORDER BY r.key"
        }
        sqlite {
            "SELECT r.key, r.type AS kind, r.id, r.recorded, r.writes, r.recorded_us, r.applied_us, \
                    coalesce(l.version, 0) AS live_version, coalesce(l.observed_us, 0) AS observed_us, \
                    coalesce(l.misses, 0) AS misses, coalesce(l.missed_us, 0) AS missed_us, \
                    coalesce(l.missed_end_us, 0) AS missed_end_us \
             FROM json_each($1) e CROSS JOIN drift_resource r ON r.key = e.value \
             LEFT JOIN drift_live l ON l.key = r.key ORDER BY r.key"
        }
    ];
    /// Counts a miss, unless anything was written of the resource since it was read, or it was seen since the inventory began.
    MISS = "drift_inventory_miss" => [
        postgres {
            "INSERT INTO drift_live \
                 (key, version, observed_us, inventory, misses, missed_us, missed_end_us, transition, digest, attributes) \
             SELECT e.key, e.version, 0, 0, e.misses, $2, $6, '', '', '' \
             FROM unnest($1::bigint[], $4::bigint[], $3::bigint[]) AS e(key, version, misses) ORDER BY e.key \
             ON CONFLICT (key) DO UPDATE SET version = excluded.version, misses = excluded.misses, \
                 missed_us = excluded.missed_us, missed_end_us = excluded.missed_end_us, \
                 inventory = CASE WHEN excluded.misses = 2 THEN $5 ELSE drift_live.inventory END, \
                 transition = CASE WHEN excluded.misses = 2 THEN '' ELSE drift_live.transition END, \
                 digest = CASE WHEN excluded.misses = 2 THEN '' ELSE drift_live.digest END, \
                 attributes = CASE WHEN excluded.misses = 2 THEN '' ELSE drift_live.attributes END, \
                 observed_us = CASE WHEN excluded.misses = 2 THEN $2 ELSE drift_live.observed_us END \
             WHERE drift_live.version = excluded.version - 1 AND drift_live.observed_us < $2 RETURNING key, version"
        }
        sqlite {
            "INSERT INTO drift_live \
                 (key, version, observed_us, inventory, misses, missed_us, missed_end_us, transition, digest, attributes) \
             SELECT e.value ->> 'key', e.value ->> 'version', 0, 0, e.value ->> 'misses', $2, $4, '', '', '' \
             FROM json_each($1) e WHERE true \
             ON CONFLICT (key) DO UPDATE SET version = excluded.version, misses = excluded.misses, \
                 missed_us = excluded.missed_us, missed_end_us = excluded.missed_end_us, \
                 inventory = CASE WHEN excluded.misses = 2 THEN $3 ELSE drift_live.inventory END, \
                 transition = CASE WHEN excluded.misses = 2 THEN '' ELSE drift_live.transition END, \
                 digest = CASE WHEN excluded.misses = 2 THEN '' ELSE drift_live.digest END, \
                 attributes = CASE WHEN excluded.misses = 2 THEN '' ELSE drift_live.attributes END, \
                 observed_us = CASE WHEN excluded.misses = 2 THEN $2 ELSE drift_live.observed_us END \
             WHERE drift_live.version = excluded.version - 1 AND drift_live.observed_us < $2 RETURNING key, version"
        }
    ];
}

#[derive(FromRow)]
struct KeyRow {
    #[sqlx(rename = "key")]
    _key: i64,
}

#[derive(FromRow)]
struct ScopeRow {
    key: i64,
    kind: String,
    id: String,
}

#[derive(FromRow)]
struct StandingRow {
    key: i64,
    kind: String,
    id: String,
    recorded: bool,
    writes: i64,
    recorded_us: i64,
    applied_us: Option<i64>,
    live_version: i64,
    observed_us: i64,
    misses: i64,
    missed_us: i64,
    missed_end_us: i64,
}

#[derive(Serialize)]
struct Miss {
    key: i64,
    /// What it is then.
    version: i64,
    misses: i64,
}

#[derive(FromRow)]
struct LaterRow {
    key: i64,
    start_us: i64,
}

/// What an inventory saw of some resources.
struct Sight {
    start_us: i64,
    keys: seen::KeySet,
}

#[derive(FromRow)]
struct MissedRow {
    key: i64,
    version: i64,
}

// === impl StandingRow ===

impl StandingRow {
    /// How often in a row it is missing, if a complete inventory that began then did not have it; `None` if that says nothing. Others
    /// saw it in the meantime, as it was known, so that nothing of it is in its row.
    fn misses_after(&self, start_us: i64, sights: &[Sight]) -> Option<i64> {
        let seen_after = |time| {
            let mut since = sights.iter().filter(|sight| sight.start_us > time);
            since.any(|sight| sight.keys.contains(self.key))
        };
        if seen_after(start_us) {
            return None;
        }
        let expected = self.recorded
            && self.recorded_us < start_us
            && self.applied_us.is_some_and(|applied| applied < start_us);
        let was_there = self.live_version > 0 && !self.recorded;
        if self.observed_us >= start_us || self.missed_us >= start_us || !(expected || was_there) {
            return None;
        }
        let since = self.applied_us.unwrap_or(0);
        match self.misses {
            0 => Some(1),
            // Asked for again meanwhile, or seen.
            1 if self.missed_us <= since || seen_after(self.missed_us) => Some(1),
            1 if start_us > self.missed_end_us => Some(2),
            // It was under way together with the one that missed it first: both may have skipped it for the same reason.
            1 => None,
            // Gone, and asked for again meanwhile.
            _ if self.observed_us <= since => Some(1),
            _ => None,
        }
    }
}

/// Counts a miss for everything in the scope that was not seen, a piece at a time. Returns how many were not; `None` if somebody else
/// has ended the inventory meanwhile.
pub(super) async fn miss(store: &Store, inventory: &InventoryRow) -> Result<Option<i64>, Error> {
    let seen = seen::kept(store.db(), inventory.key).await?;
    let mut missed = 0;
    for kind in inventory.scopes() {
        let scope = if kind.is_empty() {
            &SCOPE
        } else {
            &SCOPE_OF_TYPE
        };
        let mut after = (kind, String::new());
        loop {
            let rows: Vec<ScopeRow> = store
                .db()
                .read(scope)
                .bind(&inventory.provider)
                .bind(&after.0)
                .bind(&after.1)
                .bind(PAGE)
                .all()
                .await?;
            let unseen = rows.iter().filter(|row| !seen.contains(row.key));
            let mut unseen: Vec<i64> = unseen.map(|row| row.key).collect();
            unseen.sort_unstable();
            let Some(last) = rows.into_iter().next_back() else {
                break;
            };
            after = (last.kind, last.id);
            for piece in unseen.chunks(PIECE) {
                match miss_piece(store, inventory, piece).await? {
                    Some(count) => missed += count,
                    None => return Ok(None),
                }
            }
        }
    }
    Ok(Some(missed))
}

/// What inventories saw of some resources that began after a time.
async fn sights(
    tx: &mut Tx,
    provider: &str,
    after_us: i64,
    keys: &[i64],
) -> Result<Vec<Sight>, Error> {
    let later = tx.statement(&LATER).bind(provider).bind(after_us);
    let later: Vec<LaterRow> = later.all().await?;
    let mut sights = Vec::new();
    for look in later {
        sights.push(Sight {
            start_us: look.start_us,
            keys: seen::seen_of(tx, look.key, keys).await?,
        });
    }
    Ok(sights)
}

/// Counts what is missed of some resources, by their ascending numbers, as one transaction.
async fn miss_piece(
    store: &Store,
    inventory: &InventoryRow,
    unseen: &[i64],
) -> Result<Option<i64>, Error> {
    let mut tx = store.db().begin().await?;
    let held: Option<KeyRow> = tx.statement(&HOLD).bind(inventory.key).optional().await?;
    if held.is_none() {
        tx.rollback().await?;
        return Ok(None);
    }
    let (missed, changes) = count_misses(&mut tx, inventory, unseen).await?;
    if changes.is_empty() {
        tx.rollback().await?;
    } else {
        log::append_one(&mut tx, &changes).await?;
        tx.commit().await?;
    }
    Ok(Some(missed))
}

/// Returns how many are missed, and what to announce.
async fn count_misses(
    tx: &mut Tx,
    inventory: &InventoryRow,
    unseen: &[i64],
) -> Result<(i64, Vec<Change>), Error> {
    let mut changes = Vec::new();
    let standing = match tx.engine() {
        Engine::Postgres => tx.statement(&STANDING).bind_column(unseen.to_vec()),
        Engine::Sqlite => tx.statement(&STANDING).bind(json(unseen)?),
    };
    let standing: Vec<StandingRow> = standing.all().await?;
    // Those that this inventory has found to be gone, before it was interrupted, are counted again.
    let anew = |row: &StandingRow| row.misses < 2 || row.missed_us == inventory.start_us;
    let known = |row: &&StandingRow| row.recorded || row.live_version > 0 && anew(row);
    let missed = count(standing.iter().filter(known).count());
    // Also since the first misses, of those that were missed before.
    let once = standing.iter().filter(|row| row.misses == 1);
    let since = once.map(|row| row.missed_us).min();
    let since = since.map_or(inventory.start_us, |since| since.min(inventory.start_us));
    let sights = sights(tx, &inventory.provider, since, unseen).await?;
    let misses = standing.iter().filter_map(|row| {
        Some(Miss {
            key: row.key,
            version: row.live_version + 1,
            misses: row.misses_after(inventory.start_us, &sights)?,
        })
    });
    let misses: Vec<Miss> = misses.collect();
    if misses.is_empty() {
        return Ok((missed, changes));
    }
    let counted = match tx.engine() {
        Engine::Postgres => {
            let counted = tx
                .statement(&MISS)
                .bind_column::<i64>(misses.iter().map(|miss| miss.key).collect());
            counted
                .bind(inventory.start_us)
                .bind_column::<i64>(misses.iter().map(|miss| miss.misses).collect())
                .bind_column::<i64>(misses.iter().map(|miss| miss.version).collect())
        }
        Engine::Sqlite => {
            let counted = tx.statement(&MISS).bind(json(&misses)?);
            counted.bind(inventory.start_us)
        }
    };
    let counted = counted.bind(inventory.key).bind(inventory.ending_us);
    let counted: Vec<MissedRow> = counted.all().await?;
    let versions: HashMap<i64, i64> = counted.iter().map(|row| (row.key, row.version)).collect();
    let (mut gone, mut missing) = (Vec::new(), Vec::new());
    let after: HashMap<i64, i64> = misses.iter().map(|miss| (miss.key, miss.misses)).collect();
    for row in &standing {
        let (Some(version), Some(misses)) = (versions.get(&row.key), after.get(&row.key)) else {
            continue;
        };
        let name = ResourceName {
            provider: inventory.provider.clone(),
            kind: row.kind.clone(),
            id: row.id.clone(),
        };
        changes.push(resource::change(&name, row.writes, *version));
        missing.push(Due::now(row.key));
        if *misses == 2 {
            gone.push(Told {
                key: row.key,
                is_there: false,
            });
        }
    }
    due::mark(tx, &missing).await?;
    told::tell(tx, &gone).await?;
    Ok((missed, changes))
}
