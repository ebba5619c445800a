//! The reference: what was asked for, what was said of each resource and when, and what follows from these by the rules.
//!
//! Time is a counter, one step for each thing that happens; the database's clock is used only for what ends by itself, a snooze or a
//! policy. Nothing is remembered of what is due: every sweep judges every resource anew.

mod judging;

use std::collections::{BTreeMap, BTreeSet};

pub(super) const FIELDS: [&str; 3] = ["a", "b", "c"];

/// A value, in one of the forms in which it may be written. Two are equal if they mean the same.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) number: u8,
    pub(super) text: String,
}

/// Values by field.
pub(super) type Fields = BTreeMap<&'static str, Value>;

/// When something happened.
pub(super) type Moment = u64;

/// So many flips make a drift flap; nothing here ever rests for an hour.
const FLAPPING: u32 = 3;

/// What somebody says of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Gone,
    There { fields: Fields, resizing: bool },
}

/// How an inventory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Running,
    Complete,
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Inventory {
    pub(super) id: String,
    pub(super) began: Moment,
    /// The only type that it looks at, if there is one.
    pub(super) kind: Option<&'static str>,
    pub(super) look: Look,
    saw: BTreeSet<usize>,
}

/// What is believed of a resource: the newest that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Believed {
    from: Moment,
    /// The inventory that said it; `None` for a report on its own.
    source: Option<usize>,
    said: Said,
}

/// Why a drift is hidden, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hidden {
    Snooze(i64),
    Policy(&'static str, i64),
}

/// A drift that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    /// Of all that were ever opened, which.
    pub(super) serial: usize,
    pub(super) kind: &'static str,
    pub(super) expected: Option<Value>,
    pub(super) actual: Option<Value>,
    pub(super) severity: i64,
    pub(super) flips: u32,
    pub(super) hidden: Option<Hidden>,
    /// Counts what an operator can see change.
    pub(super) version: i64,
    spec_version: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Resource {
    pub(super) spec: Option<Fields>,
    pub(super) version: i64,
    recorded: Moment,
    pub(super) applied: Option<Moment>,
    pub(super) held: bool,
    believed: Option<Believed>,
    /// When it was last reported on its own as being there, also if that said nothing new.
    seen: Moment,
    /// When the complete inventory began and ended that missed it, since it was seen; two make it gone.
    missed: Option<(Moment, Moment)>,
    /// It was said to be gone, or missed twice.
    pub(super) gone: bool,
    /// How many drifts were opened, changed, closed and accepted.
    pub(super) told: [usize; 4],
    pub(super) open: BTreeMap<String, Open>,
    /// How often what was closed last at a path had flipped.
    past: BTreeMap<String, u32>,
    pub(super) verdict: &'static str,
}

/// What may be done about drifts by itself. Each template is one policy, of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) handling: Option<&'static str>,
    pub(super) severity: Option<(&'static str, i64)>,
}

pub(super) const TEMPLATES: [Template; 4] = [
    Template {
        name: "accept-c",
        path: "/c",
        handling: Some("accept"),
        severity: None,
    },
    Template {
        name: "anything",
        path: "",
        handling: None,
        severity: Some(("info", 1)),
    },
    Template {
        name: "ignore-a",
        path: "/a",
        handling: Some("ignore"),
        severity: None,
    },
    Template {
        name: "worse-b",
        path: "/b",
        handling: None,
        severity: Some(("critical", 3)),
    },
];

/// What a sweep does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Did {
    pub(super) opened: i64,
    pub(super) changed: i64,
    pub(super) closed: i64,
    pub(super) accepted: i64,
    /// Drifts whose snooze or policy had ended.
    pub(super) came_back: i64,
    /// Resources that were left as they are because an inventory was under way.
    pub(super) waited: i64,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) resources: Vec<Resource>,
    pub(super) inventories: Vec<Inventory>,
    /// Those there are, with their ends.
    pub(super) policies: BTreeMap<&'static str, Option<i64>>,
    clock: Moment,
    serial: usize,
}

pub(super) fn kind_of(index: usize) -> &'static str {
    if index < 2 { "disk" } else { "vm" }
}

pub(super) fn id_of(index: usize) -> String {
    format!("{}-{index}", kind_of(index))
}

/// Whether two specs are written alike.
fn are_one(one: &Fields, other: &Fields) -> bool {
    let texts = |fields: &Fields| -> Vec<(&str, String)> {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (*name, value.text.clone()))
            .collect()
    };
    texts(one) == texts(other)
}

// === impl Value ===

impl Value {
    pub(super) fn plain(number: u8) -> Self {
        Self {
            number,
            text: number.to_string(),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Value {}

// === impl World ===

impl World {
    pub(super) fn new(resources: usize) -> Self {
        Self {
            resources: vec![Resource::default(); resources],
            ..Self::default()
        }
    }

    fn tick(&mut self) -> Moment {
        self.clock += 1;
        self.clock
    }

    pub(super) fn record(&mut self, index: usize, spec: &Fields, pending: bool) {
        let now = self.tick();
        let one = &mut self.resources[index];
        if !one
            .spec
            .as_ref()
            .is_some_and(|before| are_one(before, spec))
        {
            one.version += 1;
            one.recorded = now;
        }
        one.spec = Some(spec.clone());
        one.applied = (!pending).then_some(now);
    }

    pub(super) fn forget(&mut self, index: usize) {
        let one = &mut self.resources[index];
        (one.spec, one.applied) = (None, None);
    }

    pub(super) fn begin(&mut self, id: String, kind: Option<&'static str>) {
        let began = self.tick();
        self.inventories.push(Inventory {
            id,
            began,
            kind,
            look: Look::Running,
            saw: BTreeSet::new(),
        });
    }

    pub(super) fn covers(&self, inventory: usize, index: usize) -> bool {
        let kind = self.inventories[inventory].kind;
        kind.is_none_or(|kind| kind == kind_of(index))
    }

    /// From when the newest look at a resource counts that saw it, of those that can be relied on or still may be.
    fn seen(&self, index: usize) -> Moment {
        let saw = self.inventories.iter();
        let saw = saw.filter(|one| one.look != Look::Failed && one.saw.contains(&index));
        let saw = saw.map(|one| one.began).max().unwrap_or(0);
        saw.max(self.resources[index].seen)
    }

    /// Returns whether it is news, or `None` if something newer is known.
    pub(super) fn hear(
        &mut self,
        index: usize,
        source: Option<usize>,
        said: &Said,
    ) -> Option<bool> {
        let from = match source {
            Some(inventory) => self.inventories[inventory].began,
            None => self.tick(),
        };
        let there = *said != Said::Gone;
        let (seen, settled) = (self.seen(index), self.is_settled(index, source));
        if let Some(inventory) = source.filter(|_| there) {
            self.inventories[inventory].saw.insert(index);
        }
        let one = &mut self.resources[index];
        if from < seen.max(one.newest()) {
            return None;
        }
        // That something is not there says nothing of what nobody has asked for, or seen, before.
        let asked = one.applied.is_some_and(|applied| applied < from);
        if one.believed.is_none() && !there && !(one.spec.is_some() && asked) {
            return Some(false);
        }
        if there && source.is_none() {
            one.seen = from;
        }
        let repeats = match &one.believed {
            Some(_) if !there => one.gone,
            Some(believed) => !one.gone && one.missed.is_none() && believed.said == *said,
            None => false,
        };
        let applied = one.applied.unwrap_or(0);
        match &mut one.believed {
            Some(known) if repeats => {
                let stale = known.from <= applied && from > applied;
                if stale || !settled {
                    (known.from, known.source) = (from, source);
                }
            }
            known => {
                *known = Some(Believed {
                    from,
                    source,
                    said: said.clone(),
                });
                one.missed = None;
                one.gone = !there;
            }
        }
        Some(!repeats)
    }

    /// Whether what is believed needs nobody else to say it, or is of this very inventory.
    fn is_settled(&self, index: usize, source: Option<usize>) -> bool {
        let believed = self.resources[index].believed.as_ref();
        let inventory = believed.and_then(|believed| believed.source);
        inventory.is_none_or(|inventory| {
            source == Some(inventory) || self.inventories[inventory].look == Look::Complete
        })
    }

    pub(super) fn end(&mut self, inventory: usize, complete: bool) {
        self.inventories[inventory].look = if complete {
            Look::Complete
        } else {
            Look::Failed
        };
        if !complete {
            return;
        }
        let time = (self.inventories[inventory].began, self.tick());
        for index in 0..self.resources.len() {
            if self.covers(inventory, index) && !self.inventories[inventory].saw.contains(&index) {
                let seen = self.seen(index);
                self.resources[index].miss(time, inventory, seen);
            }
        }
    }

    /// Hides a drift, or shows it again.
    pub(super) fn snooze(&mut self, index: usize, path: &str, until: Option<i64>) {
        let drift = self.resources[index]
            .open
            .get_mut(path)
            .expect("it is open");
        drift.hidden = until.map(Hidden::Snooze);
        drift.version += 1;
    }

    /// The times at which something ends by itself.
    pub(super) fn ends(&self) -> impl Iterator<Item = i64> {
        let open = self.resources.iter().flat_map(|one| one.open.values());
        let snoozes = open.filter_map(|drift| match drift.hidden {
            Some(Hidden::Snooze(until) | Hidden::Policy(_, until)) => Some(until),
            None => None,
        });
        snoozes.chain(self.policies.values().filter_map(|until| *until))
    }
}

// === impl Resource ===

impl Resource {
    /// Whether anybody asks for it, or has said anything of it.
    pub(super) fn is_known(&self) -> bool {
        self.spec.is_some() || self.believed.is_some() || self.missed.is_some()
    }

    /// From when the newest counts that was said and written down.
    fn newest(&self) -> Moment {
        let believed = self.believed.as_ref().map_or(0, |believed| believed.from);
        believed.max(self.missed.map_or(0, |(began, _)| began))
    }

    /// A complete inventory did not have it.
    fn miss(&mut self, (began, ended): (Moment, Moment), inventory: usize, seen: Moment) {
        let expected = match self.spec {
            Some(_) => self.applied.is_some_and(|applied| applied < began) && self.recorded < began,
            None => self.believed.is_some(),
        };
        if !expected || seen.max(self.newest()) >= began {
            return;
        }
        let applied = self.applied.unwrap_or(0);
        let stale = self
            .believed
            .as_ref()
            .is_some_and(|believed| believed.from <= applied);
        if self.gone && !stale {
            return;
        }
        self.gone = false;
        // What was missed before it was asked for again, or seen, says nothing.
        let before = self.missed.filter(|(first, _)| *first > applied.max(seen));
        match before {
            None => self.missed = Some((began, ended)),
            // Two that were under way together may have overlooked it for one reason.
            Some((_, first_ended)) if began < first_ended => {}
            Some(_) => {
                (self.missed, self.gone) = (None, true);
                self.believed = Some(Believed {
                    from: began,
                    source: Some(inventory),
                    said: Said::Gone,
                });
            }
        }
    }

    /// What was said of it last, if that can be relied on and it is as it should be compared.
    pub(super) fn reliably(&self) -> Option<&Fields> {
        match self.believed.as_ref().map(|believed| &believed.said) {
            Some(Said::There {
                fields,
                resizing: false,
            }) if self.missed.is_none() => Some(fields),
            _ => None,
        }
    }

    fn close(&mut self, path: &str) {
        let drift = self.open.remove(path).expect("it is open");
        self.past.insert(path.to_owned(), drift.flips);
    }
}
