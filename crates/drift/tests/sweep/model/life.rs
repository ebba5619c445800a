//! One life: a database and the reference, to which the same happens.

mod checking;

use std::collections::BTreeMap;

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use steadfast_drift::AcceptRefusal;
use steadfast_store::{PolicyWrite, PolicyWritten, ReportOutcome};

use super::world::{FIELDS, Fields, Hidden, Look, Said, TEMPLATES, Value, World, id_of};
use crate::{
    saga,
    scene::{Scene, name},
};

const RESOURCES: usize = 5;
/// Inventories that are under way at a time.
const OVERLAPPING: usize = 3;
/// What ends so soon is waited for.
const SOON_US: i64 = 60_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// How often each thing happened.
pub(super) type Counts = BTreeMap<&'static str, usize>;

/// What may happen, and how often of a hundred times or so.
const ACTIONS: &[(u32, &str)] = &[
    (6, "record"),
    (1, "record pending"),
    (4, "apply again"),
    (11, "meddle"),
    (2, "destroy"),
    (3, "restore"),
    (14, "report"),
    (2, "report gone"),
    (2, "report resizing"),
    (5, "begin inventory"),
    (9, "report within inventory"),
    (8, "complete inventory"),
    (3, "fail inventory"),
    (2, "look in vain"),
    (4, "apply without effect"),
    (9, "accept"),
    (7, "accept what was seen before"),
    (4, "snooze"),
    (4, "snooze shortly"),
    (3, "end snooze"),
    (3, "create policy"),
    (2, "update policy"),
    (1, "delete policy"),
    (2, "hold"),
    (6, "release"),
    (1, "forget"),
    (3, "let something end"),
    (2, "sweep all"),
    (14, "sweep"),
];

/// What must have come of it, too.
pub(super) const OUTCOMES: &[&str] = &[
    "in_sync",
    "drifted",
    "pending",
    "busy",
    "unreadable",
    "not_observed",
    "missing",
    "gone",
    "accepted",
    "refused: closed",
    "refused: drift",
    "refused: spec",
    "refused: actual",
    "refused: applied",
    "refused: look",
    "refused: busy",
    "accepted by policy",
    "hidden by snooze",
    "hidden by policy",
    "came back",
    "outdated",
    "nothing new",
    "overlapping inventories",
    "partial inventory",
    "left alone during an inventory",
];

/// A drift as it was displayed.
#[derive(Debug, Clone)]
struct Seen {
    index: usize,
    path: String,
    id: String,
    etag: String,
    serial: usize,
    version: i64,
}

/// What is really there; `None` if it is not.
type Real = Option<Fields>;

pub(super) struct Life<'s> {
    scene: &'s Scene,
    world: World,
    rng: StdRng,
    real: Vec<Real>,
    counts: Counts,
    sagas: BTreeMap<usize, String>,
    /// The ids of drifts, by their place among all that were opened.
    ids: BTreeMap<usize, String>,
    seen: Vec<Seen>,
    /// So many things ended while it was swept. Nobody knows whether one of them was seen together with other changes of a drift, after
    /// them, or not at all, if it had begun since the sweep before: each may make a difference of two versions.
    straddled: usize,
}

/// Every action there is.
pub(super) fn actions() -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().map(|(_, name)| *name)
}

fn document(fields: &Fields) -> String {
    let members = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{}", value.text));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn value_of(text: &str) -> Value {
    let plain = text.trim_matches('"').trim_end_matches(".0");
    Value {
        number: plain.parse().unwrap(),
        text: text.to_owned(),
    }
}

// === impl Life ===

impl<'s> Life<'s> {
    pub(super) fn new(scene: &'s Scene, rng: StdRng) -> Self {
        Self {
            scene,
            world: World::new(RESOURCES),
            rng,
            real: vec![Some(Fields::new()); RESOURCES],
            counts: Counts::new(),
            sagas: BTreeMap::new(),
            ids: BTreeMap::new(),
            seen: Vec::new(),
            straddled: 0,
        }
    }

    /// Lives so many steps, and returns what happened.
    pub(super) async fn live(mut self, seed: u64, steps: usize) -> Counts {
        for index in 0..RESOURCES {
            let spec = self.fields();
            self.record(index, &spec, false).await;
            self.real[index] = Some(spec);
        }
        for step in 0..steps {
            let (_, action) = *ACTIONS
                .choose_weighted(&mut self.rng, |(weight, _)| *weight)
                .unwrap();
            let index = self.rng.random_range(0..RESOURCES);
            let what = format!("seed {seed}, step {step}, {action}, {}", id_of(index));
            if self.act(action, index, &what).await {
                self.count(action);
            }
            self.check(&what).await;
        }
        let what = format!("seed {seed}, at the end");
        self.wait_for_ends().await;
        for _ in 0..2 {
            self.sweep(false, &what).await;
        }
        self.check(&what).await;
        self.check_quiet(&what).await;
        self.check_events(&what).await;
        self.counts
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn now(&self) -> i64 {
        self.scene.store.database_time().await.unwrap()
    }

    fn fields(&mut self) -> Fields {
        let mut fields = Fields::new();
        for name in FIELDS {
            if self.rng.random_bool(0.8) {
                fields.insert(name, Value::plain(self.rng.random_range(0..3)));
            }
        }
        fields
    }

    /// Does something. Returns whether there was anything to do.
    async fn act(&mut self, action: &'static str, index: usize, what: &str) -> bool {
        match action {
            "record" | "record pending" => {
                let spec = self.fields();
                // Sometimes the apply does what it should.
                if self.rng.random_bool(0.5)
                    && let Some(real) = &mut self.real[index]
                {
                    real.extend(spec.clone());
                }
                self.record(index, &spec, action == "record pending").await;
            }
            "apply again" => {
                let Some(spec) = self.world.resources[index].spec.clone() else {
                    return false;
                };
                self.record(index, &spec, false).await;
            }
            "meddle" => {
                let name = *FIELDS.choose(&mut self.rng).unwrap();
                let value = self.rng.random_range(0..3);
                let real = self.real[index].get_or_insert_default();
                real.insert(name, Value::plain(value));
            }
            "destroy" => return self.real[index].take().is_some(),
            "restore" => {
                if self.real[index].is_some() {
                    return false;
                }
                self.real[index] = Some(self.fields());
            }
            "report" | "report resizing" | "report gone" => {
                let said = match (&self.real[index], action) {
                    (None, _) | (_, "report gone") => Said::Gone,
                    (Some(fields), _) => Said::There {
                        fields: fields.clone(),
                        resizing: action == "report resizing",
                    },
                };
                if (said == Said::Gone) != (action == "report gone") {
                    return false;
                }
                self.report(None, &[(index, said)], what).await;
            }
            "begin inventory" => {
                if self.running().len() >= OVERLAPPING {
                    return false;
                }
                let kind = *[None, None, Some("vm"), Some("disk")]
                    .choose(&mut self.rng)
                    .unwrap();
                self.begin(kind).await;
            }
            "report within inventory" | "complete inventory" | "fail inventory" => {
                let running = self.running();
                let Some(&inventory) = running.choose(&mut self.rng) else {
                    return false;
                };
                if action == "report within inventory" {
                    let share = *[0.4, 1.0].choose(&mut self.rng).unwrap();
                    let saw = self.look(share);
                    return self.report(Some(inventory), &saw, what).await;
                }
                self.end(inventory, action == "complete inventory").await;
            }
            "look in vain" => self.look_in_vain(what).await,
            "apply without effect" => {
                for at in 0..RESOURCES {
                    let index = (index + at) % RESOURCES;
                    if self.apply_without_effect(index, what).await {
                        return true;
                    }
                }
                return false;
            }
            "accept" | "accept what was seen before" => {
                let seen = self.seen.iter().filter(|seen| {
                    let open = self.world.resources[seen.index].open.get(&seen.path);
                    let as_it_is = open.is_some_and(|open| {
                        (open.serial, open.version) == (seen.serial, seen.version)
                    });
                    as_it_is == (action == "accept")
                });
                let seen: Vec<&Seen> = seen.collect();
                let Some(&seen) = seen.choose(&mut self.rng) else {
                    return false;
                };
                let seen = seen.clone();
                self.accept(&seen, what).await;
            }
            "snooze" | "snooze shortly" | "end snooze" => {
                let all = self.world.resources.iter().enumerate();
                let open = all.flat_map(|(index, one)| {
                    let open = one.open.iter();
                    open.map(move |(path, drift)| (index, path.clone(), drift))
                });
                let fitting: Vec<_> = open
                    .filter(|(_, _, drift)| {
                        let snoozed = matches!(drift.hidden, Some(Hidden::Snooze(_)));
                        action != "end snooze" || snoozed
                    })
                    .collect();
                let Some((index, path, drift)) = fitting.choose(&mut self.rng).cloned() else {
                    return false;
                };
                let until = match action {
                    "snooze" => Some(HOUR_US),
                    "snooze shortly" => Some(self.rng.random_range(30_000..150_000)),
                    _ => None,
                };
                let id = self.ids[&drift.serial].clone();
                let until = self.scene.snooze_until(&id, until).await;
                self.world.snooze(index, &path, until);
            }
            "create policy" | "update policy" | "delete policy" => {
                return self.write_policy(action).await;
            }
            "hold" => {
                if self.sagas.contains_key(&index) {
                    return false;
                }
                let saga = saga::hold(self.scene, &name(&id_of(index))).await;
                self.sagas.insert(index, saga);
                self.world.resources[index].held = true;
                // That a saga begins makes nothing due.
                self.sweep(true, what).await;
            }
            "release" => {
                let Some((index, saga)) = self.sagas.pop_first() else {
                    return false;
                };
                saga::release(self.scene, &saga).await;
                self.world.resources[index].held = false;
            }
            "forget" => {
                if self.world.resources[index].spec.is_none() {
                    return false;
                }
                let name = name(&id_of(index));
                let may = |_: Option<&_>| Ok::<(), ()>(());
                let forgot = self.scene.store.delete_resource(&name, "ann", "why", may);
                forgot.await.unwrap().unwrap();
                self.world.forget(index);
            }
            "let something end" => {
                let now = self.now().await;
                let soon = self
                    .world
                    .ends()
                    .filter(|end| (now..now + SOON_US).contains(end));
                let Some(soon) = soon.min() else {
                    return false;
                };
                self.scene.pass(soon).await;
                self.sweep(false, what).await;
            }
            "sweep all" => {
                for _ in 0..2 {
                    self.sweep(true, what).await;
                }
                self.check_quiet(what).await;
            }
            "sweep" => self.sweep(false, what).await,
            other => panic!("{other}"),
        }
        true
    }

    async fn record(&mut self, index: usize, spec: &Fields, pending: bool) {
        let (id, text) = (id_of(index), document(spec));
        let version = self.scene.record_as(&id, &text, pending).await;
        self.world.record(index, spec, pending);
        assert_eq!(version, self.world.resources[index].version);
    }

    fn running(&self) -> Vec<usize> {
        let all = self.world.inventories.iter().enumerate();
        let running = all.filter(|(_, one)| one.look == Look::Running);
        running.map(|(at, _)| at).collect()
    }

    /// What a look at everything sees, if it sees only a share.
    fn look(&mut self, share: f64) -> Vec<(usize, Said)> {
        let mut saw = Vec::new();
        for index in 0..RESOURCES {
            let sees = self.rng.random_bool(share);
            let resizing = self.rng.random_bool(0.05);
            if let Some(fields) = self.real[index].clone().filter(|_| sees) {
                saw.push((index, Said::There { fields, resizing }));
            }
        }
        saw
    }

    async fn begin(&mut self, kind: Option<&'static str>) -> usize {
        let types: Vec<String> = kind.into_iter().map(str::to_owned).collect();
        let id = self.scene.begin_of(&types).await;
        if !self.running().is_empty() {
            self.count("overlapping inventories");
        }
        self.world.begin(id, kind);
        self.world.inventories.len() - 1
    }

    async fn end(&mut self, inventory: usize, complete: bool) {
        let id = self.world.inventories[inventory].id.clone();
        let missed = self.scene.end(&id, complete).await;
        if missed > 0 {
            self.count("partial inventory");
        }
        self.world.end(inventory, complete);
    }

    /// The same in another form, and as what it is written. Each field has its place: one that moved could mean something else.
    fn written(&mut self, fields: &Fields) -> (Fields, String) {
        let mut written = fields.clone();
        for value in written.values_mut() {
            let number = value.number;
            value.text = match self.rng.random_range(0..3) {
                0 => format!("{number}"),
                1 => format!("\"{number}\""),
                _ => format!("{number}.0"),
            };
        }
        let (mut top, mut below) = (vec!["\"more\":true".to_owned()], Vec::new());
        for (name, value) in &written {
            let place = if *name == "b" { &mut below } else { &mut top };
            place.push(format!("\"{name}\":{}", value.text));
        }
        let text = format!("{{\"attrs\":{{{}}},{}}}", below.join(","), top.join(","));
        (written, text)
    }

    async fn report(
        &mut self,
        inventory: Option<usize>,
        said: &[(usize, Said)],
        what: &str,
    ) -> bool {
        let (mut observed, mut sent) = (Vec::new(), Vec::new());
        for (index, said) in said {
            let id = id_of(*index);
            let (one, said) = match said {
                Said::Gone => (self.scene.observed(&id, None), Said::Gone),
                Said::There { fields, resizing } => {
                    let (fields, text) = self.written(fields);
                    let mut observed = self.scene.observed(&id, Some(&text));
                    let resizing = *resizing;
                    if resizing {
                        "resizing".clone_into(&mut observed.transition);
                    }
                    (observed, Said::There { fields, resizing })
                }
            };
            observed.push(one);
            sent.push((*index, said));
        }
        if observed.is_empty() {
            return false;
        }
        let id = inventory.map(|inventory| self.world.inventories[inventory].id.clone());
        let outcomes = self.scene.report_all(id.as_deref(), observed).await;
        for ((index, said), outcome) in sent.iter().zip(outcomes) {
            let covered = inventory.is_none_or(|inventory| self.world.covers(inventory, *index));
            let told = match outcome {
                ReportOutcome::First | ReportOutcome::Changed => Some(Some(true)),
                ReportOutcome::Unchanged => Some(Some(false)),
                ReportOutcome::Outdated => Some(None),
                ReportOutcome::OutOfScope => None,
            };
            let wanted = covered.then(|| self.world.hear(*index, inventory, said));
            assert_eq!(told, wanted, "{what}: {} {said:?}", id_of(*index));
            match outcome {
                ReportOutcome::Outdated => self.count("outdated"),
                ReportOutcome::Unchanged => self.count("nothing new"),
                _ => {}
            }
        }
        true
    }

    /// Waits until whatever ends soon has ended.
    async fn wait_for_ends(&mut self) {
        let now = self.now().await;
        let soon = self.world.ends().filter(|end| *end < now + SOON_US).max();
        if let Some(soon) = soon {
            self.scene.pass(soon).await;
        }
    }

    /// An inventory that fails: whatever it said, nothing opens, changes or closes. What another inventory that is under way keeps
    /// from being compared may have had a policy's change before it, which is shown now.
    async fn look_in_vain(&mut self, what: &str) {
        self.wait_for_ends().await;
        for _ in 0..2 {
            self.sweep(false, what).await;
        }
        let waits = self.world.waits();
        let shown = |drifts: Vec<(String, String, i64)>| -> Vec<_> {
            let drifts = drifts.into_iter();
            drifts
                .map(|(id, state, version)| (id, state, (!waits).then_some(version)))
                .collect()
        };
        let before = shown(self.scene.all_drifts().await);
        let inventory = self.begin(None).await;
        let saw = self.look(0.7);
        self.report(Some(inventory), &saw, what).await;
        self.sweep(false, what).await;
        self.end(inventory, false).await;
        self.sweep(false, what).await;
        let after = shown(self.scene.all_drifts().await);
        assert_eq!(after, before, "{what}: {:#?}", self.world);
    }

    /// Another spec, with which nothing happens: the next look finds it, although that says nothing new.
    async fn apply_without_effect(&mut self, index: usize, what: &str) -> bool {
        self.sweep(false, what).await;
        let one = &self.world.resources[index];
        let (Some(mut spec), Some(believed)) = (one.spec.clone(), one.reliably()) else {
            return false;
        };
        let compared = ["in_sync", "drifted"].contains(&one.verdict);
        let Some(real) = self.real[index].clone().filter(|real| real == believed) else {
            return false;
        };
        // What a policy accepts is not open for long.
        let found = real.iter().find(|(field, _)| **field != "c");
        let Some((field, value)) = found.map(|(field, value)| (*field, value.number)) else {
            return false;
        };
        if !compared || one.held || spec.get(field).is_some_and(|asked| asked.number != value) {
            return false;
        }
        spec.insert(field, Value::plain(value + 7));
        self.record(index, &spec, false).await;
        self.sweep(false, what).await;
        assert_eq!(self.world.resources[index].verdict, "not_observed");
        self.check(what).await;
        let inventory = self.begin(None).await;
        let there = Said::There {
            fields: real,
            resizing: false,
        };
        let told = self.counts.get("nothing new").copied();
        self.report(Some(inventory), &[(index, there)], what).await;
        assert!(self.counts.get("nothing new").copied() > told, "{what}");
        let rest: Vec<_> = self.look(1.0);
        let rest: Vec<_> = rest.into_iter().filter(|(at, _)| *at != index).collect();
        self.report(Some(inventory), &rest, what).await;
        self.end(inventory, true).await;
        self.sweep(false, what).await;
        let open = &self.world.resources[index].open[&format!("/{field}")];
        assert_eq!(
            (&open.expected, &open.actual),
            (&Some(Value::plain(value + 7)), &Some(Value::plain(value))),
            "{what}"
        );
        true
    }

    async fn accept(&mut self, seen: &Seen, what: &str) {
        let applied = self.world.resources[seen.index].applied;
        let wanted = self
            .world
            .accept(seen.index, &seen.path, (seen.serial, seen.version));
        let told = self.scene.accept_seen(&seen.id, &seen.etag).await;
        assert_eq!(
            told.as_ref().err(),
            wanted.as_ref().err(),
            "{what}: {seen:?}"
        );
        self.count(match told.err() {
            None => "accepted",
            Some(AcceptRefusal::Closed) => "refused: closed",
            Some(AcceptRefusal::DriftChanged) => "refused: drift",
            Some(AcceptRefusal::SpecChanged) => "refused: spec",
            Some(AcceptRefusal::ActualChanged) => "refused: actual",
            Some(AcceptRefusal::AppliedSince) => "refused: applied",
            Some(AcceptRefusal::Unreadable) => "refused: look",
            Some(AcceptRefusal::Busy) => "refused: busy",
            Some(other) => panic!("{what}: {other:?}"),
        });
        let after = &self.world.resources[seen.index];
        assert!(after.applied == applied || after.spec.is_none(), "{what}");
    }

    async fn write_policy(&mut self, action: &str) -> bool {
        let there = |name: &str| self.world.policies.contains_key(name);
        let fitting: Vec<_> = TEMPLATES
            .iter()
            .filter(|one| there(one.name) == (action != "create policy"))
            .collect();
        let Some(&template) = fitting.choose(&mut self.rng) else {
            return false;
        };
        let row = self.scene.store.drift_policy(template.name).await.unwrap();
        let etag = row.map(|row| row.etag()).unwrap_or_default();
        if action == "delete policy" {
            let deleted = self.scene.store.delete_drift_policy(template.name, &etag);
            assert!(matches!(deleted.await.unwrap(), PolicyWritten::Done(_)));
            self.world.policies.remove(template.name);
            return true;
        }
        let ignores = template.handling == Some("ignore");
        // What was accepted before its end cannot be told from what was not after it, if both come at once.
        let accepts = template.handling == Some("accept");
        let expire_us = match self.rng.random_range(0..3) {
            0 if !accepts => Some(self.now().await + self.rng.random_range(30_000..150_000)),
            1 if !ignores => None,
            _ => Some(self.now().await + HOUR_US),
        };
        let document = serde_json::json!({
            "path": template.path, "handling": template.handling, "reason": "a test",
            "severity": template.severity.map(|(name, _)| name),
        });
        let write = PolicyWrite {
            name: template.name.to_owned(),
            expire_us,
            provider: "cloud".to_owned(),
            actor: "ann".to_owned(),
            document: document.to_string(),
        };
        let written = match action {
            "create policy" => self.scene.store.create_drift_policy(&write, 100).await,
            _ => self.scene.store.update_drift_policy(&write, &etag).await,
        };
        assert!(matches!(written.unwrap(), PolicyWritten::Done(_)));
        self.world.policies.insert(template.name, expire_us);
        true
    }

    /// Sweeps what is due, or everything, and the reference with it. If something ended by itself meanwhile, nobody knows which of the
    /// two came first: then again, until both must be the same, but for how many changes were visible on the way.
    async fn sweep(&mut self, forced: bool, what: &str) {
        let mut clean = true;
        let mut rounds = 1;
        while rounds > 0 {
            let before = self.now().await;
            let ends: Vec<i64> = self.world.ends().collect();
            let tally = self.scene.sweep_as(forced).await;
            let after = self.now().await;
            let did = self.world.sweep(before);
            rounds -= 1;
            let ended = ends.iter().filter(|end| (before + 1..=after).contains(end));
            let ended = ended.count();
            if ended > 0 {
                (clean, rounds) = (false, 3);
                self.straddled += ended;
                continue;
            }
            if clean || rounds == 0 {
                self.compare(tally, did, what);
            }
        }
        self.count_states();
    }
}
