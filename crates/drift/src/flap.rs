//! Which differences come and go.
//!
//! Two controllers that disagree, or a provider that answers differently each time, make a difference that closes and opens again.
//! Acting on it by itself only adds a third. What flips counts on across rows; an hour of rest ends it.

use std::time::Duration;

use steadfast_types::Timestamp;

/// How long a path must stay as it is to count as calm again.
pub const REST: Duration = Duration::from_secs(3_600);

/// So many flips make it flap.
pub const FLAPPING: u32 = 3;

/// How many flips a drift has that opens now. `past` is the last one at the same path, with the moment of its last change: when
/// its value changed, or when it was closed.
#[must_use]
pub fn opened(past: Option<(u32, Timestamp)>, now: Timestamp) -> u32 {
    match past {
        Some((flips, last)) if is_recent(last, now) => flips.saturating_add(1),
        _ => 0,
    }
}

/// How many flips an open drift has whose actual value changes now.
#[must_use]
pub fn changed(flips: u32, last: Timestamp, now: Timestamp) -> u32 {
    if is_recent(last, now) {
        flips.saturating_add(1)
    } else {
        1
    }
}

/// Until when nothing may act on a drift by itself, unless it flips again; `None` if it does not flap.
#[must_use]
pub fn flapping_until(flips: u32, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
    (flips >= FLAPPING && is_recent(last, now)).then(|| last.plus(REST))
}

fn is_recent(last: Timestamp, now: Timestamp) -> bool {
    now < last.plus(REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(count: i64) -> Timestamp {
        Timestamp(count * 60_000_000)
    }

    #[test]
    fn what_comes_and_goes_within_the_hour_flaps() {
        let (mut flips, mut last) = (opened(None, minutes(0)), minutes(0));
        assert_eq!(flips, 0);
        for round in 1..=3 {
            assert_eq!(flapping_until(flips, last, last), None);
            let now = minutes(round * 59);
            flips = opened(Some((flips, last)), now);
            last = now;
        }
        assert_eq!(flips, 3);
        assert_eq!(
            flapping_until(flips, last, last),
            Some(minutes(3 * 59 + 60))
        );
        assert_eq!(flapping_until(flips, last, minutes(3 * 59 + 60)), None);
        assert_eq!(opened(Some((flips, last)), minutes(3 * 59 + 60)), 0);
    }

    #[test]
    fn a_value_that_changes_flips_too() {
        assert_eq!(changed(0, minutes(0), minutes(59)), 1);
        assert_eq!(changed(2, minutes(0), minutes(59)), 3);
        assert_eq!(changed(7, minutes(0), minutes(60)), 1);
    }
}
