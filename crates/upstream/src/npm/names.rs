//! Which packages there are: what a registry says an organisation or a user has, and what a search finds.
//!
//! The listing of an organisation is one object whose keys are names. A user's has another address; a name that is no
//! organisation is asked for there, as npm's own client does it. A search is a list in pages, and no listing: packages
//! whose newest version is deprecated are not in it, nor is anything beyond its first thousands.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;
use serde::{Deserialize, de::IgnoredAny};

use super::{name::PackageName, registry::NpmRegistry};
use crate::{Answer, Error, Get, ShownUrl, error::brief};

/// The largest listing, or page of a search, decompressed.
const LISTING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most names of one listing.
const LISTED_NAMES_MAX: usize = 100_000;
/// What one page of a search holds at most; registries give no more.
const SEARCH_PAGE_NAMES: usize = 250;
/// The most pages of one search.
const SEARCH_PAGES_MAX: usize = 40;

/// Names that a registry told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListedNames {
    /// Every name.
    pub names: BTreeSet<PackageName>,
    /// How many were left out because they are no names of packages.
    pub left_out: usize,
    /// There are more than are read.
    pub truncated: bool,
}

#[derive(Deserialize)]
struct Page {
    objects: Vec<Object>,
    #[serde(default)]
    total: Option<usize>,
}

#[derive(Deserialize)]
struct Object {
    package: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

// === impl NpmRegistry ===

impl NpmRegistry {
    /// Every package of an organisation, or, if there is no such organisation, of a user. The name may begin with `@`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is neither; [`Error::Malformed`] if the answer is no listing; [`Error::Configuration`] if the
    /// name is none or no registry serves it; else what the client says.
    pub async fn organization(&self, name: &str) -> Result<ListedNames, Error> {
        let name = name.trim_start_matches('@');
        let any = PackageName::parse(&format!("@{name}/any")).map_err(|error| {
            Error::configuration(format!("{name:?} is no organisation: {}", error.message))
        })?;
        let registry = self.config().registry_for(&any)?;
        match self
            .listing(registry, &format!("-/org/{name}/package"))
            .await
        {
            Err(Error::NotFound { .. }) => {
                self.listing(registry, &format!("-/user/{name}/package"))
                    .await
            }
            listed => listed,
        }
    }

    /// The packages that a search finds, in the registry that is not of one scope only.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the answer is no search's; [`Error::Configuration`] if there is only a registry for scopes; else what
    /// the client says.
    pub async fn search(&self, text: &str) -> Result<ListedNames, Error> {
        let registry = self.config().default_registry().ok_or_else(|| {
            Error::configuration("a search needs a registry that is not of one scope only")
        })?;
        let mut found = ListedNames::default();
        let mut from = 0;
        for _ in 0..SEARCH_PAGES_MAX {
            let mut url = extended(registry, "-/v1/search")?;
            url.query_pairs_mut()
                .append_pair("text", text)
                .append_pair("size", &SEARCH_PAGE_NAMES.to_string())
                .append_pair("from", &from.to_string());
            let page: Page = self.json(url).await?;
            let came = page.objects.len();
            found.take(page.objects.into_iter().map(|object| object.package.name));
            from += came;
            let is_last = match page.total {
                Some(total) => from >= total,
                None => came < SEARCH_PAGE_NAMES,
            };
            if came == 0 || is_last {
                return Ok(found);
            }
        }
        found.truncated = true;
        Ok(found)
    }

    async fn listing(&self, registry: &Url, path: &str) -> Result<ListedNames, Error> {
        let url = extended(registry, path)?;
        let shown = ShownUrl::from(&url);
        let listing: BTreeMap<String, IgnoredAny> = self.json(url).await?;
        if listing.len() > LISTED_NAMES_MAX {
            return Err(Error::Malformed {
                url: shown,
                problem: format!("it lists more than {LISTED_NAMES_MAX} packages"),
            });
        }
        let mut listed = ListedNames::default();
        listed.take(listing.into_keys());
        Ok(listed)
    }

    async fn json<T: for<'de> Deserialize<'de>>(&self, url: Url) -> Result<T, Error> {
        let shown = ShownUrl::from(&url);
        let malformed = |problem: String| Error::Malformed {
            url: shown.clone(),
            problem,
        };
        let credential = self.config().credential_for(&url).cloned();
        let get = Get::new(url, "application/json", LISTING_BYTES_MAX).credential(credential);
        match self.client().get(get).await? {
            Answer::Found { body, .. } => {
                serde_json::from_slice(&body).map_err(|error| malformed(brief(&error)))
            }
            Answer::NotModified => Err(malformed(
                "nothing is unmodified that was not asked for".to_owned(),
            )),
        }
    }
}

// === impl ListedNames ===

impl ListedNames {
    fn take(&mut self, names: impl Iterator<Item = String>) {
        for name in names {
            match PackageName::parse(&name) {
                Ok(name) => {
                    self.names.insert(name);
                }
                Err(_) => self.left_out += 1,
            }
        }
    }
}

fn extended(registry: &Url, path: &str) -> Result<Url, Error> {
    format!("{registry}{path}").parse().map_err(|_| {
        Error::configuration(format!(
            "the registry {} cannot be extended by {path}",
            ShownUrl::from(registry)
        ))
    })
}
