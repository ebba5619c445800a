//! The registry as the catalogue uses it: a packument by name, a tarball by address.

use bytes::Bytes;
use reqwest::Url;

use super::{
    config::{NpmConfig, TarballHost},
    integrity::Integrity,
    name::PackageName,
    packument::{self, Packument, PackumentRefused, PackumentWarning},
    tarball::{self, TarballFindings, TarballLimits, TarballRefused},
};
use crate::{Answer, BodyEncoding, Error, Get, HttpClient, ShownUrl, address};

/// The registries of one npm configuration. Cloning is cheap next to any request.
#[derive(Debug, Clone)]
pub struct NpmRegistry {
    client: HttpClient,
    config: NpmConfig,
    packument_bytes_max: usize,
}

/// What the registry says of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackumentAnswer {
    /// The caller's copy is still good.
    NotModified,
    /// The packument.
    Found {
        /// The package.
        packument: Box<Packument>,
        /// The tag for the next `if_none_match`, if the registry has one.
        etag: Option<String>,
        /// What was left out.
        warnings: Vec<PackumentWarning>,
    },
}

// === impl NpmRegistry ===

impl NpmRegistry {
    /// The largest packument read unless told otherwise, decompressed. The largest real ones are tens of megabytes.
    pub const PACKUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;

    /// The registries of this configuration.
    #[must_use]
    pub const fn new(client: HttpClient, config: NpmConfig) -> Self {
        Self {
            client,
            config,
            packument_bytes_max: Self::PACKUMENT_BYTES_MAX,
        }
    }

    /// Reads packuments up to this size.
    #[must_use]
    pub const fn with_packument_bytes_max(mut self, bytes: usize) -> Self {
        self.packument_bytes_max = bytes;
        self
    }

    /// The configuration in use.
    #[must_use]
    pub const fn config(&self) -> &NpmConfig {
        &self.config
    }

    pub(super) const fn client(&self) -> &HttpClient {
        &self.client
    }

    /// Reads the full packument of a package, unless it still has the tag `if_none_match`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such package or all of it was unpublished; [`Error::Malformed`] if the answer is no
    /// packument, or another package's; [`Error::Configuration`] if no registry serves this scope; else what the client says.
    pub async fn packument(
        &self,
        name: &PackageName,
        if_none_match: Option<&str>,
    ) -> Result<PackumentAnswer, Error> {
        let registry = self.config.registry_for(name)?;
        let address = format!("{registry}{}", name.encoded());
        let url: Url = address.parse().map_err(|_| {
            Error::configuration(format!(
                "the registry {} cannot be extended by {name}",
                ShownUrl::from(registry)
            ))
        })?;
        let shown = ShownUrl::from(&url);
        let credential = self.config.credential_for(&url).cloned();
        let get = Get::new(url, "application/json", self.packument_bytes_max)
            .if_none_match(if_none_match)
            .credential(credential);
        let (body, etag) = match self.client.get(get).await? {
            Answer::NotModified => return Ok(PackumentAnswer::NotModified),
            Answer::Found { body, etag, .. } => (body, etag),
        };
        let name = name.clone();
        let read = aside(&shown, move || packument::read(&body, &name)).await?;
        match read {
            Ok((packument, warnings)) => Ok(PackumentAnswer::Found {
                packument: Box::new(packument),
                etag,
                warnings,
            }),
            Err(PackumentRefused::Unpublished) => Err(Error::NotFound { url: shown }),
            Err(PackumentRefused::Truncated(problem)) => Err(Error::Truncated {
                url: shown,
                problem,
            }),
            Err(PackumentRefused::Malformed(problem)) => Err(Error::Malformed {
                url: shown,
                problem,
            }),
        }
    }

    /// Downloads the tarball of one version of `name`, verifies it, and only then looks into it. `url` and `integrity` are what the
    /// packument says. The package's credential is sent only if the tarball is on its registry's own origin.
    ///
    /// # Errors
    /// [`Error::IntegrityMissing`] before anything is sent, if `integrity` is absent, unreadable or too weak;
    /// [`Error::AddressRefused`] if the address is not http or https, or leads into this machine though the registry is not on it;
    /// [`Error::IntegrityMismatch`], [`Error::TarballInvalid`], [`Error::SchemaTooLarge`]; else what the client says.
    pub async fn read_tarball(
        &self,
        name: &PackageName,
        url: &str,
        integrity: Option<&str>,
        limits: &TarballLimits,
    ) -> Result<TarballFindings, Error> {
        let registry = self.config.registry_for(name)?;
        if url.is_empty() {
            return Err(Error::Malformed {
                url: ShownUrl::from(registry),
                problem: format!("it gives no address of this version's tarball of {name}"),
            });
        }
        let url = tarball_url(url, registry, self.config.tarball_host())?;
        let shown = ShownUrl::from(&url);
        let integrity = required_integrity(integrity, limits, &shown)?;
        let credential = address::same_origin(&url, registry)
            .then(|| self.config.credential_for(&url).cloned())
            .flatten();
        let get = Get::new(
            url,
            "application/octet-stream, */*",
            limits.download_bytes_max,
        )
        .credential(credential)
        .encoding(BodyEncoding::Exact);
        let body = match self.client.get(get).await? {
            Answer::Found { body, .. } => body,
            Answer::NotModified => {
                return Err(Error::Malformed {
                    url: shown,
                    problem: "nothing is unmodified that was not asked for".to_owned(),
                });
            }
        };
        let limits = limits.clone();
        let url = shown.clone();
        aside(&shown, move || {
            verify_and_read(&body, &integrity, &limits, url)
        })
        .await?
    }
}

/// Runs what takes long without waiting for anything, off the threads that serve requests.
async fn aside<T: Send + 'static>(
    url: &ShownUrl,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    // Fails only if the work panics or the runtime is going down; either way this answer cannot be read.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Malformed {
            url: url.clone(),
            problem: format!("reading it failed: {error}"),
        })
}

fn verify_and_read(
    body: &Bytes,
    integrity: &Integrity,
    limits: &TarballLimits,
    url: ShownUrl,
) -> Result<TarballFindings, Error> {
    if !integrity.matches(body) {
        let algorithm = integrity.algorithm().name();
        return Err(Error::IntegrityMismatch { url, algorithm });
    }
    tarball::read(body, limits).map_err(|refused| match refused {
        TarballRefused::Invalid(problem) => Error::TarballInvalid { url, problem },
        TarballRefused::SchemaTooLarge => Error::SchemaTooLarge {
            url,
            limit_bytes: limits.schema_bytes_max,
        },
    })
}

fn required_integrity(
    text: Option<&str>,
    limits: &TarballLimits,
    url: &ShownUrl,
) -> Result<Integrity, Error> {
    let missing = |problem: String| Error::IntegrityMissing {
        url: url.clone(),
        problem,
    };
    let text = text.ok_or_else(|| missing("the registry publishes no hash of it".to_owned()))?;
    let integrity = Integrity::parse(text)
        .map_err(|error| missing(format!("the published integrity is of no use: {error}")))?;
    let (has, wants) = (integrity.algorithm(), limits.weakest_algorithm);
    if has < wants {
        let (has, wants) = (has.name(), wants.name());
        return Err(missing(format!(
            "only {has} is published, {wants} is required"
        )));
    }
    Ok(integrity)
}

/// Where the tarball is read from: moved to the registry if npm's setting says so, and checked.
fn tarball_url(text: &str, registry: &Url, host: &TarballHost) -> Result<Url, Error> {
    let refused = |problem: &str| Error::AddressRefused {
        url: ShownUrl::of_text(text),
        problem: problem.to_owned(),
    };
    let mut url: Url = text.parse().map_err(|_| refused("it is not a URL"))?;
    if !address::is_web(&url) {
        return Err(refused("only http and https are fetched"));
    }
    let moves = match host {
        TarballHost::AsGiven => false,
        TarballHost::Registry => true,
        TarballHost::RegistryInsteadOf(host) => address::authority(&url) == *host,
    };
    if moves {
        // As npm does it: the path is kept from its root, the query is not.
        let path = url.path().to_owned();
        url = registry.clone();
        url.set_path(&path);
    }
    if address::is_local(&url) && !address::is_local(registry) {
        return Err(refused(
            "it leads into this machine or its link, and the registry is elsewhere",
        ));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    #[test]
    fn a_tarball_may_be_anywhere_but_here() {
        let registry = url("https://npm.example/r/");
        let check = |text: &str| tarball_url(text, &registry, &TarballHost::AsGiven);
        assert!(check("https://cdn.example/a.tgz").is_ok());
        for text in [
            "http://127.0.0.1/a.tgz",
            "http://localhost:9/a.tgz",
            "http://169.254.169.254/a.tgz",
            "file:///etc/passwd",
            "a.tgz",
        ] {
            let error = check(text).expect_err(text);
            assert_eq!(error.reason(), "ADDRESS_REFUSED", "{text}");
        }
        let registry = url("http://127.0.0.1:4873/");
        let given = "http://127.0.0.1:9/a.tgz";
        assert!(tarball_url(given, &registry, &TarballHost::AsGiven).is_ok());
    }

    #[test]
    fn a_tarball_moves_to_the_registry_only_when_npm_is_told_so() {
        let registry = url("https://npm.example/r/");
        let given = "https://cdn.example:8443/a/-/a-1.tgz?x=1";
        for (host, expected) in [
            (TarballHost::AsGiven, given),
            (TarballHost::Registry, "https://npm.example/a/-/a-1.tgz"),
            (
                TarballHost::RegistryInsteadOf("cdn.example:8443".to_owned()),
                "https://npm.example/a/-/a-1.tgz",
            ),
            (
                TarballHost::RegistryInsteadOf("other.example".to_owned()),
                given,
            ),
        ] {
            let moved = tarball_url(given, &registry, &host).expect("allowed");
            assert_eq!(moved.as_str(), expected, "{host:?}");
        }
        // A path that begins with two slashes must not turn into another host.
        let sly = "https://cdn.example//evil.example/a.tgz";
        let moved = tarball_url(sly, &registry, &TarballHost::Registry).expect("allowed");
        assert_eq!(moved.host_str(), Some("npm.example"));
    }

    #[test]
    fn a_weak_or_absent_hash_is_missing() {
        let shown = ShownUrl::of_text("http://h/a.tgz");
        let limits = TarballLimits::default();
        let sha1 = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=";
        for text in [None, Some(""), Some("sha512-AAAA"), Some(sha1)] {
            let error = required_integrity(text, &limits, &shown).expect_err("missing");
            assert_eq!(error.reason(), "INTEGRITY_MISSING", "{text:?}");
        }
        let lenient = TarballLimits {
            weakest_algorithm: crate::Algorithm::Sha1,
            ..limits
        };
        assert!(required_integrity(Some(sha1), &lenient, &shown).is_ok());
    }
}
