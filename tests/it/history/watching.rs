//! Watchers that connect, die and resume at random, until the end is reached.

use std::{
    ops::Range,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_testkit::history::{StartAt, WatcherLog};
use steadfast_types::Revision;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::recording::Recorder;

/// What watchers ask for; one of these each.
const FILTERS: &[&[(&str, &str)]] = &[
    &[],
    &[("app/a", "")],
    &[("app/*", "")],
    &[("app/d", "l-")],
    &[("app/a", "k-"), ("app/b/c", "m-")],
    &[("app/b/*", ""), ("app/d", "")],
    // Matches nothing: only progress moves the cursor.
    &[("app/none", "")],
];

/// The servers at the moment; shared by those who connect.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints(Arc<RwLock<Vec<String>>>);

/// How watchers live.
#[derive(Debug, Clone)]
pub(crate) struct Lives {
    /// How long a connection lasts, in milliseconds.
    pub(crate) life_ms: Range<u64>,
    /// After so long without a message a connection counts as half-open; progress comes each second.
    pub(crate) silence: Duration,
}

impl Lives {
    /// Short, so that most of what happens is resuming.
    pub(crate) const SHORT: Self = Self {
        life_ms: 5..1_500,
        silence: Duration::from_secs(30),
    };
}

/// Watchers at work.
#[derive(Debug)]
pub(crate) struct Watchers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Recorder>>,
}

// === impl Endpoints ===

impl Endpoints {
    pub(crate) fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        let shared = Self::default();
        shared.set(endpoints);
        shared
    }

    pub(crate) fn set(&self, endpoints: impl IntoIterator<Item = String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = endpoints.into_iter().collect();
    }

    pub(crate) fn any(&self, random: &mut StdRng) -> String {
        let endpoints = self.0.read().unwrap_or_else(PoisonError::into_inner);
        endpoints[random.random_range(0..endpoints.len())].clone()
    }
}

// === impl Watchers ===

impl Watchers {
    /// Starts so many. Every fourth is slow; every third begins with the oldest revision, the others now.
    pub(crate) fn start(count: usize, seed: u64, endpoints: &Endpoints) -> Self {
        Self::start_with(count, seed, endpoints, &Lives::SHORT)
    }

    /// The same with other lives.
    pub(crate) fn start_with(
        count: usize,
        seed: u64,
        endpoints: &Endpoints,
        lives: &Lives,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch_one = |number: usize| {
            let start = if number.is_multiple_of(3) {
                StartAt::Earliest
            } else {
                StartAt::Now
            };
            let slow = number % 4 == 1;
            let filters = FILTERS[number % FILTERS.len()];
            let name = format!("watcher {number}{}", if slow { ", slow," } else { "" });
            tokio::spawn(watch(
                Recorder::new(name, start).filtered(filters),
                StdRng::seed_from_u64(seed.wrapping_add(1_000 + number as u64)),
                slow,
                lives.clone(),
                endpoints.clone(),
                Arc::clone(&stop),
            ))
        };
        Self {
            tasks: (0..count).map(watch_one).collect(),
            stop,
        }
    }

    /// Lets each connect once more and read up to the last revision. With them come newcomers, one for each way to filter, who
    /// read all of the log from its beginning, long after memory has forgotten it.
    pub(crate) async fn finish(self, endpoints: &Endpoints, last: Revision) -> Vec<WatcherLog> {
        self.stop.store(true, Ordering::Relaxed);
        let mut recorders = Vec::new();
        for task in self.tasks {
            recorders.push(task.await.expect("a watcher does not panic"));
        }
        recorders.extend(FILTERS.iter().map(|filters| {
            let name = format!("newcomer for {filters:?}");
            Recorder::new(name, StartAt::Earliest).filtered(filters)
        }));
        let mut random = StdRng::seed_from_u64(0);
        let finishing = recorders.into_iter().map(|mut recorder| {
            let endpoint = endpoints.any(&mut random);
            async move {
                let caught_up = recorder.catch_up(&endpoint, last).await;
                caught_up.expect("nothing ends a stream any more");
                recorder.into_log(true)
            }
        });
        futures::future::join_all(finishing).await
    }
}

async fn watch(
    mut recorder: Recorder,
    mut random: StdRng,
    slow: bool,
    lives: Lives,
    endpoints: Endpoints,
    stop: Arc<AtomicBool>,
) -> Recorder {
    while !stop.load(Ordering::Relaxed) {
        let endpoint = endpoints.any(&mut random);
        let Ok(Ok(mut stream)) = timeout(lives.silence, recorder.open(&endpoint)).await else {
            // That server was killed, or is not heard of; another one is there, or will be.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let death =
            Instant::now() + Duration::from_millis(random.random_range(lives.life_ms.clone()));
        while let Ok(Ok(Ok(()))) = timeout_at(death, timeout(lives.silence, stream.next())).await {
            if stop.load(Ordering::Relaxed) {
                drop(stream);
                return recorder;
            }
            if slow {
                sleep(Duration::from_millis(random.random_range(2..25))).await;
            }
        }
        if random.random_bool(0.15) {
            // Away for so long that the ring has moved on.
            sleep(Duration::from_millis(random.random_range(500..2_500))).await;
        }
    }
    recorder
}
