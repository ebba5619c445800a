//! Times: relative for people, RFC 3339 for programs.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::Timestamp;
use serde_json::Value;

/// What stands where there is no time.
const NEVER: &str = "never";

fn date_time(time: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}

/// For example `2026-11-21T20:04:00.000001Z`; null if there is no time.
pub(crate) fn rfc3339(time: Option<&Timestamp>) -> Value {
    time.and_then(date_time)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
        .into()
}

/// For example `3m ago` or `in 2h`.
pub(crate) fn relative(time: Option<&Timestamp>) -> String {
    relative_to(time, Utc::now())
}

fn relative_to(time: Option<&Timestamp>, now: DateTime<Utc>) -> String {
    let Some(time) = time.and_then(date_time) else {
        return NEVER.to_owned();
    };
    let seconds = (now - time).num_seconds();
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{} ago", rough(seconds.unsigned_abs())),
        // What was asked for in hours or days a moment ago is still as long.
        ..=-3_541 => format!("in {}", rough(seconds.unsigned_abs() + 59)),
        -3_540..0 => format!("in {}", rough(seconds.unsigned_abs())),
    }
}

/// The largest unit that fits, rounded down.
fn rough(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => format!("{}h", seconds / HOUR),
        DAY..YEAR => format!("{}d", seconds / DAY),
        YEAR.. => format!("{}y", seconds / YEAR),
    }
}

/// From one to the other, for example `2.31s`; empty unless both are known.
pub(crate) fn between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> String {
    let (Some(start), Some(end)) = (start.and_then(date_time), end.and_then(date_time)) else {
        return String::new();
    };
    let lasted = (end - start).to_std().unwrap_or_default();
    let precision = if lasted < Duration::from_secs(10) {
        2
    } else {
        0
    };
    format!("{:.precision$}s", lasted.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn ages_use_the_largest_unit() {
        let now = DateTime::from_timestamp(1_000_000_000, 0).expect("a time");
        for (seconds, expected) in [
            (0, "now"),
            (59, "59s ago"),
            (60, "1m ago"),
            (7_200, "2h ago"),
            (86_400 * 3, "3d ago"),
            (86_400 * 800, "2y ago"),
            (-90, "in 1m"),
        ] {
            let time = at(1_000_000_000 - seconds);
            assert_eq!(relative_to(Some(&time), now), expected);
        }
        assert_eq!(relative_to(None, now), "never");
    }

    #[test]
    fn programs_get_exact_times() {
        let time = Timestamp {
            seconds: 1,
            nanos: 2_000,
        };
        let ahead = |seconds: i64| {
            let now = date_time(&at(0)).expect("a time");
            relative_to(Some(&at(seconds)), now)
        };
        assert_eq!(ahead(30), "in 30s");
        assert_eq!(ahead(3_540), "in 59m");
        assert_eq!(ahead(7 * 86_400 - 2), "in 7d");
        assert_eq!(ahead(7 * 86_400 - 60), "in 6d");
        assert_eq!(rfc3339(Some(&time)), "1970-01-01T00:00:01.000002Z");
        assert_eq!(rfc3339(None), Value::Null);
        assert_eq!(between(Some(&at(1)), Some(&at(3))), "2.00s");
        assert_eq!(between(Some(&at(1)), Some(&at(61))), "60s");
        assert_eq!(between(None, Some(&at(61))), "");
    }
}
