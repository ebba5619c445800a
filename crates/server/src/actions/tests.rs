//! The builtins on a real store: their effects, and repeating them.

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_api::registry::v1::{Refresh, RefreshState};
use steadfast_catalog::Options;
use steadfast_saga::{Action, Attempt, Direction, Probed, Secrets};
use steadfast_types::{ReplicaId, Timestamp};
use steadfast_watch::{Hub, Options as HubOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::config::LoadOptions;

struct World {
    actions: Actions,
    store: Store,
    stop: CancellationToken,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&steadfast_store::Options {
            data_dir: folder.path().to_owned(),
            ..steadfast_store::Options::default()
        })
        .await
        .expect("opens");
        store.migrate().await.expect("migrates");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let replica = ReplicaId::random();
        let coalesce = Duration::from_millis(2);
        let wakeups = Wakeups::start(&store, replica, coalesce, &stop, &tasks);
        let hub = HubOptions {
            ring_revisions: 64,
            ring_bytes: 1 << 20,
            poll_interval: Duration::from_secs(1),
            page_revisions: 64,
            max_streams: 4,
        };
        let hub = Hub::start(store.clone(), &wakeups, hub, &stop, &tasks)
            .await
            .expect("starts");
        let options = Options::new(replica);
        let catalog = Catalog::start(store.clone(), &hub, &wakeups, options, &stop, &tasks)
            .await
            .expect("starts");
        let flags = [("saga.http_allow_local", "true")]
            .map(|(path, value)| (path.to_owned(), value.to_owned()));
        let config = Config::load(LoadOptions {
            flags: flags.to_vec(),
            ..LoadOptions::default()
        })
        .expect("valid");
        let actions = actions(
            &config,
            &store,
            &wakeups,
            &catalog,
            &Arc::new(Rules::default()),
        )
        .expect("starts");
        Self {
            actions,
            store,
            stop,
            _folder: folder,
        }
    }

    async fn run(&self, name: &str, attempt: Attempt) -> Outcome {
        let action = match name {
            "http" => serde_json::from_value(json!({ "http": attempt.input })).expect("an action"),
            _ => Action::Builtin {
                name: name.to_owned(),
                input: Value::Null,
            },
        };
        self.actions
            .get(&action)
            .expect("it is registered")
            .run(attempt)
            .await
    }

    async fn head(&self) -> i64 {
        let head = self.store.head().await.expect("answers");
        head.cursor.revision.0
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn attempt(input: Value) -> Attempt {
    Attempt {
        saga_id: "s".to_owned(),
        step: "a".to_owned(),
        direction: Direction::Forward,
        attempt: 1,
        key: "s/a/forward".to_owned(),
        input,
        output: Value::Null,
        deadline: Timestamp::now().plus(Duration::from_secs(20)),
        timeout: Duration::from_secs(20),
        secrets: Secrets::default(),
    }
}

fn code(outcome: &Outcome) -> (&str, bool) {
    match outcome {
        Outcome::Failed {
            code, retryable, ..
        } => (code, *retryable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_publish_that_is_repeated_is_published_once() {
    let world = World::start().await;
    let input = json!({ "topic": "app/x", "key": "k", "payload": { "a": 1 } });
    let before = world.head().await;
    let first = world.run("publish", attempt(input.clone())).await;
    let revision = world.head().await;
    assert_eq!(revision, before + 1);
    assert_eq!(
        first,
        Outcome::Done(json!({ "revision": revision, "replayed": false }))
    );
    let again = world.run("publish", attempt(input)).await;
    assert_eq!(
        again,
        Outcome::Done(json!({ "revision": revision, "replayed": true }))
    );
    assert_eq!(world.head().await, revision);
}

#[tokio::test]
async fn the_undo_of_an_unknown_publish_blocks_a_late_one_or_follows_it() {
    let forward = json!({ "topic": "app/x", "key": "k" });
    let undo = || {
        let delete = json!({ "topic": "app/x", "key": "k", "op": "delete" });
        Attempt {
            direction: Direction::Backward,
            ..attempt(delete)
        }
    };
    let world = World::start().await;
    let done = world.run("publish", undo()).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let head = world.head().await;
    let late = world.run("publish", attempt(forward.clone())).await;
    assert!(matches!(late, Outcome::Unknown { .. }), "{late:?}");
    assert_eq!(world.head().await, head, "the late one has no effect");

    let world = World::start().await;
    world.run("publish", attempt(forward)).await;
    let before = world.head().await;
    for _ in 0..2 {
        let done = world.run("publish", undo()).await;
        assert!(matches!(done, Outcome::Done(_)), "{done:?}");
        assert_eq!(world.head().await, before + 1);
    }
}

#[tokio::test]
async fn inputs_that_make_no_sense_fail_for_good() {
    let world = World::start().await;
    for (name, input) in [
        ("publish", json!({ "topic": "app/x" })),
        ("publish", json!({ "topic": "registry", "key": "k" })),
        (
            "publish",
            json!({ "topic": "app/x", "key": "k", "op": "merge" }),
        ),
        (
            "publish",
            json!({ "topic": "app/x", "key": "k", "payload": "x".repeat(5_000) }),
        ),
        ("registry.refresh", json!({ "pakage": "a" })),
    ] {
        let outcome = world.run(name, attempt(input)).await;
        assert_eq!(code(&outcome), ("INVALID_INPUT", false), "{outcome:?}");
    }
    let outcome = world.run("registry.refresh", attempt(Value::Null)).await;
    assert_eq!(code(&outcome), ("NO_SOURCE", false));
}

#[test]
fn a_refresh_ends_a_step_when_it_has_ended() {
    let refresh = |state: RefreshState| Refresh {
        id: "r".to_owned(),
        state: state.into(),
        error: "why".to_owned(),
        ..Refresh::default()
    };
    for state in [RefreshState::Queued, RefreshState::Running] {
        assert_eq!(refresh::outcome_of(&refresh(state)), None);
    }
    let partial = refresh::outcome_of(&refresh(RefreshState::Partial));
    let expected = json!({ "refresh_id": "r", "state": "partial", "error": "why" });
    assert_eq!(partial, Some(Outcome::Done(expected)));
    let failed = refresh::outcome_of(&refresh(RefreshState::Failed)).expect("ended");
    assert_eq!(code(&failed), ("REFRESH_FAILED", true));
}

#[tokio::test]
async fn an_http_step_returns_status_headers_and_body() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.expect("a request");
        let answer = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{\"id\":7}";
        stream.write_all(answer.as_bytes()).await.expect("sent");
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    });
    let input = json!({ "method": "PUT", "url": format!("http://{address}/x"), "headers": {}, "body": { "a": 1 } });
    let outcome = world.run("http", attempt(input)).await;
    let expected = json!({
        "status": 201,
        "headers": { "content-type": "application/json" },
        "body": { "id": 7 },
    });
    assert_eq!(outcome, Outcome::Done(expected));
    let request = server.await.expect("it ended");
    assert!(
        request.contains("idempotency-key: s/a/forward"),
        "{request}"
    );
    let nonsense = world
        .run("http", attempt(json!({ "method": "GET", "url": "x" })))
        .await;
    assert_eq!(code(&nonsense), ("INVALID_REQUEST", false));
}

#[tokio::test]
async fn a_record_is_made_once_and_applied_again() {
    let world = World::start().await;
    let input = json!({
        "provider": "do", "type": "droplet", "id": 4711,
        "spec": { "size_slug": "small", "region": "fra1" }, "labels": { "env": "prod" },
    });
    let done = |version: i64, changed: bool| {
        Outcome::Done(json!({ "spec_version": version, "changed": changed }))
    };
    assert_eq!(
        world.run("resource.record", attempt(input.clone())).await,
        done(1, true)
    );
    let name = steadfast_drift::intake::name("do", "droplet", "4711").expect("a name");
    let row = async || {
        world
            .store
            .resource(&name)
            .await
            .expect("answers")
            .expect("recorded")
    };
    let first = row().await;
    assert_eq!(first.spec, r#"{"region":"fra1","size_slug":"small"}"#);
    assert_eq!(
        (first.saga_id.as_str(), first.recorded_by.as_str()),
        ("s", "saga:s")
    );
    assert_eq!(first.labels, r#"{"env":"prod"}"#);
    assert_eq!(
        world.run("resource.record", attempt(input.clone())).await,
        done(1, false)
    );
    assert!(row().await.applied_us > first.applied_us);
    let mut changed = input.clone();
    changed["spec"]["size_slug"] = "large".into();
    changed["pending"] = true.into();
    assert_eq!(
        world.run("resource.record", attempt(changed)).await,
        done(2, true)
    );
    assert_eq!(row().await.applied_us, None);
}

#[tokio::test]
async fn what_became_of_a_record_is_told_by_its_saga() {
    let world = World::start().await;
    let input = json!({ "provider": "do", "type": "droplet", "id": "1", "spec": { "a": 1 } });
    let action = Action::Builtin {
        name: "resource.record".to_owned(),
        input: Value::Null,
    };
    let act = world.actions.get(&action).expect("it is registered");
    assert!(act.can_probe());
    assert_eq!(act.probe(attempt(input.clone())).await, Probed::NotDone);
    let recorded = world.run("resource.record", attempt(input.clone())).await;
    assert!(matches!(recorded, Outcome::Done(_)), "{recorded:?}");
    let found = act.probe(attempt(input.clone())).await;
    assert_eq!(
        found,
        Probed::Done(json!({ "spec_version": 1, "changed": true }))
    );
    let mut other = attempt(input.clone());
    other.saga_id = "another".to_owned();
    assert_eq!(act.probe(other).await, Probed::NotDone);
    let mut changed = input;
    changed["spec"]["a"] = 2.into();
    assert_eq!(act.probe(attempt(changed)).await, Probed::Inconclusive);
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_not_made() {
    let world = World::start().await;
    for (input, told) in [
        (Value::Null, "null"),
        (
            json!({ "provider": "do", "type": "droplet", "id": "1" }),
            "spec",
        ),
        (
            json!({ "provider": "d/o", "type": "droplet", "id": "1", "spec": {} }),
            "key.provider",
        ),
        (
            json!({ "provider": "do", "type": "droplet", "id": [], "spec": {} }),
            "`id`",
        ),
        (
            json!({ "provider": "do", "type": "droplet", "id": "1", "spec": [] }),
            "spec_json",
        ),
        (
            json!({ "provider": "do", "type": "droplet", "id": "1", "spec": {}, "labels": { "": "x" } }),
            "labels",
        ),
    ] {
        match world.run("resource.record", attempt(input)).await {
            Outcome::Failed {
                message,
                retryable: false,
                ..
            } => {
                assert!(message.contains(told), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.head().await, 0);
}
