//! Random lives of resources, judged by a reference that knows only what was said and when.
//!
//! After every step all that anybody can see must be as the reference says: specs and verdicts, and each open drift with its values,
//! its severity, what hides it and the number of its visible changes. Nothing of the store's own bookkeeping is in the reference: it
//! judges every resource anew in every sweep, so that a resource which is not due although it should be is found.

mod life;
mod world;

use rand::{SeedableRng as _, rngs::StdRng};

use crate::scene::Scene;
use life::{Counts, Life, OUTCOMES, actions};

/// Lives of the short form.
const SEEDS: [u64; 2] = [1, 16_461_428_676_691_971_238];

/// What a few hundred steps may come without: how often it happens depends on the clock. Each has a test of its own, and the long form
/// must have all of it.
const RARE: [&str; 3] = ["refused: actual", "refused: busy", "refused: look"];

async fn live(seeds: &[u64], steps: usize, without: &[&str]) {
    let mut counts = Counts::new();
    for &seed in seeds {
        for scene in Scene::both().await {
            eprintln!("seed {seed} on {}", scene.store.engine().as_str());
            let life = Life::new(&scene, StdRng::seed_from_u64(seed));
            for (what, count) in life.live(seed, steps).await {
                *counts.entry(what).or_default() += count;
            }
        }
    }
    eprintln!("{counts:#?}");
    let never: Vec<&str> = actions()
        .chain(OUTCOMES.iter().copied())
        .filter(|what| !counts.contains_key(what) && !without.contains(what))
        .collect();
    assert_eq!(never, [""; 0], "this never happened");
}

#[tokio::test]
async fn random_lives_end_as_the_rules_say() {
    if std::env::var("STEADFAST_LONG").is_ok_and(|value| value == "1") {
        let seeds: Vec<u64> = (0..20).map(|_| rand::random()).collect();
        live(&seeds, 600, &[]).await;
    } else if let Ok(seed) = std::env::var("STEADFAST_SEED") {
        live(&[seed.parse().unwrap()], 600, &RARE).await;
    } else {
        live(&SEEDS, 400, &RARE).await;
    }
}
