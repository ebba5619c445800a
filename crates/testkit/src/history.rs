//! Judges a change stream: was every committed revision delivered in order, whole, and once?
//!
//! The judge is pure. A test records what was committed and what each watcher saw, faults and reconnections included, and
//! [`check`] compares the two against the stream's guarantees. It trusts nothing that was delivered: cursors must carry the
//! committed marks, a cursor may only move past what was delivered, and a stream that was resumed must have been resumed from
//! the last cursor.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, ops::Bound};

use steadfast_types::{Cursor, Mark, Revision, StoreId};

/// One committed revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub revision: Revision,
    /// Its mark.
    pub mark: Mark,
    /// What changed, in the order of publication.
    pub keys: Vec<String>,
}

/// What one watcher saw, over all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatcherLog {
    /// A name for messages.
    pub name: String,
    /// It asked for keys that begin with any of these; for all when empty.
    pub prefixes: Vec<String>,
    /// Its connections, in order.
    pub segments: Vec<Segment>,
    /// It had time to see everything, so its last cursor must be at the end.
    pub finished: bool,
}

/// One connection of a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it asked to begin.
    pub start: StartAt,
    /// What came, in order.
    pub events: Vec<Event>,
}

/// Where a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// After a cursor.
    After(Cursor),
    /// With the oldest revision in the log, which is the first committed one.
    Earliest,
    /// At the head that its `Opened` names.
    Now,
}

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream is open.
    Opened {
        /// The head at that moment.
        head: Cursor,
    },
    /// Some changes.
    Batch {
        /// Revision and key of each.
        changes: Vec<(Revision, String)>,
        /// Where the watcher now stands.
        cursor: Cursor,
        /// The last revision continues in the next batch.
        more: bool,
    },
    /// Nothing at or below the cursor will come later.
    Progress {
        /// Where the watcher now stands.
        cursor: Cursor,
    },
    /// The watcher must reload and goes on from the head.
    Reset {
        /// Where it goes on.
        head: Cursor,
    },
}

/// A broken guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// The committed revisions are not dense: the one after the first is absent.
    Hole {
        /// The revision before.
        after: Revision,
        /// The one found.
        found: Revision,
    },
    /// A committed change that the cursor moved past without.
    Missing {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: String,
    },
    /// A change that came again on the same stream.
    Doubled {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: String,
    },
    /// A change that came after one of a later revision, or in another order than it was published.
    OutOfOrder {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: String,
    },
    /// A change that was never committed, or that the filters should have kept out.
    Unasked {
        /// Its revision.
        revision: Revision,
        /// Its key.
        key: String,
    },
    /// A change above the cursor of its batch, which did not say that more follows.
    BeyondCursor {
        /// Its revision.
        revision: Revision,
    },
    /// A cursor below the one before.
    Backwards {
        /// The cursor before.
        from: Cursor,
        /// The cursor now.
        to: Cursor,
    },
    /// A cursor of a revision that was never committed, or with another mark.
    UnknownCursor {
        /// The cursor.
        cursor: Cursor,
    },
    /// A connection that began elsewhere than where the one before ended.
    ResumedElsewhere {
        /// The last cursor seen.
        stood: Option<Cursor>,
        /// Where the connection began.
        began: StartAt,
    },
    /// A stream that did not begin with `Opened`, or that repeated it.
    NotOpened,
    /// The watcher had time to see everything and did not.
    Unfinished {
        /// Its last cursor.
        stood: Option<Cursor>,
        /// The last committed revision.
        last: Revision,
    },
}

/// A broken guarantee and who saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The watcher's name; empty for the committed history itself.
    pub watcher: String,
    /// Which connection, from 0.
    pub segment: usize,
    /// What was broken.
    pub defect: Defect,
}

/// What a sound history amounts to, to show that the test was not empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Committed revisions.
    pub revisions: usize,
    /// Changes delivered to all watchers together.
    pub delivered: usize,
    /// Connections after the first, over all watchers.
    pub resumptions: usize,
    /// Resets over all watchers.
    pub resets: usize,
}

/// Compares what was committed with what was seen.
///
/// `committed` is all of one history in order, including revisions that no watcher asked for. Cursors of a store other than the
/// one named are judged as unknown.
///
/// # Errors
///
/// Every broken guarantee found.
pub fn check(
    store_id: StoreId,
    committed: &[Committed],
    watchers: &[WatcherLog],
) -> Result<Summary, Vec<Finding>> {
    let mut findings = Vec::new();
    for pair in committed.windows(2) {
        if let [before, after] = pair
            && after.revision != before.revision.next()
        {
            findings.push(Finding {
                watcher: String::new(),
                segment: 0,
                defect: Defect::Hole {
                    after: before.revision,
                    found: after.revision,
                },
            });
        }
    }
    let history = History {
        store_id,
        committed: committed
            .iter()
            .map(|entry| (entry.revision, entry))
            .collect(),
    };
    let mut summary = Summary {
        revisions: committed.len(),
        ..Summary::default()
    };
    for log in watchers {
        let mut judge = Judge {
            history: &history,
            log,
            segment: 0,
            stood: None,
            newest: Revision::ZERO,
            pending: Vec::new(),
            findings: &mut findings,
            summary: &mut summary,
        };
        judge.run();
    }
    if findings.is_empty() {
        Ok(summary)
    } else {
        Err(findings)
    }
}

struct History<'a> {
    store_id: StoreId,
    committed: BTreeMap<Revision, &'a Committed>,
}

struct Judge<'a> {
    history: &'a History<'a>,
    log: &'a WatcherLog,
    segment: usize,
    /// The last cursor, from which the watcher resumes.
    stood: Option<Cursor>,
    /// The newest revision of which anything was delivered on this stream.
    newest: Revision,
    /// Delivered, but not yet behind the cursor.
    pending: Vec<(Revision, String)>,
    findings: &'a mut Vec<Finding>,
    summary: &'a mut Summary,
}

// === impl History ===

impl History<'_> {
    fn knows(&self, cursor: Cursor) -> bool {
        let mark = self.committed.get(&cursor.revision).map(|entry| entry.mark);
        // Revision 0 is the empty store; its mark is the store's own affair.
        cursor.store_id == self.store_id
            && (cursor.revision == Revision::ZERO || mark == Some(cursor.mark))
    }

    fn last(&self) -> Revision {
        self.committed
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default()
    }
}

// === impl Judge ===

impl Judge<'_> {
    fn run(&mut self) {
        for (index, segment) in self.log.segments.iter().enumerate() {
            self.segment = index;
            self.begin(segment.start);
            for (position, event) in segment.events.iter().enumerate() {
                let is_opening = matches!(event, Event::Opened { .. });
                if is_opening != (position == 0) {
                    self.report(Defect::NotOpened);
                }
                self.take(segment.start, event);
            }
        }
        let last = self.history.last();
        if self.log.finished && self.stood.is_none_or(|cursor| cursor.revision < last) {
            self.report(Defect::Unfinished {
                stood: self.stood,
                last,
            });
        }
    }

    /// A connection begins where the last cursor stands; what was delivered beyond it may come again.
    fn begin(&mut self, start: StartAt) {
        if self.segment > 0 {
            self.summary.resumptions += 1;
        }
        self.pending.clear();
        match (start, self.stood) {
            (StartAt::After(cursor), Some(stood)) if cursor == stood => {}
            (StartAt::After(cursor), None) if self.segment == 0 => {
                self.know(cursor);
                self.stood = Some(cursor);
            }
            (StartAt::Earliest | StartAt::Now, None) => {}
            (began, stood) => self.report(Defect::ResumedElsewhere { stood, began }),
        }
        self.newest = self.stood.map_or(Revision::ZERO, |cursor| cursor.revision);
    }

    fn take(&mut self, start: StartAt, event: &Event) {
        match event {
            Event::Opened { head } => {
                self.know(*head);
                if start == StartAt::Now && self.stood.is_none() {
                    self.stood = Some(*head);
                    self.newest = head.revision;
                }
            }
            Event::Batch {
                changes,
                cursor,
                more,
            } => {
                for (revision, key) in changes {
                    self.deliver(*revision, key);
                }
                self.advance(*cursor);
                if !more && let Some((revision, _)) = self.pending.first() {
                    let revision = *revision;
                    self.report(Defect::BeyondCursor { revision });
                }
            }
            Event::Progress { cursor } => self.advance(*cursor),
            Event::Reset { head } => {
                self.summary.resets += 1;
                self.know(*head);
                self.pending.clear();
                self.newest = head.revision;
                self.stood = Some(*head);
            }
        }
    }

    fn deliver(&mut self, revision: Revision, key: &str) {
        self.summary.delivered += 1;
        let key = key.to_owned();
        let settled = self.stood.is_some_and(|cursor| revision <= cursor.revision);
        if settled {
            // Everything at or below the cursor was delivered before, or the cursor itself was found wrong.
            self.report(Defect::Doubled { revision, key });
        } else if revision < self.newest {
            let before = self
                .pending
                .iter()
                .any(|(seen, of)| *seen == revision && *of == key);
            self.report(if before {
                Defect::Doubled { revision, key }
            } else {
                Defect::OutOfOrder { revision, key }
            });
        } else {
            self.newest = revision;
            self.pending.push((revision, key));
        }
    }

    /// Moves the cursor and settles what lies behind it.
    fn advance(&mut self, cursor: Cursor) {
        self.know(cursor);
        let from = self.stood.map_or(Revision::ZERO, |stood| stood.revision);
        if cursor.revision < from {
            if let Some(stood) = self.stood {
                self.report(Defect::Backwards {
                    from: stood,
                    to: cursor,
                });
            }
            return;
        }
        self.stood = Some(cursor);
        let (settled, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|(revision, _)| *revision <= cursor.revision);
        self.pending = pending;
        let mut delivered: BTreeMap<Revision, Vec<String>> = BTreeMap::new();
        for (revision, key) in settled {
            delivered.entry(revision).or_default().push(key);
        }
        let history = self.history;
        for (revision, entry) in history
            .committed
            .range((Bound::Excluded(from), Bound::Included(cursor.revision)))
        {
            let expected: Vec<&String> = entry
                .keys
                .iter()
                .filter(|key| self.asked_for(key))
                .collect();
            self.compare(
                *revision,
                &expected,
                delivered.remove(revision).unwrap_or_default(),
            );
        }
        for (revision, keys) in delivered {
            for key in keys {
                self.report(Defect::Unasked { revision, key });
            }
        }
    }

    fn compare(&mut self, revision: Revision, expected: &[&String], delivered: Vec<String>) {
        if expected.iter().copied().eq(delivered.iter()) {
            return;
        }
        let count_before = self.findings.len();
        let mut left = expected.to_vec();
        for key in delivered {
            if let Some(at) = left.iter().position(|wanted| **wanted == key) {
                left.remove(at);
            } else if expected.contains(&&key) {
                self.report(Defect::Doubled { revision, key });
            } else {
                self.report(Defect::Unasked { revision, key });
            }
        }
        for key in left {
            self.report(Defect::Missing {
                revision,
                key: key.clone(),
            });
        }
        // Nothing is missing or too much, so only the order can differ.
        if self.findings.len() == count_before
            && let Some(key) = expected.first()
        {
            self.report(Defect::OutOfOrder {
                revision,
                key: (*key).clone(),
            });
        }
    }

    fn asked_for(&self, key: &str) -> bool {
        let prefixes = &self.log.prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn know(&mut self, cursor: Cursor) {
        if !self.history.knows(cursor) {
            self.report(Defect::UnknownCursor { cursor });
        }
    }

    fn report(&mut self, defect: Defect) {
        self.findings.push(Finding {
            watcher: self.log.name.clone(),
            segment: self.segment,
            defect,
        });
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on connection {}: {:?}",
            self.watcher, self.segment, self.defect
        )
    }
}
