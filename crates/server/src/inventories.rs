//! Inventories that the server takes itself: of the sources that are configured, by the clock or when asked.
//!
//! A source lists, page by page; each page is reported as an agent would report it, and only a listing that was read and understood
//! to its end makes the inventory complete. One replica at a time takes one of a source, under a lease. Whoever gets that lease knows
//! that nobody else is at it, and ends as failed what a lost replica left running; every replica looks for such now and then.

mod taking;

use std::{sync::Arc, time::Duration};

use steadfast_drift::Sweeper;
use steadfast_saga::{SecretError, SecretPlaces, SecretSource as _};
use steadfast_store::{InventoryFilter, InventoryRow, Store, Wakeups};
use steadfast_types::ReplicaId;
use steadfast_upstream::{Credential, HttpClient, HttpListing, ListedResource, Url};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::{Config, InventorySource, InventorySourceKind};

/// Inventories that are looked through for one of a source.
const LOOKED_THROUGH: i64 = 1_000;
/// How often one that another replica has just begun, or is just ending, is looked for again.
const LOOKS: usize = 100;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// All sources of the configuration. Clones share them.
#[derive(Clone)]
pub(crate) struct Inventories {
    inner: Arc<Inner>,
}

/// What taking one needs.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) wakeups: Wakeups,
    pub(crate) sweeper: Sweeper,
    pub(crate) replica: ReplicaId,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// An inventory that is under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) row: InventoryRow,
    /// It was under way already.
    pub(crate) joined: bool,
    /// When it will have ended if it takes as long as the last one.
    pub(crate) expected_end_us: Option<i64>,
}

/// Why none is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// No source of this name is configured.
    #[error("no source of inventories `{name}` is configured: {}", remedy(.configured))]
    NoSource {
        name: String,
        configured: Vec<String>,
    },
    /// Another replica holds the lease of the source, and has no inventory of it under way.
    #[error(
        "another replica is about to take an inventory of `{0}`, or has just taken one: try again"
    )]
    Contended(String),
    #[error(transparent)]
    Store(#[from] steadfast_store::Error),
}

/// A source cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The secret cannot be had.
    #[error("drift.inventory `{name}`: {error}")]
    Token {
        /// The source.
        name: String,
        /// What about the secret.
        error: SecretError,
    },
    /// The address is none.
    #[error("drift.inventory `{name}`: the address cannot be understood: {problem}")]
    Address {
        /// The source.
        name: String,
        /// What about it.
        problem: String,
    },
}

struct Inner {
    parts: Parts,
    sources: Vec<Source>,
    lease_duration: Duration,
}

struct Source {
    configured: InventorySource,
    listing: HttpListing,
}

fn remedy(names: &[String]) -> String {
    match names {
        [] => "add a [[drift.inventory]] block to the configuration, and start again".to_owned(),
        names => format!("there is {}", names.join(", ")),
    }
}

// === impl Inventories ===

impl Inventories {
    /// From the configuration.
    ///
    /// # Errors
    /// If a secret cannot be had, or an address is none.
    pub(crate) fn new(
        config: &Config,
        client: &HttpClient,
        parts: Parts,
    ) -> Result<Self, SourceError> {
        let secrets = SecretPlaces::new(config.saga.secrets_dir.clone());
        let sources = config.drift.inventories.iter().map(|configured| {
            let name = || configured.name.clone();
            let InventorySourceKind::Http { url, token } = &configured.kind;
            let url: Url = url.parse().map_err(|error| SourceError::Address {
                name: name(),
                problem: format!("{error}"),
            })?;
            let credential = match token {
                None => None,
                Some(token) => {
                    let secret = secrets.secret(token);
                    let secret = secret.map_err(|error| SourceError::Token {
                        name: name(),
                        error,
                    })?;
                    Some(Credential::bearer(&secret))
                }
            };
            Ok(Source {
                configured: configured.clone(),
                listing: HttpListing::new(client.clone(), url, credential),
            })
        });
        Ok(Self {
            inner: Arc::new(Inner {
                sources: sources.collect::<Result<_, _>>()?,
                lease_duration: config.lease.duration,
                parts,
            }),
        })
    }

    /// Ends what lost replicas left running, for ever; the caller drops it.
    pub(crate) async fn watch(self) {
        let mut looks = tokio::time::interval(self.inner.lease_duration * 2);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if self.inner.sources.is_empty() {
            return;
        }
        loop {
            looks.tick().await;
            for source in &self.inner.sources {
                if let Err(error) = self.inner.look_for_lost(source).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot look for inventories of lost replicas"
                    );
                }
            }
        }
    }

    /// Begins one of a source, unless one is under way: then it is that one. It goes on by itself.
    ///
    /// # Errors
    /// If no such source is configured, or the database does not answer.
    pub(crate) async fn run(&self, name: &str) -> Result<UnderWay, Refused> {
        let inner = &self.inner;
        let position = inner
            .sources
            .iter()
            .position(|one| one.configured.name == name);
        let Some(position) = position else {
            let names = inner.sources.iter().map(|one| one.configured.name.clone());
            return Err(Refused::NoSource {
                name: name.to_owned(),
                configured: names.collect(),
            });
        };
        let (store, source) = (&inner.parts.store, &inner.sources[position]);
        for _ in 0..LOOKS {
            let (replica, duration) = (inner.parts.replica, inner.lease_duration);
            let claimed = store
                .claim_lease(&source.lease(), replica, duration)
                .await?;
            if let Some(lease) = claimed {
                let begun = inner.begin(source).await;
                let (row, took) = match begun {
                    Ok(begun) => begun,
                    Err(error) => {
                        store.release_lease(&lease).await?;
                        return Err(error.into());
                    }
                };
                let (inner, taken) = (Arc::clone(inner), row.clone());
                let task = async move { inner.take(position, taken, lease).await };
                self.inner.parts.tasks.spawn(task);
                return Ok(UnderWay::new(row, false, took));
            }
            let (mut running, took) = inner.known(source).await?;
            if let Some(row) = running.pop() {
                return Ok(UnderWay::new(row, true, took));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Err(Refused::Contended(name.to_owned()))
    }
}

// === impl UnderWay ===

impl UnderWay {
    fn new(row: InventoryRow, joined: bool, took_us: Option<i64>) -> Self {
        Self {
            expected_end_us: took_us.map(|took| row.start_us.saturating_add(took)),
            row,
            joined,
        }
    }
}

// === impl Source ===

impl Source {
    /// As it is kept of an inventory who takes it.
    fn label(&self) -> String {
        format!("source:{}", self.configured.name)
    }

    /// What covers taking one.
    fn lease(&self) -> String {
        format!("inventory/{}", self.configured.name)
    }

    fn covers(&self, listed: &ListedResource) -> bool {
        let configured = &self.configured;
        let provider = listed.provider.as_ref();
        provider.is_none_or(|provider| *provider == configured.provider)
            && (configured.types.is_empty() || configured.types.contains(&listed.kind))
    }
}

// === impl Inner ===

impl Inner {
    /// The inventories of a source that run, the newest last, and how long the newest complete one took.
    async fn known(
        &self,
        source: &Source,
    ) -> Result<(Vec<InventoryRow>, Option<i64>), steadfast_store::Error> {
        let filter = InventoryFilter {
            provider: source.configured.provider.clone(),
            states: vec!["running".to_owned(), "complete".to_owned()],
        };
        let rows = self
            .parts
            .store
            .inventories(&filter, "", LOOKED_THROUGH)
            .await?;
        let (label, mut running, mut took) = (source.label(), Vec::new(), None);
        for row in rows.into_iter().filter(|row| row.source == label) {
            match (row.state.as_str(), row.end_us) {
                ("running", _) => running.insert(0, row),
                (_, Some(end_us)) => {
                    took.get_or_insert(end_us - row.start_us);
                }
                (_, None) => {}
            }
        }
        Ok((running, took))
    }

    /// Ends what nobody takes any more.
    async fn look_for_lost(&self, source: &Source) -> Result<(), steadfast_store::Error> {
        if self.known(source).await?.0.is_empty() {
            return Ok(());
        }
        let (store, replica) = (&self.parts.store, self.parts.replica);
        let (name, duration) = (source.lease(), self.lease_duration);
        let Some(lease) = store.claim_lease(&name, replica, duration).await? else {
            return Ok(());
        };
        // Read again: the one that was seen may have ended, and been followed by another.
        let left = self.known(source).await?.0;
        let ended = self.end_lost(left).await;
        store.release_lease(&lease).await?;
        ended
    }

    async fn end_lost(&self, left: Vec<InventoryRow>) -> Result<(), steadfast_store::Error> {
        for row in left {
            let lost = Err("the replica that took it was lost".to_owned());
            self.end(&row.id, lost).await?;
        }
        Ok(())
    }

    /// Begins one; the caller has the lease. Returns how long the last one took, too.
    async fn begin(
        &self,
        source: &Source,
    ) -> Result<(InventoryRow, Option<i64>), steadfast_store::Error> {
        let (left, took) = self.known(source).await?;
        self.end_lost(left).await?;
        let (configured, label) = (&source.configured, source.label());
        let (provider, types) = (&configured.provider, &configured.types);
        let begun = self.parts.store.begin_inventory(provider, types, &label);
        Ok((begun.await?, took))
    }
}

/// Asks for a sweep of what an inventory saw. If that fails, the schedule or the next inventory does it.
pub(crate) async fn compare(sweeper: &Sweeper, inventory: &str) {
    if let Err(error) = sweeper.ask_due(&format!("inventory:{inventory}")).await {
        tracing::warn!(
            inventory,
            error = &error as &dyn std::error::Error,
            "no sweep could be asked for after an inventory"
        );
    }
}
