//! The one process on SQLite is killed while sagas are under way, and starts again.

use std::time::Duration;

use rand::Rng;
use steadfast_testkit::long_runs;
use tokio::time::sleep;

use super::{
    drama::{Drama, Size},
    load::server,
};

/// What the killed process had in hand is taken up after this long.
const LEASE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn effects_are_exact_however_often_it_is_killed() {
    let (sagas, crashes) = if long_runs() { (400, 30) } else { (50, 5) };
    let size = Size {
        sagas,
        tasks: 5,
        pause_ms: 1_500,
    };
    let directory = tempfile::tempdir().expect("a directory can be made");
    let builder = server(LEASE).directory(directory.path());
    let mut drama = Drama::begin(builder, 1, size, true).await;
    for _ in 0..crashes {
        sleep(Duration::from_millis(drama.random.random_range(500..2_500))).await;
        drama.replicas.kill(0..1).await;
    }
    let happened = format!("{crashes} crashes");
    let summary = drama.end(&happened, Duration::from_secs(40)).await;
    assert_eq!(summary.stuck, 0, "every undo can be proven");
    assert!(summary.lost > 0, "{summary:?}");
}
