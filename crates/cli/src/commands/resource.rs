//! `steadfast resource`.

mod report;
mod view;

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use steadfast_client::api::drift::v1::{
    DeleteResourceRequest, GetResourceRequest, ListResourceEventsRequest, ListResourcesRequest,
    RecordResourceRequest, Resource, ResourceEvent, ResourceKey, Verdict,
};

use crate::{
    args::key_and_value,
    commands::{
        Session, document,
        who::{WhoArgs, user},
    },
    failure::{Exit, Failure},
    json,
};

pub(super) use view::{name, type_name};

/// Resources, or events, of one answer at most, which the contract tells.
const PAGE_SIZE: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub(crate) enum ResourceCommand {
    /// Say what was asked for
    ///
    /// From a file in TOML or JSON. It counts as applied now, unless --pending says that it is not: the next look at the resource
    /// is compared with it.
    Record(RecordArgs),
    /// Say what is there
    ///
    /// Of one resource, or with --from of many.
    Report(report::ReportArgs),
    /// Show a resource with both of its documents
    Get(KeyArgs),
    /// List resources
    List(ListArgs),
    /// List what happened to a resource
    Events(EventsArgs),
    /// Forget what was asked for
    Delete(DeleteArgs),
}

/// A resource: `PROVIDER/TYPE/ID`. Only the id may hold more slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) ResourceKey);

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The resource, for example digitalocean/droplet/4711
    #[arg(value_name = "PROVIDER/TYPE/ID")]
    key: Key,
}

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    resource: KeyArgs,
    /// A file with the spec, in TOML or JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// It is not applied yet: do not compare it until it is recorded without this
    #[arg(long)]
    pending: bool,
    /// Refuse if the spec's version is another one; 0 if nobody may have recorded it yet
    #[arg(long, value_name = "NUMBER")]
    expected_version: Option<i64>,
    /// The saga that provisioned it
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    saga: String,
    /// Who asks for it; the user of this machine if it is left out
    #[arg(long, value_name = "NAME")]
    recorded_by: Option<String>,
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
    /// Keep those of this type
    #[arg(
        long = "type",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    kind: String,
    /// Keep those with this label; may be repeated, and then all must be there
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// Keep those with this verdict; may be repeated
    #[arg(long = "verdict", value_enum, value_name = "VERDICT")]
    verdicts: Vec<VerdictArg>,
    /// The most resources to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VerdictArg {
    InSync,
    Drifted,
    Pending,
    Busy,
    Unreadable,
    NotObserved,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    resource: KeyArgs,
    /// List events with a higher number only
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,
    /// The most events to list
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    resource: KeyArgs,
    #[command(flatten)]
    who: WhoArgs,
    /// Refuse if the resource is no longer as `resource get` showed it
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "ETAG"
    )]
    etag: String,
}

pub(crate) async fn run(command: ResourceCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        ResourceCommand::Record(args) => record(args, session).await,
        ResourceCommand::Report(args) => report::run(args, session).await,
        ResourceCommand::Get(args) => get(args, session).await,
        ResourceCommand::List(args) => list(args, session).await,
        ResourceCommand::Events(args) => events(args, session).await,
        ResourceCommand::Delete(args) => delete(args, session).await,
    }
}

async fn record(args: RecordArgs, session: &Session) -> Result<Exit, Failure> {
    let request = RecordResourceRequest {
        key: Some(args.resource.key.0),
        spec_json: document::read_object_text(&args.spec)?,
        labels: args.labels.into_iter().collect(),
        recorded_by: args.recorded_by.or_else(user).unwrap_or_default(),
        saga_id: args.saga,
        pending: args.pending,
        expected_version: args.expected_version,
    };
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let answer = connection.call(client.record_resource(request)).await?;
    let resource = answer.resource.unwrap_or_default();
    session.output.print(
        || {
            let name = name(resource.key.as_ref());
            let version = resource.spec_version;
            if answer.changed {
                format!("{name} is recorded as version {version}")
            } else {
                format!("{name} was recorded before, as version {version}, and is applied again")
            }
        },
        || json!({ "resource": json::drift::resource(&resource), "changed": answer.changed }),
    )?;
    Ok(Exit::Success)
}

async fn get(args: KeyArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let request = GetResourceRequest {
        key: Some(args.key.0),
    };
    let answer = connection.call(client.get_resource(request)).await?;
    let resource = answer.resource.unwrap_or_default();
    session
        .output
        .print(|| view::one(&resource), || json::drift::resource(&resource))?;
    Ok(Exit::Success)
}

async fn list(args: ListArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let limit = args.limit as usize;
    let mut request = ListResourcesRequest {
        provider: args.provider,
        r#type: args.kind,
        labels: args.labels.into_iter().collect(),
        verdicts: args
            .verdicts
            .iter()
            .map(|verdict| Verdict::from(*verdict).into())
            .collect(),
        page_size: 0,
        page_token: String::new(),
    };
    let mut resources: Vec<Resource> = Vec::new();
    loop {
        let missing = u32::try_from(limit - resources.len()).unwrap_or(PAGE_SIZE);
        request.page_size = missing.min(PAGE_SIZE).cast_signed();
        let call = client.list_resources(request.clone());
        let mut answer = connection.call(call).await?;
        resources.append(&mut answer.resources);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() || resources.len() >= limit {
            break;
        }
    }
    let more = !request.page_token.is_empty();
    session.output.print(
        || view::list(&resources, more),
        || {
            let resources: Vec<_> = resources.iter().map(json::drift::resource).collect();
            json!({ "resources": resources, "more": more })
        },
    )?;
    Ok(Exit::Success)
}

async fn events(args: EventsArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let limit = args.limit as usize;
    let mut request = ListResourceEventsRequest {
        key: Some(args.resource.key.0),
        after_seq: args.after,
        page_size: 0,
        page_token: String::new(),
    };
    let mut events: Vec<ResourceEvent> = Vec::new();
    loop {
        let missing = u32::try_from(limit - events.len()).unwrap_or(PAGE_SIZE);
        request.page_size = missing.min(PAGE_SIZE).cast_signed();
        let call = client.list_resource_events(request.clone());
        let mut answer = connection.call(call).await?;
        events.append(&mut answer.events);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() || events.len() >= limit {
            break;
        }
    }
    session.output.print(
        || view::events(&events),
        || {
            let events: Vec<_> = events.iter().map(json::drift::event).collect();
            json!({ "events": events })
        },
    )?;
    Ok(Exit::Success)
}

async fn delete(args: DeleteArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.resources();
    let key = args.resource.key.0;
    let request = DeleteResourceRequest {
        key: Some(key.clone()),
        etag: args.etag,
        actor: args.who.actor(),
        reason: args.who.reason,
    };
    connection.call(client.delete_resource(request)).await?;
    session.output.print(
        || format!("{} is no longer asked for", name(Some(&key))),
        || json!({ "deleted": name(Some(&key)) }),
    )?;
    Ok(Exit::Success)
}

// === impl Key ===

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(provider), Some(kind), Some(id))
                if !provider.is_empty() && !kind.is_empty() && !id.is_empty() =>
            {
                Ok(Self(ResourceKey {
                    provider,
                    r#type: kind,
                    id,
                }))
            }
            _ => Err("write PROVIDER/TYPE/ID, for example digitalocean/droplet/4711".to_owned()),
        }
    }
}

impl From<VerdictArg> for Verdict {
    fn from(verdict: VerdictArg) -> Self {
        match verdict {
            VerdictArg::InSync => Self::InSync,
            VerdictArg::Drifted => Self::Drifted,
            VerdictArg::Pending => Self::Pending,
            VerdictArg::Busy => Self::Busy,
            VerdictArg::Unreadable => Self::Unreadable,
            VerdictArg::NotObserved => Self::NotObserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_holds_slashes() {
        let read = |text: &str| {
            let Key(key) = text.parse().ok()?;
            Some((key.provider, key.r#type, key.id))
        };
        let parts = |provider: &str, kind: &str, id: &str| {
            Some((provider.to_owned(), kind.to_owned(), id.to_owned()))
        };
        assert_eq!(read("do/droplet/7"), parts("do", "droplet", "7"));
        assert_eq!(read("aws/lb/arn:x/y/z"), parts("aws", "lb", "arn:x/y/z"));
        for text in ["", "a", "a/b", "a/b/", "/b/c", "a//c"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
