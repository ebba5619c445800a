//! Databases, registries and replicas for this crate's tests.

use std::{future::Future, time::Duration};

use serde_json::json;
use steadfast_api::registry::v1::{
    GetRefreshRequest, GetRefreshResponse, RefreshItem, RefreshOutcome, RefreshState,
    RefreshTrigger, StartRefreshRequest,
};
use steadfast_catalog::{Catalog, NpmSource, Options, Source, SourceKind};
use steadfast_store::{Options as StoreOptions, Store, Wakeups};
use steadfast_testkit::{NpmServer, PackageSpec, TestDatabase, VersionSpec};
use steadfast_types::ReplicaId;
use steadfast_upstream::{HttpClient, HttpOptions, NpmConfig, NpmRegistry, PackageName};
use steadfast_watch::Hub;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long anything that must happen may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A migrated database.
pub(crate) struct Database {
    pub(crate) options: StoreOptions,
    pub(crate) postgres: Option<TestDatabase>,
    _folder: Option<TempDir>,
}

/// One process's catalogue. Dropping it stops it.
pub(crate) struct Replica {
    pub(crate) catalog: Catalog,
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Database ===

impl Database {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = StoreOptions {
            data_dir: folder.path().join("data"),
            ..Default::default()
        };
        Self {
            options,
            postgres: None,
            _folder: Some(folder),
        }
    }

    pub(crate) async fn postgres() -> Self {
        let database = TestDatabase::create_empty().await;
        let options = StoreOptions {
            url: database.url(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(2),
            ..Default::default()
        };
        Self {
            options,
            postgres: Some(database),
            _folder: None,
        }
    }

    /// One of each engine.
    pub(crate) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    /// Starts a replica on this database.
    pub(crate) async fn replica(&self, options: Options) -> Replica {
        let store = Store::open(&self.options).await.expect("opens");
        store.migrate().await.expect("migrates");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let coalesce = Duration::from_millis(2);
        let wakeups = Wakeups::start(&store, options.replica, coalesce, &stop, &tasks);
        let hub_options = steadfast_watch::Options {
            ring_revisions: 1_024,
            ring_bytes: 1 << 20,
            poll_interval: Duration::from_millis(200),
            page_revisions: 512,
            max_streams: 100,
        };
        let hub = Hub::start(store.clone(), &wakeups, hub_options, &stop, &tasks)
            .await
            .expect("the hub starts");
        let catalog = Catalog::start(store.clone(), &hub, &wakeups, options, &stop, &tasks)
            .await
            .expect("the catalogue starts");
        Replica {
            catalog,
            store,
            hub,
            stop,
            tasks,
        }
    }
}

// === impl Replica ===

impl Replica {
    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }

    /// Asks for a refresh of everything and waits for its end.
    pub(crate) async fn refresh(&self) -> GetRefreshResponse {
        let id = self.start(StartRefreshRequest::default()).await;
        self.ended(&id).await
    }

    pub(crate) async fn start(&self, request: StartRefreshRequest) -> String {
        let answer = self
            .catalog
            .refreshes()
            .start(&request, "test", RefreshTrigger::Request)
            .await
            .expect("starts");
        answer.refresh.expect("has a refresh").id
    }

    pub(crate) async fn get(&self, id: &str) -> GetRefreshResponse {
        let request = GetRefreshRequest {
            id: id.to_owned(),
            skip_items: 0,
        };
        self.catalog
            .refreshes()
            .get(&request)
            .await
            .expect("is there")
    }

    /// Waits for the end of a refresh, and until this replica's memory shows what it brought.
    pub(crate) async fn ended(&self, id: &str) -> GetRefreshResponse {
        let found = eventually("the refresh ends", async || {
            let found = self.get(id).await;
            let state = found.refresh.as_ref().expect("has a refresh").state();
            let ended = !matches!(state, RefreshState::Queued | RefreshState::Running);
            ended.then_some(found)
        })
        .await;
        self.level().await;
        found
    }

    /// Waits for the end of the refresh that the first start asked for.
    pub(crate) async fn filled(&self) -> GetRefreshResponse {
        let newest = self.catalog.refreshes().list(&Default::default()).await;
        let newest = newest.expect("lists").refreshes.pop().expect("one refresh");
        self.ended(&newest.id).await
    }

    /// Waits until this replica's memory is level with the database.
    pub(crate) async fn level(&self) {
        let head = self.store.head().await.expect("has a head").cursor;
        let mut applied = self.catalog.applied();
        let level = applied.wait_for(|now| now.revision >= head.revision);
        let level = tokio::time::timeout(DEADLINE, level).await;
        level
            .expect("memory is level in time")
            .expect("is followed");
    }

    pub(crate) async fn head(&self) -> i64 {
        self.store
            .head()
            .await
            .expect("has a head")
            .cursor
            .revision
            .0
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Asks again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asked = async {
        let mut often = tokio::time::interval(Duration::from_millis(10));
        loop {
            often.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(DEADLINE, asked)
        .await
        .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// A source on a registry, patient for seconds only: long enough for a machine that is busy with other tests, as what is asked for
/// twice is counted.
pub(crate) fn source(npm: &NpmServer, names: &[&str]) -> Source {
    let client = HttpClient::new(HttpOptions {
        retries_max: 1,
        backoff_initial: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        idle_timeout: Duration::from_secs(2),
        attempt_timeout: Duration::from_secs(4),
        retry_after_max: Duration::from_secs(1),
        system_proxy: false,
        ..Default::default()
    })
    .expect("a client");
    let config = NpmConfig::for_registry(npm.url()).expect("an address");
    let names = names
        .iter()
        .map(|name| PackageName::parse(name).expect(name));
    Source {
        name: "npm".into(),
        kind: SourceKind::Npm(NpmSource::new(
            NpmRegistry::new(client, config),
            names.collect(),
        )),
    }
}

/// The first source, to be changed.
pub(crate) fn npm_of(options: &mut Options) -> &mut NpmSource {
    let SourceKind::Npm(npm) = &mut options.sources[0].kind else {
        unreachable!("it is a registry");
    };
    npm
}

/// Options with the organisation `s` as their one source.
pub(crate) fn organization(npm: &NpmServer) -> Options {
    let mut options = options(npm, &[]);
    npm_of(&mut options).organization = Some("s".into());
    options
}

/// Options with one source and short times.
pub(crate) fn options(npm: &NpmServer, names: &[&str]) -> Options {
    Options {
        sources: vec![source(npm, names)],
        refresh_concurrency: 4,
        schemas_of_newest: 2,
        lease_duration: Duration::from_secs(1),
        refresh_poll_interval: Duration::from_millis(100),
        checked_poll_interval: Duration::from_millis(100),
        min_revision_wait: Duration::from_millis(500),
        ..Options::new(ReplicaId::random())
    }
}

pub(crate) const HTTP: &str = "@s/language-http";
pub(crate) const FHIR: &str = "@s/language-fhir";
pub(crate) const DOTTED: &str = "lodash.get";
pub(crate) const ABSENT: &str = "@s/language-absent";

/// A registry with three packages; one of them has no schemas.
pub(crate) async fn registry() -> NpmServer {
    let npm = NpmServer::start().await;
    npm.put(
        PackageSpec::new(HTTP)
            .description("Speaks HTTP")
            .version(version("6.0.0", "old"))
            .version(version("7.1.0", "one"))
            .version(version("7.2.0", "two").label("HTTP")),
    );
    npm.put(
        PackageSpec::new(FHIR)
            .version(version("1.0.0", "one"))
            .version(version("2.0.0-rc.1", "next"))
            .tag("latest", "1.0.0"),
    );
    npm.put(PackageSpec::new(DOTTED).version("4.4.2"));
    npm
}

/// A version whose schema has this title.
pub(crate) fn version(version: &str, title: &str) -> VersionSpec {
    VersionSpec::new(version).schema(&json!({
        "$schema": "https://json-schema.org/draft-07/schema#",
        "title": title,
        "type": "object",
        "properties": {"password": {"title": "Password", "type": "string", "writeOnly": true}},
        "required": ["password"],
    }))
}

pub(crate) fn state(found: &GetRefreshResponse) -> RefreshState {
    found.refresh.as_ref().expect("has a refresh").state()
}

/// Listed, changed, unchanged and failed, of packages and of schemas.
pub(crate) fn counts(found: &GetRefreshResponse) -> Vec<[i32; 4]> {
    let counts = &found.refresh.as_ref().expect("has a refresh").counts;
    counts
        .iter()
        .map(|counts| {
            [
                counts.listed,
                counts.changed,
                counts.unchanged,
                counts.failed,
            ]
        })
        .collect()
}

/// Package, version and reason of each item that failed.
pub(crate) fn failures(found: &GetRefreshResponse) -> Vec<(String, String, String)> {
    let mut failures: Vec<_> = found
        .items
        .iter()
        .filter(|item| item.outcome() == RefreshOutcome::Failed)
        .map(|item: &RefreshItem| {
            (
                item.package.clone(),
                item.version.clone(),
                item.reason.clone(),
            )
        })
        .collect();
    failures.sort();
    failures
}
