//! What everybody can see is held against the reference.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_drift::SweepTally;
use steadfast_store::{DriftFilter, DriftRow, ResourceFilter};

use super::{
    super::world::{Did, Hidden, id_of, kind_of},
    Life, RESOURCES, SOON_US, Seen, document, value_of,
};

impl Life<'_> {
    pub(super) fn compare(&mut self, tally: SweepTally, did: Did, what: &str) {
        let told = (tally.opened, tally.changed, tally.closed, tally.accepted);
        let wanted = (did.opened, did.changed, did.closed, did.accepted);
        assert_eq!(told, wanted, "{what}: opened, changed, closed, accepted");
        for (happened, what) in [
            (did.accepted, "accepted by policy"),
            (did.came_back, "came back"),
            (did.waited, "left alone during an inventory"),
        ] {
            if happened > 0 {
                self.count(what);
            }
        }
    }

    pub(super) fn count_states(&mut self) {
        let mut states = BTreeSet::new();
        for one in &self.world.resources {
            states.insert(one.verdict);
            for drift in one.open.values() {
                states.insert(drift.kind);
                states.insert(match drift.hidden {
                    None => "shown",
                    Some(Hidden::Snooze(_)) => "hidden by snooze",
                    Some(Hidden::Policy(..)) => "hidden by policy",
                });
            }
        }
        for state in states {
            self.count(state);
        }
    }

    /// Everything that anybody can see is as it should be: specs, verdicts, and each open drift with all that is said of it.
    pub(super) async fn check(&mut self, what: &str) {
        let filter = ResourceFilter::default();
        let listed = self
            .scene
            .store
            .resources(&filter, None, 1_000)
            .await
            .unwrap();
        let verdicts: BTreeMap<&str, &str> = listed
            .rows
            .iter()
            .map(|row| (row.id.as_str(), row.verdict.as_str()))
            .collect();
        for (index, one) in self.world.resources.iter().enumerate() {
            let id = id_of(index);
            // Nobody is told of one that nobody asks for and nobody has seen.
            let verdict = verdicts.get(id.as_str()).copied();
            let wanted = one.is_known().then_some(one.verdict);
            assert_eq!(verdict, wanted, "{what}: {id} {one:#?}");
            if let Some(spec) = &one.spec {
                let row = self.scene.resource(&id).await;
                assert_eq!(row.spec, document(spec), "{what}: {id}");
                assert_eq!(row.spec_version, one.version, "{what}: {id}");
                assert_eq!(row.applied_us.is_some(), one.applied.is_some(), "{what}");
            }
        }
        let filter = DriftFilter {
            include_suppressed: true,
            ..DriftFilter::default()
        };
        let rows = self.scene.store.drifts(&filter, "", 1_000).await.unwrap();
        let mut places = BTreeSet::new();
        for row in &rows {
            let at = (row.resource_id.clone(), row.path.clone());
            assert!(places.insert(at), "{what}: two are open at {row:?}");
        }
        let open: usize = self.world.resources.iter().map(|one| one.open.len()).sum();
        assert_eq!(rows.len(), open, "{what}: {rows:#?} {:#?}", self.world);
        for row in rows {
            self.check_drift(row, what);
        }
        self.straddled = 0;
    }

    fn check_drift(&mut self, row: DriftRow, what: &str) {
        let index = (0..RESOURCES).find(|at| id_of(*at) == row.resource_id);
        let index = index.unwrap();
        assert_eq!(row.resource_kind, kind_of(index), "{what}");
        if self.straddled > 0
            && let Some(open) = self.world.resources[index].open.get_mut(&row.path)
            && open.version.abs_diff(row.version) <= 2 * self.straddled as u64
        {
            open.version = row.version;
        }
        let one = &self.world.resources[index];
        let Some(open) = one.open.get(&row.path) else {
            panic!("{what}: {row:?} {one:#?}");
        };
        let hidden = match &open.hidden {
            None => ("", "", None),
            Some(Hidden::Snooze(until)) => ("snooze", "", Some(*until)),
            Some(Hidden::Policy(name, until)) => ("policy", *name, Some(*until)),
        };
        let value = |text: &Option<String>| text.as_deref().map(value_of);
        assert_eq!(
            (
                row.kind.as_str(),
                value(&row.expected).as_ref(),
                value(&row.actual).as_ref()
            ),
            (open.kind, open.expected.as_ref(), open.actual.as_ref()),
            "{what}: {one:#?}"
        );
        assert_eq!(
            (
                row.suppressed_by.as_str(),
                row.suppressed_policy.as_str(),
                row.suppressed_until_us
            ),
            hidden,
            "{what}: {one:#?}"
        );
        assert_eq!(
            (row.severity, row.flips, row.version),
            (open.severity, i64::from(open.flips), open.version),
            "{what}: severity, flips and version of {row:?}"
        );
        let known = self
            .ids
            .entry(open.serial)
            .or_insert_with(|| row.id.clone());
        assert_eq!(*known, row.id, "{what}: another row is open");
        let (etag, path) = (row.etag(), row.path);
        if !self
            .seen
            .iter()
            .any(|seen| seen.id == row.id && seen.etag == etag)
        {
            self.seen.push(Seen {
                index,
                path,
                id: row.id,
                etag,
                serial: open.serial,
                version: open.version,
            });
        }
    }

    /// Sweeping again writes nothing.
    pub(super) async fn check_quiet(&mut self, what: &str) {
        loop {
            self.wait_for_ends().await;
            for _ in 0..3 {
                self.sweep(true, what).await;
            }
            let now = self.now().await;
            if !self
                .world
                .ends()
                .any(|end| (now..now + SOON_US).contains(&end))
            {
                break;
            }
        }
        self.scene.assert_quiet().await;
    }

    /// Each drift that opened, changed, closed or was accepted is in the history of its resource, once.
    pub(super) async fn check_events(&self, what: &str) {
        let kinds = [
            "drift_detected",
            "drift_changed",
            "drift_closed",
            "drift_accepted",
        ];
        for (index, one) in self.world.resources.iter().enumerate() {
            let events = match one.told {
                [0, 0, 0, 0] => Vec::new(),
                _ => self.scene.events(&id_of(index)).await,
            };
            let told = kinds.map(|kind| events.iter().filter(|event| *event == kind).count());
            assert_eq!(told, one.told, "{what}: {kinds:?} of {}", id_of(index));
        }
    }
}
