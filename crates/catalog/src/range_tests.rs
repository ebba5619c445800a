//! What npm keeps is kept, what npm would guess at is refused.

use proptest::prelude::*;

use super::*;

fn contains(range: &str, version: &str) -> bool {
    let range = VersionRange::parse(range).expect(range);
    range.contains(&parse_version(version).expect(version))
}

#[test]
fn npm_ranges_keep_what_npm_keeps() {
    for (range, inside, outside) in [
        ("^7", "7.2.0 7.0.0", "6.9.9 8.0.0 7.1.0-rc.1 8.0.0-0"),
        ("^7.1", "7.1.0 7.9.9", "7.0.9 8.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0", "0.0.1 0.9.0", "1.0.0"),
        ("~7", "7.0.0 7.9.0", "8.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"),
        ("~> 1.2", "1.2.0 1.2.9", "1.3.0"),
        ("7.x", "7.0.0 7.4.4", "8.0.0 6.0.0"),
        ("1.x.3", "1.0.0 1.9.0", "2.0.0"),
        ("*", "0.0.0 9.9.9", "1.0.0-rc.1"),
        (">=6 <8", "6.0.0 7.9.9", "5.9.9 8.0.0 8.0.0-0"),
        (">= 6.1.0 < 8", "6.1.0", "6.0.9"),
        ("1 || 2", "1.4.0 2.0.0", "3.0.0 0.1.0"),
        ("1||>=3", "1.4.0 3.0.0", "2.0.0"),
        ("1.2 - 2.3", "1.2.0 2.3.9", "2.4.0 1.1.9"),
        ("1.2.3 - 2.3.4 || 9", "2.3.4 9.0.1", "2.3.5"),
        ("1.2.3", "1.2.3", "1.2.4"),
        ("=1.2", "1.2.9", "1.3.0"),
        ("v1.2", "1.2.9", "1.3.0"),
        (">1.2", "1.3.0", "1.2.9"),
        ("<=1.2", "1.2.9", "1.3.0"),
        (">2 <1", "", "0.5.0 1.5.0 2.5.0 3.0.0"),
        ("1.x 2.x", "", "1.0.0 2.0.0"),
        ("<*", "", "0.0.0"),
        (">=*", "0.0.0 4.0.0", ""),
        (
            "^1.2.3-beta.2",
            "1.2.3-beta.2 1.2.3-rc.1 1.4.0",
            "1.2.3-beta.1 1.2.4-beta.3",
        ),
        (">=1.2.3-a <2", "1.2.3-b 1.9.0", "2.0.0-a 1.3.0-a"),
    ] {
        for version in inside.split_whitespace() {
            assert!(contains(range, version), "{version} is in {range}");
        }
        for version in outside.split_whitespace() {
            assert!(!contains(range, version), "{version} is not in {range}");
        }
    }
}

#[test]
fn garbage_is_refused_where_it_begins() {
    for (text, position) in [
        ("", 0),
        ("   ", 3),
        ("foo", 0),
        ("1.2.3 foo", 6),
        ("1.2.3.4", 5),
        ("^", 1),
        ("^^1", 1),
        ("1 ||", 4),
        ("|| 1", 0),
        ("1 | 2", 2),
        (">=1<2", 3),
        ("1.2.3-", 6),
        ("1.2.3-01", 6),
        ("01.2.3", 0),
        ("1.2-rc", 3),
        ("1.2.3 -2", 6),
        ("1 - ", 4),
        ("99999999999999999999", 0),
        ("é", 0),
    ] {
        let error = VersionRange::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}");
    }
}

#[test]
fn only_whole_versions_are_versions() {
    for text in ["1.2.3", "0.0.0-0", "1.2.3-rc.1+b.01", "10.20.30-x-y"] {
        assert!(parse_version(text).is_some(), "{text}");
    }
    for text in ["1.2", "v1.2.3", "1.2.3 ", "1.2.3-", "1.02.3", "1.2.3foo"] {
        assert!(parse_version(text).is_none(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "[-0-9.xX*^~<>=| va+é]{0,24}") {
        if let Err(error) = VersionRange::parse(&text) {
            prop_assert!(error.position <= text.len());
            prop_assert!(text.is_char_boundary(error.position));
        }
    }

    #[test]
    fn carets_keep_the_leftmost_number(
        (major, minor, patch) in (0u64..4, 0u64..4, 0u64..4),
        (a, b, c) in (0u64..5, 0u64..5, 0u64..5),
    ) {
        let expected = (a, b, c) >= (major, minor, patch)
            && match (major, minor) {
                (0, 0) => (a, b, c) == (0, 0, patch),
                (0, _) => (a, b) == (0, minor),
                _ => a == major,
            };
        let found = contains(&format!("^{major}.{minor}.{patch}"), &format!("{a}.{b}.{c}"));
        prop_assert_eq!(found, expected);
    }
}
