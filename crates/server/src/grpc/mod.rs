//! The gRPC edge: the services, what every call passes, and the errors that callers see.

mod admin;
mod bundle;
mod drift;
mod field;
mod icon;
mod layer;
mod nodes;
mod raw;
mod refresh;
mod registry;
mod route;
mod saga;
mod schema;
mod status;
mod watch;

use std::{future::Future, time::Duration};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use steadfast_api::{
    FILE_DESCRIPTOR_SET,
    admin::v1::{
        schedule_service_server::ScheduleServiceServer, server_service_server::ServerServiceServer,
    },
    drift::v1::{
        drift_service_server::DriftServiceServer, policy_service_server::PolicyServiceServer,
        resource_service_server::ResourceServiceServer,
    },
    registry::v1::{
        bundle_service_server::BundleServiceServer, refresh_service_server::RefreshServiceServer,
    },
    saga::v1::saga_service_server::SagaServiceServer,
    watch::v1::node_service_server::NodeServiceServer,
};
use steadfast_catalog::Catalog;
use steadfast_drift::Sweeper;
use steadfast_saga::Engine;
use steadfast_store::{Store, Wakeups};
use steadfast_types::{ReplicaId, Timestamp};
use steadfast_watch::{Hub, Nodes, PublishLimits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{config::Config, inventories::Inventories, schedule::Scheduler};
use layer::{EdgeLayer, EdgeLimits};

/// What the services work on.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) nodes: Nodes,
    pub(crate) wakeups: Wakeups,
    pub(crate) catalog: Catalog,
    pub(crate) sagas: Engine,
    pub(crate) sweeper: Sweeper,
    pub(crate) inventories: Inventories,
    pub(crate) scheduler: Scheduler,
    pub(crate) replica: ReplicaId,
    pub(crate) started: Timestamp,
    pub(crate) commit: &'static str,
    pub(crate) traced: bool,
}

/// The contract, read from its descriptors.
struct Contract {
    /// Full names.
    services: Vec<String>,
    /// Paths, each with whether its answer or its request is a stream.
    rpcs: Vec<(String, bool)>,
}

/// Says of every service whether it serves.
#[derive(Clone)]
pub(crate) struct Serving {
    reporter: HealthReporter,
    services: Vec<String>,
}

/// The server cannot be put together or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The contract's descriptors cannot be served.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The contract's descriptors cannot be read.
    #[error("the contract's descriptors: {0}")]
    Descriptors(#[from] prost::DecodeError),
    /// The transport failed.
    #[error("gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
}

// === impl Serving ===

impl Serving {
    /// Sets all services at once.
    pub(crate) async fn set(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in &self.services {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Sets all services to not serving and ends the streams that watch them, which otherwise keep a stopping server until the
    /// end of its grace period.
    pub(crate) async fn end(&mut self) {
        self.set(false).await;
        for service in &self.services {
            self.reporter.clear_service_status(service).await;
        }
        // Known again, for those who ask on a connection that is still open.
        self.set(false).await;
    }
}

/// Puts the server together. The future serves until `stop` and every call has ended.
pub(crate) async fn serve(
    config: &Config,
    parts: Parts,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<
    (
        Serving,
        impl Future<Output = Result<(), Error>> + Send + use<>,
    ),
    Error,
> {
    let contract = Contract::read()?;
    let max_bytes = config.limits.max_message_bytes;
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = Serving {
        reporter,
        services: contract
            .services
            .iter()
            .cloned()
            .chain([String::new()])
            .collect(),
    };
    serving.set(false).await;
    // Each version knows the other one, and both know the messages that explain an error: without them a client that only has
    // reflection shows those as bytes.
    let reflection = || {
        [
            FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .fold(
            tonic_reflection::server::Builder::configure(),
            |reflection, files| reflection.register_encoded_file_descriptor_set(files),
        )
    };
    let catalog = parts.catalog;
    let watch = watch::WatchEdge {
        catalog: catalog.clone(),
        store: parts.store.clone(),
        hub: parts.hub.clone(),
        nodes: parts.nodes.clone(),
        wakeups: parts.wakeups.clone(),
        limits: PublishLimits {
            changes: config.limits.publish_max_changes,
            payload_bytes: config.limits.publish_max_payload_bytes,
        },
        progress_interval: config.watch.progress_interval,
        drain_jitter: config.server.drain_jitter,
    };
    let nodes = nodes::NodeEdge {
        nodes: parts.nodes,
        default_deadline: config.limits.default_deadline,
    };
    let sagas = saga::SagaEdge {
        engine: parts.sagas,
        hub: parts.hub.clone(),
        drain_jitter: config.server.drain_jitter,
    };
    let drift = drift::DriftEdge {
        store: parts.store.clone(),
        wakeups: parts.wakeups.clone(),
        sweeper: parts.sweeper,
        inventories: parts.inventories,
    };
    let server = admin::ServerEdge {
        store: parts.store,
        hub: parts.hub,
        wakeups: parts.wakeups,
        replica: parts.replica,
        started: parts.started,
        commit: parts.commit,
    };
    let limits = EdgeLimits {
        in_flight: config.limits.max_in_flight_unary,
        deadline: config.limits.default_deadline,
    };
    let schedules = admin::ScheduleEdge {
        scheduler: parts.scheduler,
    };
    let refresh = refresh::RefreshEdge {
        catalog: catalog.clone(),
        drain: stop.clone(),
        drain_jitter: config.server.drain_jitter,
    };
    let router = builder(config)
        .layer(EdgeLayer::new(limits, contract.rpcs, parts.traced))
        .add_service(route::RegistryRoute::new(
            registry::RegistryEdge {
                catalog: catalog.clone(),
            },
            max_bytes,
        ))
        .add_service(route::SchemaRoute::new(
            schema::SchemaEdge {
                catalog: catalog.clone(),
            },
            max_bytes,
        ))
        .add_service(route::IconRoute::new(
            icon::IconEdge {
                catalog: catalog.clone(),
            },
            max_bytes,
        ))
        .add_service(
            BundleServiceServer::new(bundle::BundleEdge {
                catalog,
                max_bytes: config.limits.bundle_max_bytes,
            })
            .max_decoding_message_size(max_bytes),
        )
        .add_service(route::WatchRoute::new(watch, max_bytes))
        .add_service(NodeServiceServer::new(nodes).max_decoding_message_size(max_bytes))
        .add_service(RefreshServiceServer::new(refresh).max_decoding_message_size(max_bytes))
        .add_service(SagaServiceServer::new(sagas).max_decoding_message_size(max_bytes))
        .add_service(ResourceServiceServer::new(drift.clone()).max_decoding_message_size(max_bytes))
        .add_service(DriftServiceServer::new(drift.clone()).max_decoding_message_size(max_bytes))
        .add_service(PolicyServiceServer::new(drift).max_decoding_message_size(max_bytes))
        .add_service(ScheduleServiceServer::new(schedules).max_decoding_message_size(max_bytes))
        .add_service(ServerServiceServer::new(server).max_decoding_message_size(max_bytes))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(TCP_KEEPALIVE));
    let whole = async move {
        router
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await
            .map_err(Error::from)
    };
    Ok((serving, whole))
}

/// When the kernel begins to ask a silent peer whether it is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// The transport's settings. The bench's floors use the same.
fn builder(config: &Config) -> Server {
    Server::builder()
        .max_concurrent_streams(config.limits.max_concurrent_streams_per_connection)
        .http2_keepalive_interval(Some(config.watch.keepalive_interval))
        .http2_keepalive_timeout(Some(config.watch.keepalive_timeout))
}

// === impl Contract ===

impl Contract {
    fn read() -> Result<Self, prost::DecodeError> {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
        let mut contract = Self {
            services: Vec::new(),
            rpcs: Vec::new(),
        };
        for file in &files.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                contract.rpcs.extend(service.method.iter().map(|method| {
                    (
                        format!("/{name}/{}", method.name()),
                        method.server_streaming() || method.client_streaming(),
                    )
                }));
                contract.services.push(name);
            }
        }
        Ok(contract)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tonic_health::{
        pb::{
            HealthCheckRequest, health_check_response::ServingStatus as Told,
            health_server::Health as _,
        },
        server::{HealthReporter, HealthService},
    };

    use super::*;

    #[tokio::test]
    async fn draining_tells_those_who_watch_the_health_and_ends_their_streams() {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let mut serving = Serving {
            reporter,
            services: vec!["a".to_owned(), String::new()],
        };
        serving.set(true).await;
        let ask = |name: &str| {
            tonic::Request::new(HealthCheckRequest {
                service: name.to_owned(),
            })
        };
        for name in ["a", ""] {
            let stream = service.watch(ask(name)).await.unwrap().into_inner();
            serving.end().await;
            let told: Vec<Told> = stream.map(|told| told.unwrap().status()).collect().await;
            assert_eq!(told, [Told::NotServing], "{name}");
            let told = service.check(ask(name)).await.unwrap().into_inner();
            assert_eq!(told.status(), Told::NotServing);
        }
    }
}
