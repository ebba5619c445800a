//! The life of a replica: start, ready, drain, stop.

use std::{io, io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use steadfast_catalog::Catalog;
use steadfast_drift::{HashKey, MIN_KEY_BYTES, SweepOptions, Sweeper};
use steadfast_saga::{
    Engine, Options as SagaOptions, SecretError, SecretPlaces, SecretSource as _,
};
use steadfast_store::{
    DriftRetention, MigrateReport, Options as StoreOptions, Retention, Store, Wakeups,
};
use steadfast_types::{ReplicaId, Timestamp};
use steadfast_watch::{Hub, NodeOptions, Nodes, Options as HubOptions};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    VERSION, actions,
    config::{Config, Schedule},
    grpc::{self, Serving},
    health::Health,
    http,
    inventories::{self, Inventories},
    maintenance, metric,
    schedule::{Planned, Scheduler},
    sources::{catalog_options, http_client},
    telemetry::{self, Telemetry},
};

/// Revisions that compaction always leaves.
const RETENTION_FLOOR: u32 = 1_000;

/// What a start is asked for beyond the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Bring the database to this program's schema first.
    pub migrate: bool,
    /// Print one line of JSON on standard output when ready.
    pub ready_json: bool,
    /// The source revision that the program was built from.
    pub commit: &'static str,
}

/// A replica could not start, or ended with an error. `Display` names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Telemetry.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// The database.
    #[error("database: {0}")]
    Store(#[from] steadfast_store::Error),
    /// The catalogue.
    #[error("catalogue: {0}")]
    Catalog(#[from] steadfast_catalog::Error),
    /// The sources' upstreams cannot be set up.
    #[error("{0}")]
    Upstream(#[from] steadfast_upstream::Error),
    /// A configured name is no package name.
    #[error("catalog.source `{source_name}`: `{name}`: {error}")]
    PackageName {
        /// The source.
        source_name: String,
        /// What was configured.
        name: String,
        /// What is wrong with it.
        error: steadfast_upstream::InvalidName,
    },
    /// A root of a local source is not there.
    #[error(
        "{key}: the root {root} of source `{source_name}` cannot be read ({problem}): mount or create it with a folder `packages` in it, or remove it from roots"
    )]
    LocalRoot {
        /// Where it is configured.
        key: String,
        /// The source.
        source_name: String,
        /// The root.
        root: String,
        /// What is wrong.
        problem: String,
    },
    /// A configured source cannot be used.
    #[error("catalog.source `{source_name}`: {problem}")]
    Source {
        /// The source.
        source_name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The secret that `drift.hash_key` names cannot be had.
    #[error("drift.hash_key: {0}")]
    HashKey(SecretError),
    /// It is too short.
    #[error(
        "drift.hash_key: the secret {0} has fewer than {MIN_KEY_BYTES} bytes: draw a longer one, for example with `openssl rand -hex 32`"
    )]
    ShortHashKey(String),
    /// What is declared of comparisons cannot be.
    #[error("drift.comparator: {0}")]
    Comparator(String),
    /// A source of inventories cannot be set up.
    #[error(transparent)]
    InventorySource(#[from] inventories::SourceError),
    /// A port cannot be had.
    #[error("cannot listen on {address} ({source}): {}", remedy(.source, .flag))]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The gRPC server.
    #[error(transparent)]
    Grpc(#[from] grpc::Error),
    /// The HTTP server.
    #[error("HTTP: {0}")]
    Http(io::Error),
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(io::Error),
}

fn remedy(source: &io::Error, flag: &str) -> String {
    if source.kind() == io::ErrorKind::AddrInUse {
        format!(
            "another process has it, perhaps another server; stop it, or choose another port with `{flag}`"
        )
    } else {
        format!("choose another address with `{flag}`")
    }
}

/// Brings the database to this program's schema.
///
/// # Errors
/// If it cannot be opened or migrated.
pub async fn migrate(config: &Config) -> Result<MigrateReport, Error> {
    let store = Store::open(&store_options(config)).await?;
    let report = store.migrate().await?;
    store.close().await;
    Ok(report)
}

/// Runs a replica until a signal stops it. The first signal drains; a second one ends the process at once.
///
/// # Errors
/// If it cannot start, or if a server fails.
pub async fn run(config: Config, options: RunOptions) -> Result<(), Error> {
    let telemetry = Telemetry::start(&config.telemetry)?;
    let started = Timestamp::now();
    let replica = ReplicaId::random();
    let signals = Signals::listen().map_err(Error::Signals)?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    metrics::gauge!(metric::BUILD_INFO, "version" => VERSION, "commit" => options.commit).set(1);
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(Telemetry::upkeep(telemetry.metrics.clone())),
    );

    let store = Store::open(&store_options(&config)).await?;
    if options.migrate {
        let report = store.migrate().await?;
        if report.from != report.to {
            tracing::info!(from = report.from, to = report.to, "migrated the database");
        }
    } else {
        store.check_schema().await?;
    }
    let coalesce = config.watch.notify_coalesce;
    let wakeups = Wakeups::start(&store, replica, coalesce, &stop, &tasks);
    let hub = Hub::start(store.clone(), &wakeups, hub_options(&config), &stop, &tasks).await?;
    let client = http_client(&config)?;
    let catalog = Catalog::start(
        store.clone(),
        &hub,
        &wakeups,
        catalog_options(&config, &client, replica).await?,
        &stop,
        &tasks,
    )
    .await?;
    let nodes = NodeOptions {
        lease: config.lease.duration,
        limit: config.limits.max_nodes,
    };
    let follower = Some(catalog.applied());
    let nodes = Nodes::start(&hub, &wakeups, replica, nodes, follower, &stop, &tasks).await?;
    let rules = Arc::new(rules(&config)?);
    let sagas = Engine::start_engine(
        store.clone(),
        wakeups.clone(),
        actions::actions(&config, &store, &wakeups, &catalog, &rules)?,
        Arc::new(SecretPlaces::new(config.saga.secrets_dir.clone())),
        SagaOptions {
            lease_duration: config.lease.duration,
            ..SagaOptions::default()
        },
        &stop,
        &tasks,
    );
    let sweeper = Sweeper::new(
        store.clone(),
        wakeups.clone(),
        rules,
        SweepOptions {
            lease_duration: config.lease.duration,
            ..SweepOptions::new(replica)
        },
    );
    sweeper.adopt_rules().await?;
    tasks.spawn(sweeper.clone().run(stop.clone()));
    let taking = inventories::Parts {
        store: store.clone(),
        wakeups: wakeups.clone(),
        sweeper: sweeper.clone(),
        replica,
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    let inventories = Inventories::new(&config, &client, taking)?;
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(inventories.clone().watch()),
    );
    let planned = planned(&config, &catalog, &sweeper, &inventories);
    let scheduler = Scheduler::new(store.clone(), planned);
    scheduler.record().await?;

    let grpc_listener = bind(config.server.grpc, "--listen-grpc")?;
    let http_listener = bind(config.server.http, "--listen-http")?;
    let bound = |listener: &TcpListener| listener.local_addr().map_err(Error::Http);
    let (grpc_address, http_address) = (bound(&grpc_listener)?, bound(&http_listener)?);
    let health = Health::new(hub.clone());
    let drain = CancellationToken::new();
    let maintainer = sweeper.clone();
    let shown = catalog.clone();
    let parts = grpc::Parts {
        store: store.clone(),
        hub: hub.clone(),
        nodes: nodes.clone(),
        wakeups,
        catalog,
        sagas,
        sweeper,
        inventories,
        scheduler: scheduler.clone(),
        replica,
        started,
        commit: options.commit,
        traced: telemetry.is_traced(),
    };
    let (mut serving, grpc_server) =
        grpc::serve(&config, parts, grpc_listener, drain.clone()).await?;
    let http_router = http::router(health.clone(), telemetry.metrics.clone(), shown);
    let http_server = axum::serve(http_listener, http_router)
        .with_graceful_shutdown(drain.clone().cancelled_owned());
    tasks.spawn(stop.clone().run_until_cancelled_owned(scheduler.run()));
    let retention = Retention {
        age: config.watch.retention,
        revisions: u32::try_from(config.watch.retention_revisions).unwrap_or(u32::MAX),
        floor: RETENTION_FLOOR,
    };
    let drift_retention = DriftRetention {
        drifts: config.drift.history,
        events: config.drift.history,
        inventories: config.drift.inventory_history,
    };
    let retention = maintenance::Keep {
        log: retention,
        drift: drift_retention,
    };
    let lease_duration = config.lease.duration;
    let maintenance = maintenance::run(
        store.clone(),
        maintainer,
        replica,
        lease_duration,
        retention,
    );
    tasks.spawn(stop.clone().run_until_cancelled_owned(maintenance));

    let mut grpc_server = tokio::spawn(grpc_server);
    let mut http_server = tokio::spawn(http_server.into_future());
    serving.set(true).await;
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(report_health(health.clone(), serving.clone())),
    );
    announce(
        &config,
        options,
        &store,
        replica,
        &hub,
        grpc_address,
        http_address,
    );

    let ended = tokio::select! {
        signal = signals.first() => {
            tracing::info!(signal, grace_ms = config.server.shutdown_grace.as_millis() as u64, "shutting down");
            Ok(())
        }
        ended = &mut grpc_server => flatten(ended).map_err(Error::Grpc),
        ended = &mut http_server => flatten(ended).map_err(Error::Http),
    };
    health.drain();
    serving.end().await;
    hub.drain();
    drain.cancel();
    let finish = async {
        if !grpc_server.is_finished() {
            flatten((&mut grpc_server).await).map_err(Error::Grpc)?;
        }
        if !http_server.is_finished() {
            flatten((&mut http_server).await).map_err(Error::Http)?;
        }
        Ok(())
    };
    let finished = tokio::time::timeout(config.server.shutdown_grace, finish).await;
    if finished.is_err() {
        tracing::warn!("some calls did not end within the grace period and are cut off");
    }
    // Work under way hands its leases back when it is stopped.
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(HAND_BACK, tasks.wait()).await.is_err() {
        tracing::warn!("some work did not stop; its leases run out by themselves");
    }
    // Not before the work has stopped: a sign of life would make it a node again.
    if !matches!(
        tokio::time::timeout(HAND_BACK, nodes.leave()).await,
        Ok(Ok(()))
    ) {
        tracing::warn!("this replica is still among the nodes; its lease runs out by itself");
    }
    if tokio::time::timeout(HAND_BACK, store.close())
        .await
        .is_err()
    {
        tracing::warn!("the database did not close its connections in time");
    }
    telemetry.flush();
    tracing::info!("stopped");
    ended.and(finished.unwrap_or(Ok(())))
}

/// How long work under way may take to hand its leases back, and the database to close.
const HAND_BACK: Duration = Duration::from_secs(2);

/// Keeps the health service in step with readiness.
async fn report_health(health: Health, serving: Serving) {
    let mut told = true;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let useful = health.readiness().is_useful();
        if useful != told {
            serving.set(useful).await;
            told = useful;
        }
    }
}

fn announce(
    config: &Config,
    options: RunOptions,
    store: &Store,
    replica: ReplicaId,
    hub: &Hub,
    grpc: SocketAddr,
    http: SocketAddr,
) {
    let head = hub.position().borrow().applied;
    tracing::info!(
        version = VERSION,
        commit = options.commit,
        engine = store.engine().as_str(),
        %grpc,
        %http,
        %replica,
        store_id = %head.store_id,
        revision = head.revision.0,
        "ready"
    );
    if config.catalog.sources.is_empty() {
        tracing::warn!(
            "no source of packages is configured, so the catalogue stays as it is: run `steadfast init`, name packages in a \
             [[catalog.source]] of steadfast.toml, and start again"
        );
    }
    if config.server.insecure {
        tracing::warn!(
            "callers are not authenticated, and the address is not limited to loopback (--insecure)"
        );
    }
    if options.ready_json {
        let line = serde_json::json!({
            "event": "ready",
            "grpc": grpc.to_string(),
            "http": http.to_string(),
            "replica": replica.to_string(),
            "store_id": head.store_id.to_string(),
        });
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            tracing::warn!(%error, "cannot write to standard output");
        }
    }
}

/// Connections that wait to be taken, at most; the kernel makes it its own limit, `net.core.somaxconn`, if that is less. With the
/// usual 128 a thousand clients that come back at once lose their first attempts, and try again a second later.
const BACKLOG: u32 = 4_096;

fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, Error> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A server that follows another one on the same port need not wait for the last packets of that one's connections.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| Error::Bind {
        address,
        flag,
        source,
    })
}

fn flatten<T, E>(ended: Result<Result<T, E>, tokio::task::JoinError>) -> Result<T, E> {
    match ended {
        Ok(outcome) => outcome,
        // Nobody aborts the servers: the task panicked, and the panic goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn store_options(config: &Config) -> StoreOptions {
    let database = &config.database;
    StoreOptions {
        url: database.url.expose().to_owned(),
        data_dir: database.data_dir.clone(),
        max_connections: database.max_connections,
        connect_timeout: database.connect_timeout,
        idle_in_transaction_timeout: database.idle_in_transaction_timeout,
        lock_timeout: database.lock_timeout,
        statement_timeout: database.statement_timeout,
        busy_wait: database.busy_wait,
        cpu_latency_qos: database.cpu_latency_qos,
        listen_test_interval: config.watch.listen_test_interval,
        ..StoreOptions::default()
    }
}

fn hub_options(config: &Config) -> HubOptions {
    HubOptions {
        ring_revisions: config.watch.ring_revisions,
        ring_bytes: config.watch.ring_bytes,
        poll_interval: config.watch.poll_interval,
        page_revisions: u32::try_from(config.watch.page_revisions).unwrap_or(u32::MAX),
        max_streams: config.limits.max_watch_streams,
    }
}

/// What is declared of comparisons, with the key that secrets are hashed with.
fn rules(config: &Config) -> Result<steadfast_drift::Rules, Error> {
    let key = match &config.drift.hash_key {
        None => None,
        Some(name) => {
            let places = SecretPlaces::new(config.saga.secrets_dir.clone());
            let secret = places.secret(name).map_err(Error::HashKey)?;
            Some(HashKey::new(&secret).ok_or_else(|| Error::ShortHashKey(name.clone()))?)
        }
    };
    config.drift.rules(key).map_err(|problems| {
        let first = problems.into_iter().next();
        Error::Comparator(first.map_or_else(String::new, |problem| problem.message))
    })
}

fn planned(
    config: &Config,
    catalog: &Catalog,
    sweeper: &Sweeper,
    inventories: &Inventories,
) -> Vec<Planned> {
    let refresh = config.catalog.refresh_schedule.as_ref();
    let sweep = config.drift.sweep_schedule.as_ref();
    let refresh = refresh.map(|schedule| planned_refresh(schedule, catalog));
    let sweep = sweep.map(|schedule| planned_sweep(schedule, sweeper));
    let taken = config.drift.inventories.iter().filter_map(|source| {
        let schedule = source.schedule.as_ref()?;
        Some(planned_inventory(&source.name, schedule, inventories))
    });
    refresh.into_iter().chain(sweep).chain(taken).collect()
}

fn planned_inventory(source: &str, schedule: &Schedule, inventories: &Inventories) -> Planned {
    let (source, inventories) = (source.to_owned(), inventories.clone());
    Planned {
        name: format!("{INVENTORY_SCHEDULE}{source}"),
        expression: schedule.expression.clone(),
        cron: schedule.cron.clone(),
        zone: schedule.time_zone,
        work: std::sync::Arc::new(move || {
            let (source, inventories) = (source.clone(), inventories.clone());
            Box::pin(async move {
                let begun = inventories.run(&source).await;
                begun
                    .map(|begun| format!("inventory {}", begun.row.id))
                    .map_err(|error| error.to_string())
            })
        }),
    }
}

fn planned_sweep(schedule: &Schedule, sweeper: &Sweeper) -> Planned {
    let sweeper = sweeper.clone();
    Planned {
        name: SWEEP_SCHEDULE.to_owned(),
        expression: schedule.expression.clone(),
        cron: schedule.cron.clone(),
        zone: schedule.time_zone,
        work: std::sync::Arc::new(move || {
            let sweeper = sweeper.clone();
            Box::pin(async move {
                let asked = sweeper.ask_due(&format!("schedule:{SWEEP_SCHEDULE}")).await;
                asked
                    .map(|asked| format!("sweep {}", asked.row.id))
                    .map_err(|error| error.to_string())
            })
        }),
    }
}

fn planned_refresh(schedule: &Schedule, catalog: &Catalog) -> Planned {
    let catalog = catalog.clone();
    Planned {
        name: REFRESH_SCHEDULE.to_owned(),
        expression: schedule.expression.clone(),
        cron: schedule.cron.clone(),
        zone: schedule.time_zone,
        work: std::sync::Arc::new(move || {
            let catalog = catalog.clone();
            Box::pin(async move {
                let id = catalog.run_schedule(REFRESH_SCHEDULE).await;
                id.map(|id| format!("refresh {id}"))
                    .map_err(|error| error.to_string())
            })
        }),
    }
}

/// The schedule that `catalog.refresh_schedule` configures.
const REFRESH_SCHEDULE: &str = "refresh";

/// What the schedule of a source of inventories begins with; the source's name follows.
const INVENTORY_SCHEDULE: &str = "inventory-";

/// The schedule that `drift.sweep_schedule` configures.
const SWEEP_SCHEDULE: &str = "drift-sweep";

/// The signals that end a replica.
struct Signals {
    first: tokio::sync::oneshot::Receiver<&'static str>,
}

// === impl Signals ===

impl Signals {
    /// Begins to listen. From the second signal on, the process ends at once.
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (told, first) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut told = Some(told);
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                match told.take() {
                    // The receiver is gone only when the process is ending anyway.
                    Some(told) => drop(told.send(name)),
                    None => {
                        tracing::warn!(signal = name, "second signal: ending at once");
                        std::process::exit(EXIT_SECOND_SIGNAL);
                    }
                }
            }
        });
        Ok(Self { first })
    }

    async fn first(self) -> &'static str {
        self.first.await.unwrap_or("none")
    }
}

/// The exit code after a second signal, as shells count interrupted programs.
const EXIT_SECOND_SIGNAL: i32 = 130;
