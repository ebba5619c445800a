//! The real program is killed in the middle of a sweep: what it had compared stays, the rest is compared once.

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use steadfast_client::api::drift::v1::{
    CancelSweepRequest, DetectDriftRequest, GetSweepRequest, RecordResourceRequest, ReportOutcome,
    Sweep, SweepState, report_resources_response::result::Result as ReportResult,
};
use steadfast_testkit::{foreign::python, postgres::PsqlSession, process::ServerBuilder};

use super::stage::{Stage, WHO, key, observation};
use crate::scene::{Engine, eventually};

/// More than two pages of a sweep.
const RESOURCES: usize = 5_000;
const CALL: usize = 1_000;

/// A lost replica is replaced soon, and nobody gives a lock up meanwhile.
const PATIENT: &str = "\n[lease]\nduration_ms = 1000\n\n[database]\nlock_timeout_ms = 60000\n";

impl Stage {
    /// Records all of them.
    async fn record_all(&self) {
        let recorded = stream::iter(0..RESOURCES).map(|number| {
            let request = RecordResourceRequest {
                key: key("droplet", &format!("{number:05}")),
                spec_json: json!({ "size": 1, "region": "fra1" }).to_string(),
                ..RecordResourceRequest::default()
            };
            self.try_record(request)
        });
        let mut recorded = recorded.buffer_unordered(500);
        while let Some(recorded) = recorded.next().await {
            recorded.expect("it is recorded");
        }
    }

    /// Reports all of them with a size.
    async fn report_size(&self, size: usize, expected: ReportOutcome) {
        for from in (0..RESOURCES).step_by(CALL) {
            let observations = (from..from + CALL).map(|number| {
                let attributes = json!({ "size": size, "region": "fra1" });
                observation(&format!("{number:05}"), &attributes)
            });
            let results = self.report_all("", observations.collect()).await;
            for result in results.expect("they are reported") {
                assert_eq!(result, ReportResult::Outcome(expected.into()));
            }
        }
    }

    /// Asks for a sweep and does not wait for it. Returns whether it was under way already, too.
    async fn ask(&self) -> (Sweep, bool) {
        let mut client = self.connection.drifts();
        let request = DetectDriftRequest::default();
        let answer = self.connection.call(client.detect_drift(request)).await;
        let answer = answer.expect("it is asked for");
        (answer.sweep.expect("a sweep"), answer.joined)
    }

    async fn sweep(&self, id: &str) -> Sweep {
        let mut client = self.connection.drifts();
        let request = GetSweepRequest { id: id.to_owned() };
        let answer = self.connection.call(client.get_sweep(request)).await;
        answer.expect("it is kept").sweep.expect("a sweep")
    }

    async fn until_ended(&self, id: &str) -> Sweep {
        eventually("the sweep to end", async || {
            let sweep = self.sweep(id).await;
            (sweep.state() != SweepState::Running).then_some(sweep)
        })
        .await
    }

    /// Lets no sweep get past the middle, until the session ends: somebody has a resource locked.
    async fn block_middle(&self) -> PsqlSession {
        let mut session = self.database.as_ref().expect("PostgreSQL").session().await;
        let middle = RESOURCES / 2;
        // Rows that an OFFSET skips would be locked, too.
        let lock = format!(
            "BEGIN; SELECT key FROM drift_resource \
             WHERE key = (SELECT key FROM drift_resource ORDER BY key OFFSET {middle} LIMIT 1) FOR UPDATE"
        );
        session.run(&lock).await.expect("it is locked");
        session
    }

    /// Waits until a sweep does not get on.
    async fn until_blocked(&self, id: &str) -> Sweep {
        eventually("the sweep to wait for the lock", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                           AND wait_event_type = 'Lock' AND query LIKE '%drift_resource%'";
            (self.psql(waiting).await == "1").then_some(())
        })
        .await;
        let sweep = self.sweep(id).await;
        assert_eq!(sweep.state(), SweepState::Running);
        let half = i64::try_from(RESOURCES / 2).expect("a small number");
        assert!((1..=half).contains(&sweep.compared), "{sweep:?}");
        sweep
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_goes_on_where_one_was_killed() {
    let one = Stage::start_with(Engine::Postgres, PATIENT, |builder| builder).await;
    let other = one.another().await;
    one.record_all().await;
    one.report_size(2, ReportOutcome::First).await;
    let mut lock = one.block_middle().await;

    // Both ask at once: one sweep.
    let ((first, joined), (second, also_joined)) = tokio::join!(one.ask(), other.ask());
    assert_eq!(first.id, second.id);
    assert_ne!(joined, also_joined);
    let halfway = other.until_blocked(&first.id).await;
    let (mut killed, left) = match halfway.owner == one.server.replica() {
        true => (one, other),
        false => (other, one),
    };
    assert_eq!(halfway.owner, killed.server.replica());
    killed.server.kill().await;
    assert_eq!(left.sweep(&first.id).await.compared, halfway.compared);
    lock.run("ROLLBACK").await.expect("it is unlocked");

    let ended = left.until_ended(&first.id).await;
    assert_eq!(ended.state(), SweepState::Completed, "{ended:?}");
    let all = i64::try_from(RESOURCES).expect("a small number");
    // What was due when the second asked is gone through again, which is nothing.
    assert_eq!((ended.compared, ended.drifts_opened), (all, all));
    assert_eq!((ended.drifts_changed, ended.drifts_closed), (0, 0));
    // Each has one drift and one event of it.
    let rows = "SELECT count(*), count(DISTINCT key), count(*) FILTER (WHERE version = 1) FROM drift WHERE state = 'open'";
    assert_eq!(left.psql(rows).await, format!("{all}|{all}|{all}"));
    let events =
        "SELECT count(*), count(DISTINCT drift_id) FROM drift_event WHERE kind LIKE 'drift%'";
    assert_eq!(left.psql(events).await, format!("{all}|{all}"));
    let tries = format!("SELECT attempts FROM drift_sweep WHERE id = '{}'", ended.id);
    assert_eq!(left.psql(&tries).await, "2");
    // Nothing is left to do.
    assert_eq!(left.psql("SELECT count(*) FROM drift_due").await, "0");
    let again = left.detect().await;
    assert_eq!(again.compared, 0);
}

/// Who asks while a sweep is being stopped has to ask again, which the command does.
#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_sweep_that_is_stopped_asks_again() {
    let stage = Stage::start_with(Engine::Postgres, PATIENT, |builder| builder).await;
    stage.record_all().await;
    stage.report_size(2, ReportOutcome::First).await;
    let mut lock = stage.block_middle().await;
    let (stopped, _) = stage.ask().await;
    stage.until_blocked(&stopped.id).await;
    let mut client = stage.connection.drifts();
    let request = CancelSweepRequest {
        id: stopped.id.clone(),
        actor: WHO.0.to_owned(),
        reason: WHO.1.to_owned(),
    };
    let cancelled = stage.connection.call(client.cancel_sweep(request)).await;
    cancelled.expect("it is asked to stop");
    let (joined, is_joined) = stage.ask().await;
    assert_eq!((&joined.id, is_joined), (&stopped.id, true));
    let asked = format!(
        "SELECT asked_us FROM drift_sweep WHERE id = '{}'",
        joined.id
    );
    let before = stage.psql(&asked).await;
    let unlocking = async {
        eventually("the command to have joined", async || {
            (stage.psql(&asked).await != before).then_some(())
        })
        .await;
        lock.run("ROLLBACK").await.expect("it is unlocked");
    };
    let line = ["drift", "detect", "-o", "json"];
    let (output, ()) = tokio::join!(stage.server.cli(&line), unlocking);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_ne!(told["sweep"]["id"], stopped.id.as_str());
    assert_eq!(told["result"], "drifted");
    let ended = stage.sweep(&stopped.id).await;
    assert_eq!(ended.state(), SweepState::Cancelled);
    assert_eq!(stage.psql("SELECT count(*) FROM drift_due").await, "0");
}

/// What a database says that no server has open: the state of its only sweep, and how much that has compared.
const LOOK: &str = r#"
import json, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
state, tally = database.execute("SELECT state, tally FROM drift_sweep ORDER BY id DESC LIMIT 1").fetchone()
print(json.dumps({"state": state, "compared": json.loads(tally)["compared"] if tally else 0}))
"#;

/// The same of drifts.
const COUNT: &str = r#"
import json, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
one = lambda sql: database.execute(sql).fetchone()
print(json.dumps({
    "drifts": one("SELECT count(*), count(DISTINCT key) FROM drift WHERE state = 'open'"),
    "due": one("SELECT count(*) FROM drift_due")[0],
    "detected": one("SELECT count(*) FROM drift_event WHERE kind = 'drift_detected'")[0],
    "changed": one("SELECT count(*) FROM drift_event WHERE kind = 'drift_changed'")[0],
    "attempts": one("SELECT attempts FROM drift_sweep ORDER BY id DESC LIMIT 1")[0],
}))
"#;

/// The kill is not always in the middle: then everything is reported anew, and once more.
const TRIES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_one_process_on_sqlite_goes_on_after_it_was_killed() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join(".steadfast/steadfast.db");
    let file = file.to_str().expect("a path in UTF-8");
    let here = |builder: ServerBuilder| builder.directory(directory.path());
    let mut stage = Stage::start_with(Engine::Sqlite, PATIENT, here).await;
    stage.record_all().await;
    let all = i64::try_from(RESOURCES).expect("a small number");
    for round in 0..TRIES {
        let (outcome, value) = match round {
            0 => (ReportOutcome::First, 2),
            _ => (ReportOutcome::Changed, 2 + round),
        };
        stage.report_size(value, outcome).await;
        let (asked, _) = stage.ask().await;
        eventually("the sweep to get on", async || {
            let sweep = stage.sweep(&asked.id).await;
            (sweep.compared > 0).then_some(())
        })
        .await;
        stage.server.kill().await;
        let found: Value = python(LOOK, &[file]).await.json();
        stage = stage.another().await;
        let ended = stage.until_ended(&asked.id).await;
        assert_eq!(ended.state(), SweepState::Completed, "{ended:?}");
        assert_eq!(ended.compared, all, "round {round}");
        let new = (ended.drifts_opened, ended.drifts_changed);
        assert_eq!(new, if round == 0 { (all, 0) } else { (0, all) });
        stage.server.stop().await;
        let count: Value = python(COUNT, &[file]).await.json();
        assert_eq!(
            (&count["drifts"], &count["due"]),
            (&json!([all, all]), &json!(0))
        );
        let changed = i64::try_from(round).expect("a small number") * all;
        let events = (&count["detected"], &count["changed"]);
        assert_eq!(events, (&json!(all), &json!(changed)));
        stage = stage.another().await;
        let halfway = found["compared"].as_i64().expect("a number");
        if found["state"] == "running" && (1..all).contains(&halfway) {
            assert_eq!(count["attempts"], 2);
            return;
        }
    }
    panic!("it was never killed in the middle");
}
