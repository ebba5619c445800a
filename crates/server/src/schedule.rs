//! Work by the clock: each due run is taken by one replica.
//!
//! The database holds when each schedule comes due next. A replica that finds one due moves it on in one conditional update;
//! only the one that succeeds does the work. Until it says what came of it, the schedule is due again a little later, so that
//! the work of a replica that was lost is done by another. Runs missed while no replica was up are made up for by one run,
//! because the due time stays where it was.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use steadfast_store::{Error, Schedule, Store};
use steadfast_types::Timestamp;

use crate::metric;

/// The longest sleep: schedules can be paused, resumed or run by another replica meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// The work of a run that was taken is done by another replica after this, unless the one that took it said what came of it. Longer
/// than any work takes.
const HELD: Duration = Duration::from_secs(600);

/// The work of a schedule; says what it led to.
pub(crate) type Work =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

/// A schedule from the configuration.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) cron: Cron,
    pub(crate) zone: Tz,
    pub(crate) work: Work,
}

/// All schedules of the configuration.
#[derive(Clone)]
pub(crate) struct Scheduler {
    store: Store,
    planned: Arc<Vec<Planned>>,
}

// === impl Planned ===

impl Planned {
    /// The first time after `after`; far in the future if the expression never comes due again.
    fn next(&self, after: Timestamp) -> Timestamp {
        let never = Timestamp(i64::MAX);
        let Some(after) = DateTime::<Utc>::from_timestamp_micros(after.0) else {
            return never;
        };
        self.cron
            .find_next_occurrence(&after.with_timezone(&self.zone), false)
            .map_or(never, |next| Timestamp(next.timestamp_micros()))
    }
}

// === impl Scheduler ===

impl Scheduler {
    pub(crate) fn new(store: Store, planned: Vec<Planned>) -> Self {
        Self {
            store,
            planned: Arc::new(planned),
        }
    }

    /// Records the configured schedules, and forgets those that no longer are.
    pub(crate) async fn record(&self) -> Result<(), Error> {
        let (recorded, now) = self.store.list_schedules().await?;
        for schedule in recorded {
            if self.find(&schedule.name).is_none() {
                tracing::info!(schedule = schedule.name, "no longer configured");
                self.store.remove_schedule(&schedule.name).await?;
            }
        }
        for planned in self.planned.iter() {
            self.store
                .put_schedule(
                    &planned.name,
                    &planned.expression,
                    planned.zone.name(),
                    planned.next(now),
                )
                .await?;
        }
        Ok(())
    }

    /// Takes due runs for ever; the caller drops it.
    pub(crate) async fn run(self) {
        if self.planned.is_empty() {
            return;
        }
        loop {
            let sleep = match self.look().await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the schedules"
                    );
                    LOOK_INTERVAL
                }
            };
            tokio::time::sleep(sleep).await;
        }
    }

    /// Takes what is due and returns how long to sleep.
    async fn look(&self) -> Result<Duration, Error> {
        let (schedules, now) = self.store.list_schedules().await?;
        let mut sleep = LOOK_INTERVAL;
        for schedule in schedules {
            let (Some(planned), Some(due)) = (self.find(&schedule.name), schedule.next_due) else {
                continue;
            };
            let (name, next) = (&planned.name, planned.next(now));
            let held = next.min(now.plus(HELD));
            if due > now {
                sleep = sleep.min(due.since(now));
            } else if self.store.take_due_run(name, due, held).await? {
                let result = work(planned).await;
                self.store.settle_due_run(name, &result, held, next).await?;
                sleep = sleep.min(next.since(now));
            }
        }
        Ok(sleep)
    }

    /// All schedules, by name.
    pub(crate) async fn list(&self) -> Result<Vec<Schedule>, Error> {
        let (schedules, _) = self.store.list_schedules().await?;
        Ok(schedules)
    }

    /// Runs the schedule's work now. `None` if there is no such schedule.
    pub(crate) async fn run_now(&self, name: &str) -> Result<Option<Schedule>, Error> {
        let Some(planned) = self.find(name) else {
            return Ok(None);
        };
        self.store.touch_schedule(name).await?;
        let result = work(planned).await;
        self.store.record_schedule_result(name, &result).await?;
        self.get(name).await
    }

    /// Pauses or resumes. `None` if there is no such schedule.
    pub(crate) async fn pause(&self, name: &str, paused: bool) -> Result<Option<Schedule>, Error> {
        let Some(planned) = self.find(name) else {
            return Ok(None);
        };
        let (_, now) = self.store.list_schedules().await?;
        self.store
            .pause_schedule(name, paused, planned.next(now))
            .await?;
        self.get(name).await
    }

    async fn get(&self, name: &str) -> Result<Option<Schedule>, Error> {
        Ok(self
            .list()
            .await?
            .into_iter()
            .find(|schedule| schedule.name == name))
    }

    fn find(&self, name: &str) -> Option<&Planned> {
        self.planned.iter().find(|planned| planned.name == name)
    }
}

/// Does the work, and says what it led to.
async fn work(planned: &Planned) -> String {
    metrics::counter!(metric::SCHEDULE_RUNS, "schedule" => planned.name.clone()).increment(1);
    match (planned.work)().await {
        Ok(result) => {
            tracing::info!(schedule = planned.name, result, "ran");
            result
        }
        Err(error) => {
            tracing::error!(schedule = planned.name, error, "did not run");
            format!("failed: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn planned(expression: &str, zone: Tz, runs: &Arc<AtomicUsize>) -> Planned {
        let runs = Arc::clone(runs);
        Planned {
            name: "refresh".to_owned(),
            expression: expression.to_owned(),
            cron: expression.parse().unwrap(),
            zone,
            work: Arc::new(move || {
                let run = runs.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move { Ok(format!("run {run}")) })
            }),
        }
    }

    async fn sqlite() -> (Store, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&steadfast_store::Options {
            data_dir: folder.path().to_owned(),
            ..steadfast_store::Options::default()
        })
        .await
        .unwrap();
        store.migrate().await.unwrap();
        (store, folder)
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<DateTime<Utc>>().unwrap().timestamp_micros())
    }

    /// The rule that the contract documents, with the clocks of Vienna: 2026-03-29 skips 02:00–03:00, 2026-10-25 repeats it.
    #[test]
    fn daylight_saving_follows_the_documented_rule() {
        let runs = Arc::default();
        let nightly = planned("30 2 * * *", chrono_tz::Europe::Vienna, &runs);
        let skipped = nightly.next(at("2026-03-28T12:00:00Z"));
        assert_eq!(
            skipped,
            at("2026-03-29T01:00:00Z"),
            "the first moment after the gap"
        );
        let first = nightly.next(at("2026-10-24T12:00:00Z"));
        assert_eq!(first, at("2026-10-25T00:30:00Z"), "the first of the two");
        assert_eq!(
            nightly.next(first),
            at("2026-10-26T01:30:00Z"),
            "not the second"
        );
    }

    /// The replica that took it is lost in the middle of its work.
    #[tokio::test]
    async fn work_that_was_not_ended_is_done_again_soon_and_not_at_the_next_due_time() {
        let (store, _folder) = sqlite().await;
        let runs = Arc::default();
        let yearly = planned("0 0 1 1 *", Tz::UTC, &runs);
        let lost = Planned {
            work: Arc::new(|| Box::pin(std::future::pending())),
            ..yearly.clone()
        };
        let first = Scheduler::new(store.clone(), vec![lost]);
        first.record().await.unwrap();
        store
            .pause_schedule("refresh", true, Timestamp(1))
            .await
            .unwrap();
        store
            .pause_schedule("refresh", false, Timestamp(1))
            .await
            .unwrap();
        let due = async || {
            let (schedules, now) = store.list_schedules().await.unwrap();
            (schedules[0].next_due.unwrap(), now)
        };
        // Dropped as soon as the run is taken: its process is gone.
        let taken = async {
            while due().await.0 == Timestamp(1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            looked = first.look() => panic!("{looked:?}"),
            () = taken => {}
        }
        let (held, now) = due().await;
        assert!(held > now && held <= now.plus(HELD), "{held:?} {now:?}");

        let second = Scheduler::new(store.clone(), vec![yearly.clone()]);
        second.look().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 0, "it may still be under way");
        assert!(
            store
                .take_due_run("refresh", held, Timestamp(1))
                .await
                .is_ok_and(|taken| !taken),
            "not before its time"
        );
        // As if that time had come.
        store
            .settle_due_run("refresh", "", held, Timestamp(1))
            .await
            .unwrap();
        second.look().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let (next, now) = due().await;
        assert_eq!(next, yearly.next(now));
        let ended = second.list().await.unwrap();
        assert_eq!(ended[0].last_result, "run 0");
    }

    #[tokio::test]
    async fn a_due_run_is_done_once_and_missed_ones_are_made_up_for_by_one() {
        let (store, _folder) = sqlite().await;
        let runs = Arc::default();
        let scheduler = Scheduler::new(store.clone(), vec![planned("0 0 1 1 *", Tz::UTC, &runs)]);
        scheduler.record().await.unwrap();
        scheduler.look().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 0, "not due");
        // As if the server had been down over many due times.
        scheduler.pause("refresh", true).await.unwrap();
        store
            .pause_schedule("refresh", false, Timestamp(1))
            .await
            .unwrap();
        scheduler.look().await.unwrap();
        scheduler.look().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let schedule = scheduler.run_now("refresh").await.unwrap().unwrap();
        assert_eq!(
            (schedule.last_result.as_str(), runs.load(Ordering::SeqCst)),
            ("run 1", 2)
        );
        assert_eq!(scheduler.run_now("other").await.unwrap(), None);
        let unplanned = Scheduler::new(store, vec![]);
        unplanned.record().await.unwrap();
        assert_eq!(unplanned.list().await.unwrap(), []);
    }
}
