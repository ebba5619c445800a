//! The grammar of package names: npm's rules for names that may be looked up, which are wider than those for new ones.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name as npm allows it: `name` or `@scope/name`. Old names with capitals or the characters `~'!()*` are allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageName(String);

/// Why a text is no package name, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a package name: {message} (at byte {position})")]
pub struct InvalidName {
    /// The offset in bytes of what is wrong, from 0; the text's length if something is missing at its end.
    pub position: usize,
    /// What is wrong there.
    pub message: String,
}

// === impl PackageName ===

impl PackageName {
    /// The longest name, in bytes.
    pub const LENGTH_MAX: usize = 214;

    /// Names that would clash with paths that mean something else.
    const RESERVED: [&str; 2] = ["node_modules", "favicon.ico"];

    /// Reads the whole text as a name.
    ///
    /// # Errors
    /// The first thing that is wrong, with its position.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let invalid = |position: usize, message: String| Err(InvalidName { position, message });
        if text.is_empty() {
            return invalid(0, "it is empty".to_owned());
        }
        if text.len() > Self::LENGTH_MAX {
            let message = format!("it is longer than {} bytes", Self::LENGTH_MAX);
            return invalid(Self::LENGTH_MAX, message);
        }
        let (scope, name, name_at) = match text.strip_prefix('@') {
            None => (None, text, 0),
            Some(rest) => match rest.split_once('/') {
                Some((scope, name)) => (Some(scope), name, scope.len() + 2),
                None => {
                    let message = "a scope is followed by a slash and a name: @scope/name";
                    return invalid(text.len(), message.to_owned());
                }
            },
        };
        if let Some(scope) = scope {
            check_part(scope, "scope", 1)?;
        }
        check_part(name, "name", name_at)?;
        if scope.is_none() {
            if let Some(first @ ('_' | '-')) = name.chars().next() {
                return invalid(0, format!("it starts with {first:?}"));
            }
            if Self::RESERVED
                .iter()
                .any(|reserved| name.eq_ignore_ascii_case(reserved))
            {
                return invalid(0, format!("{name} is reserved"));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The scope with its `@`, if there is one.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.0.split_once('/').map(|(scope, _)| scope)
    }

    /// The name without its scope.
    #[must_use]
    pub fn unscoped(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// As one segment of a registry's path: the slash is encoded. Every other character of a name stands for itself in a path.
    #[must_use]
    pub fn encoded(&self) -> String {
        self.0.replace('/', "%2F")
    }
}

/// What holds of a scope and of a name alike.
fn check_part(part: &str, what: &str, at: usize) -> Result<(), InvalidName> {
    let invalid = |position: usize, message: String| Err(InvalidName { position, message });
    if part.is_empty() {
        return invalid(at, format!("the {what} is empty"));
    }
    if part.starts_with('.') {
        return invalid(at, format!("the {what} starts with a dot"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.!~*'()".contains(c);
    match part.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((offset, c)) => invalid(at + offset, format!("{c:?} is not allowed in a {what}")),
        None => Ok(()),
    }
}

impl AsRef<str> for PackageName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for PackageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}

impl TryFrom<String> for PackageName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<PackageName> for String {
    fn from(name: PackageName) -> Self {
        name.0
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_npm_can_look_up_are_names() {
        for text in [
            "lodash",
            "lodash.merge",
            "JSONStream",
            "@openfn/language-http",
            "@a/_b",
            "@_a/b",
            "@a/node_modules",
            "0",
            "crazy!",
            "a--b__c..d",
        ] {
            let name = PackageName::parse(text).expect(text);
            assert_eq!(name.as_str(), text);
        }
        let name = PackageName::parse("@openfn/language-http").expect("a name");
        assert_eq!(name.scope(), Some("@openfn"));
        assert_eq!(name.unscoped(), "language-http");
        assert_eq!(name.encoded(), "@openfn%2Flanguage-http");
        let name = PackageName::parse("lodash").expect("a name");
        assert_eq!((name.scope(), name.unscoped()), (None, "lodash"));
        assert!(PackageName::parse(&"a".repeat(214)).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_position() {
        for (text, position, part) in [
            ("", 0, "empty"),
            (".hidden", 0, "dot"),
            ("_x", 0, "'_'"),
            ("-x", 0, "'-'"),
            ("Node_Modules", 0, "reserved"),
            ("favicon.ico", 0, "reserved"),
            (" a", 0, "' '"),
            ("a ", 1, "' '"),
            ("a/b", 1, "'/'"),
            ("aé", 1, "'é'"),
            ("a\0b", 1, "'\\0'"),
            ("a%2Fb", 1, "'%'"),
            ("@scope", 6, "slash"),
            ("@/a", 1, "scope is empty"),
            ("@a/", 3, "name is empty"),
            ("@a/b/c", 4, "'/'"),
            ("@../b", 1, "dot"),
            ("@a/..", 3, "dot"),
            ("@a b/c", 2, "' '"),
            ("@@a/b", 1, "'@'"),
        ] {
            let error = PackageName::parse(text).expect_err(text);
            assert_eq!(error.position, position, "{text:?}: {error}");
            assert!(error.message.contains(part), "{text:?}: {error}");
        }
        let error = PackageName::parse(&"a".repeat(215)).expect_err("too long");
        assert_eq!(error.position, 214);
    }

    #[test]
    fn a_stored_name_is_checked_when_it_is_read_back() {
        let name: PackageName = serde_json::from_str("\"@a/b\"").expect("a name");
        assert_eq!(
            serde_json::to_string(&name).expect("serializes"),
            "\"@a/b\""
        );
        assert!(serde_json::from_str::<PackageName>("\"../x\"").is_err());
    }
}
