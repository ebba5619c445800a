//! Taking one inventory: a listing is read page by page, reported, and ended.

use std::time::Duration;

use steadfast_drift::intake;
use steadfast_store::{
    InventoryEnd, InventoryEnded, InventoryRow, Lease, NewReports, Observed, Reported,
};
use steadfast_upstream::ListedResource;

use super::{Inner, Source, compare};

/// Resources reported in one transaction at most, as in one call.
const REPORTS: usize = 1_000;
/// Bytes of an error at most, as in a call.
const ERROR_BYTES: usize = 1_024;

impl Inner {
    /// Takes one to its end.
    pub(super) async fn take(&self, position: usize, row: InventoryRow, lease: Lease) {
        let source = &self.sources[position];
        let outcome = tokio::select! {
            outcome = self.list(source, &row.id) => outcome,
            () = self.keep(&lease) => Err("its lease was lost".to_owned()),
            () = self.parts.stop.cancelled() => Err("the replica was shut down".to_owned()),
        };
        let name = &source.configured.name;
        match &outcome {
            Ok(resources) => tracing::info!(source = name, inventory = row.id, resources, "listed"),
            Err(error) => {
                tracing::warn!(
                    source = name,
                    inventory = row.id,
                    error,
                    "an inventory failed"
                );
            }
        }
        let ended = self.end(&row.id, outcome.map(|_| ())).await;
        let released = self.parts.store.release_lease(&lease).await;
        if let Err(error) = ended.and(released) {
            tracing::warn!(
                source = name,
                inventory = row.id,
                error = &error as &dyn std::error::Error,
                "an inventory could not be ended: the next one of its source does it"
            );
        }
    }

    /// Lists and reports. Returns how many resources there are; if anything is wrong with the listing, what.
    async fn list(&self, source: &Source, inventory: &str) -> Result<usize, String> {
        let mut pages = source.listing.pages();
        let mut resources = 0;
        while let Some(page) = pages.next().await.map_err(|error| error.to_string())? {
            let listed = page.into_iter().filter(|listed| source.covers(listed));
            let observed: Vec<Observed> = listed
                .map(|listed| self.observed(source, &listed))
                .collect::<Result<_, _>>()?;
            resources += observed.len();
            for observed in observed.chunks(REPORTS) {
                let reports = NewReports {
                    inventory: Some(inventory.to_owned()),
                    observed: observed.to_vec(),
                };
                let reported = self.parts.store.report_resources(reports).await;
                match reported.map_err(|error| error.to_string())? {
                    Reported::Done(_) => self.parts.wakeups.kick(),
                    Reported::UnknownInventory | Reported::InventoryEnded => {
                        return Err("somebody else has ended it".to_owned());
                    }
                }
            }
        }
        Ok(resources)
    }

    fn observed(&self, source: &Source, listed: &ListedResource) -> Result<Observed, String> {
        let provider = &source.configured.provider;
        let told = |wrong: intake::Wrong| {
            let id: String = listed.id.chars().take(100).collect();
            format!("{provider}/{}/{id}: {wrong}", listed.kind)
        };
        let name = intake::name(provider, &listed.kind, &listed.id).map_err(told)?;
        let report = intake::Report {
            attributes: &listed.attributes,
            transition: &listed.transition,
            gone: false,
            age: Duration::ZERO,
        };
        let rules = self.parts.sweeper.rules().of(&name.provider, &name.kind);
        intake::observed(rules, name, report).map_err(told)
    }

    /// Ends one, and has what it saw compared.
    pub(super) async fn end(
        &self,
        inventory: &str,
        outcome: Result<(), String>,
    ) -> Result<(), steadfast_store::Error> {
        let end = InventoryEnd {
            complete: outcome.is_ok(),
            error: outcome.err().map_or_else(String::new, shortened),
        };
        let ended = self.parts.store.end_inventory(inventory, &end).await?;
        if matches!(ended, InventoryEnded::Now(_)) {
            self.parts.wakeups.kick();
            compare(&self.parts.sweeper, inventory).await;
        }
        Ok(())
    }

    /// Prolongs the lease until it is lost.
    async fn keep(&self, lease: &Lease) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(lease.duration / 3).await;
            let asked = tokio::time::Instant::now();
            match self.parts.store.renew_lease(lease).await {
                Ok(()) => renewed = asked,
                Err(steadfast_store::Error::Fenced { .. }) => return,
                Err(_) if renewed.elapsed() >= lease.duration => return,
                Err(_) => {}
            }
        }
    }
}

fn shortened(mut error: String) -> String {
    let end = (0..=ERROR_BYTES.min(error.len()))
        .rev()
        .find(|end| error.is_char_boundary(*end));
    error.truncate(end.unwrap_or(0));
    error
}
