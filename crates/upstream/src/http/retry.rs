//! How long to stay away: what the upstream asks for, or a random share of a bound that doubles.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};
use steadfast_types::Timestamp;

use super::HttpOptions;

/// The wait before retry number `retry` (from 0): `share` (0 to 1) of the bound. Spreading waits over the whole range down to zero
/// is what keeps clients that failed together from coming back together ("Exponential Backoff And Jitter", AWS Architecture Blog).
pub(super) fn full_jitter(options: &HttpOptions, retry: u32, share: f64) -> Duration {
    let factor = 1_u32.checked_shl(retry).unwrap_or(u32::MAX);
    let bound = options
        .backoff_initial
        .saturating_mul(factor)
        .min(options.backoff_max);
    bound.mul_f64(share.clamp(0.0, 1.0))
}

/// Reads `Retry-After`: whole seconds, or a date in any of the three forms of RFC 9110, 5.6.7. A date that has passed is no wait.
/// `None` if it is neither.
pub(super) fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only a number too long for 64 bits fails to parse here; it still means "very long".
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let seconds = DateTime::parse_from_rfc2822(text)
        .map(|date| date.timestamp())
        .or_else(|_| {
            NaiveDateTime::parse_from_str(text, "%A, %d-%b-%y %H:%M:%S GMT")
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%a %b %e %H:%M:%S %Y"))
                .map(|date| date.and_utc().timestamp())
        })
        .ok()?;
    Some(Timestamp::from_parts(seconds, 0).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:30Z, seven seconds before RFC 9110's example.
    const NOW: Timestamp = Timestamp(784_111_770_000_000);

    #[test]
    fn seconds_and_all_three_dates_are_read() {
        for (text, seconds) in [
            ("0", 0),
            (" 120 ", 120),
            ("99999999999999999999999", u64::MAX),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 7),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 7),
            ("Sun Nov  6 08:49:37 1994", 7),
            ("Sun, 06 Nov 1994 08:49:00 GMT", 0),
        ] {
            assert_eq!(
                parse_retry_after(text, NOW),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "-1", "1.5", "soon", "2024-01-01"] {
            assert_eq!(parse_retry_after(text, NOW), None, "{text}");
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_spread_down_to_zero() {
        let options = HttpOptions {
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_millis(500),
            ..HttpOptions::default()
        };
        let bounds: Vec<_> = [0, 1, 2, 3, 40]
            .map(|retry| full_jitter(&options, retry, 1.0).as_millis())
            .into();
        assert_eq!(bounds, [100, 200, 400, 500, 500]);
        assert_eq!(full_jitter(&options, 3, 0.0), Duration::ZERO);
    }
}
