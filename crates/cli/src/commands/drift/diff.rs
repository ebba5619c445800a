//! Two documents, line by line: what was asked for with `-`, what is there with `+`.

use std::fmt::Write as _;

use serde_json::Value;

/// The most steps for finding the shortest difference; larger documents are shown one after the other.
const MAX_STEPS: usize = 4_000_000;

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const PLAIN: &str = "\u{1b}[0m";

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Both(&'a str),
    Expected(&'a str),
    Actual(&'a str),
}

/// The difference of two JSON texts; an empty one is nothing.
pub(super) fn diff(expected: &str, actual: &str, colours: bool) -> String {
    let (expected, actual) = (pretty(expected), pretty(actual));
    let mut text = String::new();
    for line in lines(&expected, &actual) {
        let (sign, colour, line) = match line {
            Line::Both(line) => (' ', "", line),
            Line::Expected(line) => ('-', RED, line),
            Line::Actual(line) => ('+', GREEN, line),
        };
        // Writing to a text cannot fail.
        let _ = match colours && !colour.is_empty() {
            true => writeln!(text, "{colour}{sign} {line}{PLAIN}"),
            false => writeln!(text, "{sign} {line}"),
        };
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// On several lines, with sorted names, and without what could steer a terminal.
fn pretty(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let pretty = serde_json::from_str::<Value>(text).map_or_else(
        |_| text.to_owned(),
        |mut value| {
            value.sort_all_objects();
            // A number keeps the digits that it was written with.
            if value.is_number() {
                text.to_owned()
            } else {
                format!("{value:#}")
            }
        },
    );
    pretty.replace(
        |letter: char| letter.is_control() && letter != '\n',
        "\u{fffd}",
    )
}

/// By the longest common subsequence.
fn lines<'a>(expected: &'a str, actual: &'a str) -> Vec<Line<'a>> {
    let ours: Vec<&str> = expected.lines().collect();
    let theirs: Vec<&str> = actual.lines().collect();
    if ours.len().saturating_mul(theirs.len()) > MAX_STEPS {
        let ours = ours.into_iter().map(Line::Expected);
        return ours.chain(theirs.into_iter().map(Line::Actual)).collect();
    }
    // longest[i][j]: of what begins at i and at j.
    let width = theirs.len() + 1;
    let mut longest = vec![0_u32; (ours.len() + 1) * width];
    for i in (0..ours.len()).rev() {
        for j in (0..theirs.len()).rev() {
            longest[i * width + j] = if ours[i] == theirs[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut found = Vec::with_capacity(ours.len() + theirs.len());
    while i < ours.len() || j < theirs.len() {
        if i < ours.len() && j < theirs.len() && ours[i] == theirs[j] {
            found.push(Line::Both(ours[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == theirs.len()
            || i < ours.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]
        {
            found.push(Line::Expected(ours[i]));
            i += 1;
        } else {
            found.push(Line::Actual(theirs[j]));
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stand_below_each_other() {
        assert_eq!(diff("\"a\"", "\"b\"", false), "- \"a\"\n+ \"b\"");
        assert_eq!(diff("1.50", "", false), "- 1.50");
        assert_eq!(diff("", "null", false), "+ null");
        assert_eq!(
            diff("1", "2", true),
            "\u{1b}[31m- 1\u{1b}[0m\n\u{1b}[32m+ 2\u{1b}[0m"
        );
    }

    #[test]
    fn documents_share_what_they_share() {
        let told = diff(r#"{"b":[1,2],"a":1}"#, r#"{"a":1,"b":[1,3],"c":2}"#, false);
        assert_eq!(
            told,
            "  {\n    \"a\": 1,\n    \"b\": [\n      1,\n-     2\n-   ]\n+     3\n+   ],\n+   \"c\": 2\n  }"
        );
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert!(!diff("\"\u{9b}31m\"", "\u{1b}[2J", true).contains('\u{9b}'));
        assert!(diff("\u{1b}[2J", "", false).contains("\u{fffd}[2J"));
    }

    #[test]
    fn the_largest_documents_are_shown_one_after_the_other() {
        let list = |from: usize| {
            let items: Vec<_> = (from..from + 3_000).map(|item| item.to_string()).collect();
            format!("[{}]", items.join(","))
        };
        let told = diff(&list(0), &list(1), false);
        assert!(told.starts_with("- [\n-   0,") && told.ends_with("+ ]"));
    }
}
