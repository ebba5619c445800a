//! Reports of what is there, in batches: one transaction for all calls that arrive together, and a revision for each that changes
//! something.
//!
//! Most reports repeat what is known. Such a one writes no row of its own: its call leaves one row with the numbers of all resources
//! that it named (see `seen`). Only if what is known does not count for the spec as applied, because it was observed before or within
//! an inventory that failed, does the time move, without a revision, and the resource is due.
//!
//! Where two calls of one batch name a resource, the newer observation wins.

mod batch;
mod decide;
mod rows;

use std::sync::Arc;

use uuid::Uuid;

use super::{ResourceName, clock};
use crate::{Error, Store, engine::Db, pipeline::Kind};
use batch::Batch;

#[cfg(any(test, feature = "faults"))]
pub(crate) use rows::STATEMENTS;

/// What a provider says of one resource. Sizes are checked by the caller, and that there are no NUL characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Of which.
    pub name: ResourceName,
    /// JSON; empty if it is gone.
    pub attributes: String,
    /// Equal for attributes that mean the same: a report of such is one that repeats what is known.
    pub digest: String,
    /// What the provider calls the change that is under way; empty for none.
    pub transition: String,
    /// There is no such resource.
    pub gone: bool,
    /// How old it is; for a report that belongs to no inventory.
    pub age: std::time::Duration,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReports {
    /// The id of the inventory that it belongs to.
    pub inventory: Option<String>,
    /// What is reported.
    pub observed: Vec<Observed>,
}

/// What became of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    /// Nobody had reported the resource before.
    First,
    /// Something in it is new.
    Changed,
    /// It repeats what is known.
    Unchanged,
    /// Something newer is known, or was reported in the same call or at the same time.
    Outdated,
    /// The inventory does not cover it.
    OutOfScope,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// One outcome for each report, in their order.
    Done(Vec<ReportOutcome>),
    /// There is no such inventory.
    UnknownInventory,
    /// The inventory has ended.
    InventoryEnded,
}

/// A call on its way through the pipeline.
pub(crate) struct PendingReports {
    write_id: String,
    /// When it was received, by the database's clock; for a call that belongs to no inventory.
    received_us: i64,
    reports: NewReports,
}

/// Commits batches of reports.
pub(crate) struct Reports {
    pub(crate) db: Db,
}

impl Store {
    /// Commits what a call reports, together with whatever else is being reported.
    ///
    /// # Errors
    /// [`Error::Overloaded`], or if the database does not answer.
    pub async fn report_resources(&self, reports: NewReports) -> Result<Reported, Error> {
        let received_us = match reports.inventory {
            Some(_) => 0,
            None => self.database_time().await?,
        };
        let pending = PendingReports {
            write_id: Uuid::now_v7().to_string(),
            received_us,
            reports,
        };
        self.drift_reports().submit(pending).await
    }
}

// === impl Reports ===

impl Kind for Reports {
    type Input = PendingReports;
    type Output = Reported;

    const NAME: &'static str = "drift_report";

    fn conflict_key(_: &PendingReports) -> Option<String> {
        None
    }

    fn size(input: &PendingReports) -> usize {
        let size = |observed: &Observed| observed.attributes.len() + 256;
        input.reports.observed.iter().map(size).sum()
    }

    async fn commit(
        &self,
        inputs: &[Arc<PendingReports>],
    ) -> Result<Vec<Result<Reported, Error>>, Error> {
        let mut tx = self.db.begin().await?;
        let observed = inputs.iter().flat_map(|input| &input.reports.observed);
        let providers = observed.map(|observed| observed.name.provider.as_str());
        clock::report(&mut tx, providers.collect()).await?;
        let mut batch = Batch::open(&mut tx, inputs).await?;
        let known = batch.read(&mut tx).await?;
        let written = batch.write(&mut tx, &known).await?;
        let changed = batch.remember(&mut tx, inputs).await?;
        if written || changed {
            batch.announce(&mut tx, inputs, &known).await?;
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(batch.outcomes())
    }
}
