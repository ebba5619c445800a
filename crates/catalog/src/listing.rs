//! The beginning of a run over everything: asking the sources which packages there are.
//!
//! What a listing told is stored before the first package is read, together with the item that reports it, so that a replica which
//! takes the run over asks no source again. A listing that cannot be read leaves the names that are known; one that is not believed
//! leaves its whole source alone, because its registry is not to be believed about the packages either.

use std::collections::BTreeSet;

use steadfast_store::{RefreshItemRow, SourceNameRow};
use steadfast_upstream::ListedNames;

use crate::{
    error::Error,
    membership::{self, Changes, Shrunken, Told},
    options::{NpmSource, Source},
    run::Run,
};

/// The reason of a listing that is not believed.
pub(crate) const SHRUNKEN: &str = "LISTING_SHRUNKEN";

/// What the sources told, now or in an earlier attempt at this run.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    /// All names that are known.
    pub(crate) told: Vec<SourceNameRow>,
    /// The sources that are left alone.
    pub(crate) distrusted: BTreeSet<String>,
    /// The sources that did not tell all that they were asked.
    pub(crate) failed: BTreeSet<String>,
    /// Why the first of them did not; empty if all did.
    pub(crate) error: String,
}

/// What one source told, and what went wrong.
struct Asked {
    told: Told,
    error: Option<steadfast_upstream::Error>,
}

// === impl Run ===

impl Run<'_> {
    /// Asks every source which packages it has, if this run is about all of them, and stores what is new.
    ///
    /// # Errors
    /// If the lease is lost, or the database does not answer.
    pub(crate) async fn listings(&self) -> Result<Listings, Error> {
        let store = &self.executor.store;
        let mut listings = Listings {
            told: store.source_names().await?,
            ..Listings::default()
        };
        let sources = self.executor.options.sources.iter();
        let asking = sources.filter_map(|source| {
            let npm = source.npm()?;
            npm.asks_for_names().then_some((source, npm))
        });
        let asking: Vec<(&Source, &NpmSource)> = asking.collect();
        if asking.is_empty() || !self.wish.kinds.packages || self.wish.package.is_some() {
            return Ok(listings);
        }
        let done = store.refresh_listings(&self.row.id).await?;
        if self.row.begun_through.is_none() {
            // From here on, who asks for everything has to be asked for anew: a name may be published after its listing was read.
            store.begin_reading(self.lease, &self.row.id, "", 0).await?;
        }
        for (source, npm) in asking {
            if let Some(row) = done.iter().find(|row| row.source == source.name) {
                if row.outcome == "failed" {
                    listings.fail(&source.name, &row.reason, &row.message);
                }
                // What a dry run was told is stored nowhere.
                if !self.wish.dry_run || row.reason == SHRUNKEN {
                    continue;
                }
            }
            let is_new = !done.iter().any(|row| row.source == source.name);
            self.list(source, npm, is_new, &mut listings).await?;
        }
        Ok(listings)
    }

    async fn list(
        &self,
        source: &Source,
        npm: &NpmSource,
        is_new: bool,
        listings: &mut Listings,
    ) -> Result<(), Error> {
        let asked = ask(source, npm).await;
        let name = &source.name;
        let judged = membership::changes(
            name,
            &listings.told,
            &asked.told,
            &npm.patterns,
            self.wish.force,
        );
        let mut item = RefreshItemRow {
            kind: "packages".into(),
            source: name.clone(),
            outcome: "failed".into(),
            ..Default::default()
        };
        let changes = match (judged, asked.error) {
            (Err(shrunken), _) => {
                item.reason = SHRUNKEN.into();
                item.message = shrunken_words(name, shrunken);
                Changes::default()
            }
            (Ok(changes), Some(error)) => {
                item.reason = error.reason().into();
                item.message = format!("the names of source {name}: {error}");
                changes
            }
            (Ok(changes), None) => {
                let changed = !changes.rows.is_empty();
                item.outcome = if changed { "changed" } else { "unchanged" }.into();
                item.message = changes.words();
                changes
            }
        };
        if item.outcome == "failed" {
            tracing::warn!(
                source = name,
                reason = item.reason,
                "not listed: {}",
                item.message
            );
            listings.fail(name, &item.reason, &item.message);
        } else if !changes.rows.is_empty() {
            tracing::info!(source = name, "listed: {}", item.message);
        }
        listings.told = changes.applied_to(&listings.told);
        if is_new {
            let rows = if self.wish.dry_run {
                &[]
            } else {
                changes.rows.as_slice()
            };
            let store = &self.executor.store;
            store
                .save_listing(self.lease, &self.row.id, &item, rows)
                .await?;
            self.executor.moved();
        }
        Ok(())
    }
}

async fn ask(source: &Source, npm: &NpmSource) -> Asked {
    let mut asked = Asked {
        told: Told::default(),
        error: None,
    };
    if let Some(organization) = &npm.organization {
        match npm.registry.organization(organization).await {
            Ok(listed) => asked.told.listing = Some(names(source, listed)),
            Err(error) => asked.error = Some(error),
        }
    }
    if let Some(text) = &npm.search {
        match npm.registry.search(text).await {
            Ok(found) => asked.told.search = names(source, found),
            Err(error) => asked.error = asked.error.or(Some(error)),
        }
    }
    asked
}

fn names(source: &Source, listed: ListedNames) -> BTreeSet<steadfast_upstream::PackageName> {
    if listed.left_out > 0 || listed.truncated {
        tracing::warn!(
            source = source.name,
            names = listed.names.len(),
            not_names = listed.left_out,
            truncated = listed.truncated,
            "not all that was told is taken"
        );
    }
    listed.names
}

fn shrunken_words(source: &str, Shrunken { listed, known }: Shrunken) -> String {
    format!(
        "the listing of source {source} has {listed} packages, and had {known}: it is not believed, and nothing of the source is \
         read; if it is right, refresh once with force"
    )
}

// === impl Listings ===

impl Listings {
    fn fail(&mut self, source: &str, reason: &str, message: &str) {
        if self.error.is_empty() {
            message.clone_into(&mut self.error);
        }
        self.failed.insert(source.to_owned());
        if reason == SHRUNKEN {
            self.distrusted.insert(source.to_owned());
        }
    }
}
