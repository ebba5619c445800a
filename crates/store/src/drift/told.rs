//! What was told of a resource's coming and going.
//!
//! An event says that a resource appeared or is gone; it is added when that is not what was told before. Whoever finds out asks here,
//! once it is certain: a report on its own at once, an inventory when it is complete. What a failed one found was never told, so that
//! it is told when somebody finds the same.

use serde::Serialize;
use sqlx::FromRow;

use super::{
    event::{self, NewEvent},
    json,
};
use crate::{
    Engine, Error,
    engine::{Tx, statements},
};

statements! {
    /// Remembers what is told, and returns of which resources that is news.
    TELL = "drift_tell" => [
        postgres {
            "INSERT INTO drift_told (key, is_there) SELECT e.key, e.is_there FROM unnest($1::bigint[], $2::boolean[]) AS e(key, is_there) \
             ORDER BY e.key ON CONFLICT (key) DO UPDATE SET is_there = excluded.is_there \
             WHERE drift_told.is_there <> excluded.is_there RETURNING key"
        }
        sqlite {
            "INSERT INTO drift_told (key, is_there) SELECT e.value ->> 'key', e.value ->> 'is_there' FROM json_each($1) e WHERE true \
             ON CONFLICT (key) DO UPDATE SET is_there = excluded.is_there \
             WHERE drift_told.is_there <> excluded.is_there RETURNING key"
        }
    ];
}

/// That a resource is there, or that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Told {
    pub(super) key: i64,
    pub(super) is_there: bool,
}

#[derive(FromRow)]
struct KeyRow {
    key: i64,
}

/// Adds an event for each of which it is news; each must be there once, in order of the numbers.
pub(super) async fn tell(tx: &mut Tx, told: &[Told]) -> Result<(), Error> {
    if told.is_empty() {
        return Ok(());
    }
    debug_assert!(told.is_sorted_by(|one, next| one.key < next.key));
    let news = match tx.engine() {
        Engine::Postgres => tx
            .statement(&TELL)
            .bind_column::<i64>(told.iter().map(|told| told.key).collect())
            .bind_column::<bool>(told.iter().map(|told| told.is_there).collect()),
        Engine::Sqlite => tx.statement(&TELL).bind(json(told)?),
    };
    let mut news: Vec<KeyRow> = news.all().await?;
    news.sort_unstable_by_key(|row| row.key);
    let is_there = |key| {
        let at = told.binary_search_by_key(&key, |told| told.key);
        at.is_ok_and(|at| told[at].is_there)
    };
    let events = news.iter().map(|row| NewEvent {
        key: row.key,
        kind: if is_there(row.key) {
            "appeared"
        } else {
            "gone"
        },
        ..NewEvent::default()
    });
    event::add(tx, &events.collect::<Vec<_>>()).await
}
