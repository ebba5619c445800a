//! What callers write to name a package version: `name`, `name@1.2.3`, `name@latest`, `name@^7.1`.
//!
//! The reader is anchored: the whole text is understood or refused, and a refusal names the first byte that was not
//! understood, counted from 0 in the text as the caller gave it.

use std::fmt;

use nodejs_semver::Version;
use steadfast_upstream::PackageName;

use crate::range::{VersionRange, parse_version};

/// Longer specifiers are refused unread.
pub const MAX_SPECIFIER_BYTES: usize = 512;

/// The dist-tag that a name alone means.
pub const LATEST: &str = "latest";

/// A package, and which of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specifier {
    /// The package's name.
    pub name: String,
    /// Which version.
    pub selector: Selector,
}

/// Which version of a package is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// This one.
    Exact(Version),
    /// The one a dist-tag names.
    Tag(String),
    /// The best one of a range.
    Range(VersionRange),
}

/// The text is not a specifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {position}: {expected}")]
pub struct InvalidSpecifier {
    /// The first byte that is not understood, from 0.
    pub position: usize,
    /// What could have stood there.
    pub expected: Expected,
}

/// What the reader would have understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A package name; the text says which rule of npm's is broken.
    Name(String),
    /// Something after `@`.
    Selector,
    /// A version or a version range.
    Range,
    /// A dist-tag.
    Tag,
    /// A number without leading zeros that npm takes.
    Number,
    /// The end, long before.
    Shorter,
}

// === impl Specifier ===

impl Specifier {
    /// Reads a specifier of at most [`MAX_SPECIFIER_BYTES`].
    ///
    /// # Errors
    /// With the position of the first byte that is not understood.
    pub fn parse(text: &str) -> Result<Self, InvalidSpecifier> {
        check_length(text)?;
        // The first `@` belongs to a scope.
        let at = text
            .char_indices()
            .skip(1)
            .find_map(|(at, char)| (char == '@').then_some(at));
        let name = parse_name(&text[..at.unwrap_or(text.len())])?;
        let selector = match at {
            None => Selector::Tag(LATEST.to_owned()),
            Some(at) => Selector::parse(&text[at + 1..]).map_err(|error| InvalidSpecifier {
                position: error.position + at + 1,
                ..error
            })?,
        };
        Ok(Self { name, selector })
    }
}

/// Reads a package name without a version.
///
/// # Errors
/// With the position of the first byte that is not understood.
pub fn parse_name(text: &str) -> Result<String, InvalidSpecifier> {
    check_length(text)?;
    match PackageName::parse(text) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(error) => Err(InvalidSpecifier {
            position: error.position,
            expected: Expected::Name(error.message),
        }),
    }
}

fn check_length(text: &str) -> Result<(), InvalidSpecifier> {
    if text.len() <= MAX_SPECIFIER_BYTES {
        return Ok(());
    }
    Err(InvalidSpecifier {
        position: MAX_SPECIFIER_BYTES,
        expected: Expected::Shorter,
    })
}

// === impl Selector ===

impl Selector {
    /// Reads what stands after the name's `@`. A word that is neither a version nor a range is a dist-tag.
    ///
    /// # Errors
    /// With the position of the first byte that is not understood.
    pub fn parse(text: &str) -> Result<Self, InvalidSpecifier> {
        check_length(text)?;
        if text.trim_matches(' ').is_empty() {
            return Err(InvalidSpecifier {
                position: 0,
                expected: Expected::Selector,
            });
        }
        if let Some(version) = parse_version(text.strip_prefix('v').unwrap_or(text)) {
            return Ok(Self::Exact(version));
        }
        let error = match VersionRange::parse(text) {
            Ok(range) => return Ok(Self::Range(range)),
            Err(error) => error,
        };
        let reads_as_range = |first: char| {
            !first.is_ascii_alphabetic()
                || (matches!(first, 'x' | 'X' | 'v' | 'V')
                    && text[1..]
                        .starts_with(|second: char| second == '.' || second.is_ascii_digit()))
        };
        if text.starts_with(reads_as_range) {
            return Err(error);
        }
        let tag_end = text
            .find(|char: char| !char.is_ascii_alphanumeric() && !matches!(char, '-' | '.' | '_'));
        match tag_end {
            None => Ok(Self::Tag(text.to_owned())),
            Some(position) => Err(InvalidSpecifier {
                position,
                expected: Expected::Tag,
            }),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(message) => f.write_str(message),
            Self::Selector => {
                f.write_str("expected a version, a dist-tag or a version range after `@`")
            }
            Self::Range => f.write_str(
                "expected a version or a version range, such as 1.2.3, ^7.1, ~7, 7.x, `>=6 <8` or `1 || 2`",
            ),
            Self::Tag => f.write_str("a dist-tag has only letters, digits, `-`, `.` and `_`"),
            Self::Number => f.write_str("expected a number without leading zeros, of at most 15 digits"),
            Self::Shorter => write!(f, "a specifier has at most {MAX_SPECIFIER_BYTES} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read() {
        let name = |text: &str| Specifier::parse(text).map(|found| found.name);
        for text in ["@openfn/language-http", "socket.io", "x", "lodash.get"] {
            assert_eq!(name(text).as_deref(), Ok(text));
            for selector in [
                "1.2.3", "v1.2.3", "latest", "^7.1", ">=6 <8", "x", "7.x", "next-11",
            ] {
                assert_eq!(name(&format!("{text}@{selector}")).as_deref(), Ok(text));
            }
        }
        let selector = |text: &str| Specifier::parse(text).map(|found| found.selector);
        assert_eq!(selector("a"), Ok(Selector::Tag("latest".into())));
        assert_eq!(selector("a@beta"), Ok(Selector::Tag("beta".into())));
        assert!(matches!(selector("a@v1.2.3"), Ok(Selector::Exact(_))));
        assert!(matches!(selector("a@1.2"), Ok(Selector::Range(_))));
        assert!(matches!(selector("a@x"), Ok(Selector::Range(_))));
        assert!(matches!(selector("@s/a@=1.2.3"), Ok(Selector::Range(_))));
        assert_eq!(selector("a@xmas"), Ok(Selector::Tag("xmas".into())));
    }

    #[test]
    fn rule_11_garbage_is_refused_where_it_begins() {
        for (text, position) in [
            ("a@", 2),
            ("a@  ", 2),
            ("@s/a@", 5),
            ("@s/a@1.2.3.4", 10),
            ("@s/a@^7 foo", 8),
            ("@s/a@la test", 7),
            ("a@1@2", 3),
            ("a@../x", 2),
            ("a@b/c", 3),
        ] {
            let error = Specifier::parse(text).expect_err(text);
            assert_eq!(error.position, position, "{text}: {error}");
        }
        for text in ["", "@", "@/a", "@s", "@s/", "a b", "a/b/c", "\u{0}", "é"] {
            assert!(Specifier::parse(text).is_err(), "{text}");
        }
        let long = format!("a@{}", "1".repeat(MAX_SPECIFIER_BYTES));
        assert_eq!(
            Specifier::parse(&long).map_err(|error| error.position),
            Err(MAX_SPECIFIER_BYTES)
        );
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in any::<String>()) {
            if let Err(error) = Specifier::parse(&text) {
                prop_assert!(error.position <= text.len());
            }
        }

        #[test]
        fn what_looks_like_a_specifier_does_not_break_it_either(text in "@?[a-z.]{0,6}/?[a-z.]{0,6}@?[-0-9.xX*^~<>=| va+é]{0,16}") {
            if let Err(error) = Specifier::parse(&text) {
                prop_assert!(error.position <= text.len());
            }
        }
    }
}
