//! The part of a refresh that asks for a look at every root.
//!
//! It is the last part, so that a request which names a package of a root joins the run as long as it has not begun: from then on
//! every name counts as read. Whoever holds a root's lease sees in the database that the run has come so far, looks, and writes what
//! it found into the run, at the end under the root's own key. The replica that runs the refresh only waits for these.

use std::time::Duration;

use steadfast_store::{Lease, LocalReport, LocalSave, RefreshDeltas, RefreshItemRow, RefreshRow};
use tokio::time::{Instant, sleep};

use crate::{error::Error, executor::Executor, local::Local};

/// Stands after all names of packages.
const ALL_BEGUN: &str = "\u{10ffff}";

/// How often to look for what other replicas wrote.
const POLL: Duration = Duration::from_millis(200);

/// How long a look may take, beyond the time in which a lost lease is found out.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Whether a run has come to the part that asks for looks.
pub(super) fn is_asking(run: &RefreshRow) -> bool {
    run.begun_through.as_deref() == Some(ALL_BEGUN)
}

/// Has all roots of this replica looked at, for a run in which `listed` packages of registries were read.
///
/// # Errors
/// If the lease is lost, or the database does not answer.
pub(crate) async fn turn(
    executor: &Executor,
    local: &Local,
    lease: &Lease,
    run: &RefreshRow,
    listed: i64,
) -> Result<(), Error> {
    let store = &executor.store;
    if !is_asking(run) {
        store
            .begin_reading(lease, &run.id, ALL_BEGUN, listed)
            .await?;
    }
    local.poke_all();
    let deadline = Instant::now() + executor.options.lease_duration * 2 + LOOK_MAX;
    loop {
        let recorded = store.recorded_packages(&run.id).await?;
        let keys = local.roots.iter().map(|root| root.key.text());
        let missing: Vec<String> = keys.filter(|key| !recorded.contains(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let report = unanswered(run, missing);
            store
                .save_local(lease, &LocalSave::of_report(report))
                .await?;
            return Ok(());
        }
        tokio::select! {
            () = local.looked.notified() => {}
            () = sleep(POLL) => {}
        }
    }
}

/// Roots that nobody looked at.
fn unanswered(run: &RefreshRow, keys: Vec<String>) -> LocalReport {
    let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
    let items = keys.into_iter().map(|key| RefreshItemRow {
        kind: "packages".to_owned(),
        package: key,
        version: String::new(),
        source: String::new(),
        outcome: "failed".to_owned(),
        reason: "LOCAL_ROOT_NOT_READ".to_owned(),
        message: "no replica that has this root looked at it in time".to_owned(),
        revision: None,
    });
    LocalReport {
        run_id: run.id.clone(),
        listed: count,
        items: items.collect(),
        deltas: RefreshDeltas {
            packages_failed: count,
            ..RefreshDeltas::default()
        },
    }
}
