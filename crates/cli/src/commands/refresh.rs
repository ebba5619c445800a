//! `steadfast refresh`.

mod follow;
mod report;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use steadfast_client::{
    Connection,
    api::registry::v1::{
        CancelRefreshRequest, GetRefreshRequest, ListRefreshesRequest, Refresh, RefreshItem,
        RefreshKind, RefreshState, StartRefreshRequest,
    },
};
use uuid::Uuid;

use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json,
    output::note,
};

/// What to start, or what to show.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RefreshArgs {
    #[command(subcommand)]
    command: Option<RefreshCommand>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(Debug, Subcommand)]
enum RefreshCommand {
    /// List refreshes, newest first
    List(ListArgs),
    /// Show what one refresh did
    Get(GetArgs),
    /// Follow one refresh to its end
    Watch(GetArgs),
    /// End a refresh where it is; what it has stored stays
    Cancel(GetArgs),
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Read only this package
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    package: String,
    /// Read only this; may be repeated
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Read everything, store nothing, and show what would change
    #[arg(long)]
    dry_run: bool,
    /// Read everything anew, whatever is known, and believe a listing that has lost most of its names
    #[arg(long)]
    force: bool,
    /// Return once it is started
    #[arg(long)]
    no_wait: bool,
    /// Makes a repetition safe: the same id starts one refresh; drawn if it is left out
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Package metadata and versions
    Packages,
    /// Schemas and labels, from tarballs
    Schemas,
    /// Icons, from where the sources say they are
    Icons,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The most refreshes to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    limit: i32,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// The refresh's id, as `refresh list` shows it
    id: String,
}

/// The most items of one answer, which the contract tells.
const MAX_ITEMS: usize = 1_000;

pub(crate) async fn run(args: RefreshArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    match args.command {
        None => start(args.start, &connection, session).await,
        Some(RefreshCommand::List(args)) => list(&args, &connection, session).await,
        Some(RefreshCommand::Get(args)) => get(args.id, &connection, session).await,
        Some(RefreshCommand::Watch(args)) => watch(&args.id, &connection, session).await,
        Some(RefreshCommand::Cancel(args)) => cancel(args.id, &connection, session).await,
    }
}

async fn start(
    args: StartArgs,
    connection: &Connection,
    session: &Session,
) -> Result<Exit, Failure> {
    let kinds = args.kinds.iter().map(|kind| match kind {
        Kind::Packages => RefreshKind::Packages.into(),
        Kind::Schemas => RefreshKind::Schemas.into(),
        Kind::Icons => RefreshKind::Icons.into(),
    });
    let request = StartRefreshRequest {
        kinds: kinds.collect(),
        package: args.package,
        dry_run: args.dry_run,
        force: args.force,
        request_id: args
            .request_id
            .unwrap_or_else(|| Uuid::now_v7().to_string()),
    };
    let mut client = connection.refreshes();
    let answer = connection.call(client.start_refresh(request)).await?;
    let refresh = answer.refresh.unwrap_or_default();
    if answer.joined {
        note(&format!(
            "note: joined refresh {}, which was there already",
            refresh.id
        ));
    }
    if args.no_wait {
        let id = &refresh.id;
        session.output.print(
            || format!("refresh {id} is started; `steadfast refresh watch {id}` shows how it goes"),
            || json!({ "refresh": json::refresh(&refresh), "joined": answer.joined }),
        )?;
        return Ok(Exit::Success);
    }
    let (refresh, items) = follow::to_the_end(&refresh.id, false, connection).await?;
    print(&refresh, &items, session)?;
    Ok(exit_of(&refresh))
}

async fn watch(id: &str, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let (refresh, items) = follow::to_the_end(id, true, connection).await?;
    print(&refresh, &items, session)?;
    Ok(exit_of(&refresh))
}

async fn cancel(id: String, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let mut client = connection.refreshes();
    let answer = connection.call(client.cancel_refresh(CancelRefreshRequest { id }));
    let refresh = answer.await?.refresh.unwrap_or_default();
    session.output.print(
        || report::summary(&refresh),
        || json!({ "refresh": json::refresh(&refresh) }),
    )?;
    Ok(Exit::Success)
}

async fn get(id: String, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let mut items: Vec<RefreshItem> = Vec::new();
    let mut client = connection.refreshes();
    let refresh = loop {
        let request = GetRefreshRequest {
            id: id.clone(),
            skip_items: i32::try_from(items.len()).unwrap_or(i32::MAX),
        };
        let mut answer = connection.call(client.get_refresh(request)).await?;
        let came = answer.items.len();
        items.append(&mut answer.items);
        if came < MAX_ITEMS {
            break answer.refresh.unwrap_or_default();
        }
    };
    print(&refresh, &items, session)?;
    Ok(Exit::Success)
}

fn print(refresh: &Refresh, items: &[RefreshItem], session: &Session) -> Result<(), Failure> {
    session.output.print(
        || report::text(refresh, items),
        || {
            let items: Vec<_> = items.iter().map(json::refresh_item).collect();
            json!({ "refresh": json::refresh(refresh), "items": items })
        },
    )
}

async fn list(
    args: &ListArgs,
    connection: &Connection,
    session: &Session,
) -> Result<Exit, Failure> {
    let request = ListRefreshesRequest {
        page_size: args.limit,
        page_token: String::new(),
    };
    let mut client = connection.refreshes();
    let answer = connection.call(client.list_refreshes(request)).await?;
    session.output.print(
        || report::list_text(&answer.refreshes),
        || {
            let refreshes: Vec<_> = answer.refreshes.iter().map(json::refresh).collect();
            json!({ "refreshes": refreshes })
        },
    )?;
    Ok(Exit::Success)
}

fn exit_of(refresh: &Refresh) -> Exit {
    match refresh.state() {
        RefreshState::Succeeded => Exit::Success,
        RefreshState::Partial => Exit::Partial,
        RefreshState::Failed
        | RefreshState::Cancelled
        | RefreshState::Queued
        | RefreshState::Running
        | RefreshState::Unspecified => Exit::Error,
    }
}
