//! The section `[catalog]`: its sources, and when they are read.

use std::{fmt, time::Duration};

use chrono::Utc;
use chrono_tz::Tz;
use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};

use super::{
    layers::nearest,
    reader::Reader,
    source::{self, Source},
};

/// Packages and refreshes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Where packages come from; empty if nothing is configured yet.
    pub sources: Vec<Source>,
    /// Refresh at a start with an empty catalogue.
    pub refresh_on_empty: bool,
    /// When to refresh by the clock; `None` for never.
    pub refresh_schedule: Option<Schedule>,
    /// Packages and tarballs read at once.
    pub refresh_concurrency: usize,
    /// Refreshes kept as history.
    pub refresh_history: usize,
    /// An unlisted package that its registry has not had for this long is removed; `None` for never.
    pub remove_absent_after: Option<Duration>,
    /// Schemas are read for every dist-tag's version and this many of the newest stable ones.
    pub schema_newest: usize,
    /// The largest icon that is taken.
    pub icon_max_bytes: usize,
    /// Bytes of icons that are kept in memory.
    pub icon_memory_bytes: u64,
}

/// When something is done by the clock.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The expression as it was written.
    pub expression: String,
    /// The same, understood.
    pub cron: Cron,
    /// The zone in which it is meant.
    pub time_zone: Tz,
}

// === impl Catalog ===

impl Catalog {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            sources: source::read(reader),
            refresh_on_empty: reader.boolean("catalog.refresh_on_empty"),
            refresh_schedule: Schedule::read(
                reader,
                "catalog.refresh_schedule",
                "catalog.refresh_time_zone",
            ),
            refresh_concurrency: reader.integer("catalog.refresh_concurrency", 1..=256),
            refresh_history: reader.integer("catalog.refresh_history", 1..=10_000),
            remove_absent_after: match reader
                .integer::<u64>("catalog.remove_absent_days", 0..=3_650)
            {
                0 => None,
                days => Some(Duration::from_secs(days * 24 * 60 * 60)),
            },
            schema_newest: reader.integer("catalog.schema_newest", 0..=1_000),
            icon_max_bytes: reader.integer("catalog.icon_max_bytes", 1_024..=2 << 20),
            icon_memory_bytes: reader.integer("catalog.icon_memory_bytes", 0..=4 << 30),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    pub(super) fn read(reader: &mut Reader, key: &str, zone_key: &str) -> Option<Self> {
        let time_zone = read_time_zone(reader, zone_key);
        let expression = reader.optional_text(key)?;
        match Self::parse(&expression, time_zone) {
            Ok(schedule) => Some(schedule),
            Err((allowed, remedy)) => {
                reader.refuse(key, allowed, remedy);
                None
            }
        }
    }

    /// Understands an expression. If it cannot be: what is allowed, and the remedy.
    pub(super) fn parse(expression: &str, time_zone: Tz) -> Result<Self, (String, &'static str)> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(expression).map_err(|error| {
            let fields = "minute, hour, day of month, month, day of week";
            (
                format!("five cron fields: {fields} ({error})"),
                "write for example \"0 3 * * *\" for every night at three, or leave it empty",
            )
        })?;
        let next = cron.find_next_occurrence(&Utc::now().with_timezone(&time_zone), false);
        if let Err(CronError::TimeSearchLimitExceeded | CronError::InvalidDate) = next {
            return Err((
                "a schedule that comes due at some time".to_owned(),
                "name a day that exists in its month",
            ));
        }
        Ok(Self {
            expression: expression.to_owned(),
            cron,
            time_zone,
        })
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?} in {})", self.expression, self.time_zone)
    }
}

/// The zone of a name; if there is none, the one whose name is most like it.
pub(super) fn time_zone(name: &str) -> Result<Tz, Option<&'static str>> {
    name.parse().map_err(|_| {
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        nearest(name, known)
    })
}

fn read_time_zone(reader: &mut Reader, key: &str) -> Tz {
    let name = reader.text(key);
    time_zone(&name).unwrap_or_else(|near| {
        let remedy = near.map_or_else(String::new, |near| format!("did you mean {near}?"));
        let allowed = "the name of an IANA time zone, for example UTC or Europe/Vienna";
        reader.refuse(key, allowed, &remedy);
        Tz::UTC
    })
}
