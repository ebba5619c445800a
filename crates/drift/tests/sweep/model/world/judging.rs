//! What follows from what is known: the findings of a sweep, and what becomes of an accept.

use steadfast_drift::AcceptRefusal;

use super::{
    Did, FIELDS, FLAPPING, Hidden, Look, Moment, Open, Said, TEMPLATES, Template, Value, World,
};

/// A difference: its path and kind, what was asked for and what is there.
type Difference = (String, &'static str, Option<Value>, Option<Value>);

/// What becomes of a resource in a sweep.
enum Finding {
    /// Everything is left as it is.
    Wait,
    /// What is open stays so.
    Hold(&'static str),
    /// These differ, and nothing else.
    Differs(&'static str, Vec<Difference>),
}

impl World {
    /// The state of the newest inventory that failed and covers a resource.
    fn failed(&self, index: usize) -> Moment {
        let failed = self.inventories.iter().enumerate();
        let failed = failed.filter(|(at, one)| one.look == Look::Failed && self.covers(*at, index));
        failed.map(|(_, one)| one.began).max().unwrap_or(0)
    }

    fn find(&self, index: usize) -> Finding {
        let one = &self.resources[index];
        let Some(spec) = &one.spec else {
            return Finding::Differs("", Vec::new());
        };
        let Some(applied) = one.applied else {
            return Finding::Hold("pending");
        };
        if one.held {
            return Finding::Hold("busy");
        }
        let fresh = one
            .believed
            .as_ref()
            .filter(|believed| believed.from > applied);
        let Some(believed) = fresh else {
            return Finding::Hold(if self.failed(index) > applied {
                "unreadable"
            } else {
                "not_observed"
            });
        };
        match believed
            .source
            .map(|inventory| self.inventories[inventory].look)
        {
            Some(Look::Running) => return Finding::Wait,
            Some(Look::Failed) => return Finding::Hold("unreadable"),
            Some(Look::Complete) | None => {}
        }
        if one.gone {
            return Finding::Differs("drifted", vec![(String::new(), "gone", None, None)]);
        }
        let Said::There { fields, resizing } = &believed.said else {
            return Finding::Hold("not_observed");
        };
        if one.missed.is_some() {
            return Finding::Hold("not_observed");
        }
        if *resizing {
            return Finding::Hold("busy");
        }
        let differing = spec
            .iter()
            .filter(|(name, value)| fields.get(*name) != Some(value));
        let found: Vec<_> = differing
            .map(|(name, value)| match fields.get(name) {
                Some(actual) => {
                    let values = (Some(value.clone()), Some(actual.clone()));
                    (format!("/{name}"), "changed", values.0, values.1)
                }
                None => (format!("/{name}"), "missing", Some(value.clone()), None),
            })
            .collect();
        let verdict = if found.is_empty() {
            "in_sync"
        } else {
            "drifted"
        };
        Finding::Differs(verdict, found)
    }

    /// Whether a resource is left as it is because an inventory that has spoken of it is under way.
    pub(in super::super) fn waits(&self) -> bool {
        (0..self.resources.len()).any(|index| matches!(self.find(index), Finding::Wait))
    }

    /// A sweep at a time of the database's clock.
    pub(in super::super) fn sweep(&mut self, now: i64) -> Did {
        let mut did = Did::default();
        for index in 0..self.resources.len() {
            let (verdict, found, holds) = match self.find(index) {
                Finding::Wait => {
                    did.waited += 1;
                    continue;
                }
                Finding::Hold(verdict) => {
                    let open = self.resources[index].open.iter();
                    let open = open.map(|(path, one)| {
                        let values = (one.expected.clone(), one.actual.clone());
                        (path.clone(), one.kind, values.0, values.1)
                    });
                    (verdict, open.collect(), true)
                }
                Finding::Differs(verdict, found) => (verdict, found, false),
            };
            self.resources[index].verdict = verdict;
            let mut accepted = Vec::new();
            let gone: Vec<String> = self.resources[index]
                .open
                .keys()
                .filter(|path| !found.iter().any(|(at, ..)| at == *path))
                .cloned()
                .collect();
            for path in gone {
                did.closed += 1;
                self.resources[index].told[2] += 1;
                self.resources[index].close(&path);
            }
            for difference in found {
                let path = difference.0.clone();
                if self.settle(index, difference, holds, now, &mut did) {
                    accepted.push(path);
                }
            }
            for path in accepted {
                did.accepted += 1;
                self.adopt(index, &path);
            }
        }
        did
    }

    /// Opens or changes one drift. Returns whether a policy accepts it.
    fn settle(
        &mut self,
        index: usize,
        (path, kind, expected, actual): Difference,
        holds: bool,
        now: i64,
        did: &mut Did,
    ) -> bool {
        let in_force = |template: &&Template| {
            let until = self.policies.get(template.name);
            let applies = template.path.is_empty() || template.path == path;
            applies && until.is_some_and(|until| until.is_none_or(|until| until > now))
        };
        // The longer path comes first.
        let mut applying: Vec<&Template> = TEMPLATES.iter().filter(in_force).collect();
        applying.sort_by_key(|template| std::cmp::Reverse(template.path.len()));
        let handling = applying
            .iter()
            .find_map(|one| Some((one.name, one.handling?)));
        let severity = applying.iter().find_map(|one| one.severity);
        let severity = severity.map_or(if kind == "gone" { 3 } else { 2 }, |(_, level)| level);
        let one = &mut self.resources[index];
        let before = one.open.get(&path);
        let value_changed =
            before.is_some_and(|before| before.kind != kind || before.actual != actual);
        let flips = match before {
            Some(before) => before.flips + u32::from(value_changed),
            None => one.past.get(&path).map_or(0, |flips| flips + 1),
        };
        let snoozed = before.and_then(|before| match before.hidden {
            Some(Hidden::Snooze(until)) if until > now && !value_changed => {
                Some(Hidden::Snooze(until))
            }
            _ => None,
        });
        let ignored = handling.and_then(|(name, says)| match says {
            "ignore" => Some(Hidden::Policy(name, self.policies[name]?)),
            _ => None,
        });
        let hidden = snoozed.or(ignored);
        let accepts = handling.is_some_and(|(_, says)| says == "accept")
            && flips < FLAPPING
            && hidden.is_none()
            && !holds;
        let after = Open {
            serial: before.map_or(self.serial, |before| before.serial),
            kind,
            expected,
            // A value that means the same is shown as it was first seen.
            actual: match before {
                Some(before) if !value_changed => before.actual.clone(),
                _ => actual,
            },
            severity,
            flips,
            hidden,
            version: before.map_or(1, |before| before.version),
            spec_version: match before {
                Some(before) if holds => before.spec_version,
                _ => one.version,
            },
        };
        match before {
            None => {
                self.serial += 1;
                did.opened += 1;
                one.told[0] += 1;
                one.open.insert(path, after);
            }
            Some(before) => {
                did.changed += i64::from(value_changed);
                did.came_back +=
                    i64::from(before.hidden.is_some() && after.hidden.is_none() && !value_changed);
                let shown = Open {
                    spec_version: after.spec_version,
                    ..before.clone()
                };
                let version = before.version + i64::from(shown != after);
                one.told[1] += usize::from(value_changed);
                one.open.insert(path, Open { version, ..after });
            }
        }
        accepts
    }

    /// What becomes of an accept by somebody who saw a version of a drift.
    pub(in super::super) fn accept(
        &mut self,
        index: usize,
        path: &str,
        (serial, version): (usize, i64),
    ) -> Result<(), AcceptRefusal> {
        let one = &self.resources[index];
        let Some(drift) = one.open.get(path).filter(|drift| drift.serial == serial) else {
            return Err(AcceptRefusal::Closed);
        };
        if drift.version != version {
            return Err(AcceptRefusal::DriftChanged);
        }
        if drift.spec_version != one.version || one.spec.is_none() {
            return Err(AcceptRefusal::SpecChanged);
        }
        // What is not compared is not accepted: nobody knows what would be.
        let Some(applied) = one.applied.filter(|_| !one.held) else {
            return Err(if one.held {
                AcceptRefusal::Busy
            } else {
                AcceptRefusal::AppliedSince
            });
        };
        let fresh = one
            .believed
            .as_ref()
            .filter(|believed| believed.from > applied);
        let Some(believed) = fresh else {
            return Err(AcceptRefusal::AppliedSince);
        };
        let look = believed
            .source
            .map(|inventory| self.inventories[inventory].look);
        if look.is_some_and(|look| look != Look::Complete) {
            return Err(AcceptRefusal::Unreadable);
        }
        let there = match &believed.said {
            Said::There { resizing: true, .. } => return Err(AcceptRefusal::Busy),
            Said::There { fields, .. } if !one.gone => Some(fields),
            _ => None,
        };
        let as_seen = match (path.strip_prefix('/'), there) {
            (None, _) => one.gone,
            (Some(name), Some(fields)) => fields.get(name) == drift.actual.as_ref(),
            (Some(_), None) => false,
        };
        if !as_seen {
            return Err(AcceptRefusal::ActualChanged);
        }
        self.adopt(index, path);
        Ok(())
    }

    fn adopt(&mut self, index: usize, path: &str) {
        let now = self.tick();
        let one = &mut self.resources[index];
        let drift = one.open[path].clone();
        one.close(path);
        one.told[3] += 1;
        let Some(name) = path.strip_prefix('/') else {
            (one.spec, one.applied) = (None, None);
            for path in one.open.keys().cloned().collect::<Vec<_>>() {
                one.close(&path);
            }
            return;
        };
        let name = FIELDS.into_iter().find(|field| *field == name);
        let (name, spec) = (name.expect("a field"), one.spec.as_mut().expect("a spec"));
        match drift.actual {
            Some(actual) => spec.insert(name, actual),
            None => spec.remove(name),
        };
        let carried = one
            .open
            .values_mut()
            .filter(|other| other.spec_version == one.version);
        carried.for_each(|other| other.spec_version += 1);
        one.version += 1;
        one.recorded = now;
    }
}
