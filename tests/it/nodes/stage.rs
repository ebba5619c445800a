//! One server or two over one database, and nodes whose caches can be looked into.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast_client::{
    Connection, Error,
    api::{
        common::v1::Cursor,
        watch::v1::{
            Change, ListNodesRequest, Node, NodeState, NodeStatus, ReportAppliedRequest,
            WaitForRevisionRequest, WaitForRevisionResponse, WatchRequest, WatchResponse,
            publish_request, watch_response::Event,
        },
    },
};
use steadfast_testkit::{Server, TestDatabase};
use tokio::{sync::watch, task::JoinHandle};
use tonic::Streaming;

use crate::scene::{Engine, connection};

/// How long what has to happen may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Servers, and the database below, which goes last.
pub(super) struct Stage {
    pub(super) servers: Vec<Server>,
    pub(super) connections: Vec<Connection>,
    pub(super) _database: Option<TestDatabase>,
}

/// A process that keeps a cache fresh: a stream of changes goes into a map, and then it is reported.
pub(super) struct CachingNode {
    pub(super) name: String,
    cache: Arc<Mutex<BTreeMap<String, String>>>,
    /// Changes are applied while it is true.
    gate: watch::Sender<bool>,
    task: JoinHandle<()>,
}

// === impl Stage ===

impl Stage {
    /// One server on SQLite, two on PostgreSQL, with this lease.
    pub(super) async fn start(engine: Engine, lease: Duration) -> Self {
        let database = engine.database().await;
        let mut builder = Server::builder()
            .configuration(format!("[lease]\nduration_ms = {}\n", lease.as_millis()));
        let mut servers = Vec::new();
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
            servers.push(builder.start().await);
        }
        servers.push(builder.start().await);
        let mut connections = Vec::new();
        for server in &servers {
            connections.push(connection(server).await);
        }
        Self {
            servers,
            connections,
            _database: database,
        }
    }

    /// The server that comes next, for callers behind a balancer.
    pub(super) fn connection(&self, turn: usize) -> &Connection {
        &self.connections[turn % self.connections.len()]
    }

    /// A node whose stream is served by one server, and which reports to the next.
    pub(super) async fn node(&self, name: &str, turn: usize) -> CachingNode {
        let connections = (self.connection(turn), self.connection(turn + 1));
        CachingNode::start(connections, name, "1", Duration::ZERO).await
    }
}

// === impl CachingNode ===

impl CachingNode {
    /// Opens a stream on the first connection, and reports on the second. To apply a batch takes `pace`.
    pub(super) async fn start(
        (stream, reports): (&Connection, &Connection),
        name: &str,
        incarnation: &str,
        pace: Duration,
    ) -> Self {
        let node = node(name, incarnation);
        let mut stream = open(stream, &node).await;
        let cache = Arc::new(Mutex::default());
        let (gate, gated) = watch::channel(true);
        let task = tokio::spawn({
            let (reports, cache) = (reports.clone(), Arc::clone(&cache));
            let mut gated = gated;
            async move {
                while let Ok(Some(message)) = stream.message().await {
                    let cursor = match message.event.expect("every message has an event") {
                        Event::Opened(opened) => opened.head,
                        Event::Progress(progress) => progress.cursor,
                        Event::Reset(reset) => reset.head,
                        Event::Batch(batch) => {
                            gated
                                .wait_for(|open| *open)
                                .await
                                .expect("the test goes on");
                            tokio::time::sleep(pace).await;
                            apply(&cache, batch.changes);
                            batch.cursor
                        }
                    };
                    let report = report(&node, cursor.expect("every event has a cursor"));
                    let mut nodes = reports.nodes();
                    let reported = reports.call(nodes.report_applied(report)).await;
                    reported.expect("what was sent can be reported");
                }
            }
        });
        Self {
            name: name.to_owned(),
            cache,
            gate,
            task,
        }
    }

    pub(super) fn hold(&self) {
        self.gate.send_replace(false);
    }

    pub(super) fn release(&self) {
        self.gate.send_replace(true);
    }

    /// What its cache has.
    pub(super) fn cached(&self, key: &str) -> Option<String> {
        let cache = self.cache.lock().expect("nobody panicked");
        cache.get(key).cloned()
    }

    /// It vanishes without a word.
    pub(super) async fn vanish(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }
}

fn apply(cache: &Mutex<BTreeMap<String, String>>, changes: Vec<Change>) {
    let mut cache = cache.lock().expect("nobody panicked");
    for change in changes {
        cache.insert(change.key, change.etag);
    }
}

pub(super) fn node(id: &str, incarnation: &str) -> Node {
    Node {
        id: id.to_owned(),
        incarnation: incarnation.to_owned(),
        ..Node::default()
    }
}

/// An open stream of a node, from now on.
pub(super) async fn open(connection: &Connection, node: &Node) -> Streaming<WatchResponse> {
    let request = WatchRequest {
        node: Some(node.clone()),
        ..WatchRequest::default()
    };
    let opened = connection.watches().watch(request).await;
    opened.expect("the stream opens").into_inner()
}

pub(super) fn report(node: &Node, cursor: Cursor) -> ReportAppliedRequest {
    ReportAppliedRequest {
        node: node.id.clone(),
        incarnation: node.incarnation.clone(),
        cursor: Some(cursor),
        error: String::new(),
    }
}

/// Publishes that a thing has this etag now.
pub(super) async fn publish(connection: &Connection, key: &str, etag: &str) -> Cursor {
    let change = publish_request::Change {
        etag: etag.to_owned(),
        ..crate::watch::change("app/cache", key)
    };
    crate::watch::publish(connection, vec![change]).await
}

pub(super) async fn try_wait(
    connection: &Connection,
    request: WaitForRevisionRequest,
) -> Result<WaitForRevisionResponse, Error> {
    let mut nodes = connection.nodes();
    connection.call(nodes.wait_for_revision(request)).await
}

/// Waits for every node.
pub(super) async fn wait(
    connection: &Connection,
    cursor: &Cursor,
    timeout: Duration,
) -> WaitForRevisionResponse {
    let request = WaitForRevisionRequest {
        cursor: Some(cursor.clone()),
        timeout: timeout.try_into().ok(),
        ..WaitForRevisionRequest::default()
    };
    let waited = try_wait(connection, request).await.expect("an answer");
    let shown = |count: usize| i32::try_from(count).expect("a few nodes");
    assert_eq!(waited.applied_count, shown(waited.applied.len()));
    assert_eq!(waited.lagging_count, shown(waited.lagging.len()));
    assert_eq!(waited.complete, waited.lagging.is_empty(), "{waited:?}");
    assert_eq!(waited.cursor.as_ref(), Some(cursor));
    waited
}

/// The ids and states of nodes.
pub(super) fn states(nodes: &[NodeStatus]) -> Vec<(&str, NodeState)> {
    nodes
        .iter()
        .map(|node| (node.node.as_str(), node.state()))
        .collect()
}

/// Nodes, without the replicas among them.
pub(super) fn watchers(nodes: &[NodeStatus]) -> Vec<&str> {
    let watchers = nodes
        .iter()
        .filter(|node| node.kind() != steadfast_client::api::watch::v1::NodeKind::Replica);
    watchers.map(|node| node.node.as_str()).collect()
}

/// Everything that is known of nodes.
pub(super) async fn list(connection: &Connection, include_gone: bool) -> Vec<NodeStatus> {
    let mut client = connection.nodes();
    let request = ListNodesRequest {
        page_size: 1_000,
        include_gone,
        ..ListNodesRequest::default()
    };
    let listed = connection.call(client.list_nodes(request)).await;
    listed.expect("they are listed").nodes
}
