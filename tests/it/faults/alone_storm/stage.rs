//! Two replicas on a database of their own, and everything that is done to them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, rngs::StdRng, seq::SliceRandom};
use steadfast_testkit::{
    ClusterOptions, PrivateCluster, Proxy, Server, Signal, StopMode, Target, process::ServerBuilder,
};
use steadfast_types::StoreId;
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, sleep},
};

use super::super::fleet::{Caller, PATIENCE, http_get};
use crate::history::{duration, watching::Endpoints};

const DATABASE: &str = "storm";

/// Small, so that watchers fall off the ring; quick to notice, so that a run has many faults.
const CONFIGURATION: &str = "\
[database]
statement_timeout_ms = 1000
connect_timeout_ms = 2000
[watch]
ring_revisions = 256
page_revisions = 64
poll_interval_ms = 250
listen_test_interval_ms = 1000
keepalive_interval_ms = 1000
keepalive_timeout_ms = 1000
[lease]
duration_ms = 1000
";

/// What happens to one replica.
pub(super) const REPLICA_FAULTS: &[Fault] = &[
    Fault::Killed,
    Fault::Stopped,
    Fault::ClientsCut,
    Fault::ClientsHalfOpen,
    Fault::DatabaseCut,
    Fault::DatabaseHalfOpen,
    Fault::ListenHalfOpen,
    Fault::DatabaseSlow,
];

/// What happens to the database, and so to both.
pub(super) const DATABASE_FAULTS: &[Fault] = &[Fault::Restarted, Fault::ListenEnded];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A replica, by SIGKILL; started again.
    Killed,
    /// A replica, by SIGSTOP; woken again.
    Stopped,
    /// All connections of clients through the proxy.
    ClientsCut,
    /// The same without anybody being told.
    ClientsHalfOpen,
    /// All connections of a replica to the database.
    DatabaseCut,
    /// The same without anybody being told.
    DatabaseHalfOpen,
    /// The one that listens, without anybody being told.
    ListenHalfOpen,
    /// All connections of a replica to the database take long.
    DatabaseSlow,
    /// PostgreSQL crashes and comes back.
    Restarted,
    /// PostgreSQL ends the connections that listen.
    ListenEnded,
}

/// One of the replicas, and the networks on both of its sides. It is busy while something happens to it that must not happen twice
/// at once.
struct Replica {
    builder: ServerBuilder,
    server: Turn<Server>,
    /// Where it can be reached, if it is there: by itself, and through the proxy.
    address: Mutex<Option<String>>,
    clients: Proxy,
    database: Proxy,
}

pub(super) struct Stage {
    replicas: [Replica; 2],
    pub(super) endpoints: Endpoints,
    cluster: PrivateCluster,
    store_id: StoreId,
    counts: Mutex<BTreeMap<Fault, (usize, usize)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Replica ===

impl Replica {
    async fn start(cluster: &PrivateCluster) -> Self {
        let database = Proxy::start(cluster.target()).await;
        let builder = Server::builder()
            .configuration(CONFIGURATION)
            .database_url(cluster.url_through(&database, DATABASE));
        let server = builder.start().await;
        let address = server.grpc_address().to_owned();
        Self {
            builder,
            clients: Proxy::start(target(&address)).await,
            server: Turn::new(server),
            address: Mutex::new(Some(address)),
            database,
        }
    }

    /// As whoever looks after servers does: again, until it is ready.
    async fn restart(&self) -> Server {
        loop {
            match self.builder.try_start().await {
                Ok(server) => return server,
                Err(failure) => println!("not ready, as the database is away: {failure}"),
            }
        }
    }
}

fn target(address: &str) -> Target {
    Target::Tcp(address.parse().expect("an address and a port"))
}

// === impl Stage ===

impl Stage {
    pub(super) async fn set() -> Self {
        // Commits outlive a crash of the server, if not of the machine.
        let settings = [("synchronous_commit", "on"), ("max_connections", "300")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let cluster = PrivateCluster::start(ClusterOptions {
            settings: settings.to_vec(),
            ..ClusterOptions::default()
        })
        .await;
        cluster.create_database(DATABASE).await;
        let replicas = [
            Replica::start(&cluster).await,
            Replica::start(&cluster).await,
        ];
        let store_id = replicas[0].server.lock().await.store_id().to_owned();
        let stage = Self {
            replicas,
            endpoints: Endpoints::default(),
            cluster,
            store_id: store_id.parse().expect("a UUID"),
            counts: Mutex::default(),
        };
        stage.tell_endpoints();
        stage
    }

    pub(super) fn store_id(&self) -> StoreId {
        self.store_id
    }

    pub(super) async fn psql(&self, sql: &str) -> String {
        self.cluster.psql(DATABASE, sql).await
    }

    /// How many faults there were in all.
    pub(super) fn count(&self) -> usize {
        lock(&self.counts).values().map(|(times, _)| times).sum()
    }

    /// How many of each.
    pub(super) fn counts(&self) -> String {
        let mut text = String::new();
        for (fault, (times, hit)) in lock(&self.counts).iter() {
            writeln!(text, "  {times:4} {fault:?} ({hit} hit)").expect("a text can be written");
        }
        text
    }

    /// Lets each kind happen at random moments, again and again until the time is over and each has hit something.
    pub(super) async fn disturb(
        self: std::sync::Arc<Self>,
        kinds: &[Fault],
        mut random: StdRng,
        until: Instant,
    ) {
        let mean = duration(Duration::from_millis(600), Duration::from_secs(3));
        // As rare as there are few kinds: with the database away there is little else that could go wrong.
        let pause = mean * u32::try_from(10 / kinds.len()).expect("a small number");
        loop {
            let mut order = kinds.to_vec();
            order.shuffle(&mut random);
            for fault in order {
                sleep(pause.mul_f64(random.random())).await;
                let hit = self.happens(fault, &mut random).await;
                let mut counts = lock(&self.counts);
                let (times, hits) = counts.entry(fault).or_default();
                *times += 1;
                *hits += hit;
            }
            let counts = lock(&self.counts);
            let missed = kinds.iter().find(|kind| counts[kind].1 == 0);
            if Instant::now() >= until && missed.is_none() {
                return;
            }
            let patient = Instant::now() < until + PATIENCE;
            assert!(patient, "{missed:?} happened to nobody: {counts:?}");
        }
    }

    /// Returns how many connections or processes it hit.
    async fn happens(&self, fault: Fault, random: &mut StdRng) -> usize {
        let replica = &self.replicas[random.random_range(0..self.replicas.len())];
        let while_ms = |range: std::ops::Range<u64>, random: &mut StdRng| {
            let long = duration(Duration::from_micros(600), Duration::from_millis(2));
            long * u32::try_from(random.random_range(range)).expect("a small number")
        };
        match fault {
            Fault::Killed => {
                let mut server = replica.server.lock().await;
                *lock(&replica.address) = None;
                server.kill().await;
                self.tell_endpoints();
                sleep(while_ms(0..500, random)).await;
                *server = replica.restart().await;
                replica.clients.retarget(target(server.grpc_address()));
                *lock(&replica.address) = Some(server.grpc_address().to_owned());
                drop(server);
                self.tell_endpoints();
                1
            }
            Fault::Stopped => {
                let server = replica.server.lock().await;
                server.signal(Signal::SIGSTOP);
                sleep(while_ms(500..2_000, random)).await;
                server.signal(Signal::SIGCONT);
                1
            }
            Fault::ClientsCut => {
                let open = replica.clients.open_connections();
                replica.clients.cut();
                open
            }
            Fault::ClientsHalfOpen => {
                let frozen = replica.clients.freeze();
                sleep(while_ms(1_000..2_500, random)).await;
                replica.clients.end_frozen();
                frozen
            }
            Fault::DatabaseCut => {
                let open = replica.database.open_connections();
                replica.database.cut();
                open
            }
            Fault::DatabaseHalfOpen => {
                let frozen = replica.database.freeze();
                sleep(while_ms(1_000..3_000, random)).await;
                replica.database.end_frozen();
                frozen
            }
            Fault::ListenHalfOpen => {
                let frozen = replica.database.freeze_those_that_said("LISTEN");
                sleep(while_ms(1_000..3_000, random)).await;
                replica.database.end_frozen();
                frozen
            }
            Fault::DatabaseSlow => {
                let millis = random.random_range(5..60);
                replica.database.delay(Duration::from_millis(millis));
                sleep(while_ms(200..1_000, random)).await;
                replica.database.delay(Duration::ZERO);
                replica.database.open_connections()
            }
            Fault::Restarted => {
                self.cluster.stop(StopMode::Immediate).await;
                sleep(while_ms(0..600, random)).await;
                self.cluster.resume().await;
                1
            }
            Fault::ListenEnded => {
                let ended = self
                    .psql(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'",
                    )
                    .await;
                ended.parse().expect("a count is a number")
            }
        }
    }

    /// Nothing is wrong any more.
    pub(super) fn calm(&self) {
        for replica in &self.replicas {
            replica.database.end_frozen();
            replica.clients.end_frozen();
        }
    }

    /// Whether both say that what the other commits is announced to them, and answer.
    pub(super) async fn both_listen(&self) -> bool {
        for replica in &self.replicas {
            let server = replica.server.lock().await;
            let (_, metrics) = http_get(&server, "/metrics").await;
            let answers = Caller::to(&server).await.head().await.is_ok();
            if !answers || !metrics.contains("\nsteadfast_listen_usable 1\n") {
                return false;
            }
        }
        true
    }

    /// Half of the clients go through the proxies.
    fn tell_endpoints(&self) {
        let there = self.replicas.iter().filter_map(|replica| {
            let direct = lock(&replica.address).clone()?;
            Some([direct, replica.clients.address().to_string()])
        });
        let addresses = there.flatten().map(|address| format!("http://{address}"));
        self.endpoints.set(addresses.collect::<Vec<_>>());
    }
}
