//! Ten thousand packages of an organisation: what memory they take, whether they come steadily, and what a server that is killed half
//! way has to fetch again.

use std::{path::Path, time::Duration};

use steadfast_api::registry::v1::{
    ListRefreshesRequest, Refresh, refresh_service_client::RefreshServiceClient,
};
use steadfast_testkit::process::ServerBuilder;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::{MIB, stop};
use crate::{
    catalogue::{self, Registry},
    error::Error,
    load, process,
    statistics::Series,
};

/// How many packages.
pub(super) const PACKAGES: usize = 10_000;
/// How long the registry takes for each answer: little, so that the server is what is measured.
pub(super) const DELAY: Duration = Duration::from_millis(2);
/// Memory may grow by this, in MiB.
pub(super) const GROWTH_MAX_MIB: f64 = 256.0;
/// The refresh is looked at so often.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// What was measured on one engine.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// Peak of the refresh over what was resident before it, in MiB.
    pub(super) growth_mib: Series,
    pub(super) packages_per_s: Series,
    /// The time of the slowest tenth of the packages over that of the mean tenth.
    pub(super) slowest_tenth: Series,
    /// Requests beyond those that a refresh without a kill takes.
    pub(super) fetched_twice: Series,
}

// === impl Large ===

impl Large {
    /// One refresh to its end, and one whose server is killed half way, each with an empty database.
    pub(super) async fn add(
        &mut self,
        builders: [ServerBuilder; 2],
        registry: &mut Registry,
        folder: &Path,
        round: &str,
    ) -> Result<(), Error> {
        let [whole, halved] = builders.map(|builder| {
            builder
                .variable("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false")
                .variable("STEADFAST_LEASE__DURATION_MS", "1000")
        });
        registry.reset().await?;
        let server = whole.start().await;
        let channel = load::connect(server.grpc_address()).await?;
        let before = process::memory(server.pid())?.resident;
        process::forget_peak(server.pid())?;
        catalogue::start(&channel).await?;
        let tenths = tenths(&channel).await?;
        let refresh = catalogue::finished(&channel, PACKAGES, true).await?;
        let seconds = catalogue::seconds(&refresh);
        let growth = process::memory(server.pid())?.peak.saturating_sub(before) as f64 / MIB;
        let requests = registry.counts().await?.requests;
        let mean = tenths.iter().sum::<f64>() / tenths.len() as f64;
        let slowest = tenths.iter().copied().fold(0.0, f64::max) / mean;
        stop(server).await?;

        registry.reset().await?;
        let halved = halved.directory(folder);
        let mut server = halved.start().await;
        let channel = load::connect(server.grpc_address()).await?;
        catalogue::start(&channel).await?;
        until(&channel, PACKAGES / 2).await?;
        server.kill().await;
        let server = halved.start().await;
        let channel = load::connect(server.grpc_address()).await?;
        catalogue::finished(&channel, PACKAGES, true).await?;
        let twice = registry.counts().await?.requests.saturating_sub(requests);
        stop(server).await?;

        eprintln!(
            "{round}: {PACKAGES} packages in {seconds:.1} s, {growth:.0} MiB more, slowest tenth {slowest:.2} of the mean, {twice} of \
             {requests} requests again after a kill",
        );
        self.growth_mib.push(growth);
        self.packages_per_s.push(PACKAGES as f64 / seconds);
        self.slowest_tenth.push(slowest);
        self.fetched_twice.push(twice as f64);
        Ok(())
    }
}

/// Has the registry make its packages, which it does when they are first asked for.
pub(super) async fn warm_up(builder: &ServerBuilder) -> Result<(), Error> {
    let server = builder.start().await;
    let channel = load::connect(server.grpc_address()).await?;
    catalogue::finished(&channel, PACKAGES, true).await?;
    stop(server).await
}

/// How long each tenth of the packages took, in seconds.
async fn tenths(channel: &Channel) -> Result<Vec<f64>, Error> {
    let mut tenths = Vec::new();
    let mut since = Instant::now();
    for tenth in 1..=10 {
        until(channel, PACKAGES * tenth / 10).await?;
        tenths.push(since.elapsed().as_secs_f64());
        since = Instant::now();
    }
    Ok(tenths)
}

/// Waits until so many packages have been read, or the refresh has ended.
async fn until(channel: &Channel, packages: usize) -> Result<(), Error> {
    let mut client = RefreshServiceClient::new(channel.clone());
    let deadline = Instant::now() + DEADLINE;
    loop {
        let request = ListRefreshesRequest {
            page_size: 1,
            ..Default::default()
        };
        let list = client.list_refreshes(request).await?.into_inner();
        let newest = list.refreshes.into_iter().next();
        if newest.is_some_and(|refresh| refresh.end_time.is_some() || read(&refresh) >= packages) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let message = format!(
                "{packages} packages were not read within {} s",
                DEADLINE.as_secs()
            );
            return Err(Error::Unexpected(message));
        }
        sleep(LOOK).await;
    }
}

fn read(refresh: &Refresh) -> usize {
    let packages = refresh.counts.first();
    let read = packages.map_or(0, |counts| {
        counts.changed + counts.unchanged + counts.failed
    });
    usize::try_from(read).unwrap_or(0)
}
