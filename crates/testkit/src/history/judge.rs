//! The judge of one watcher: where it stands, what it was told since, and whether the one follows from the other.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use steadfast_types::{Cursor, Revision, StoreId};

use super::{Committed, Defect, Event, Finding, History, Key, StartAt, Summary, WatcherLog};

/// Judges each watcher by itself.
pub(super) fn judge(
    histories: &[History],
    watchers: &[WatcherLog],
    findings: &mut Vec<Finding>,
    summary: &mut Summary,
) {
    let known = Known::new(histories);
    for log in watchers {
        let mut judge = Judge {
            known: &known,
            log,
            segment: 0,
            stood: None,
            newest: Revision::ZERO,
            pending: Vec::new(),
            findings: &mut *findings,
            summary: &mut *summary,
        };
        judge.run();
    }
}

/// What was committed under each identity.
struct Known<'a> {
    stores: HashMap<StoreId, BTreeMap<Revision, &'a Committed>>,
    /// The last identity, under which watchers end.
    last: Option<StoreId>,
}

struct Judge<'a> {
    known: &'a Known<'a>,
    log: &'a WatcherLog,
    segment: usize,
    /// The last cursor, from which the watcher resumes.
    stood: Option<Cursor>,
    /// The newest revision of which anything was delivered on this stream.
    newest: Revision,
    /// Delivered, but not yet behind the cursor.
    pending: Vec<(Revision, Key)>,
    findings: &'a mut Vec<Finding>,
    summary: &'a mut Summary,
}

// === impl Known ===

impl<'a> Known<'a> {
    fn new(histories: &'a [History]) -> Self {
        let stores = histories.iter().map(|history| {
            let committed = history.committed.iter();
            let numbered = committed.map(|entry| (entry.revision, entry));
            (history.store_id, numbered.collect())
        });
        Self {
            stores: stores.collect(),
            last: histories.last().map(|history| history.store_id),
        }
    }

    fn knows(&self, cursor: Cursor) -> bool {
        // Revision 0 is the empty store; its mark is the store's own affair.
        self.stores.get(&cursor.store_id).is_some_and(|store| {
            cursor.revision == Revision::ZERO
                || store
                    .get(&cursor.revision)
                    .is_some_and(|entry| entry.mark == cursor.mark)
        })
    }

    /// What was committed between two revisions, the latter included.
    fn between(
        &self,
        store_id: StoreId,
        from: Revision,
        to: Revision,
    ) -> impl Iterator<Item = (Revision, &'a Committed)> {
        let store = self.stores.get(&store_id).into_iter();
        store
            .flat_map(move |store| store.range((Bound::Excluded(from), Bound::Included(to))))
            .map(|(revision, entry)| (*revision, *entry))
    }

    /// The last revision of all.
    fn end(&self) -> Revision {
        let last = self.last.and_then(|last| self.stores.get(&last));
        let newest = last.and_then(|store| store.keys().next_back());
        newest.copied().unwrap_or_default()
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
        let last = self.known.end();
        let at_end =
            |cursor: Cursor| Some(cursor.store_id) == self.known.last && cursor.revision >= last;
        if self.log.finished && !self.stood.is_some_and(at_end) {
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

    fn deliver(&mut self, revision: Revision, key: &Key) {
        self.summary.delivered += 1;
        let key = Arc::clone(key);
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
        if let Some(stood) = self.stood
            && stood.store_id != cursor.store_id
        {
            self.report(Defect::OtherStore {
                from: stood,
                to: cursor,
            });
            return;
        }
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
        let mut delivered: BTreeMap<Revision, Vec<Key>> = BTreeMap::new();
        for (revision, key) in settled {
            delivered.entry(revision).or_default().push(key);
        }
        let known = self.known;
        for (revision, entry) in known.between(cursor.store_id, from, cursor.revision) {
            let expected: Vec<&Key> = entry
                .keys
                .iter()
                .filter(|key| self.asked_for(key))
                .collect();
            self.compare(
                revision,
                &expected,
                delivered.remove(&revision).unwrap_or_default(),
            );
        }
        for (revision, keys) in delivered {
            for key in keys {
                self.report(Defect::Unasked { revision, key });
            }
        }
    }

    fn compare(&mut self, revision: Revision, expected: &[&Key], delivered: Vec<Key>) {
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
                key: Arc::clone(key),
            });
        }
        // Nothing is missing or too much, so only the order can differ.
        if self.findings.len() == count_before
            && let Some(key) = expected.first()
        {
            self.report(Defect::OutOfOrder {
                revision,
                key: Arc::clone(key),
            });
        }
    }

    fn asked_for(&self, key: &str) -> bool {
        let prefixes = &self.log.prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn know(&mut self, cursor: Cursor) {
        if !self.known.knows(cursor) {
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
