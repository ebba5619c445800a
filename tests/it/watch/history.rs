//! Cursors of another history are told so, and never passed over.

use std::fs;

use serde_json::Value;
use steadfast_client::{
    Code, Error,
    api::{
        common::v1::Cursor,
        watch::v1::{
            GetHeadRequest, OnCompacted, ResetReason, Start, WatchRequest, start::Position,
            watch_response::Event,
        },
    },
};

use super::{change, next, open, publish};
use crate::scene::{Engine, NoRegistry, eventually};

const STRANGER: &str = "01900000-0000-7000-8000-000000000000";

#[tokio::test]
async fn a_cursor_of_another_history_is_reset_or_refused() {
    for engine in Engine::BOTH {
        let scene = NoRegistry::start(engine).await;
        let connection = scene.connect().await;
        let mut cursors = Vec::new();
        for number in 0..3 {
            cursors.push(publish(&connection, vec![change("app/x", &number.to_string())]).await);
        }
        let last = cursors[2].clone();
        // A reset tells the head of the replica's memory, so that has to be there.
        eventually("the replica to have read its log", async || {
            let call = connection.watches().get_head(GetHeadRequest {}).await;
            let applied = call.expect("an answer").into_inner().applied_revision;
            (applied == last.revision).then_some(())
        })
        .await;
        for forged in [
            Cursor {
                store_id: STRANGER.to_owned(),
                ..last.clone()
            },
            Cursor {
                mark: cursors[1].mark ^ 1,
                ..cursors[1].clone()
            },
            Cursor {
                revision: last.revision + 1_000,
                ..last.clone()
            },
        ] {
            let request = |on_compacted: OnCompacted| WatchRequest {
                start: Some(Start {
                    position: Some(Position::After(forged.clone())),
                }),
                on_compacted: on_compacted.into(),
                ..WatchRequest::default()
            };
            let answer = connection.watches().watch(request(OnCompacted::Fail)).await;
            let error = match answer {
                Err(status) => Error::from(status),
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match next(&mut stream).await {
                            Ok(Event::Opened(_)) => {}
                            Ok(other) => panic!("{forged:?} was followed by {other:?}"),
                            Err(error) => break error,
                        }
                    }
                }
            };
            assert_eq!(
                (error.code, error.reason.as_str()),
                (Code::FailedPrecondition, "STORE_CHANGED"),
                "{forged:?}"
            );

            let mut stream = open(&connection, request(OnCompacted::Unspecified)).await;
            let opened = next(&mut stream).await.expect("an event");
            assert!(matches!(opened, Event::Opened(_)), "{opened:?}");
            let Event::Reset(reset) = next(&mut stream).await.expect("an event") else {
                panic!("a reset comes before anything else");
            };
            assert_eq!(reset.reason(), ResetReason::StoreChanged);
            assert_eq!(reset.head.as_ref(), Some(&last));
        }
        // A cursor that is none is no history either: it is malformed.
        for malformed in [
            Cursor::default(),
            Cursor {
                revision: -1,
                ..last.clone()
            },
        ] {
            let request = WatchRequest {
                start: Some(Start {
                    position: Some(Position::After(malformed)),
                }),
                ..WatchRequest::default()
            };
            let answer = connection.watches().watch(request).await;
            let error = Error::from(answer.expect_err("it is malformed"));
            assert_eq!(error.code, Code::InvalidArgument);
            assert_eq!(error.field_violations[0].field, "start.after");
        }
    }
}

#[tokio::test]
async fn the_program_prints_the_reset_and_goes_on_from_the_head() {
    let scene = NoRegistry::start(Engine::Sqlite).await;
    let connection = scene.connect().await;
    publish(&connection, vec![change("app/x", "before")]).await;
    let file = scene.server.directory().join("cursor");
    let forged = format!("{STRANGER}:7:00000000000000ff");
    fs::write(&file, &forged).expect("the directory can be written");
    let mut watch = scene
        .server
        .cli_running(&["watch", "--cursor-file", "cursor"]);
    let line = watch.next_line().await.expect("a line");
    assert!(
        line.starts_with("RESET: ") && line.contains("reload") && line.ends_with("revision 1"),
        "{line}"
    );
    publish(&connection, vec![change("app/x", "after")]).await;
    let line = watch.next_line().await.expect("a line");
    assert_eq!(line, "2  upsert  app/x  after");

    let mut watch = scene
        .server
        .cli_running(&["watch", "--after", &forged, "-o", "json"]);
    let line = watch.next_line().await.expect("a line");
    let reset: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(reset["event"], "reset");
    assert_eq!(reset["reason"], "store_changed");
    assert_eq!(reset["head"], 2);
}
