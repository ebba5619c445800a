//! Addresses: what of a URL may be shown, and which ones point back into this machine.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use reqwest::Url;

/// The part of a URL that may appear in a log or an error: host, port and path. User, password, query and fragment are left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShownUrl(String);

// === impl ShownUrl ===

impl ShownUrl {
    /// A path longer than this many bytes is cut.
    const PATH_BYTES_MAX: usize = 512;

    /// For text that is not a URL, or not yet known to be one: everything that could hold a secret is cut away unparsed.
    pub(crate) fn of_text(text: &str) -> Self {
        match Url::parse(text) {
            Ok(url) => Self::from(&url),
            Err(_) => Self("an address that is no URL".to_owned()),
        }
    }

    /// The text: `host[:port]/path`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Url> for ShownUrl {
    fn from(url: &Url) -> Self {
        let mut text = authority(url);
        let path = url.path();
        if path.len() <= Self::PATH_BYTES_MAX {
            text.push_str(path);
        } else {
            // A parsed URL's path is ASCII, so that every byte is a boundary; `get` keeps that from being a panic if it ever is not.
            text.push_str(path.get(..Self::PATH_BYTES_MAX).unwrap_or("/"));
            text.push('…');
        }
        Self(text)
    }
}

impl fmt::Display for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `host` or `host:port`, the port only where it is not the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether scheme, host and port are equal, which is what a credential is good for.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether the scheme is http or https and there is a host.
pub(crate) fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty())
}

/// Whether the address is this machine's own (loopback, unspecified, `localhost`) or belongs to its link, where cloud machines
/// keep their metadata services.
pub(crate) fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0,
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip == Ipv6Addr::UNSPECIFIED
        }
        Err(_) => {
            let name = bare.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("the test's URL")
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = ShownUrl::from(&url(
            "https://ann:pass@npm.example:8443/@a%2Fb?token=abc#frag",
        ));
        assert_eq!(shown.as_str(), "npm.example:8443/@a%2Fb");
        assert_eq!(
            ShownUrl::of_text("//x:secret@y").as_str(),
            "an address that is no URL"
        );
        let long = url(&format!("http://h/{}", "é".repeat(1_000)));
        assert!(ShownUrl::from(&long).as_str().len() < 600);
    }

    #[test]
    fn addresses_of_this_machine_are_recognised_in_every_spelling() {
        for text in [
            "http://127.0.0.1/",
            "http://127.9.9.9/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://0.0.0.0/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[fe80::1]/",
            "http://169.254.169.254/latest",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
        ] {
            assert!(is_local(&url(text)), "{text}");
        }
        for text in [
            "http://npm.example/",
            "http://10.0.0.1/",
            "http://[2001:db8::1]/",
        ] {
            assert!(!is_local(&url(text)), "{text}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let base = url("https://npm.example/a/");
        assert!(same_origin(&base, &url("https://npm.example:443/b")));
        for other in [
            "http://npm.example/",
            "https://npm.example:444/",
            "https://cdn.npm.example/",
        ] {
            assert!(!same_origin(&base, &url(other)), "{other}");
        }
    }
}
