//! RunInventory.

use std::time::Duration;

use steadfast_api::drift::v1 as api;
use steadfast_types::Timestamp;
use tonic::Code;

use super::{DriftEdge, message, refused};
use crate::{
    grpc::{admin::time_message, field, status::Problem},
    inventories::Refused,
};

/// How long a caller should wait while another replica is between two inventories.
const RETRY: Duration = Duration::from_secs(1);

impl DriftEdge {
    /// Takes an inventory of a source, or joins the one that is taken.
    pub(super) async fn run(&self, source: &str) -> Result<api::RunInventoryResponse, Problem> {
        field::check_text("source", source)?;
        let under_way = self.inventories.run(source).await.map_err(not_run)?;
        let expected = under_way.expected_end_us;
        Ok(api::RunInventoryResponse {
            inventory: Some(message::inventory(&under_way.row)),
            joined: under_way.joined,
            expected_end_time: expected.map(|end_us| time_message(Timestamp(end_us))),
        })
    }
}

fn not_run(refusal: Refused) -> Problem {
    let message = refusal.to_string();
    match refusal {
        Refused::NoSource { name, configured } => {
            Problem::new(Code::NotFound, "INVENTORY_SOURCE_NOT_FOUND", message)
                .with("source", name)
                .with("configured", configured.join(","))
        }
        Refused::Contended(name) => Problem::new(Code::Unavailable, "INVENTORY_CONTENDED", message)
            .with("source", name)
            .retry(RETRY),
        Refused::Store(error) => refused(error),
    }
}
