//! A server, and what a test asks it about resources.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use steadfast_client::{
    Connection, Error,
    api::drift::v1::{
        AcceptDriftRequest, AcceptDriftResponse, BeginInventoryRequest, DetectDriftRequest, Drift,
        EndInventoryRequest, GetResourceRequest, Inventory, InventoryScope, ListDriftsRequest,
        ListResourceEventsRequest, Observation, RecordResourceRequest, ReportOutcome,
        ReportResourcesRequest, Resource, ResourceEventKind, ResourceKey, SnoozeDriftRequest,
        Sweep, SweepState, report_resources_response::result::Result as ReportResult,
    },
};
use steadfast_testkit::{Server, TestDatabase, process::ServerBuilder};

use crate::scene::{Engine, connection, head};

/// Nothing is swept by the clock while a test looks, and a few things are declared.
const CONFIGURATION: &str = r#"
[drift]
sweep_schedule = ""
unmanaged = ["do/volume"]
hash_key = "DRIFT_KEY"

[[drift.comparator]]
provider = "do"
type = "droplet"
path = "/password"
kind = "secret"

[[drift.comparator]]
provider = "do"
type = "volume"
path = "/password"
kind = "secret"

[[drift.comparator]]
provider = "do"
type = "droplet"
path = "/boot_order"
kind = "ordered"
"#;

pub(super) const WHO: (&str, &str) = ("ann", "a test");

pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) connection: Connection,
    pub(super) database: Option<Arc<TestDatabase>>,
    builder: ServerBuilder,
}

pub(super) fn key(kind: &str, id: &str) -> Option<ResourceKey> {
    Some(ResourceKey {
        provider: "do".to_owned(),
        r#type: kind.to_owned(),
        id: id.to_owned(),
    })
}

pub(super) fn observation(id: &str, attributes: &Value) -> Observation {
    Observation {
        key: key("droplet", id),
        attributes_json: attributes.to_string(),
        ..Observation::default()
    }
}

// === impl Stage ===

impl Stage {
    pub(super) async fn start(engine: Engine) -> Self {
        Self::start_with(engine, "", |builder| builder).await
    }

    /// With more of a configuration.
    pub(super) async fn start_with(
        engine: Engine,
        more: &str,
        adjust: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        let database = engine.database().await.map(Arc::new);
        let mut builder = Server::builder()
            .configuration(format!("{CONFIGURATION}{more}"))
            .variable("STEADFAST_SECRET_DRIFT_KEY", "sixteen bytes or more");
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
        }
        Self::of(adjust(builder), database).await
    }

    /// Another server of the same kind: a replica on the same database, or what starts again in the same directory.
    pub(super) async fn another(&self) -> Self {
        Self::of(self.builder.clone(), self.database.clone()).await
    }

    async fn of(builder: ServerBuilder, database: Option<Arc<TestDatabase>>) -> Self {
        let server = builder.start().await;
        Self {
            connection: connection(&server).await,
            server,
            database,
            builder,
        }
    }

    /// Runs statements behind the server's back, and returns the rows that they print; on PostgreSQL.
    pub(super) async fn psql(&self, sql: &str) -> String {
        let database = self.database.as_ref().expect("it is PostgreSQL");
        database.psql(sql).await
    }

    pub(super) async fn revision(&self) -> i64 {
        head(&self.connection).await.revision
    }

    pub(super) async fn try_record(
        &self,
        request: RecordResourceRequest,
    ) -> Result<Resource, Error> {
        let mut client = self.connection.resources();
        let answer = self
            .connection
            .call(client.record_resource(request))
            .await?;
        Ok(answer.resource.expect("a resource"))
    }

    pub(super) async fn record(&self, id: &str, spec: &Value) -> Resource {
        let request = RecordResourceRequest {
            key: key("droplet", id),
            spec_json: spec.to_string(),
            recorded_by: "ann".to_owned(),
            labels: [("env".to_owned(), "test".to_owned())].into(),
            ..RecordResourceRequest::default()
        };
        self.try_record(request).await.expect("it is recorded")
    }

    pub(super) async fn get(&self, id: &str) -> Resource {
        self.get_of("droplet", id).await
    }

    pub(super) async fn get_of(&self, kind: &str, id: &str) -> Resource {
        let mut client = self.connection.resources();
        let request = GetResourceRequest { key: key(kind, id) };
        let answer = self.connection.call(client.get_resource(request)).await;
        answer.expect("it is there").resource.expect("a resource")
    }

    pub(super) async fn report_all(
        &self,
        inventory: &str,
        observations: Vec<Observation>,
    ) -> Result<Vec<ReportResult>, Error> {
        let request = ReportResourcesRequest {
            inventory_id: inventory.to_owned(),
            observations,
        };
        let mut client = self.connection.resources();
        let answer = self
            .connection
            .call(client.report_resources(request))
            .await?;
        let results = answer.results.into_iter();
        Ok(results.map(|one| one.result.expect("a result")).collect())
    }

    /// A report on its own, of one droplet.
    pub(super) async fn report(&self, id: &str, attributes: &Value) -> ReportOutcome {
        let results = self.report_all("", vec![observation(id, attributes)]).await;
        match results.expect("it is reported").as_slice() {
            [ReportResult::Outcome(outcome)] => {
                ReportOutcome::try_from(*outcome).expect("an outcome")
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn begin(&self, kind: &str) -> Inventory {
        let mut client = self.connection.resources();
        let request = BeginInventoryRequest {
            scope: Some(InventoryScope {
                provider: "do".to_owned(),
                types: vec![kind.to_owned()],
            }),
            source: "a test".to_owned(),
        };
        let answer = self.connection.call(client.begin_inventory(request)).await;
        answer.expect("it begins").inventory.expect("an inventory")
    }

    pub(super) async fn end(&self, id: &str, complete: bool) -> Result<Inventory, Error> {
        let mut client = self.connection.resources();
        let request = EndInventoryRequest {
            id: id.to_owned(),
            complete,
            error: if complete { "" } else { "a page failed" }.to_owned(),
        };
        let answer = self.connection.call(client.end_inventory(request)).await?;
        Ok(answer.inventory.expect("an inventory"))
    }

    /// An inventory of droplets that sees exactly these.
    pub(super) async fn inventory(&self, seen: &[(&str, &Value)]) -> Inventory {
        let begun = self.begin("droplet").await;
        if !seen.is_empty() {
            let observations = seen
                .iter()
                .map(|(id, attributes)| observation(id, attributes));
            let reported = self.report_all(&begun.id, observations.collect()).await;
            for result in reported.expect("it is reported") {
                assert!(matches!(result, ReportResult::Outcome(_)), "{result:?}");
            }
        }
        self.end(&begun.id, true).await.expect("it ends")
    }

    pub(super) async fn try_detect(&self, request: DetectDriftRequest) -> Result<Sweep, Error> {
        let mut client = self.connection.drifts();
        loop {
            let request = DetectDriftRequest {
                wait_timeout: Duration::from_secs(20).try_into().ok(),
                ..request.clone()
            };
            let answer = self.connection.call(client.detect_drift(request)).await?;
            let sweep = answer.sweep.expect("a sweep");
            assert_eq!(sweep.state(), SweepState::Completed, "{sweep:?}");
            // One that the end of an inventory asked for may have been under way.
            if !answer.joined {
                return Ok(sweep);
            }
        }
    }

    pub(super) async fn detect(&self) -> Sweep {
        let sweep = self.try_detect(DetectDriftRequest::default()).await;
        sweep.expect("it is swept")
    }

    pub(super) async fn list(&self, request: ListDriftsRequest) -> (Vec<Drift>, i64) {
        let mut client = self.connection.drifts();
        let answer = self.connection.call(client.list_drifts(request)).await;
        let answer = answer.expect("they are listed");
        (answer.drifts, answer.suppressed)
    }

    /// Drifts that are open and not hidden, in the order of their paths.
    pub(super) async fn open(&self) -> Vec<Drift> {
        let (mut drifts, _) = self.list(ListDriftsRequest::default()).await;
        drifts.sort_by(|one, other| one.path.cmp(&other.path));
        drifts
    }

    /// The one drift that is open and not hidden.
    pub(super) async fn only(&self) -> Drift {
        let mut open = self.open().await;
        assert_eq!(open.len(), 1, "{open:?}");
        open.remove(0)
    }

    pub(super) async fn accept(&self, id: &str, etag: &str) -> Result<AcceptDriftResponse, Error> {
        let mut client = self.connection.drifts();
        let request = AcceptDriftRequest {
            id: id.to_owned(),
            etag: etag.to_owned(),
            actor: WHO.0.to_owned(),
            reason: WHO.1.to_owned(),
        };
        self.connection.call(client.accept_drift(request)).await
    }

    /// Hides a drift until this many seconds from now.
    pub(super) async fn snooze(&self, drift: &Drift, seconds: i64) -> Result<Drift, Error> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = i64::try_from(now.expect("after 1970").as_secs()).expect("in range");
        let mut client = self.connection.drifts();
        let request = SnoozeDriftRequest {
            id: drift.id.clone(),
            etag: drift.etag.clone(),
            until_time: Some(prost_types::Timestamp {
                seconds: now + seconds,
                nanos: 0,
            }),
            actor: WHO.0.to_owned(),
            reason: WHO.1.to_owned(),
        };
        let answer = self.connection.call(client.snooze_drift(request)).await?;
        Ok(answer.drift.expect("a drift"))
    }

    pub(super) async fn events(&self, id: &str) -> Vec<ResourceEventKind> {
        let mut client = self.connection.resources();
        let request = ListResourceEventsRequest {
            key: key("droplet", id),
            ..ListResourceEventsRequest::default()
        };
        let answer = self.connection.call(client.list_resource_events(request));
        let events = answer.await.expect("they are listed").events;
        events.iter().map(|event| event.kind()).collect()
    }
}

/// What the scenario begins with.
pub(super) fn spec() -> Value {
    json!({ "size_slug": "s-1vcpu-1gb", "region": "fra1", "tags": ["web", "prod"], "backups": true })
}

/// The same as the provider says it.
pub(super) fn live() -> Value {
    json!({
        "id": 4711, "size_slug": "s-1vcpu-1gb", "attrs": { "region": "fra1" }, "tags": ["prod", "web", "web"],
        "backups": "true", "created": "2026-11-22",
    })
}

/// Somebody has resized it.
pub(super) fn resized() -> Value {
    let mut live = live();
    live["size_slug"] = "s-2vcpu-2gb".into();
    live
}
