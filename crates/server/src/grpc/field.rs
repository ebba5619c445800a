//! Reading arguments that several services have alike. Each is named if it is wrong.

use std::collections::HashMap;

use steadfast_types::{PageToken, Timestamp};
use tonic::Status;

use super::status::{self, Problem};

/// Bytes of a name, kind, key, label, actor or request id at most.
pub(super) const MAX_NAME_BYTES: usize = 128;
/// Bytes of a reason at most.
pub(super) const MAX_REASON_BYTES: usize = 1_024;
/// Labels of one object, or of one filter, at most.
const MAX_LABELS: usize = 32;
/// Items of a page if the caller does not say.
const DEFAULT_PAGE: u32 = 100;
/// A page ends early once it holds this many encoded bytes: far below the default limit on messages, 4 MiB.
const PAGE_BYTES: usize = 1 << 20;

/// Gathers a page until it has enough rows or bytes.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    bytes: usize,
    limit: usize,
}

// === impl Page ===

impl<T: prost::Message> Page<T> {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            limit: limit as usize,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    pub(super) fn push(&mut self, item: T) {
        self.bytes += item.encoded_len();
        self.items.push(item);
    }
}

/// A page of rows of which one more was read than it may have, and the token of the page after it; empty if there is none. `place`
/// says where a page begins that follows a row.
pub(super) fn page_of<R, T: prost::Message>(
    rows: &[R],
    limit: u32,
    bound: &[&str],
    item: impl Fn(&R) -> T,
    place: impl Fn(&R) -> String,
) -> (Vec<T>, String) {
    let mut page = Page::new(limit);
    let mut last = None;
    for row in rows {
        if page.is_full() {
            let after = last.map(place).unwrap_or_default();
            return (page.items, PageToken::new(after).encode(bound));
        }
        last = Some(row);
        page.push(item(row));
    }
    (page.items, String::new())
}

/// How many items a page has; 0 is the default.
pub(super) fn page_size(asked: i32, maximum: u32) -> Result<u32, Status> {
    let asked =
        u32::try_from(asked).map_err(|_| status::invalid_argument("page_size", "it is below 0"))?;
    Ok(match asked {
        0 => DEFAULT_PAGE.min(maximum),
        asked => asked.min(maximum),
    })
}

/// Where a page begins.
pub(super) fn page_token(text: &str, bound: &[&str]) -> Result<Option<PageToken>, Status> {
    PageToken::decode(text, bound).map_err(|_| status::invalid_page_token())
}

/// The number of an event; 0 is before the first.
pub(super) fn after_seq(seq: i64) -> Result<i64, Status> {
    if seq < 0 {
        return Err(status::invalid_argument("after_seq", "it is below 0"));
    }
    Ok(seq)
}

/// A text that has to be there.
pub(super) fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    check(field, text, MAX_NAME_BYTES)
}

/// A text that may be empty.
pub(super) fn check_optional_text(field: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() {
        return Ok(());
    }
    check_text(field, text)
}

/// A text of 1 to so many bytes.
pub(super) fn check(field: &str, text: &str, max_bytes: usize) -> Result<(), Problem> {
    let message = match text.len() {
        0 => "it is empty".to_owned(),
        length if length > max_bytes => format!("{length} bytes; at most {max_bytes}"),
        // No database keeps it.
        _ if text.contains('\0') => "NUL characters are not accepted".to_owned(),
        _ => return Ok(()),
    };
    Err(status::invalid(field, message))
}

/// In the order of their keys.
pub(super) fn read_labels(
    labels: HashMap<String, String>,
) -> Result<Vec<(String, String)>, Problem> {
    read_labels_of("labels", labels)
}

/// The same for those of a message within the request.
pub(super) fn read_labels_of(
    field: &str,
    labels: HashMap<String, String>,
) -> Result<Vec<(String, String)>, Problem> {
    if labels.len() > MAX_LABELS {
        let message = format!("{} labels; at most {MAX_LABELS}", labels.len());
        return Err(status::invalid(field, message));
    }
    let mut labels: Vec<_> = labels.into_iter().collect();
    labels.sort();
    for (key, value) in &labels {
        check_text(field, key)?;
        check_optional_text(&format!("{field}[{key:?}]"), value)?;
    }
    Ok(labels)
}

/// Who decides, and why.
pub(super) fn decision(actor: &str, reason: &str) -> Result<(), Problem> {
    check_text("actor", actor)?;
    check("reason", reason, MAX_REASON_BYTES)
}

/// A time that has to make sense.
pub(super) fn time(field: &str, time: prost_types::Timestamp) -> Result<Timestamp, Problem> {
    // The years 1 to 9999, as the message's definition says.
    let seconds = -62_135_596_800..=253_402_300_799;
    if !seconds.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(status::invalid(field, "it is no time"));
    }
    Ok(Timestamp::from_parts(time.seconds, time.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_a_size() {
        for (asked, expected) in [
            (0, Some(100)),
            (1, Some(1)),
            (5_000, Some(1_000)),
            (-1, None),
        ] {
            assert_eq!(page_size(asked, 1_000).ok(), expected, "{asked}");
        }
        assert_eq!(page_size(0, 50).ok(), Some(50));
        assert!(page_token("!", &[]).is_err());
    }

    #[test]
    fn times_make_sense() {
        let at = |seconds, nanos| {
            let time = time("t", prost_types::Timestamp { seconds, nanos });
            time.ok().map(|time| time.0)
        };
        assert_eq!(at(1, 5_000), Some(1_000_005));
        assert_eq!(at(0, -1), None);
        assert_eq!(at(i64::MAX, 0), None);
    }
}
