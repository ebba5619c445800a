//! The one crate that makes outgoing HTTP requests: the shared, well-mannered client, and npm on top of it.
//!
//! # Why it exists
//!
//! An upstream is somebody else's machine. It throttles, stalls, lies and dies, and it remembers who hammered it. Everything that
//! Steadfast fetches therefore passes one client with one set of manners, [`HttpClient`], and comes back either whole and within a
//! named limit, or as an [`Error`] with a stable [reason](Error::reason). No other crate names the HTTP library.
//!
//! # The manners
//!
//! | what | default | where |
//! |---|---|---|
//! | attempts in flight per host | 16 | [`HttpOptions::host_concurrency`] |
//! | one attempt, answer's last byte included | 30 s | [`HttpOptions::attempt_timeout`] |
//! | silence in the middle of an answer | 10 s | [`HttpOptions::idle_timeout`] |
//! | all attempts and the waits between them | 150 s | [`HttpOptions::total_timeout`] |
//! | tries after the first, on 408, 429, 5xx, timeouts, lost connections and answers cut short | 3 | [`HttpOptions::retries_max`] |
//! | wait between tries: exponential, capped, full jitter | 250 ms to 10 s | [`HttpOptions::backoff_initial`], [`HttpOptions::backoff_max`] |
//! | longest `Retry-After` that is waited for; a longer one is an error that carries it | 60 s | [`HttpOptions::retry_after_max`] |
//! | attempts that fail in a row until a host is left alone; after the pause one attempt decides | 20, 10 s | [`HttpOptions::breaker_failures`], [`HttpOptions::breaker_pause`] |
//! | redirects followed | 5 | [`HttpOptions::redirects_max`] |
//! | size of the answer, on the wire and decompressed | per call | [`Get::new`] |
//!
//! Equal requests that overlap in time share one flight. Credentials go to the origin they were given for: a redirect that leaves
//! the scheme, host or port travels on without them, and one that leads from a public host into this machine or its link, or from
//! https to http, is refused. Bytes are counted as they arrive, before and after decompression, so that neither a server that never
//! stops talking nor a gzip bomb costs more than the limit.
//!
//! The time spent queueing for a host's permit counts against nothing: a refresh of ten thousand packages queues most of them, and
//! none of them is late for that. Who needs a hard deadline wraps the call in one; dropping the call cancels it.
//!
//! # npm
//!
//! [`NpmConfig::load`] finds the registry where npm itself would: an explicit address, the environment, `.npmrc`, then npm. No
//! registry's host is built in. [`NpmRegistry`] reads four things. [`NpmRegistry::packument`] is what the registry says of a package;
//! it takes any field as absent that has an unknown shape, and names what it skipped. [`NpmRegistry::read_tarball`] is what the
//! publisher put into one version; not a byte of it is looked at before its Subresource Integrity was verified.
//! [`NpmRegistry::organization`] and [`NpmRegistry::search`] tell names. [`NpmRegistry::read_schema`] reads a schema from an address
//! made with a [`UrlTemplate`].
//!
//! # Listings
//!
//! [`HttpListing`] reads what a provider runs from an address of the operator's own, a page at a time.
//!
//! # Icons
//!
//! [`IconUpstream`] asks for icons at addresses made from an operator's template, and believes of what comes only its bytes.
//!
//! # Steps of sagas
//!
//! [`HttpAction`] is apart from all this: its requests have effects, so that it never repeats one, and a definition says where they
//! go, so that it refuses this machine and its link, by name as well as by address.
//!
//! # What it is not
//!
//! Nothing here decides what belongs in the catalogue, stores anything, or remembers an answer. Certificates come from the
//! system's store (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured); npm's own `cafile` is not read. Whether a host *name* resolves
//! to this machine is not checked by [`HttpClient`], only addresses and `localhost` are: a resolver is trusted as much as the
//! network it serves.

mod action;
mod address;
mod error;
mod http;
mod icon;
mod listing;
mod npm;

pub use action::{HttpAction, HttpActionOptions, HttpCall, HttpOutcome};
pub use address::ShownUrl;
pub use error::Error;
pub use http::{Answer, BodyEncoding, Credential, Get, HttpClient, HttpOptions, METRIC_NAMES};
pub use icon::{
    IconAnswer, IconFormat, IconShape, IconTemplate, IconUpstream, InvalidIconTemplate,
};
pub use listing::{HttpListing, ListedResource, ListingPages};
pub use npm::{
    Algorithm, Integrity, InvalidIntegrity, InvalidManifest, InvalidName, InvalidTemplate,
    ListedNames, Manifest, NpmConfig, NpmRegistry, PackageName, Packument, PackumentAnswer,
    PackumentWarning, Places, Repository, TarballFindings, TarballHost, TarballLimits, UrlTemplate,
    VersionEntry,
};
pub use reqwest::Url;
