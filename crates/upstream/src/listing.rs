//! What a provider runs, listed by an address of the operator's own: JSON, a page at a time.
//!
//! A page is an object: `resources` is a list of objects with `type`, `id`, `attributes` and, as needed, `provider` and
//! `transition`; `next`, absent on the last page, is the address of the next one, absolute or relative to this one. A bare list is
//! a page without a next one. What else is there is left out of account.
//!
//! Nothing is skipped: a listing that is not understood to its end says nothing about what is missing from it. For the same reason a
//! page may not lead to another origin, which would get the credential, nor back to a page that was read.

use std::{borrow::Cow, collections::HashSet};

use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Answer, Credential, Error, Get, HttpClient, ShownUrl, address, error::brief};

/// A listing, to be read from its beginning.
#[derive(Debug, Clone)]
pub struct HttpListing {
    client: HttpClient,
    first: Url,
    credential: Option<Credential>,
    page_bytes_max: usize,
}

/// A listing under way.
#[derive(Debug)]
pub struct ListingPages {
    listing: HttpListing,
    next: Option<Url>,
    read: HashSet<Url>,
}

/// One resource, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedResource {
    /// Whose it is; `None` if that is not said.
    pub provider: Option<String>,
    /// What it is.
    pub kind: String,
    /// The provider's own id.
    pub id: String,
    /// A JSON object, as it was written.
    pub attributes: String,
    /// What the provider calls the change that is under way; empty if there is none.
    pub transition: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    resources: Vec<Item<'a>>,
    #[serde(default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(default)]
    provider: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    attributes: &'a RawValue,
    #[serde(default)]
    transition: Option<String>,
}

// === impl HttpListing ===

impl HttpListing {
    /// The largest page, decompressed.
    pub const PAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
    /// The most pages of one listing.
    pub const PAGES_MAX: usize = 10_000;

    /// The listing that begins at this address. A credential goes to its origin only.
    #[must_use]
    pub const fn new(client: HttpClient, first: Url, credential: Option<Credential>) -> Self {
        Self {
            client,
            first,
            credential,
            page_bytes_max: Self::PAGE_BYTES_MAX,
        }
    }

    /// Reads pages up to this size.
    #[must_use]
    pub const fn with_page_bytes_max(mut self, bytes: usize) -> Self {
        self.page_bytes_max = bytes;
        self
    }

    /// Begins to read it.
    #[must_use]
    pub fn pages(&self) -> ListingPages {
        ListingPages {
            listing: self.clone(),
            next: Some(self.first.clone()),
            read: HashSet::new(),
        }
    }
}

// === impl ListingPages ===

impl ListingPages {
    /// The next page; `None` after the last one. After an error there is nothing more to read.
    ///
    /// # Errors
    /// What the client says; [`Error::Malformed`] if a page is not one, or there are too many; [`Error::AddressRefused`] if one leads
    /// where it must not.
    pub async fn next(&mut self) -> Result<Option<Vec<ListedResource>>, Error> {
        let Some(url) = self.next.take() else {
            return Ok(None);
        };
        let limit = self.listing.page_bytes_max;
        let get = Get::new(url.clone(), "application/json", limit)
            .credential(self.listing.credential.clone());
        let body = match self.listing.client.get(get).await? {
            Answer::Found { body, .. } => body,
            Answer::NotModified => {
                return Err(malformed(&url, "not modified, which was not asked for"));
            }
        };
        let (resources, next) = read(&body).map_err(|problem| malformed(&url, problem))?;
        self.read.insert(url.clone());
        if let Some(next) = next {
            self.next = Some(self.follow(&url, &next)?);
        }
        Ok(Some(resources))
    }

    fn follow(&self, from: &Url, next: &str) -> Result<Url, Error> {
        let next = from
            .join(next)
            .map_err(|error| malformed(from, format!("`next` is no address: {error}")))?;
        let refused = |problem: &str| Error::AddressRefused {
            url: ShownUrl::from(&next),
            problem: problem.to_owned(),
        };
        if !address::same_origin(from, &next) {
            return Err(refused("the next page is of another origin"));
        }
        if self.read.contains(&next) {
            return Err(refused("the pages go round in a circle"));
        }
        if self.read.len() >= HttpListing::PAGES_MAX {
            let problem = format!("more than {} pages", HttpListing::PAGES_MAX);
            return Err(malformed(from, problem));
        }
        Ok(next)
    }
}

fn malformed(url: &Url, problem: impl Into<String>) -> Error {
    Error::Malformed {
        url: ShownUrl::from(url),
        problem: problem.into(),
    }
}

/// What a page has, and where the next one is.
fn read(body: &[u8]) -> Result<(Vec<ListedResource>, Option<String>), String> {
    let told = |error: serde_json::Error| brief(&error);
    let begins = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let page: Page<'_> = match begins {
        Some(b'[') => Page {
            resources: serde_json::from_slice(body).map_err(told)?,
            next: None,
        },
        _ => serde_json::from_slice(body).map_err(told)?,
    };
    let resources = page.resources.into_iter().enumerate().map(|(index, item)| {
        item.read()
            .map_err(|problem| format!("resources[{index}]: {problem}"))
    });
    let next = page.next.filter(|next| !next.is_empty());
    Ok((resources.collect::<Result<_, _>>()?, next))
}

// === impl Item ===

impl Item<'_> {
    fn read(self) -> Result<ListedResource, &'static str> {
        if !self.attributes.get().starts_with('{') {
            return Err("`attributes` has to be an object");
        }
        Ok(ListedResource {
            provider: self.provider,
            kind: self.kind,
            id: id(self.id.get())?.into_owned(),
            attributes: self.attributes.get().to_owned(),
            transition: self.transition.unwrap_or_default(),
        })
    }
}

/// A text, or a whole number with the digits that it was written with.
fn id(json: &str) -> Result<Cow<'_, str>, &'static str> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Cow::Borrowed(json));
    }
    let text = serde_json::from_str::<String>(json);
    text.map(Cow::Owned)
        .map_err(|_| "`id` has to be a text or a whole number")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> String {
        read(body.as_bytes()).expect_err(body)
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let body = r#" {"total": 2, "resources": [
            {"type": "server", "id": "a/b", "attributes": {"b": 1.50, "a": 12345678901234567890123}, "region": "x"},
            {"provider": "acme", "type": "disk", "id": 12345678901234567890123, "attributes": {}, "transition": "growing"}
        ], "next": "?page=2"}"#;
        let (resources, next) = read(body.as_bytes()).expect("a page");
        assert_eq!(next.as_deref(), Some("?page=2"));
        assert_eq!(
            resources,
            [
                ListedResource {
                    provider: None,
                    kind: "server".to_owned(),
                    id: "a/b".to_owned(),
                    attributes: r#"{"b": 1.50, "a": 12345678901234567890123}"#.to_owned(),
                    transition: String::new(),
                },
                ListedResource {
                    provider: Some("acme".to_owned()),
                    kind: "disk".to_owned(),
                    id: "12345678901234567890123".to_owned(),
                    attributes: "{}".to_owned(),
                    transition: "growing".to_owned(),
                },
            ]
        );
        for (body, more) in [
            ("[]", None),
            (r#"{"resources":[]}"#, None),
            (r#"{"resources":[],"next":null}"#, None),
            (r#"{"resources":[],"next":""}"#, None),
            (r#"{"resources":[],"next":"x"}"#, Some("x")),
        ] {
            let (resources, next) = read(body.as_bytes()).expect(body);
            assert_eq!((resources.len(), next.as_deref()), (0, more), "{body}");
        }
    }

    #[test]
    fn nothing_is_skipped() {
        assert!(told("").contains("EOF"));
        assert!(told("{}").contains("resources"));
        assert!(told(r#"{"resources":{}}"#).contains("sequence"));
        let item = |item: &str| {
            told(&format!(
                r#"[{{"type":"t","id":"1","attributes":{{}}}},{item}]"#
            ))
        };
        assert!(item(r#"{"id":"1","attributes":{}}"#).contains("type"));
        assert!(item(r#"{"type":"t","attributes":{}}"#).contains("id"));
        assert!(item(r#"{"type":"t","id":"1"}"#).contains("attributes"));
        assert_eq!(
            item(r#"{"type":"t","id":1.5,"attributes":{}}"#),
            "resources[1]: `id` has to be a text or a whole number"
        );
        assert_eq!(
            item(r#"{"type":"t","id":"1","attributes":[]}"#),
            "resources[1]: `attributes` has to be an object"
        );
    }
}
