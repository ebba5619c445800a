//! Where something stands in the history of a store.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A position in the change log: dense, gapless, assigned in commit order. 0 is the empty store.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

/// A random number stored with each revision. Commit order is dense, so an equal mark at an equal revision proves an equal
/// prefix of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(pub u64);

/// The identity of a store's history, drawn at creation and again whenever the history turns out to be another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

/// A place in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cursor {
    /// Which history.
    pub store_id: StoreId,
    /// How far.
    pub revision: Revision,
    /// The mark of that revision.
    pub mark: Mark,
}

/// The text is not `STORE_ID:REVISION:MARK`.
#[derive(Debug, thiserror::Error)]
#[error("a cursor reads STORE_ID:REVISION:MARK, with the mark as 16 hexadecimal digits")]
pub struct ParseCursorError;

// === impl Revision ===

impl Revision {
    /// The revision of a store in which nothing was ever written.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Mark ===

impl Mark {
    /// Draws a new one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The same bits as a database's signed 64-bit integer.
    #[must_use]
    pub const fn to_sql(self) -> i64 {
        self.0.cast_signed()
    }

    /// The inverse of [`Mark::to_sql`].
    #[must_use]
    pub const fn from_sql(value: i64) -> Self {
        Self(value.cast_unsigned())
    }
}

// === impl StoreId ===

impl StoreId {
    /// Draws a new one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for StoreId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

// === impl Cursor ===

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{:016x}",
            self.store_id, self.revision, self.mark.0
        )
    }
}

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, ':');
        let mut next = || parts.next().ok_or(ParseCursorError);
        let store_id = next()?.parse().map_err(|_| ParseCursorError)?;
        let revision = next()?.parse().map_err(|_| ParseCursorError)?;
        let mark = u64::from_str_radix(next()?, 16).map_err(|_| ParseCursorError)?;
        if revision < 0 {
            return Err(ParseCursorError);
        }
        Ok(Self {
            store_id,
            revision: Revision(revision),
            mark: Mark(mark),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(store in any::<u128>(), revision in 0..i64::MAX, mark in any::<u64>()) {
            let cursor = Cursor {
                store_id: StoreId(Uuid::from_u128(store)),
                revision: Revision(revision),
                mark: Mark(mark),
            };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().ok(), Some(cursor));
            prop_assert_eq!(Mark::from_sql(cursor.mark.to_sql()), cursor.mark);
        }
    }

    #[test]
    fn garbage_is_no_cursor() {
        for text in [
            "",
            "1",
            "a:b:c",
            "00000000-0000-0000-0000-000000000000:-1:00",
        ] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
