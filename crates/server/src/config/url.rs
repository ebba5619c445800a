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

/// Whether what stands where a port belongs is none: it may be a password whose `@HOST` was forgotten.
fn has_port_like_a_password(rest: &str) -> bool {
    port_of_host(rest).is_some_and(|port| !port.is_empty() && !is_port(port))
}

/// Whether an address names a port that there cannot be, behind its host or as a parameter.
pub(super) fn has_impossible_port(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else {
        return false;
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let parameters = rest
        .split_once('?')
        .map_or("", |(_, parameters)| parameters);
    let of_parameters = parameters
        .split('&')
        .filter_map(|parameter| parameter.strip_prefix("port="));
    // Behind the host it may be left empty, which is the usual one.
    let of_host = port_of_host(rest).filter(|port| !port.is_empty());
    of_host
        .into_iter()
        .chain(of_parameters)
        .any(|port| !is_port(port))
}

/// What stands behind the colon of the host.
fn port_of_host(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let after_ipv6 = host.rsplit(']').next().unwrap_or_default();
    after_ipv6.split_once(':').map(|(_, port)| port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
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
            ("postgres://host:/db", "postgres://host:/db"),
            // No port, so it may be a password.
            ("postgres://user:123456/db", "postgres://***"),
        ] {
            assert_eq!(redact(url), shown);
            assert!(!format!("{:?}", DatabaseUrl::new(url)).contains("secret"));
        }
    }

    #[test]
    fn a_port_is_a_number_that_two_bytes_hold() {
        for (place, impossible) in [
            ("h/db", false),
            ("h:/db", false),
            ("h:1/db", false),
            ("u:99999@h:65535/db", false),
            ("[::1]/db", false),
            ("[::1]:5432", false),
            ("/db?host=/run/pg&port=5433#port=0", false),
            ("h:0/db", true),
            ("h:65536/db", true),
            ("u:p@h:70000", true),
            ("[::1]:99999?sslmode=require", true),
            ("h:+1/db", true),
            ("h:54x2/db", true),
            ("h/db?sslmode=require&port=70000", true),
            ("h/db?port=", true),
        ] {
            let url = format!("postgres://{place}");
            assert_eq!(has_impossible_port(&url), impossible, "{url}");
        }
    }
}
