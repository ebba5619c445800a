//! Addresses that may carry a password.

use std::fmt;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// A database's address; neither `Debug` nor `Display` show its password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct DatabaseUrl(String);

// === impl DatabaseUrl ===

impl DatabaseUrl {
    pub(super) fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Whether it is empty, which means the embedded database.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.0.is_empty()
    }

    /// The address with its password, for the one who connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// The address without what may be secret: the password before the `@`, and parameters that sound like one. Text that is
/// no address is masked whole, since it may be a password in the wrong place.
pub(super) fn redact(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    // The last `@` of all, wherever it stands: a password may hold any character if its author forgot to escape it, and
    // masking too much is the lesser harm.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user_and_password, rest)) => match user_and_password.split_once(':') {
            Some((user, _)) => (format!("{user}:{MASK}@"), rest),
            None => (format!("{user_and_password}@"), rest),
        },
        None if has_port_like_a_password(rest) => return format!("{scheme}://{MASK}"),
        None => (String::new(), rest),
    };
    let rest = match rest.split_once('?') {
        Some((place, parameters)) => format!("{place}?{}", redact_parameters(parameters)),
        None => rest.to_owned(),
    };
    format!("{scheme}://{user}{rest}")
}

/// Whether what stands where a port belongs is no number: it may be a password whose `@HOST` was forgotten.
fn has_port_like_a_password(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let after_ipv6 = authority.rsplit(']').next().unwrap_or_default();
    after_ipv6
        .split_once(':')
        .is_some_and(|(_, port)| !port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn redact_parameters(parameters: &str) -> String {
    let masked: Vec<_> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if sounds_secret(name) => format!("{name}={MASK}"),
            _ => parameter.to_owned(),
        })
        .collect();
    masked.join("&")
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token", "key"]
        .iter()
        .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_they_stand() {
        for (url, shown) in [
            ("", ""),
            ("postgres://host/db", "postgres://host/db"),
            ("postgres://user@host/db", "postgres://user@host/db"),
            (
                "postgres://user:secret@host:1/db",
                "postgres://user:***@host:1/db",
            ),
            (
                "postgres://u:se@c/r?e:t@host/db",
                "postgres://u:***@host/db",
            ),
            (
                "postgres://host/db?password=secret&user=u",
                "postgres://host/db?password=***&user=u",
            ),
            ("secret", "***"),
            ("postgres://user:secret/db", "postgres://***"),
            ("postgres://[::1]:5432/db", "postgres://[::1]:5432/db"),
        ] {
            assert_eq!(redact(url), shown);
            assert!(!format!("{:?}", DatabaseUrl::new(url)).contains("secret"));
        }
    }
}
