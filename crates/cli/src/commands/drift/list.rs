//! Looking at drifts.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use serde_json::json;
use steadfast_client::api::drift::v1::{
    Drift, DriftKind, DriftState, GetDriftRequest, ListDriftsRequest, Severity,
};

use super::{DriftArgs, report};
use crate::{
    args::key_and_value,
    commands::{Session, resource::Key},
    failure::{Exit, Failure},
    json,
};

/// Drifts of one answer at most, which the contract tells.
const PAGE_SIZE: u32 = 1_000;
/// Earlier drifts at the same path that are shown.
const HISTORY: i32 = 10;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep those of this resource
    #[arg(value_name = "PROVIDER/TYPE/ID", conflicts_with_all = ["provider", "kind_of"])]
    key: Option<Key>,
    /// Keep those in this state; may be repeated. Open ones if it is left out
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<StateArg>,
    /// Keep those of this kind; may be repeated
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    kinds: Vec<KindArg>,
    /// Keep those of at least this severity
    #[arg(long, value_enum)]
    severity: Option<SeverityArg>,
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
        id = "kind_of",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    kind_of: String,
    /// Keep those of resources with this label; may be repeated, and then all must be there
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_and_value)]
    labels: Vec<(String, String)>,
    /// Keep those at this path, for example /size_slug
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "PATH"
    )]
    path: String,
    /// List those that are hidden, too
    #[arg(long)]
    hidden: bool,
    /// The most drifts to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Open,
    Accepted,
    Reverted,
    Stale,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Changed,
    Missing,
    Gone,
    Unmanaged,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SeverityArg {
    Info,
    Warning,
    Critical,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    drift: DriftArgs,
    /// Whether to use colours; by default on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = ColourArg::Auto, value_name = "WHEN")]
    color: ColourArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ColourArg {
    Auto,
    Always,
    Never,
}

pub(super) async fn run(args: ListArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let limit = args.limit as usize;
    let key = args.key.map(|Key(key)| key).unwrap_or_default();
    let or = |one: String, other: String| if one.is_empty() { other } else { one };
    let mut request = ListDriftsRequest {
        states: args
            .states
            .iter()
            .map(|state| DriftState::from(*state).into())
            .collect(),
        kinds: args
            .kinds
            .iter()
            .map(|kind| DriftKind::from(*kind).into())
            .collect(),
        min_severity: args
            .severity
            .map_or(Severity::Unspecified, Severity::from)
            .into(),
        provider: or(key.provider, args.provider),
        r#type: or(key.r#type, args.kind_of),
        id: key.id,
        labels: args.labels.into_iter().collect(),
        path: args.path,
        include_suppressed: args.hidden,
        page_size: 0,
        page_token: String::new(),
    };
    let mut drifts: Vec<Drift> = Vec::new();
    let hidden = loop {
        let missing = u32::try_from(limit - drifts.len()).unwrap_or(PAGE_SIZE);
        request.page_size = missing.min(PAGE_SIZE).cast_signed();
        let mut answer = connection.call(client.list_drifts(request.clone())).await?;
        drifts.append(&mut answer.drifts);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() || drifts.len() >= limit {
            break answer.suppressed;
        }
    };
    let more = !request.page_token.is_empty();
    session.output.print(
        || report::list(&drifts, more, hidden),
        || {
            let drifts: Vec<_> = drifts.iter().map(json::drift::drift).collect();
            json!({ "drifts": drifts, "more": more, "hidden": hidden })
        },
    )?;
    Ok(Exit::Success)
}

pub(super) async fn show(args: ShowArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let mut client = connection.drifts();
    let request = GetDriftRequest {
        id: args.drift.id(),
    };
    let answer = connection.call(client.get_drift(request)).await?;
    let drift = answer.drift.unwrap_or_default();
    let key = drift.key.clone().unwrap_or_default();
    let history = ListDriftsRequest {
        states: [
            DriftState::Accepted,
            DriftState::Reverted,
            DriftState::Stale,
        ]
        .map(i32::from)
        .to_vec(),
        // Without a path, all of the resource's would come.
        kinds: match drift.path.as_str() {
            "" => vec![DriftKind::Gone.into(), DriftKind::Unmanaged.into()],
            _ => Vec::new(),
        },
        provider: key.provider,
        r#type: key.r#type,
        id: key.id,
        path: drift.path.clone(),
        include_suppressed: true,
        page_size: HISTORY,
        ..ListDriftsRequest::default()
    };
    let answer = connection.call(client.list_drifts(history)).await?;
    let history: Vec<_> = answer
        .drifts
        .into_iter()
        .filter(|earlier| earlier.id != drift.id)
        .collect();
    let colours = args.color.on();
    session.output.print(
        || report::one(&drift, &history, colours),
        || {
            let history: Vec<_> = history.iter().map(json::drift::drift).collect();
            json!({ "drift": json::drift::drift(&drift), "history": history })
        },
    )?;
    Ok(Exit::Success)
}

// === impl ColourArg ===

impl ColourArg {
    fn on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                !refused && std::io::stdout().is_terminal()
            }
        }
    }
}

impl From<StateArg> for DriftState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Open => Self::Open,
            StateArg::Accepted => Self::Accepted,
            StateArg::Reverted => Self::Reverted,
            StateArg::Stale => Self::Stale,
        }
    }
}

impl From<KindArg> for DriftKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Changed => Self::Changed,
            KindArg::Missing => Self::Missing,
            KindArg::Gone => Self::Gone,
            KindArg::Unmanaged => Self::Unmanaged,
        }
    }
}

impl From<SeverityArg> for Severity {
    fn from(severity: SeverityArg) -> Self {
        match severity {
            SeverityArg::Info => Self::Info,
            SeverityArg::Warning => Self::Warning,
            SeverityArg::Critical => Self::Critical,
        }
    }
}
