//! Versions and npm version ranges, read strictly.
//!
//! The grammar is npm's (`||` between sets, spaces between comparators, `a - b`, `^`, `~`, `~>`, `x` and `*`), anchored: each
//! byte must be understood, and the first that is not is named by its position. That matters because npm's own rules, and the
//! parser that follows them here for single comparators, skip words they do not know: `1.2.3 foo` would quietly mean `1.2.3`.
//! An empty alternative (`1 ||`), which npm reads as "anything", is refused for the same reason.
//!
//! Sets are evaluated here and not by the parser: it turns comparators that exclude each other (`>2 <1`) into alternatives.

use nodejs_semver::{Range, Version};

use crate::specifier::{Expected, InvalidSpecifier};

/// An npm version range: alternatives, each a set of comparators that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRange {
    alternatives: Vec<ComparatorSet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ComparatorSet {
    /// Each holds one comparator or one hyphen range.
    ranges: Vec<Range>,
    /// The `major.minor.patch` of which the set itself names a pre-release: only of these are pre-releases taken.
    named: Vec<(u64, u64, u64)>,
    /// It has a comparator that nothing satisfies, such as `<*`.
    never: bool,
}

/// A version with parts missing or wild, as it stands in a range.
#[derive(Debug, Clone, Copy, Default)]
struct Partial<'a> {
    major: Option<u64>,
    minor: Option<u64>,
    patch: Option<u64>,
    /// With its leading `-`; empty if there is none.
    pre_release: &'a str,
}

/// Reads a text from left to right and knows where it stands.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// The largest number that the comparators' parser takes; npm's own limit is ten times as large.
const MAX_NUMBER: u64 = 900_719_925_474_099;

/// Longer versions are refused, as npm does.
const MAX_VERSION_BYTES: usize = 256;

/// Reads one complete version (`1.2.3-rc.1+build`), without prefix or remainder.
#[must_use]
pub fn parse_version(text: &str) -> Option<Version> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.full_version().ok()?;
    (scanner.at == text.len() && text.len() <= MAX_VERSION_BYTES)
        .then(|| Version::parse(text).ok())
        .flatten()
}

/// The version of a package that lies in a folder of a local source: what stands there now, whatever its `package.json` says.
pub const LOCAL: &str = "local";

/// Where a package's version stands among the others: below all that were published, if it is [`LOCAL`]. `None` if it is no version.
#[must_use]
pub(crate) fn place(text: &str) -> Option<Version> {
    if text == LOCAL {
        return Version::parse("0.0.0-0").ok();
    }
    parse_version(text)
}

// === impl VersionRange ===

impl VersionRange {
    /// Reads a range.
    ///
    /// # Errors
    /// With the position of the first byte that is not understood.
    pub fn parse(text: &str) -> Result<Self, InvalidSpecifier> {
        let mut scanner = Scanner { text, at: 0 };
        let mut alternatives = Vec::new();
        loop {
            scanner.spaces();
            alternatives.push(scanner.comparator_set()?);
            scanner.spaces();
            if scanner.at == text.len() {
                return Ok(Self { alternatives });
            }
            if !scanner.eat("||") {
                return Err(scanner.error(Expected::Range));
            }
        }
    }

    /// Whether the version is in the range. A pre-release is only if one of the comparators that it satisfies names a
    /// pre-release of the same `major.minor.patch`.
    #[must_use]
    pub fn contains(&self, version: &Version) -> bool {
        self.alternatives.iter().any(|set| set.contains(version))
    }
}

// === impl ComparatorSet ===

impl ComparatorSet {
    fn contains(&self, version: &Version) -> bool {
        let triple = (version.major(), version.minor(), version.patch());
        !self.never
            && (!version.is_prerelease() || self.named.contains(&triple))
            && self
                .ranges
                .iter()
                .all(|range| range.satisfies_with_prerelease(version, true))
    }

    fn add(&mut self, operator: &str, partial: Partial<'_>) -> Result<(), Expected> {
        if let (Some(major), Some(minor), Some(patch), false) = (
            partial.major,
            partial.minor,
            partial.patch,
            partial.pre_release.is_empty(),
        ) {
            self.named.push((major, minor, patch));
        }
        match (operator, partial.major) {
            ("<" | ">", None) => self.never = true,
            (_, None) => {}
            // As in npm, `<2` also leaves out the pre-releases of 2.0.0.
            ("<", Some(_)) if partial.patch.is_none() => {
                let text = format!("<{}-0", partial.lowest());
                self.ranges.push(range(&text)?);
            }
            _ => self.ranges.push(range(&format!("{operator}{partial}"))?),
        }
        Ok(())
    }
}

fn range(text: &str) -> Result<Range, Expected> {
    Range::parse(text).map_err(|_| Expected::Range)
}

// === impl Partial ===

impl Partial<'_> {
    fn lowest(&self) -> String {
        let part = |part: Option<u64>| part.unwrap_or(0);
        format!(
            "{}.{}.{}",
            part(self.major),
            part(self.minor),
            part(self.patch)
        )
    }
}

impl std::fmt::Display for Partial<'_> {
    /// The parts up to the first that is missing or wild: `1.x.3` means `1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.major, self.minor, self.patch) {
            (Some(major), Some(minor), Some(patch)) => {
                write!(f, "{major}.{minor}.{patch}{}", self.pre_release)
            }
            (Some(major), Some(minor), None) => write!(f, "{major}.{minor}"),
            (Some(major), ..) => write!(f, "{major}"),
            (None, ..) => f.write_str("*"),
        }
    }
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    fn error(&self, expected: Expected) -> InvalidSpecifier {
        InvalidSpecifier {
            position: self.at,
            expected,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn spaces(&mut self) -> bool {
        let start = self.at;
        while self.eat(" ") {}
        self.at > start
    }

    fn comparator_set(&mut self) -> Result<ComparatorSet, InvalidSpecifier> {
        let mut set = ComparatorSet::default();
        loop {
            let start = self.at;
            let operator = self.operator();
            self.spaces();
            let partial = self.partial()?;
            let add = if operator.is_empty() && self.hyphen() {
                let upper = self.partial()?;
                set.add(">=", partial).and_then(|()| set.add("<=", upper))
            } else {
                set.add(operator, partial)
            };
            add.map_err(|expected| InvalidSpecifier {
                position: start,
                expected,
            })?;
            let end = self.at;
            let spaced = self.spaces();
            if self.at == self.text.len() || self.text[self.at..].starts_with("||") {
                return Ok(set);
            }
            if !spaced {
                self.at = end;
                return Err(self.error(Expected::Range));
            }
        }
    }

    fn operator(&mut self) -> &'static str {
        for (token, operator) in [
            (">=", ">="),
            ("<=", "<="),
            (">", ">"),
            ("<", "<"),
            ("=", "="),
            ("^", "^"),
            ("~>", "~"),
            ("~", "~"),
        ] {
            if self.eat(token) {
                return operator;
            }
        }
        ""
    }

    /// ` - `, the spaces included.
    fn hyphen(&mut self) -> bool {
        let start = self.at;
        let found = self.spaces() && self.eat("-") && self.spaces();
        if !found {
            self.at = start;
        }
        found
    }

    fn partial(&mut self) -> Result<Partial<'a>, InvalidSpecifier> {
        if matches!(self.peek(), Some(b'v' | b'V')) {
            self.at += 1;
        }
        let mut parts = [None; 3];
        let mut count = 0;
        loop {
            if matches!(self.peek(), Some(b'x' | b'X' | b'*')) {
                self.at += 1;
            } else {
                parts[count] = Some(self.number()?);
            }
            count += 1;
            if count == 3 || !self.eat(".") {
                break;
            }
        }
        let start = self.at;
        let mut pre_release = "";
        if count == 3 && self.eat("-") {
            self.identifiers(true)?;
            pre_release = &self.text[start..self.at];
        }
        if count == 3 && self.eat("+") {
            self.identifiers(false)?;
        }
        let [major, minor, patch] = parts;
        let minor = major.and(minor);
        let patch = minor.and(patch);
        if patch.is_none() {
            pre_release = "";
        }
        Ok(Partial {
            major,
            minor,
            patch,
            pre_release,
        })
    }

    fn full_version(&mut self) -> Result<(), InvalidSpecifier> {
        for separator in [".", ".", ""] {
            self.number()?;
            if !self.eat(separator) {
                return Err(self.error(Expected::Range));
            }
        }
        if self.eat("-") {
            self.identifiers(true)?;
        }
        if self.eat("+") {
            self.identifiers(false)?;
        }
        Ok(())
    }

    /// Decimal digits without leading zeros.
    fn number(&mut self) -> Result<u64, InvalidSpecifier> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        let value = digits.parse().ok().filter(|value| *value <= MAX_NUMBER);
        match value {
            Some(value) if digits == "0" || !digits.starts_with('0') => Ok(value),
            _ if digits.is_empty() => Err(self.error(Expected::Range)),
            _ => {
                self.at = start;
                Err(self.error(Expected::Number))
            }
        }
    }

    /// Identifiers of letters, digits and hyphens, separated by dots; as pre-release, numbers have no leading zeros.
    fn identifiers(&mut self, pre_release: bool) -> Result<(), InvalidSpecifier> {
        loop {
            let start = self.at;
            while matches!(
                self.peek(),
                Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-')
            ) {
                self.at += 1;
            }
            let identifier = &self.text[start..self.at];
            if identifier.is_empty() {
                return Err(self.error(Expected::Range));
            }
            let numeric = identifier.bytes().all(|byte| byte.is_ascii_digit());
            if pre_release && numeric && identifier.len() > 1 && identifier.starts_with('0') {
                self.at = start;
                return Err(self.error(Expected::Number));
            }
            if !self.eat(".") {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
