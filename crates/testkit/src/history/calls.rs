//! The judge of publishers: every answer against what the log holds.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use steadfast_types::{Cursor, Revision};

use super::{Committed, Key};

/// One publish and what became of it. No key is published by two calls, unless they have the same request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was published, in order.
    pub keys: Vec<Key>,
    /// The name under which the same call may be made again.
    pub request_id: Option<String>,
    /// What the caller knows.
    pub answer: Answer,
}

/// What the caller of a publish knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was written.
    Acknowledged {
        /// Where.
        cursor: Cursor,
        /// An earlier call with the same request id had written it.
        replayed: bool,
    },
    /// It was not written.
    Refused,
    /// It may have been written: no answer came.
    Unknown,
}

/// An answer that the log belies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallDefect {
    /// Acknowledged, and not in the log.
    Lost {
        /// Where it should be.
        cursor: Cursor,
        /// What.
        keys: Vec<Key>,
    },
    /// Acknowledged, and in the log at another revision or with another mark.
    Elsewhere {
        /// Where it should be.
        cursor: Cursor,
        /// Where it is.
        found: Revision,
    },
    /// A revision that holds some keys of a call, but not all and only those in their order.
    Torn {
        /// The revision.
        revision: Revision,
        /// What should be in it.
        keys: Vec<Key>,
    },
    /// A key in two revisions, or twice in one.
    Doubled {
        /// The key.
        key: Key,
        /// The revisions.
        revisions: [Revision; 2],
    },
    /// Refused, and in the log.
    WrittenAnyway {
        /// Where.
        revision: Revision,
        /// What.
        keys: Vec<Key>,
    },
    /// Two answers to the same request that name different revisions, or that both say that they wrote it.
    Contradiction {
        /// The request's id.
        request_id: String,
        /// One.
        one: Answer,
        /// The other.
        other: Answer,
    },
}

/// What sound answers amount to, to show that the test was not empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallSummary {
    /// Answers that said that it was written.
    pub acknowledged: usize,
    /// Those of them that said that an earlier call had written it.
    pub replayed: usize,
    /// Calls that were refused.
    pub refused: usize,
    /// Calls without an answer.
    pub unknown: usize,
    /// Those of them that are in the log.
    pub unknown_written: usize,
}

/// Compares what callers were answered with what was committed: what was acknowledged is in the log once, where the answer said;
/// what was refused is not; what nobody knows of is there once or not at all.
///
/// # Errors
///
/// Every answer that the log belies.
pub fn check_calls(
    committed: &[Committed],
    calls: &[Call],
) -> Result<CallSummary, Vec<CallDefect>> {
    let mut defects = Vec::new();
    // What nobody published may come again and again: a saga's own changes, for example.
    let published: HashSet<&Key> = calls.iter().flat_map(|call| &call.keys).collect();
    let mut places: HashMap<&Key, Revision> = HashMap::new();
    for entry in committed {
        for key in entry.keys.iter().filter(|key| published.contains(key)) {
            if let Some(before) = places.insert(key, entry.revision) {
                defects.push(CallDefect::Doubled {
                    key: Key::clone(key),
                    revisions: [before, entry.revision],
                });
            }
        }
    }
    let entries: BTreeMap<Revision, &Committed> = committed
        .iter()
        .map(|entry| (entry.revision, entry))
        .collect();
    let mut summary = CallSummary::default();
    for call in calls {
        let found = call.keys.iter().find_map(|key| places.get(key).copied());
        let entry = found.and_then(|revision| entries.get(&revision));
        if let Some(entry) = entry
            && entry.keys != call.keys
        {
            defects.push(CallDefect::Torn {
                revision: entry.revision,
                keys: call.keys.clone(),
            });
        }
        match (call.answer, entry) {
            (Answer::Acknowledged { cursor, .. }, None) => defects.push(CallDefect::Lost {
                cursor,
                keys: call.keys.clone(),
            }),
            (Answer::Acknowledged { cursor, .. }, Some(entry))
                if (entry.revision, entry.mark) != (cursor.revision, cursor.mark) =>
            {
                defects.push(CallDefect::Elsewhere {
                    cursor,
                    found: entry.revision,
                });
            }
            // Another call with the same request id may have written it.
            (Answer::Refused, Some(entry)) if call.request_id.is_none() => {
                defects.push(CallDefect::WrittenAnyway {
                    revision: entry.revision,
                    keys: call.keys.clone(),
                });
            }
            _ => {}
        }
        summary.count(call.answer, entry.is_some());
    }
    contradictions(calls, &mut defects);
    if defects.is_empty() {
        Ok(summary)
    } else {
        Err(defects)
    }
}

/// All answers to one request name one place, and one of them at most says that it was written just now.
fn contradictions(calls: &[Call], defects: &mut Vec<CallDefect>) {
    let mut first: HashMap<&str, Vec<Answer>> = HashMap::new();
    for call in calls {
        let (Some(id), Answer::Acknowledged { cursor, replayed }) = (&call.request_id, call.answer)
        else {
            continue;
        };
        let before = first.entry(id).or_default();
        let contradicted = before.iter().find(|answer| match answer {
            Answer::Acknowledged {
                cursor: other,
                replayed: again,
            } => *other != cursor || (!again && !replayed),
            Answer::Refused | Answer::Unknown => false,
        });
        if let Some(one) = contradicted {
            defects.push(CallDefect::Contradiction {
                request_id: id.clone(),
                one: *one,
                other: call.answer,
            });
        }
        before.push(call.answer);
    }
}

// === impl CallSummary ===

impl CallSummary {
    fn count(&mut self, answer: Answer, is_written: bool) {
        match answer {
            Answer::Acknowledged { replayed, .. } => {
                self.acknowledged += 1;
                self.replayed += usize::from(replayed);
            }
            Answer::Refused => self.refused += 1,
            Answer::Unknown => {
                self.unknown += 1;
                self.unknown_written += usize::from(is_written);
            }
        }
    }
}

impl fmt::Display for CallSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged ({} of them replayed), {} refused, {} unknown ({} of them written)",
            self.acknowledged, self.replayed, self.refused, self.unknown, self.unknown_written
        )
    }
}
