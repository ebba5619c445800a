//! `steadfast inventory run`: has the server look, and waits until it has.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use steadfast_client::{
    Connection,
    api::drift::v1::{
        GetInventoryRequest, Inventory, InventoryState, RunInventoryRequest, RunInventoryResponse,
    },
};

use super::one_text;
use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json, moment,
    output::note,
    table,
};

/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The source, as it is configured
    source: String,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(args: RunArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let request = RunInventoryRequest {
        source: args.source,
    };
    let answer = connection.call(client.run_inventory(request)).await?;
    let inventory = answer.inventory.clone().unwrap_or_default();
    let inventory = match args.no_wait {
        true => inventory,
        false => {
            if !session.output.is_json() {
                note(&begun(&answer));
            }
            ended(&connection, inventory).await?
        }
    };
    session.output.print(
        || one_text(&inventory),
        || {
            let mut told = json::drift::inventory(&inventory);
            told["joined"] = json!(answer.joined);
            told["expected_end_time"] = moment::rfc3339(answer.expected_end_time.as_ref());
            told
        },
    )?;
    match inventory.state() {
        InventoryState::Failed => Err(Failure::new(
            Exit::Error,
            format!("the inventory failed: {}", table::clean(&inventory.error)),
        )),
        _ => Ok(Exit::Success),
    }
}

/// That it is under way, and until when about.
fn begun(answer: &RunInventoryResponse) -> String {
    let id = answer.inventory.as_ref().map_or("", |one| one.id.as_str());
    let how = if answer.joined {
        "is under way already"
    } else {
        "has begun"
    };
    let expected = match &answer.expected_end_time {
        None => String::new(),
        time => format!("; expected to end {}", moment::relative(time.as_ref())),
    };
    format!("inventory {id} {how}{expected}")
}

async fn ended(connection: &Connection, mut inventory: Inventory) -> Result<Inventory, Failure> {
    let mut client = connection.resources();
    while inventory.state() == InventoryState::Running {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let request = GetInventoryRequest { id: inventory.id };
        let answer = connection.call(client.get_inventory(request)).await?;
        inventory = answer.inventory.unwrap_or_default();
    }
    Ok(inventory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_says_until_when() {
        let mut answer = RunInventoryResponse {
            inventory: Some(Inventory {
                id: "0190".to_owned(),
                ..Inventory::default()
            }),
            ..RunInventoryResponse::default()
        };
        assert_eq!(begun(&answer), "inventory 0190 has begun");
        answer.joined = true;
        let soon = chrono::Utc::now() + Duration::from_secs(3_700);
        answer.expected_end_time = Some(prost_types::Timestamp {
            seconds: soon.timestamp(),
            nanos: 0,
        });
        assert_eq!(
            begun(&answer),
            "inventory 0190 is under way already; expected to end in 1h"
        );
    }
}
