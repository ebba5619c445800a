//! `steadfast policy`.

use std::{collections::HashMap, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use prost_types::Timestamp;
use serde_json::json;
use steadfast_client::{
    Connection,
    api::drift::v1::{
        CreatePolicyRequest, DeletePolicyRequest, GetPolicyRequest, Handling, ListPoliciesRequest,
        MaintenanceWindow, Policy, Severity, UpdatePolicyRequest,
    },
};

use crate::{
    args::{key_and_value, parse_span},
    commands::{Session, drift::SeverityArg, resource::type_name, who::actor},
    failure::{Exit, Failure},
    json, moment, table,
};

/// Policies of one answer at most, which the contract tells.
const PAGE_SIZE: i32 = 1_000;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Create a policy
    Create(WriteArgs),
    /// List policies
    List(ListArgs),
    /// Show a policy
    Get(NameArgs),
    /// Change a policy
    ///
    /// What is given replaces what there is, and the rest stays.
    Update(WriteArgs),
    /// Delete a policy
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// The policy's name
    name: String,
    /// Where it applies: this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// This type; needs a provider
    #[arg(long = "type", value_name = "NAME")]
    kind: Option<String>,
    /// Resources with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// This path of the spec and what is below it, for example /tags
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// How drifts are handled there
    #[arg(long, value_enum)]
    handling: Option<HandlingArg>,
    /// How severe they are there
    #[arg(long, value_enum)]
    severity: Option<SeverityArg>,
    /// When they are expected there: `CRON;SPAN` or `CRON;SPAN;ZONE`, for example "0 3 * * 0;2h;Europe/Vienna"; may be repeated
    #[arg(long = "window", value_name = "WINDOW")]
    windows: Vec<WindowArg>,
    /// Why there is this policy; required to ignore
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// When it ends to apply: a span from now, for example 30d, or a time in RFC 3339; required to ignore
    #[arg(long, value_name = "WHEN")]
    expires: Option<Expiry>,
    /// With revert: how often one drift may be reverted
    #[arg(long, value_name = "NUMBER")]
    max_reverts: Option<i32>,
    /// Who; the user of this machine if it is left out
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HandlingArg {
    /// They are hidden
    Ignore,
    /// They wait for a person
    Manual,
    /// They are accepted as soon as they are found
    Accept,
    /// They are to be reverted; kept, and treated as manual by this release
    Revert,
}

#[derive(Debug, Clone, PartialEq)]
struct WindowArg(MaintenanceWindow);

#[derive(Debug, Clone, Copy)]
enum Expiry {
    In(Duration),
    At(DateTime<Utc>),
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The policy's name
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep those that apply to this provider, or to any
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    provider: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The policy's name
    name: String,
    /// Refuse if the policy is no longer as `policy get` showed it
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Who; the user of this machine if it is left out
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

pub(crate) async fn run(command: PolicyCommand, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.policies();
    let policy = match command {
        PolicyCommand::List(args) => return list(args, &connection, session).await,
        PolicyCommand::Create(args) => {
            let actor = actor(args.actor.clone());
            let mut policy = Policy {
                name: args.name.clone(),
                ..Policy::default()
            };
            args.put_into(&mut policy);
            let request = CreatePolicyRequest {
                policy: Some(policy),
                actor,
            };
            connection.call(client.create_policy(request)).await?.policy
        }
        PolicyCommand::Get(NameArgs { name }) => Some(get(&connection, name).await?),
        PolicyCommand::Update(args) => {
            let actor = actor(args.actor.clone());
            let mut policy = get(&connection, args.name.clone()).await?;
            args.put_into(&mut policy);
            let request = UpdatePolicyRequest {
                policy: Some(policy),
                actor,
            };
            connection.call(client.update_policy(request)).await?.policy
        }
        PolicyCommand::Delete(args) => {
            let etag = match args.etag {
                Some(etag) => etag,
                None => get(&connection, args.name.clone()).await?.etag,
            };
            let request = DeletePolicyRequest {
                name: args.name.clone(),
                etag,
                actor: actor(args.actor),
            };
            connection.call(client.delete_policy(request)).await?;
            session.output.print(
                || format!("policy {} is deleted", table::clean(&args.name)),
                || json!({ "deleted": args.name }),
            )?;
            return Ok(Exit::Success);
        }
    };
    let policy = policy.unwrap_or_default();
    session
        .output
        .print(|| one_text(&policy), || json::drift::policy(&policy))?;
    Ok(Exit::Success)
}

async fn get(connection: &Connection, name: String) -> Result<Policy, Failure> {
    let mut client = connection.policies();
    let answer = connection.call(client.get_policy(GetPolicyRequest { name }));
    Ok(answer.await?.policy.unwrap_or_default())
}

async fn list(args: ListArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let mut client = connection.policies();
    let request = ListPoliciesRequest {
        provider: args.provider,
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    // There are never more than fit into one page.
    let policies = connection
        .call(client.list_policies(request))
        .await?
        .policies;
    session.output.print(
        || list_text(&policies),
        || {
            let policies: Vec<_> = policies.iter().map(json::drift::policy).collect();
            json!({ "policies": policies })
        },
    )?;
    Ok(Exit::Success)
}

// === impl WriteArgs ===

impl WriteArgs {
    fn put_into(self, policy: &mut Policy) {
        let put = |place: &mut String, value: Option<String>| {
            if let Some(value) = value {
                *place = value;
            }
        };
        put(&mut policy.provider, self.provider);
        put(&mut policy.r#type, self.kind);
        put(&mut policy.path, self.path);
        put(&mut policy.reason, self.reason);
        if !self.labels.is_empty() {
            policy.labels = self.labels.into_iter().collect::<HashMap<_, _>>();
        }
        if let Some(handling) = self.handling {
            policy.handling = Handling::from(handling).into();
        }
        if let Some(severity) = self.severity {
            policy.severity = Severity::from(severity).into();
        }
        if !self.windows.is_empty() {
            policy.windows = self.windows.into_iter().map(|WindowArg(one)| one).collect();
        }
        if let Some(expires) = self.expires {
            let time = match expires {
                Expiry::In(span) => Utc::now() + span,
                Expiry::At(time) => time,
            };
            policy.expire_time = Some(Timestamp {
                seconds: time.timestamp(),
                nanos: 0,
            });
        }
        if let Some(max_reverts) = self.max_reverts {
            policy.max_reverts = max_reverts;
        }
    }
}

// === impl WindowArg ===

impl FromStr for WindowArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "write CRON;SPAN or CRON;SPAN;ZONE, for example \"0 3 * * 0;2h;Europe/Vienna\"";
        let mut parts = text.split(';').map(str::trim);
        let (Some(cron), Some(span)) = (parts.next(), parts.next()) else {
            return Err(wrong.to_owned());
        };
        let time_zone = parts.next().unwrap_or_default();
        if parts.next().is_some() || cron.is_empty() {
            return Err(wrong.to_owned());
        }
        let duration = parse_span(span)?;
        Ok(Self(MaintenanceWindow {
            cron: cron.to_owned(),
            time_zone: time_zone.to_owned(),
            duration: duration.try_into().ok(),
        }))
    }
}

// === impl Expiry ===

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(time) => Ok(Self::At(time)),
            Err(_) => parse_span(text).map(Self::In),
        }
    }
}

impl From<HandlingArg> for Handling {
    fn from(handling: HandlingArg) -> Self {
        match handling {
            HandlingArg::Ignore => Self::Ignore,
            HandlingArg::Manual => Self::Manual,
            HandlingArg::Accept => Self::Accept,
            HandlingArg::Revert => Self::Revert,
        }
    }
}

/// Where it applies, in one cell.
fn place(policy: &Policy) -> String {
    let mut labels: Vec<_> = policy
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    let parts = [
        type_name(&policy.provider, &policy.r#type),
        table::clean(&labels.join(",")),
        table::clean(&policy.path),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        "everywhere".to_owned()
    } else {
        parts.join(" ")
    }
}

fn windows(policy: &Policy) -> Vec<String> {
    let windows = policy.windows.iter();
    windows
        .map(|window| {
            let seconds = window.duration.as_ref().map_or(0, |span| span.seconds);
            let zone = if window.time_zone.is_empty() {
                "UTC"
            } else {
                &window.time_zone
            };
            table::clean(&format!("{} {zone} for {}m", window.cron, seconds / 60))
        })
        .collect()
}

fn expires(policy: &Policy) -> String {
    policy
        .expire_time
        .as_ref()
        .map_or_else(String::new, |time| moment::relative(Some(time)))
}

fn list_text(policies: &[Policy]) -> String {
    if policies.is_empty() {
        return "no policies".to_owned();
    }
    let mut rows = table::with_head(&[
        "NAME", "WHERE", "HANDLING", "SEVERITY", "WINDOWS", "EXPIRES", "BY", "REASON",
    ]);
    for policy in policies {
        rows.add_row([
            table::clean(&policy.name),
            place(policy),
            json::drift::handling(policy.handling),
            json::drift::severity(policy.severity),
            windows(policy).join(", "),
            expires(policy),
            table::clean(&policy.actor),
            table::clean(&policy.reason),
        ]);
    }
    table::text(&rows)
}

fn one_text(policy: &Policy) -> String {
    table::of_fields([
        ("name", table::clean(&policy.name)),
        ("where", place(policy)),
        ("handling", json::drift::handling(policy.handling)),
        ("severity", json::drift::severity(policy.severity)),
        ("windows", windows(policy).join(", ")),
        ("reason", table::clean(&policy.reason)),
        ("expires", expires(policy)),
        ("by", table::clean(&policy.actor)),
        ("created", moment::relative(policy.create_time.as_ref())),
        ("updated", moment::relative(policy.update_time.as_ref())),
        ("etag", policy.etag.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: WriteArgs,
    }

    #[test]
    fn what_is_given_replaces_and_the_rest_stays() {
        let line = [
            "test",
            "noise",
            "--path",
            "/tags",
            "--handling",
            "ignore",
            "--expires",
            "2027-01-01T00:00:00Z",
            "--window",
            "0 3 * * 0; 2h; Europe/Vienna",
        ];
        let args = Line::try_parse_from(line).expect("well-formed").args;
        let mut policy = Policy {
            provider: "do".to_owned(),
            path: "/name".to_owned(),
            reason: "old".to_owned(),
            etag: "7".to_owned(),
            ..Policy::default()
        };
        args.put_into(&mut policy);
        assert_eq!(
            (policy.provider.as_str(), policy.path.as_str()),
            ("do", "/tags")
        );
        assert_eq!((policy.reason.as_str(), policy.etag.as_str()), ("old", "7"));
        assert_eq!(policy.handling(), Handling::Ignore);
        assert_eq!(
            policy.expire_time.map(|time| time.seconds),
            Some(1_798_761_600)
        );
        assert_eq!(windows(&policy), ["0 3 * * 0 Europe/Vienna for 120m"]);
        assert_eq!(place(&policy), "do /tags");
        assert_eq!(place(&Policy::default()), "everywhere");
    }

    #[test]
    fn windows_have_two_or_three_parts() {
        for text in ["0 3 * * 0", ";2h", "0 3 * * 0;2", "0 3 * * 0;2h;UTC;x"] {
            assert!(text.parse::<WindowArg>().is_err(), "{text}");
        }
        let window: WindowArg = "0 3 * * 0;90m".parse().expect("well-formed");
        assert_eq!(window.0.duration.map(|span| span.seconds), Some(5_400));
        assert_eq!(window.0.time_zone, "");
    }
}
