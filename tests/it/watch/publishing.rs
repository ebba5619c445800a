//! `publish`, and how what is published comes out of a watch.

use std::fs;

use serde_json::{Value, json};
use steadfast_client::{
    Code,
    api::watch::v1::{
        Node, Op, PublishRequest, WatchRequest, publish_request::Change, watch_response::Event,
    },
};
use steadfast_testkit::{Server, TestDatabase};

use super::{change, next, open};
use crate::scene::{connection, head};

#[tokio::test]
async fn what_is_published_is_printed() {
    let server = Server::builder().start().await;
    let mut watch = server.cli_running(&["watch", "--earliest", "-o", "json"]);
    let mut text = server.cli_running(&["watch", "--earliest"]);
    fs::write(server.directory().join("bytes"), [0xff, 0x00]).expect("it can be written");
    for arguments in [
        &[
            "app/orders",
            "4711",
            "--payload",
            "hi\nthere",
            "--etag",
            "e1",
        ][..],
        &["app/orders", "4711", "--delete", "--origin", "me"],
        &["app/orders", "4712", "--payload-file", "bytes"],
    ] {
        let output = server.cli(&[&["publish"], arguments].concat()).await;
        assert!(output.success().starts_with("published as revision "));
    }
    let mut line = async || -> Value {
        let line = watch.next_line().await.expect("a line");
        serde_json::from_str(&line).expect("JSON")
    };
    let first = line().await;
    assert_eq!(first["event"], "change");
    assert_eq!(
        (&first["topic"], &first["key"]),
        (&json!("app/orders"), &json!("4711"))
    );
    assert_eq!(
        (&first["op"], &first["etag"]),
        (&json!("upsert"), &json!("e1"))
    );
    assert_eq!(first["payload_text"], "hi\nthere");
    let second = line().await;
    assert_eq!(
        (&second["op"], &second["origin"]),
        (&json!("delete"), &json!("me"))
    );
    let third = line().await;
    assert_eq!(third["payload_base64"], "/wA=");
    assert_eq!(third.get("payload_text"), None, "it is no text");
    for expected in [
        r#"1  upsert  app/orders  4711  etag=e1  payload="hi\nthere""#,
        "2  delete  app/orders  4711",
        "3  upsert  app/orders  4712  payload=2 bytes",
    ] {
        assert_eq!(text.next_line().await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn the_same_request_id_is_written_once() {
    let database = TestDatabase::create().await;
    for builder in [
        Server::builder(),
        Server::builder().database_url(database.url()),
    ] {
        let server = builder.start().await;
        let connection = connection(&server).await;
        let arguments = ["publish", "app/x", "k", "--request-id", "r1"];
        let first = server.cli(&arguments).await;
        assert_eq!(first.success(), "published as revision 1\n");
        let again = server.cli(&arguments).await;
        assert_eq!(
            again.success(),
            "published before, as revision 1: nothing was written now\n"
        );
        let other = server
            .cli(&["publish", "app/x", "other", "--request-id", "r1"])
            .await;
        let told = other.failure(1);
        assert!(
            told.contains("REQUEST_ID_REUSED") && told.contains("--request-id"),
            "{told}"
        );
        assert_eq!(head(&connection).await.revision, 1);

        // Many at once, of which one writes.
        let request = PublishRequest {
            changes: vec![change("app/x", "together")],
            request_id: "r2".to_owned(),
            ..PublishRequest::default()
        };
        let calls = (0..16).map(|_| {
            let mut watches = connection.watches();
            let request = request.clone();
            async move { watches.publish(request).await }
        });
        let answers = futures::future::join_all(calls).await;
        let answers: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.expect("an answer").into_inner())
            .collect();
        let written = answers.iter().filter(|answer| !answer.replayed).count();
        assert_eq!(written, 1);
        assert!(
            answers
                .iter()
                .all(|answer| answer.cursor == answers[0].cursor)
        );
        assert_eq!(head(&connection).await.revision, 2);
    }
}

#[tokio::test]
async fn every_field_at_fault_is_named_at_once() {
    let server = Server::builder().start().await;
    let connection = connection(&server).await;
    let request = PublishRequest {
        changes: vec![
            change("app/fine", "k"),
            change("registry", "k"),
            change("app/x", ""),
            Change {
                op: Op::Unspecified.into(),
                etag: "e".repeat(129),
                payload: vec![0; 4_097].into(),
                ..change("app/", "nul\0")
            },
        ],
        origin: "o".repeat(129),
        request_id: "r\0".to_owned(),
    };
    let error = connection
        .call(connection.watches().publish(request))
        .await
        .expect_err("it is refused");
    assert_eq!(error.code, Code::InvalidArgument);
    let mut fields: Vec<_> = error
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "changes[1].topic",
            "changes[2].key",
            "changes[3].etag",
            "changes[3].key",
            "changes[3].op",
            "changes[3].payload",
            "changes[3].topic",
            "origin",
            "request_id",
        ]
    );
    for count in [0, 257] {
        let request = PublishRequest {
            changes: vec![change("app/x", "k"); count],
            ..PublishRequest::default()
        };
        let error = connection
            .call(connection.watches().publish(request))
            .await
            .expect_err("too few or too many");
        assert_eq!(error.field_violations[0].field, "changes");
    }
    assert_eq!(head(&connection).await.revision, 0, "nothing was written");
    let output = server
        .cli(&["publish", "orders", "", "--etag", &"e".repeat(200)])
        .await;
    let told = output.failure(1);
    for field in ["changes[0].topic", "changes[0].key", "changes[0].etag"] {
        assert_eq!(told.matches(field).count(), 1, "{told}");
    }
}

#[tokio::test]
async fn a_call_is_one_revision_and_own_changes_are_marked() {
    let server = Server::builder().start().await;
    let connection = connection(&server).await;
    let node = |incarnation: &str| {
        Some(Node {
            incarnation: incarnation.to_owned(),
            ..Node::default()
        })
    };
    let watch = async |incarnation| {
        let request = WatchRequest {
            node: node(incarnation),
            ..WatchRequest::default()
        };
        let mut stream = open(&connection, request).await;
        let opened = next(&mut stream).await.expect("an event");
        assert!(matches!(opened, Event::Opened(_)));
        stream
    };
    let mut mine = watch("i-1").await;
    let mut earlier = watch("i-0").await;
    let request = PublishRequest {
        changes: (0..256).map(|n| change("app/x", &n.to_string())).collect(),
        origin: "i-1".to_owned(),
        request_id: String::new(),
    };
    let published = connection
        .call(connection.watches().publish(request))
        .await
        .expect("it is published");
    for (stream, own) in [(&mut mine, true), (&mut earlier, false)] {
        let Event::Batch(batch) = next(stream).await.expect("an event") else {
            panic!("a batch comes first");
        };
        assert_eq!(batch.changes.len(), 256);
        assert_eq!(batch.cursor, published.cursor);
        for (index, change) in batch.changes.iter().enumerate() {
            assert_eq!(change.key, index.to_string(), "in their order");
            assert_eq!((change.revision, change.own), (1, own));
            assert!(change.time.is_some());
        }
    }
}
