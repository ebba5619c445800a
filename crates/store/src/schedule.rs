//! Schedules: when each comes due next, and who takes the run.

use sqlx::FromRow;
use steadfast_types::Timestamp;

use crate::{Error, Store, engine::statements};

statements! {
    /// Records a configured schedule; a changed expression or zone takes the new due time.
    PUT = "schedule_put" => [
        "INSERT INTO schedule (name, cron, time_zone, paused, next_due_us, last_result) \
         VALUES ($1, $2, $3, false, $4, '') ON CONFLICT (name) DO UPDATE SET \
         cron = excluded.cron, time_zone = excluded.time_zone, next_due_us = excluded.next_due_us \
         WHERE schedule.cron <> excluded.cron OR schedule.time_zone <> excluded.time_zone"
    ];
    /// Forgets a schedule that is no longer configured.
    REMOVE = "schedule_remove" => ["DELETE FROM schedule WHERE name = $1"];
    /// All, with the database's clock.
    LIST = "schedule_list" => [
        "SELECT name, cron, time_zone, paused, next_due_us, last_run_us, last_result, " now " AS now_us \
         FROM schedule ORDER BY name"
    ];
    /// Takes a due run: only one replica finds the due time that it read.
    TAKE = "schedule_take" => [
        "UPDATE schedule SET next_due_us = $3, last_run_us = " now " \
         WHERE name = $1 AND next_due_us = $2 AND next_due_us <= " now " AND NOT paused"
    ];
    /// Records what a due run led to, and when the next one is, unless somebody changed that meanwhile.
    SETTLE = "schedule_settle" => [
        "UPDATE schedule SET last_result = $2, \
         next_due_us = CASE WHEN next_due_us = $3 THEN $4 ELSE next_due_us END WHERE name = $1"
    ];
    /// Records a run outside of the clock.
    TOUCH = "schedule_touch" => ["UPDATE schedule SET last_run_us = " now " WHERE name = $1"];
    /// Records what a run led to.
    RESULT = "schedule_result" => ["UPDATE schedule SET last_result = $2 WHERE name = $1"];
    /// Pauses or resumes.
    PAUSE = "schedule_pause" => [
        "UPDATE schedule SET paused = $2, next_due_us = $3 WHERE name = $1 AND paused <> $2"
    ];
}

/// A schedule as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Five fields.
    pub cron: String,
    /// An IANA zone.
    pub time_zone: String,
    /// Whether it comes due.
    pub paused: bool,
    /// When; `None` while paused.
    pub next_due: Option<Timestamp>,
    /// When it last ran.
    pub last_run: Option<Timestamp>,
    /// What that led to.
    pub last_result: String,
}

#[derive(FromRow)]
struct Row {
    name: String,
    cron: String,
    time_zone: String,
    paused: bool,
    next_due_us: Option<i64>,
    last_run_us: Option<i64>,
    last_result: String,
    now_us: i64,
}

impl Store {
    /// Records a configured schedule. Its state is kept unless the expression or the zone changed.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn put_schedule(
        &self,
        name: &str,
        cron: &str,
        time_zone: &str,
        next_due: Timestamp,
    ) -> Result<(), Error> {
        self.db()
            .write(&PUT)
            .bind(name)
            .bind(cron)
            .bind(time_zone)
            .bind(next_due.0)
            .execute()
            .await?;
        Ok(())
    }

    /// Forgets a schedule that is no longer configured.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), Error> {
        self.db().write(&REMOVE).bind(name).execute().await?;
        Ok(())
    }

    /// All schedules by name, and the database's clock; without schedules, this machine's.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn list_schedules(&self) -> Result<(Vec<Schedule>, Timestamp), Error> {
        let rows: Vec<Row> = self.db().read(&LIST).all().await?;
        let now = rows
            .first()
            .map_or_else(Timestamp::now, |row| Timestamp(row.now_us));
        let schedules = rows.into_iter().map(|row| Schedule {
            name: row.name,
            cron: row.cron,
            time_zone: row.time_zone,
            paused: row.paused,
            next_due: row.next_due_us.map(Timestamp).filter(|_| !row.paused),
            last_run: row.last_run_us.map(Timestamp),
            last_result: row.last_result,
        });
        Ok((schedules.collect(), now))
    }

    /// Takes the run that is due at `due`; until it is settled it counts as due again at `held`. False if another replica took it,
    /// or if it is not due.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn take_due_run(
        &self,
        name: &str,
        due: Timestamp,
        held: Timestamp,
    ) -> Result<bool, Error> {
        let taken = self
            .db()
            .write(&TAKE)
            .bind(name)
            .bind(due.0)
            .bind(held.0)
            .execute()
            .await?;
        Ok(taken == 1)
    }

    /// Records what a due run led to, which was taken until `held`, and when the next one is.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn settle_due_run(
        &self,
        name: &str,
        result: &str,
        held: Timestamp,
        next: Timestamp,
    ) -> Result<(), Error> {
        self.db()
            .write(&SETTLE)
            .bind(name)
            .bind(result)
            .bind(held.0)
            .bind(next.0)
            .execute()
            .await?;
        Ok(())
    }

    /// Records that a schedule's work was started by hand.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn touch_schedule(&self, name: &str) -> Result<(), Error> {
        self.db().write(&TOUCH).bind(name).execute().await?;
        Ok(())
    }

    /// Records what a run led to.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn record_schedule_result(&self, name: &str, result: &str) -> Result<(), Error> {
        self.db()
            .write(&RESULT)
            .bind(name)
            .bind(result)
            .execute()
            .await?;
        Ok(())
    }

    /// Pauses the schedule, or resumes it with the given next due time. A no-op if it is so already.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pause_schedule(
        &self,
        name: &str,
        paused: bool,
        next_due: Timestamp,
    ) -> Result<(), Error> {
        self.db()
            .write(&PAUSE)
            .bind(name)
            .bind(paused)
            .bind(next_due.0)
            .execute()
            .await?;
        Ok(())
    }
}
