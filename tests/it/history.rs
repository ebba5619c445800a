//! The history check: whatever happens, every committed revision reaches every watcher, in order, whole and once.
//!
//! Writers publish while watchers connect, die and resume. Afterwards the database itself is asked what was committed, past
//! the product's own code, and the test kit's judge compares that with what was acknowledged and with what each watcher saw.

mod alone_check;
mod alone_rates;
pub(crate) mod disturbance;
pub(crate) mod publishing;
pub(crate) mod recording;
pub(crate) mod truth;
pub(crate) mod watching;

use std::time::Duration;

/// `short`, or `long` if long runs were asked for.
pub(crate) fn duration(short: Duration, long: Duration) -> Duration {
    if steadfast_testkit::long_runs() {
        long
    } else {
        short
    }
}

/// Where the random choices of a run begin; printed, and taken from `STEADFAST_SEED` to repeat a run. Threads and processes
/// still interleave as they like.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("STEADFAST_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("STEADFAST_SEED is a number, not {text}"))
    });
    println!("STEADFAST_SEED={seed}");
    seed
}
