//! Random lives of resources, judged by a model that knows only what was said and when.
//!
//! The model keeps, for each resource, the spec with the time of its apply and every look at it with its outcome. From these alone it
//! derives what must be open after each sweep; nothing of the store's own bookkeeping is in it.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steadfast_drift::AcceptRefusal;
use steadfast_store::DriftRow;

use crate::scene::Scene;

const RESOURCES: usize = 6;
const FIELDS: [&str; 3] = ["a", "b", "c"];

/// What is really there, and what is known of it.
#[derive(Debug, Clone, Default)]
struct Known {
    /// What was asked for: by field.
    spec: Option<BTreeMap<&'static str, u8>>,
    pending: bool,
    /// The look that counts: what it saw. Reset by an apply.
    seen: Option<BTreeMap<&'static str, u8>>,
    /// The newest look was of an inventory that failed.
    unreadable: bool,
    /// What is really there.
    real: BTreeMap<&'static str, u8>,
    /// What was last reported at all, by any look.
    reported: Option<BTreeMap<&'static str, u8>>,
    /// What must be open.
    open: BTreeMap<String, (u8, Option<u8>)>,
}

fn document(fields: &BTreeMap<&'static str, u8>) -> String {
    let members = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// The same in another form. Each field has its place: one that moved could mean something else.
fn live(fields: &BTreeMap<&'static str, u8>, rng: &mut StdRng) -> String {
    let mut top = Vec::new();
    let mut below = Vec::new();
    for (name, value) in fields {
        let value = match rng.random_range(0..3) {
            0 => format!("\"{name}\":{value}"),
            1 => format!("\"{name}\":\"{value}\""),
            _ => format!("\"{name}\":{value}.0"),
        };
        if *name == "b" {
            below.push(value);
        } else {
            top.push(value);
        }
    }
    top.push("\"more\":true".to_owned());
    format!("{{\"attrs\":{{{}}},{}}}", below.join(","), top.join(","))
}

impl Known {
    fn name(index: usize) -> String {
        format!("r{index}")
    }

    /// A sweep, by the rules.
    fn sweep(&mut self) {
        let Some(spec) = &self.spec else {
            self.open.clear();
            return;
        };
        // Pending, not observed since the apply, or unreadable: nothing opens and nothing closes.
        let (false, false, Some(seen)) = (self.pending, self.unreadable, &self.seen) else {
            return;
        };
        self.open = spec
            .iter()
            .filter(|(name, value)| seen.get(*name) != Some(value))
            .map(|(name, value)| (format!("/{name}"), (*value, seen.get(name).copied())))
            .collect();
    }

    /// A look that succeeded and began after the apply.
    fn look(&mut self) {
        self.seen = Some(self.real.clone());
        self.reported = Some(self.real.clone());
        self.unreadable = false;
    }

    /// A look that failed. What it says again as it was known needs no other look; anything else cannot be relied on.
    fn fail(&mut self) {
        let same = self.reported.as_ref() == Some(&self.real);
        if !same || self.seen.is_none() {
            self.unreadable = true;
            self.seen = None;
        }
        self.reported = Some(self.real.clone());
    }
}

fn fields(rng: &mut StdRng) -> BTreeMap<&'static str, u8> {
    let mut fields = BTreeMap::new();
    for name in FIELDS {
        if rng.random_bool(0.8) {
            fields.insert(name, rng.random_range(0..3));
        }
    }
    fields
}

async fn check(scene: &Scene, known: &[Known], what: &str) {
    for (index, known) in known.iter().enumerate() {
        let id = Known::name(index);
        let rows: Vec<DriftRow> = scene.drifts(&id, &["open"]).await;
        let mut open = BTreeMap::new();
        for row in &rows {
            let number = |text: &Option<String>| {
                text.as_ref().map(|text| {
                    let plain = text.trim_matches('"').trim_end_matches(".0");
                    plain.parse::<u8>().unwrap()
                })
            };
            let value = (number(&row.expected).unwrap(), number(&row.actual));
            let twice = open.insert(row.path.clone(), value);
            assert!(
                twice.is_none(),
                "{what}: two are open at {} of {id}",
                row.path
            );
        }
        assert_eq!(open, known.open, "{what}: {id} {known:?}");
    }
}

/// Returns how often something was accepted, refused and found open.
async fn live_through(scene: &Scene, seed: u64, steps: usize) -> [usize; 3] {
    let mut happened = [0; 3];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut known = vec![Known::default(); RESOURCES];
    for step in 0..steps {
        let index = rng.random_range(0..RESOURCES);
        let id = Known::name(index);
        let choice = rng.random_range(0..100);
        let what = format!("seed {seed}, step {step}, choice {choice}, {id}");
        match choice {
            // Asked for, applied or not; and sometimes the apply does what it should.
            0..20 => {
                let (spec, pending) = (fields(&mut rng), rng.random_bool(0.2));
                scene.record_as(&id, &document(&spec), pending).await;
                let one = &mut known[index];
                if rng.random_bool(0.5) {
                    one.real.extend(spec.clone());
                }
                (one.spec, one.pending) = (Some(spec), pending);
                if !pending {
                    // What was seen before does not count any more. A look that failed before it does not either.
                    one.seen = None;
                    one.unreadable = false;
                }
            }
            // Something is changed behind everybody's back.
            20..35 => {
                let name = FIELDS[rng.random_range(0..FIELDS.len())];
                let value = rng.random_range(0..3);
                known[index].real.insert(name, value);
            }
            35..45 => {
                let text = live(&known[index].real, &mut rng);
                scene.report(&id, Some(&text)).await;
                known[index].look();
            }
            // A look at everything, complete or not.
            45..65 => {
                let complete = rng.random_bool(0.6);
                let inventory = scene.begin().await;
                let mut observed = Vec::new();
                let part = if complete {
                    RESOURCES
                } else {
                    rng.random_range(0..RESOURCES)
                };
                for (index, one) in known.iter().enumerate().take(part) {
                    let text = live(&one.real, &mut rng);
                    observed.push(scene.observed(&Known::name(index), Some(&text)));
                }
                if !observed.is_empty() {
                    scene.report_all(Some(&inventory), observed).await;
                }
                if rng.random_bool(0.3) {
                    // While it is under way nothing that it says is taken for true; what it repeats is.
                    scene.sweep().await;
                    let taken = known.iter().enumerate().filter(|(at, one)| {
                        *at < part
                            && (one.reported.as_ref() != Some(&one.real) || one.seen.is_none())
                    });
                    let waiting: Vec<usize> = taken.map(|(at, _)| at).collect();
                    for (at, one) in known.iter_mut().enumerate() {
                        if !waiting.contains(&at) {
                            one.sweep();
                        }
                    }
                }
                let missed = scene.end(&inventory, complete).await;
                assert_eq!(missed, 0, "{what}");
                for (index, one) in known.iter_mut().enumerate() {
                    if index < part && complete {
                        one.look();
                    } else if index < part {
                        one.fail();
                    }
                }
            }
            // Accepted as it was seen, or not at all.
            65..80 => {
                let open = scene.drifts(&id, &["open"]).await;
                if open.is_empty() {
                    continue;
                }
                let drift = &open[rng.random_range(0..open.len())];
                let before = scene.resource(&id).await;
                match scene.accept(drift).await {
                    Ok(after) => {
                        happened[0] += 1;
                        let one = &mut known[index];
                        let counts = !one.pending && one.seen.is_some();
                        assert!(counts, "{what}: no look counts: {one:?}");
                        let (_, actual) = one.open[&drift.path];
                        let name = FIELDS.iter().find(|name| drift.path == format!("/{name}"));
                        let spec = one.spec.as_mut().unwrap();
                        match actual {
                            Some(actual) => spec.insert(name.unwrap(), actual),
                            None => spec.remove(name.unwrap()),
                        };
                        one.open.remove(&drift.path);
                        assert_eq!(after.spec_version, before.spec_version + 1, "{what}");
                        assert_eq!(after.applied_us, before.applied_us, "{what}");
                        // What is adopted is what the operator saw, and it is what was last said of the resource.
                        let reported = one.reported.as_ref().unwrap();
                        assert_eq!(reported.get(name.unwrap()).copied(), actual, "{what}");
                    }
                    Err(refusal) => {
                        happened[1] += 1;
                        let one = &known[index];
                        let expected = match refusal {
                            AcceptRefusal::ActualChanged | AcceptRefusal::SpecChanged => true,
                            AcceptRefusal::AppliedSince => one.pending || one.seen.is_none(),
                            AcceptRefusal::Unreadable => one.unreadable,
                            _ => false,
                        };
                        assert!(expected, "{what}: {refusal:?} {one:?}");
                        assert_eq!(scene.resource(&id).await.spec, before.spec, "{what}");
                    }
                }
            }
            80..85 => {
                let open = scene.drifts(&id, &["open"]).await;
                if let Some(drift) = open.first() {
                    scene
                        .snooze(&drift.id, Duration::from_millis(rng.random_range(1..50)))
                        .await;
                }
            }
            _ => {
                scene.sweep().await;
                known.iter_mut().for_each(Known::sweep);
                check(scene, &known, &what).await;
                happened[2] += known.iter().map(|one| one.open.len()).sum::<usize>();
                scene.assert_quiet_unless_due().await;
            }
        }
    }
    scene.sweep().await;
    known.iter_mut().for_each(Known::sweep);
    check(scene, &known, &format!("seed {seed}, at the end")).await;
    happened
}

impl Scene {
    /// The same as [`Scene::assert_quiet`], if no snooze ends meanwhile.
    async fn assert_quiet_unless_due(&self) {
        loop {
            let filter = steadfast_store::DriftFilter {
                include_suppressed: true,
                ..steadfast_store::DriftFilter::default()
            };
            let open = self.store.drifts(&filter, "", 1_000).await.unwrap();
            let until = open.iter().filter_map(|row| row.suppressed_until_us).max();
            let Some(until) = until else { break };
            self.pass(until).await;
            self.sweep().await;
        }
        self.assert_quiet().await;
    }
}

#[tokio::test]
async fn random_lives_end_as_the_rules_say() {
    let long = std::env::var("STEADFAST_LONG").is_ok_and(|value| value == "1");
    let (lives, steps) = if long { (20, 300) } else { (2, 60) };
    let mut happened = [0; 3];
    for life in 0..lives {
        let seed = match std::env::var("STEADFAST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => rand::random::<u64>() ^ life,
        };
        eprintln!("seed {seed}");
        for scene in Scene::both().await {
            for (total, count) in happened
                .iter_mut()
                .zip(live_through(&scene, seed, steps).await)
            {
                *total += count;
            }
        }
    }
    let [accepted, refused, open] = happened;
    eprintln!("accepted {accepted}, refused {refused}, open after sweeps {open}");
    assert!(open > 0, "nothing ever differed");
    assert!(!long || (accepted > 0 && refused > 0), "{happened:?}");
}
