//! `steadfast inventory`.

mod run;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::json;
use steadfast_client::api::drift::v1::{
    BeginInventoryRequest, EndInventoryRequest, GetInventoryRequest, Inventory, InventoryScope,
    InventoryState, ListInventoriesRequest,
};

use crate::{
    commands::{Session, resource::type_name, who::user},
    failure::{Exit, Failure},
    json, moment, table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum InventoryCommand {
    /// Begin to look at everything that a provider runs
    ///
    /// Prints the inventory's id. Report with it (`resource report --inventory`), then end it.
    Begin(BeginArgs),
    /// End an inventory
    End(EndArgs),
    /// Have the server look at what a configured source lists
    ///
    /// Sources are the [[drift.inventory]] blocks of the server's configuration. Waits until it has ended; the exit code is 0 if it
    /// is complete, and 1 if it failed.
    Run(run::RunArgs),
    /// Show an inventory
    Get(IdArgs),
    /// List inventories, newest first
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BeginArgs {
    /// The provider
    provider: String,
    /// Look at this type only; may be repeated
    #[arg(long = "type", value_name = "NAME")]
    types: Vec<String>,
    /// Who looks; the user of this machine if it is left out
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("how").required(true).args(["complete", "failed"])))]
pub(crate) struct EndArgs {
    /// The inventory's id
    id: String,
    /// Everything in its scope was seen and reported
    #[arg(long)]
    complete: bool,
    /// Not everything was; why
    #[arg(long, value_name = "TEXT")]
    failed: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The inventory's id
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep those of this provider
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    provider: String,
    /// Keep those in this state; may be repeated
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<StateArg>,
    /// The most inventories to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    limit: i32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Running,
    Complete,
    Failed,
}

pub(crate) async fn run(command: InventoryCommand, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let inventory = match command {
        InventoryCommand::List(args) => {
            let request = ListInventoriesRequest {
                provider: args.provider,
                states: args
                    .states
                    .iter()
                    .map(|state| InventoryState::from(*state).into())
                    .collect(),
                page_size: args.limit,
                page_token: String::new(),
            };
            let answer = connection.call(client.list_inventories(request)).await?;
            let inventories = answer.inventories;
            session.output.print(
                || list_text(&inventories),
                || {
                    let inventories: Vec<_> =
                        inventories.iter().map(json::drift::inventory).collect();
                    json!({ "inventories": inventories, "more": !answer.next_page_token.is_empty() })
                },
            )?;
            return Ok(Exit::Success);
        }
        InventoryCommand::Begin(args) => {
            let request = BeginInventoryRequest {
                scope: Some(InventoryScope {
                    provider: args.provider,
                    types: args.types,
                }),
                source: args.source.or_else(user).unwrap_or_default(),
            };
            let begun = connection.call(client.begin_inventory(request)).await?;
            let inventory = begun.inventory.unwrap_or_default();
            // Only the id, so that a script can take it.
            session.output.print(
                || inventory.id.clone(),
                || json::drift::inventory(&inventory),
            )?;
            return Ok(Exit::Success);
        }
        InventoryCommand::Run(args) => return run::run(args, session).await,
        InventoryCommand::End(args) => {
            let request = EndInventoryRequest {
                id: args.id,
                complete: args.complete,
                error: args.failed.unwrap_or_default(),
            };
            let call = client.end_inventory(request);
            connection.call(call).await?.inventory
        }
        InventoryCommand::Get(IdArgs { id }) => {
            let call = client.get_inventory(GetInventoryRequest { id });
            connection.call(call).await?.inventory
        }
    };
    let inventory = inventory.unwrap_or_default();
    session.output.print(
        || one_text(&inventory),
        || json::drift::inventory(&inventory),
    )?;
    Ok(Exit::Success)
}

fn scope(inventory: &Inventory) -> String {
    let Some(scope) = &inventory.scope else {
        return String::new();
    };
    match scope.types.as_slice() {
        [] => type_name(&scope.provider, ""),
        types => type_name(&scope.provider, &types.join(",")),
    }
}

fn list_text(inventories: &[Inventory]) -> String {
    if inventories.is_empty() {
        return "no inventories".to_owned();
    }
    let mut rows = table::with_head(&[
        "ID", "SCOPE", "STATE", "BEGUN", "TOOK", "REPORTED", "CHANGED", "MISSED",
    ]);
    for inventory in inventories {
        rows.add_row([
            inventory.id.clone(),
            scope(inventory),
            json::drift::inventory_state(inventory.state),
            moment::relative(inventory.start_time.as_ref()),
            moment::between(inventory.start_time.as_ref(), inventory.end_time.as_ref()),
            inventory.reported.to_string(),
            inventory.changed.to_string(),
            inventory.missed.to_string(),
        ]);
    }
    table::text(&rows)
}

fn one_text(inventory: &Inventory) -> String {
    table::of_fields([
        ("id", inventory.id.clone()),
        ("scope", scope(inventory)),
        ("source", table::clean(&inventory.source)),
        ("state", json::drift::inventory_state(inventory.state)),
        ("error", table::clean(&inventory.error)),
        ("begun", moment::relative(inventory.start_time.as_ref())),
        (
            "took",
            moment::between(inventory.start_time.as_ref(), inventory.end_time.as_ref()),
        ),
        ("reported", inventory.reported.to_string()),
        ("changed", inventory.changed.to_string()),
        ("missed", inventory.missed.to_string()),
    ])
}

impl From<StateArg> for InventoryState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Running => Self::Running,
            StateArg::Complete => Self::Complete,
            StateArg::Failed => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_tells_its_scope_and_why_it_failed() {
        let inventory = Inventory {
            scope: Some(InventoryScope {
                provider: "do".to_owned(),
                types: vec!["droplet".to_owned(), "volume".to_owned()],
            }),
            state: InventoryState::Failed.into(),
            error: "page 3".to_owned(),
            ..Inventory::default()
        };
        let text = one_text(&inventory);
        assert!(
            text.contains("do/droplet,volume") && text.contains("page 3"),
            "{text}"
        );
        assert!(list_text(&[inventory]).contains("failed"));
    }
}
