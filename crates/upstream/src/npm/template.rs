//! Addresses with gaps for a package and its version, as an operator configures them.

use std::fmt;

use reqwest::Url;

use super::{name::PackageName, registry::NpmRegistry, tarball::TarballLimits};
use crate::{Answer, Error, Get, ShownUrl};

/// An address with `{name}` (the whole name), `{short}` (without its scope) and `{version}`. What it leads to is one host's,
/// whatever the package is called: there is no gap before its path.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate(String);

/// Why a text is no template. It is for the operator who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTemplate(String);

const GAPS: [&str; 3] = ["{name}", "{short}", "{version}"];

// === impl UrlTemplate ===

impl UrlTemplate {
    /// Reads a template of versions' addresses.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let invalid = |problem: &str| Err(InvalidTemplate(problem.to_owned()));
        let Some((_, rest)) = text
            .split_once("://")
            .filter(|(scheme, _)| ["http", "https"].contains(scheme))
        else {
            return invalid("it begins with neither http:// nor https://");
        };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // Empty, its place would be taken by what follows.
        if host.is_empty() || host.contains(['{', '}', '@', '\\']) {
            return invalid(
                "it has no host, or one with a gap or a user: gaps belong into the path",
            );
        }
        let without_gaps = GAPS
            .iter()
            .fold(text.to_owned(), |text, gap| text.replace(gap, ""));
        if without_gaps.contains(['{', '}']) {
            return invalid("a gap is none of {name}, {short} and {version}");
        }
        if !text.contains("{version}") {
            return invalid("it lacks {version}: what it leads to has to be one version's");
        }
        if !text.contains("{name}") && !text.contains("{short}") {
            return invalid("it lacks {name} or {short}");
        }
        let template = Self(text.to_owned());
        match template
            .filled("@scope/name", "name", "1.0.0")
            .parse::<Url>()
        {
            Ok(_) => Ok(template),
            Err(_) => invalid("it is no address"),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn url(&self, name: &PackageName, version: &str) -> Result<Url, Error> {
        let filled = self.filled(name.as_str(), name.unscoped(), &escaped(version));
        filled.parse().map_err(|_| {
            Error::configuration(format!("{} is no address for {name}@{version}", self.0))
        })
    }

    /// The characters of names stand for themselves in a path and in a query.
    fn filled(&self, name: &str, short: &str, version: &str) -> String {
        self.0
            .replace("{name}", name)
            .replace("{short}", short)
            .replace("{version}", version)
    }
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl NpmRegistry ===

impl NpmRegistry {
    /// Downloads the schema of one version from where a template says. `None` if there is none there. A credential is sent if the
    /// npm configuration has one for this very host.
    ///
    /// # Errors
    /// [`Error::SchemaTooLarge`]; else what the client says.
    pub async fn read_schema(
        &self,
        template: &UrlTemplate,
        name: &PackageName,
        version: &str,
        limits: &TarballLimits,
    ) -> Result<Option<Vec<u8>>, Error> {
        let url = template.url(name, version)?;
        let shown = ShownUrl::from(&url);
        let credential = self.config().credential_for(&url).cloned();
        let get =
            Get::new(url, "application/json, */*", limits.schema_bytes_max).credential(credential);
        match self.client().get(get).await {
            Ok(Answer::Found { body, .. }) => Ok(Some(body.into())),
            Err(Error::NotFound { .. }) => Ok(None),
            Ok(Answer::NotModified) => Err(Error::Malformed {
                url: shown,
                problem: "nothing is unmodified that was not asked for".to_owned(),
            }),
            Err(Error::BodyTooLarge { url, limit_bytes }) => {
                Err(Error::SchemaTooLarge { url, limit_bytes })
            }
            Err(error) => Err(error),
        }
    }
}

/// A version holds letters, digits, `.`, `-` and `+`, of which the last means a space in a query. Whatever else an upstream calls a
/// version is written so that it stays in its place.
fn escaped(version: &str) -> String {
    version
        .bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_and_stays_on_its_host() {
        let name = PackageName::parse("@openfn/language-http").expect("a name");
        for (template, expected) in [
            (
                "https://cdn.example/{name}@{version}/configuration-schema.json",
                "https://cdn.example/@openfn/language-http@1.2.3-rc.1%2Bb/configuration-schema.json",
            ),
            (
                "http://h:8080/s?p={short}&v={version}",
                "http://h:8080/s?p=language-http&v=1.2.3-rc.1%2Bb",
            ),
        ] {
            let template = UrlTemplate::parse(template).expect(template);
            let url = template.url(&name, "1.2.3-rc.1+b").expect("an address");
            assert_eq!(url.as_str(), expected);
        }
        let template = UrlTemplate::parse("https://cdn.example/{short}/{version}/s").expect("one");
        let url = template
            .url(&name, "1/../../../x@evil.example/")
            .expect("an address");
        assert_eq!(url.host_str(), Some("cdn.example"));
        assert!(url.path().starts_with("/language-http/1%2F"), "{url}");
    }

    #[test]
    fn what_is_no_template_is_told_why() {
        for (text, part) in [
            ("cdn.example/{name}/{version}", "http"),
            ("ftp://cdn.example/{name}/{version}", "http"),
            ("https://{name}/{version}", "host"),
            ("https://u@cdn.example/{name}/{version}", "host"),
            ("https://cdn.example/{nmae}/{version}", "none of"),
            ("https://cdn.example/{name}", "{version}"),
            ("https://cdn.example/{version}", "{short}"),
            ("https:///{name}/{version}", "host"),
        ] {
            let error = UrlTemplate::parse(text).expect_err(text);
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
