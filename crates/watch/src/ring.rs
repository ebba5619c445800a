//! The newest revisions in memory, bounded in number and bytes.

use std::{collections::VecDeque, sync::Arc};

use steadfast_types::Cursor;

use crate::Revision;

/// How much the ring holds. At least the newest revision is always held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) revisions: usize,
    pub(crate) bytes: usize,
}

/// Consecutive revisions after a base.
#[derive(Debug)]
pub(crate) struct Ring {
    limits: Limits,
    /// The revision before the first that is held.
    base: Cursor,
    held: VecDeque<Arc<Revision>>,
    bytes: usize,
}

/// What the ring has for a cursor.
#[derive(Debug)]
pub(crate) enum Found {
    /// The cursor is at the newest.
    Level,
    /// What comes after it, in order.
    Next(Vec<Arc<Revision>>),
    /// It has fallen off: read the log.
    Behind,
    /// It is above the newest: this replica's memory has yet to reach it.
    Ahead,
    /// Its mark is not that of the held revision, or its store is another one.
    Diverged,
}

// === impl Ring ===

impl Ring {
    /// An empty ring that goes on after `base`.
    pub(crate) fn new(limits: Limits, base: Cursor) -> Self {
        Self {
            limits,
            base,
            held: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The newest revision, held or not.
    pub(crate) fn newest(&self) -> Cursor {
        self.held
            .back()
            .map_or(self.base, |newest| newest.cursor(self.base.store_id))
    }

    /// Revisions and bytes held.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.held.len(), self.bytes)
    }

    /// Adds the revision after the newest.
    pub(crate) fn push(&mut self, revision: Arc<Revision>) {
        debug_assert_eq!(revision.number, self.newest().revision.next());
        self.bytes += revision.memory_bytes();
        self.held.push_back(revision);
        while self.held.len() > 1
            && (self.held.len() > self.limits.revisions || self.bytes > self.limits.bytes)
        {
            let Some(oldest) = self.held.pop_front() else {
                break;
            };
            self.bytes -= oldest.memory_bytes();
            self.base = oldest.cursor(self.base.store_id);
        }
    }

    /// Looks a cursor up. Returns at most `limit` revisions.
    pub(crate) fn after(&self, cursor: Cursor, limit: usize) -> Found {
        if cursor.store_id != self.base.store_id {
            return Found::Diverged;
        }
        let newest = self.newest();
        if cursor.revision > newest.revision {
            return Found::Ahead;
        }
        let Ok(offset) = usize::try_from(cursor.revision.0 - self.base.revision.0) else {
            return Found::Behind;
        };
        let mark = match offset.checked_sub(1) {
            None => self.base.mark,
            Some(index) => self.held[index].mark,
        };
        if mark != cursor.mark {
            return Found::Diverged;
        }
        if cursor.revision == newest.revision {
            return Found::Level;
        }
        Found::Next(self.held.iter().skip(offset).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use steadfast_store::{Change, Entry, Op};
    use steadfast_types::{Mark, StoreId, Timestamp};

    use super::*;

    fn revision(store_id: StoreId, number: i64) -> Arc<Revision> {
        Arc::new(Revision::encode(
            store_id,
            &Entry {
                revision: steadfast_types::Revision(number),
                mark: Mark(number as u64 * 31),
                origin: String::new(),
                time: Timestamp(0),
                changes: vec![Change::new("app/t", number.to_string(), Op::Upsert, "")],
            },
        ))
    }

    fn at(store_id: StoreId, number: i64) -> Cursor {
        Cursor {
            store_id,
            revision: steadfast_types::Revision(number),
            mark: Mark(number as u64 * 31),
        }
    }

    proptest! {
        #[test]
        fn a_cursor_gets_exactly_what_comes_after_it(
            base in 0_i64..5,
            pushed in 0_i64..40,
            held in 1_usize..12,
            cursor in 0_i64..50,
            limit in 1_usize..9,
        ) {
            let store_id = StoreId::random();
            let limits = Limits { revisions: held, bytes: usize::MAX };
            let mut ring = Ring::new(limits, at(store_id, base));
            for number in 1..=pushed {
                ring.push(revision(store_id, base + number));
            }
            let newest = base + pushed;
            let oldest = base.max(newest - held as i64);
            match ring.after(at(store_id, cursor), limit) {
                Found::Level => prop_assert_eq!(cursor, newest),
                Found::Ahead => prop_assert!(cursor > newest),
                Found::Behind => prop_assert!(cursor < oldest),
                Found::Diverged => prop_assert!(false, "the marks agree"),
                Found::Next(revisions) => {
                    let numbers: Vec<i64> = revisions.iter().map(|r| r.number.0).collect();
                    let expected: Vec<i64> = (cursor + 1..=newest).take(limit).collect();
                    prop_assert_eq!(numbers, expected);
                }
            }
        }
    }

    #[test]
    fn the_ring_is_bounded_in_bytes() {
        let store_id = StoreId::random();
        let one = revision(store_id, 1).memory_bytes();
        let limits = Limits {
            revisions: 1_000,
            bytes: one * 4,
        };
        let mut ring = Ring::new(limits, at(store_id, 0));
        for number in 1..=100 {
            ring.push(revision(store_id, number));
        }
        let (held, bytes) = ring.size();
        assert!(held <= 4 && bytes <= one * 4, "{held} {bytes}");
        assert!(matches!(ring.after(at(store_id, 10), 5), Found::Behind));
    }

    #[test]
    fn another_mark_or_store_is_another_history() {
        let store_id = StoreId::random();
        let limits = Limits {
            revisions: 10,
            bytes: usize::MAX,
        };
        let mut ring = Ring::new(limits, at(store_id, 0));
        ring.push(revision(store_id, 1));
        ring.push(revision(store_id, 2));
        for number in 0..=2 {
            let wrong = Cursor {
                mark: Mark(12_345),
                ..at(store_id, number)
            };
            assert!(matches!(ring.after(wrong, 5), Found::Diverged), "{number}");
        }
        assert!(matches!(
            ring.after(at(StoreId::random(), 1), 5),
            Found::Diverged
        ));
    }
}
