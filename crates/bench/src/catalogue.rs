//! A server whose catalogue comes from a registry on loopback.

use std::time::Duration;

use steadfast_api::registry::v1::{
    ListRefreshesRequest, Refresh, RefreshState, StartRefreshRequest,
    refresh_service_client::RefreshServiceClient,
};
use steadfast_testkit::process::ServerBuilder;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{child::Child, error::Error, floor::Counts, program::Program};

/// What the packages' names begin with; five digits follow.
const PREFIX: &str = "@bench/package-";
/// How often a refresh is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long a refresh may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// A registry as a process.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    packages: usize,
}

// === impl Registry ===

impl Registry {
    pub(crate) async fn start(packages: usize, delay: Duration) -> Result<Self, Error> {
        let arguments = [
            "npm",
            "--prefix",
            PREFIX,
            "--packages",
            &packages.to_string(),
            "--delay-ms",
            &delay.as_millis().to_string(),
        ];
        let child = Child::start(arguments.map(Into::into)).await?;
        Ok(Self { child, packages })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.packages).map(|index| format!("{PREFIX}{index:05}"))
    }

    /// A server with the packages as its one source, and defaults for everything else.
    pub(crate) fn server(&self, program: &Program) -> ServerBuilder {
        let names: Vec<String> = self.names().map(|name| format!("{name:?}")).collect();
        program.server().configuration(format!(
            "[[catalog.source]]\nname = \"bench\"\ntype = \"npm\"\nregistry = \"{}\"\nnames = [{}]\n",
            self.child.address(),
            names.join(", "),
        ))
    }

    /// A server with the whole organisation as its one source.
    pub(crate) fn organization(&self, program: &Program) -> ServerBuilder {
        let (organization, _) = PREFIX
            .trim_start_matches('@')
            .split_once('/')
            .unwrap_or_default();
        program.server().configuration(format!(
            "[[catalog.source]]\nname = \"bench\"\ntype = \"npm\"\nregistry = \"{}\"\norganization = \"{organization}\"\n",
            self.child.address(),
        ))
    }

    pub(crate) async fn reset(&mut self) -> Result<(), Error> {
        self.child.ask("reset").await.map(drop)
    }

    pub(crate) async fn counts(&mut self) -> Result<Counts, Error> {
        let answer = self.child.ask("counts").await?;
        serde_json::from_value(answer)
            .map_err(|error| Error::Unexpected(format!("the registry's counts: {error}")))
    }
}

/// Waits until the newest refresh has ended, and checks that every package and every schema had this outcome.
pub(crate) async fn finished(
    channel: &Channel,
    packages: usize,
    changed: bool,
) -> Result<Refresh, Error> {
    let mut client = RefreshServiceClient::new(channel.clone());
    let deadline = Instant::now() + DEADLINE;
    loop {
        let list = client.list_refreshes(ListRefreshesRequest::default());
        let newest = list.await?.into_inner().refreshes.into_iter().next();
        if let Some(refresh) = newest.filter(|refresh| refresh.end_time.is_some()) {
            check(&refresh, packages, changed)?;
            return Ok(refresh);
        }
        if Instant::now() >= deadline {
            let message = format!("a refresh did not end within {} s", DEADLINE.as_secs());
            return Err(Error::Unexpected(message));
        }
        sleep(POLL).await;
    }
}

/// Starts a refresh of everything.
pub(crate) async fn start(channel: &Channel) -> Result<(), Error> {
    let mut client = RefreshServiceClient::new(channel.clone());
    client.start_refresh(StartRefreshRequest::default()).await?;
    Ok(())
}

fn check(refresh: &Refresh, packages: usize, changed: bool) -> Result<(), Error> {
    let as_expected = !refresh.counts.is_empty()
        && refresh.counts.iter().all(|counts| {
            let right = if changed {
                counts.changed
            } else {
                counts.unchanged
            };
            usize::try_from(right) == Ok(packages) || (!changed && counts.listed == 0)
        });
    if refresh.state() == RefreshState::Succeeded && as_expected {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "a refresh ended as {:?} {:?} {:?}",
        refresh.state(),
        refresh.error,
        refresh.counts
    )))
}

/// From the request for a refresh to its end, by the server's own account.
pub(crate) fn seconds(refresh: &Refresh) -> f64 {
    let micros = |time: Option<prost_types::Timestamp>| {
        time.map_or(0, |time| {
            time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
        })
    };
    (micros(refresh.end_time) - micros(refresh.create_time)) as f64 / 1e6
}
