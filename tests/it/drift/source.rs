//! Inventories that the server takes itself, over real HTTP.

use serde_json::{Value, json};
use steadfast_testkit::{ListingAnswer, ListingServer, Signal, process::ServerBuilder};

use super::stage::Stage;
use crate::scene::{Engine, eventually};

/// Resources on one page.
const PAGE: usize = 400;
/// On three pages, with the fourth beginning.
const RESOURCES: usize = 3 * PAGE + 1;

fn listed(number: usize, size: usize) -> Value {
    json!({ "type": "droplet", "id": number, "attributes": { "size": size, "zone": "a" } })
}

fn all() -> Vec<Value> {
    (0..RESOURCES).map(|number| listed(number, 1)).collect()
}

/// A server that has this source configured, with a short lease.
async fn stage(engine: Engine, listing: &ListingServer) -> Stage {
    let more = format!(
        "\n[[drift.inventory]]\nname = \"cloud\"\ntype = \"http\"\nprovider = \"do\"\ntypes = [\"droplet\"]\nurl = \"{}\"\n\
         token = \"CLOUD_TOKEN\"\nschedule = \"0 3 1 7 *\"\n\n[upstream]\nattempts = 2\n\n[lease]\nduration_ms = 1000\n",
        listing.url()
    );
    let with_token =
        |builder: ServerBuilder| builder.variable("STEADFAST_SECRET_CLOUD_TOKEN", "s3cret-token");
    Stage::start_with(engine, &more, with_token).await
}

impl Stage {
    /// What `inventory run cloud` says, and how it exited.
    async fn run_source(&self, more: &[&str]) -> (Option<i32>, Value) {
        let line = [&["inventory", "run", "cloud", "-o", "json"], more].concat();
        let output = self.server.cli(&line).await;
        let told = serde_json::from_str(&output.stdout);
        (
            output.status.code(),
            told.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        )
    }

    async fn shown(&self, id: &Value) -> Value {
        let id = id.as_str().expect("an id");
        let line = ["inventory", "get", id, "-o", "json"];
        self.server.cli(&line).await.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_listed_to_its_end_and_compared() {
    for engine in Engine::BOTH {
        let listing = ListingServer::start(PAGE).await;
        let stage = stage(engine, &listing).await;
        for number in [0, PAGE, RESOURCES - 1] {
            let spec = json!({ "size": 1, "zone": "a" });
            stage.record(&number.to_string(), &spec).await;
        }
        // What is not of its provider and types is left out.
        let mut there = all();
        there[PAGE] = listed(PAGE, 2);
        there.push(json!({ "type": "volume", "id": "1", "attributes": {} }));
        there.push(json!({ "provider": "acme", "type": "droplet", "id": "1", "attributes": {} }));
        listing.put(there);
        // A failure that passes is no failure.
        listing.answer(2, [ListingAnswer::Status(503)]);
        let (code, told) = stage.run_source(&[]).await;
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(
            (&told["state"], &told["reported"], &told["missed"]),
            (&json!("complete"), &json!(RESOURCES), &json!(0))
        );
        assert_eq!(told["source"], "source:cloud");
        assert_eq!(told["expected_end_time"], Value::Null, "it is the first");
        let requests = listing.requests();
        let pages: Vec<usize> = requests.iter().map(|request| request.page).collect();
        assert_eq!(pages, [1, 2, 2, 3, 4]);
        let bearer = |authorization: &str| authorization == "Bearer s3cret-token";
        assert!(
            requests
                .iter()
                .all(|request| bearer(&request.authorization))
        );
        // Its end asked for a sweep.
        let drift = eventually("the drift to be found", async || stage.open().await.pop()).await;
        assert_eq!(
            (drift.path.as_str(), drift.actual_json.as_str()),
            ("/size", "2")
        );
        let sweeps = ["drift", "sweeps", "-o", "json"];
        let sweeps = stage.server.cli(&sweeps).await.json();
        let by = format!("inventory:{}", told["id"].as_str().expect("an id"));
        assert_eq!(sweeps["sweeps"][0]["triggered_by"], by);

        // Again, with one that is missing; it is said how long that will take.
        let mut there = all();
        there.remove(0);
        listing.put(there);
        let (code, again) = stage.run_source(&[]).await;
        assert_eq!((code, &again["missed"]), (Some(0), &json!(1)), "{again}");
        assert!(again["expected_end_time"].is_string(), "{again}");
        // By the clock.
        let run = ["schedule", "run", "inventory-cloud", "-o", "json"];
        let run = stage.server.cli(&run).await.json();
        let result = run["last_result"].as_str().expect("a result");
        let id = result
            .strip_prefix("inventory ")
            .expect("its id")
            .to_owned();
        eventually("the scheduled one to end", async || {
            let shown = stage.shown(&json!(id)).await;
            (shown["state"] == "complete").then_some(())
        })
        .await;
        assert!(!stage.server.log().contains("s3cret"));
    }
}

#[tokio::test]
async fn a_source_that_is_not_configured_is_told_with_those_that_are() {
    let listing = ListingServer::start(PAGE).await;
    let stage = stage(Engine::Sqlite, &listing).await;
    let told = stage.server.cli(&["inventory", "run", "clout"]).await;
    assert_eq!(told.status.code(), Some(5), "{told:?}");
    assert!(
        told.stderr.contains("INVENTORY_SOURCE_NOT_FOUND")
            && told.stderr.contains("there is cloud")
            && told.stderr.contains("[[drift.inventory]]"),
        "{told:?}"
    );
    let none = Stage::start(Engine::Sqlite).await;
    let told = none.server.cli(&["inventory", "run", "cloud"]).await;
    assert_eq!(told.status.code(), Some(5), "{told:?}");
    assert!(
        told.stderr.contains("add a [[drift.inventory]]"),
        "{told:?}"
    );
    assert_eq!(listing.requests(), []);
}

/// Whatever is wrong with a listing: nothing is missing because of it, and nothing opens or closes.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_not_understood_to_its_end_proves_nothing() {
    for engine in Engine::BOTH {
        let listing = ListingServer::start(PAGE).await;
        let stage = stage(engine, &listing).await;
        stage.record("7", &json!({ "size": 1 })).await;
        stage.record("1000", &json!({ "size": 2 })).await;
        listing.put(all());
        let (code, _) = stage.run_source(&[]).await;
        assert_eq!(code, Some(0));
        let before = eventually("the drift to be found", async || stage.open().await.pop()).await;
        assert_eq!(before.key.as_ref().map(|key| key.id.as_str()), Some("1000"));
        let body = |body: &str| ListingAnswer::Body(body.to_owned());
        let unavailable = || ListingAnswer::Status(500);
        for (page, answers, told) in [
            (3, vec![unavailable(), unavailable()], "unavailable"),
            (4, vec![ListingAnswer::Status(404)], "not found"),
            (2, vec![ListingAnswer::Status(401)], "credential"),
            (2, vec![body("{}")], "resources"),
            (1, vec![body("<html>")], "malformed"),
            (
                2,
                vec![body(r#"[{"type":"droplet","id":"1","attributes":[]}]"#)],
                "attributes",
            ),
            (
                2,
                vec![body(r#"[{"type":"droplet","id":"","attributes":{}}]"#)],
                "key.id: it is empty",
            ),
            (
                2,
                vec![body(r#"{"resources":[],"next":"http://127.0.0.2:1/"}"#)],
                "another origin",
            ),
            (
                2,
                vec![body(r#"{"resources":[],"next":"?page=2"}"#)],
                "circle",
            ),
        ] {
            listing.answer(page, answers);
            let (code, inventory) = stage.run_source(&[]).await;
            assert_eq!(
                (code, &inventory["state"]),
                (Some(1), &json!("failed")),
                "{told}"
            );
            let error = inventory["error"].as_str().expect("a text");
            assert!(error.contains(told), "{told}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
            assert_eq!(inventory["missed"], 0);
            stage.detect().await;
            assert_eq!(stage.only().await.etag, before.etag, "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_is_taken_of_a_source_and_another_replica_takes_it_over() {
    let listing = ListingServer::start(PAGE).await;
    let mut one = stage(Engine::Postgres, &listing).await;
    let other = one.another().await;
    listing.put(all());
    listing.hold_from(2);
    let (_, first) = one.run_source(&["--no-wait"]).await;
    assert_eq!(
        (&first["state"], &first["joined"]),
        (&json!("running"), &json!(false))
    );
    listing.held().await;
    for stage in [&one, &other] {
        let (code, joined) = stage.run_source(&["--no-wait"]).await;
        assert_eq!((code, &joined["joined"]), (Some(0), &json!(true)));
        assert_eq!(joined["id"], first["id"]);
    }
    // It is killed in the middle. The other one says so to whoever waits for its end, and can look again.
    one.server.kill().await;
    listing.release();
    let (code, lost) = other.run_source(&[]).await;
    assert_eq!((code, &lost["id"]), (Some(1), &first["id"]), "{lost}");
    assert_eq!(lost["error"], "the replica that took it was lost");
    let (code, next) = other.run_source(&[]).await;
    assert_eq!((code, &next["state"]), (Some(0), &json!("complete")));
    assert_eq!(next["reported"], RESOURCES);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_under_way_fails_when_its_replica_shuts_down() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let listing = ListingServer::start(PAGE).await;
    let more = format!(
        "\n[[drift.inventory]]\nname = \"cloud\"\ntype = \"http\"\nprovider = \"do\"\nurl = \"{}\"\n",
        listing.url()
    );
    let here = |builder: ServerBuilder| builder.directory(directory.path());
    let mut stage = Stage::start_with(Engine::Sqlite, &more, here).await;
    listing.put(all());
    listing.hold_from(3);
    let (_, begun) = stage.run_source(&["--no-wait"]).await;
    listing.held().await;
    stage.server.signal(Signal::SIGTERM);
    assert!(stage.server.wait_exit().await.success());
    listing.release();
    let again = stage.another().await;
    let ended = again.shown(&begun["id"]).await;
    assert_eq!(
        (&ended["state"], &ended["error"]),
        (&json!("failed"), &json!("the replica was shut down"))
    );
    let (code, next) = again.run_source(&[]).await;
    assert_eq!((code, &next["reported"]), (Some(0), &json!(RESOURCES)));
}
