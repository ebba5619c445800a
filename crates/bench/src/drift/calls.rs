//! The calls of a provisioner, an agent and an operator.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use steadfast_api::{
    drift::v1::{
        BeginInventoryRequest, DetectDriftRequest, EndInventoryRequest, InventoryScope,
        ListSweepsRequest, Observation, RecordResourceRequest, ReportResourcesRequest, Sweep,
        SweepState, drift_service_client::DriftServiceClient, report_resources_response::result,
        resource_service_client::ResourceServiceClient,
    },
    watch::v1::{
        GetHeadRequest, Op, PublishRequest, publish_request,
        watch_service_client::WatchServiceClient,
    },
};
use tonic::transport::Channel;

use super::fleet::Fleet;
use crate::{error::Error, load};

/// Connections of the callers.
const CONNECTIONS: usize = 4;
/// Calls of RecordResource in flight.
const RECORDS: usize = 256;
/// Calls of ReportResources in flight.
const REPORTS: usize = 4;
/// Calls of Publish in flight.
const PUBLISHES: usize = 64;
/// Bytes of one payload: as many as the server takes.
const PAYLOAD_BYTES: usize = 4_096;
/// Resources in one of those.
const BATCH: u32 = 1_000;
/// How long the sweep is waited for that an inventory caused.
const SWEPT: Duration = Duration::from_secs(180);
/// How long a sweep is waited for in one call.
const WAIT: i64 = 60;

/// Whoever calls the server.
#[derive(Debug)]
pub(super) struct Agent {
    channels: Vec<Channel>,
}

/// A sweep that has ended.
#[derive(Debug)]
pub(super) struct Swept {
    pub(super) compared: f64,
    pub(super) opened: f64,
    /// From begin to end, by the database's clock.
    pub(super) seconds: f64,
    /// From the call to its answer.
    pub(super) seen_seconds: f64,
}

// === impl Swept ===

impl Swept {
    fn new(sweep: &Sweep, asked: Instant) -> Self {
        let time = |time: &Option<prost_types::Timestamp>| {
            let time = time.unwrap_or_default();
            time.seconds as f64 + f64::from(time.nanos) / 1e9
        };
        Self {
            compared: sweep.compared as f64,
            opened: sweep.drifts_opened as f64,
            seconds: (time(&sweep.end_time) - time(&sweep.start_time)).max(1e-6),
            seen_seconds: asked.elapsed().as_secs_f64(),
        }
    }
}

// === impl Agent ===

impl Agent {
    pub(super) async fn connect(address: &str) -> Result<Self, Error> {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(load::connect(address).await?);
        }
        Ok(Self { channels })
    }

    /// Publishes as much as the server keeps in memory for its subscribers, so that its growth afterwards has other reasons.
    pub(super) async fn fill_ring(&self, bytes: u64) -> Result<(), Error> {
        let count = bytes.div_ceil(PAYLOAD_BYTES as u64);
        let payload = prost::bytes::Bytes::from(vec![0; PAYLOAD_BYTES]);
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(PUBLISHES, |number| {
                let channel = &self.channels[number as usize % self.channels.len()];
                let mut client = WatchServiceClient::new(channel.clone());
                let change = publish_request::Change {
                    topic: "app/bench".to_owned(),
                    key: number.to_string(),
                    op: Op::Upsert.into(),
                    etag: String::new(),
                    payload: payload.clone(),
                };
                async move {
                    let request = PublishRequest {
                        changes: vec![change],
                        origin: "steadfast-bench".to_owned(),
                        request_id: String::new(),
                    };
                    client.publish(request).await?;
                    Ok::<(), Error>(())
                }
            })
            .await
    }

    fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    fn resources(&self, number: usize) -> ResourceServiceClient<Channel> {
        ResourceServiceClient::new(self.channel(number))
    }

    /// Records all specs. Returns how many a second.
    pub(super) async fn record(&self, fleet: &Fleet) -> Result<f64, Error> {
        let began = Instant::now();
        stream::iter(0..fleet.resources)
            .map(|number| {
                let mut client = self.resources(number as usize);
                async move {
                    let request = RecordResourceRequest {
                        key: Some(Fleet::key(number)),
                        spec_json: Fleet::spec(number),
                        recorded_by: "steadfast-bench".to_owned(),
                        ..RecordResourceRequest::default()
                    };
                    client.record_resource(request).await.map(drop)
                }
            })
            .buffer_unordered(RECORDS)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        Ok(f64::from(fleet.resources) / began.elapsed().as_secs_f64())
    }

    /// A complete inventory, in other words than the last one, of which so many of a hundred differ. Returns how many reports a
    /// second it brought, and the sweep that it caused.
    pub(super) async fn inventory(
        &self,
        fleet: &mut Fleet,
        percent: u32,
    ) -> Result<(f64, Swept), Error> {
        fleet.describe();
        let scope = InventoryScope {
            provider: "bench".to_owned(),
            types: Vec::new(),
        };
        let begun = self
            .resources(0)
            .begin_inventory(BeginInventoryRequest {
                scope: Some(scope),
                source: "steadfast-bench".to_owned(),
            })
            .await?
            .into_inner();
        let id = begun.inventory.map(|inventory| inventory.id);
        let id = id.ok_or_else(|| Error::Unexpected("an inventory has no id".to_owned()))?;
        // What is reported is made before the clock starts.
        let differs = |number| Fleet::differs(number, percent);
        let calls = batches(fleet, fleet.resources, &id, differs);
        let began = Instant::now();
        self.send(calls).await?;
        let seconds = began.elapsed().as_secs_f64();
        let end = EndInventoryRequest {
            id: id.clone(),
            complete: true,
            error: String::new(),
        };
        let mut request = tonic::Request::new(end);
        request.set_timeout(Duration::from_secs(60));
        self.resources(0).end_inventory(request).await?;
        let swept = self.swept_after(&id).await?;
        Ok((f64::from(fleet.resources) / seconds, swept))
    }

    /// Reports the first resources on their own.
    pub(super) async fn report_some(
        &self,
        fleet: &mut Fleet,
        count: u32,
        differ: bool,
    ) -> Result<(), Error> {
        fleet.describe();
        let calls = batches(fleet, count, "", |_| differ);
        self.send(calls).await
    }

    async fn send(&self, calls: Vec<ReportResourcesRequest>) -> Result<(), Error> {
        stream::iter(calls.into_iter().enumerate())
            .map(|(number, request)| {
                let mut client = self.resources(number);
                async move {
                    let mut request = tonic::Request::new(request);
                    request.set_timeout(Duration::from_secs(60));
                    let answer = client.report_resources(request).await?.into_inner();
                    let refused =
                        answer
                            .results
                            .into_iter()
                            .find_map(|result| match result.result {
                                Some(result::Result::Outcome(_)) => None,
                                other => Some(other),
                            });
                    match refused {
                        None => Ok(()),
                        Some(refused) => Err(Error::Unexpected(format!("a report: {refused:?}"))),
                    }
                }
            })
            .buffer_unordered(REPORTS)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    /// Sweeps what is due, or everything, and waits for the end.
    pub(super) async fn sweep(&self, full: bool) -> Result<Swept, Error> {
        let began = Instant::now();
        let sweep = self.detect(full).await?;
        Ok(Swept::new(&sweep, began))
    }

    async fn detect(&self, full: bool) -> Result<Sweep, Error> {
        let request = DetectDriftRequest {
            full,
            triggered_by: "steadfast-bench".to_owned(),
            wait_timeout: Some(prost_types::Duration {
                seconds: WAIT,
                nanos: 0,
            }),
            ..DetectDriftRequest::default()
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(WAIT as u64 + 30));
        let answer = DriftServiceClient::new(self.channel(0))
            .detect_drift(request)
            .await?
            .into_inner();
        let sweep = answer.sweep.filter(|_| !answer.joined);
        let ended = sweep.filter(|sweep| sweep.state() == SweepState::Completed);
        ended.ok_or_else(|| {
            Error::Unexpected("a sweep did not end, or was another one's".to_owned())
        })
    }

    /// The sweep that the end of an inventory caused, when it has ended.
    async fn swept_after(&self, inventory: &str) -> Result<Swept, Error> {
        let caused = format!("inventory:{inventory}");
        let began = Instant::now();
        while began.elapsed() < SWEPT {
            let request = ListSweepsRequest {
                page_size: 10,
                ..ListSweepsRequest::default()
            };
            let answer = DriftServiceClient::new(self.channel(0))
                .list_sweeps(request)
                .await?
                .into_inner();
            let mut ended = answer.sweeps.into_iter().filter(|sweep| {
                sweep.triggered_by == caused && sweep.state() == SweepState::Completed
            });
            if let Some(sweep) = ended.next() {
                return Ok(Swept::new(&sweep, began));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let message = format!(
            "no sweep ended within {} s of its inventory",
            SWEPT.as_secs()
        );
        Err(Error::Unexpected(message))
    }

    /// The newest revision.
    pub(super) async fn head(&self) -> Result<i64, Error> {
        let answer = WatchServiceClient::new(self.channel(0))
            .get_head(GetHeadRequest {})
            .await?;
        Ok(answer.into_inner().head.map_or(0, |cursor| cursor.revision))
    }
}

/// What is said of the first resources, in calls.
fn batches(
    fleet: &Fleet,
    count: u32,
    inventory: &str,
    differs: impl Fn(u32) -> bool,
) -> Vec<ReportResourcesRequest> {
    let first = (0..count).step_by(BATCH as usize);
    first
        .map(|first| {
            let numbers = first..count.min(first + BATCH);
            let observations = numbers.map(|number| Observation {
                key: Some(Fleet::key(number)),
                attributes_json: fleet.attributes(number, differs(number)),
                ..Observation::default()
            });
            ReportResourcesRequest {
                inventory_id: inventory.to_owned(),
                observations: observations.collect(),
            }
        })
        .collect()
}
