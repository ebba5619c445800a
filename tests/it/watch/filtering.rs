//! What a watcher asks for is what it gets.

use std::time::Duration;

use steadfast_client::{
    Code, Error,
    api::watch::v1::{Filter, Node, WatchRequest, watch_response::Event},
};
use steadfast_testkit::Server;

use super::{change, next, open, publish};
use crate::scene::{connection, head};

#[tokio::test]
async fn topics_and_prefixes_choose() {
    let server = Server::builder().start().await;
    let connection = connection(&server).await;
    for (topic, key) in [
        ("app/orders", "a-1"),
        ("app/orders", "b-1"),
        ("app/orders/closed", "a-2"),
        ("app/stock", "a-3"),
    ] {
        publish(&connection, vec![change(topic, key)]).await;
    }
    publish(&connection, vec![change("app/end", "a-")]).await;
    for (filter, keys) in [
        (&[][..], &["a-1", "b-1", "a-2", "a-3"][..]),
        (&["--topic", "app/orders"], &["a-1", "b-1"]),
        (&["--topic", "app/orders/*"], &["a-2"]),
        (&["--topic", "app/*"], &["a-1", "b-1", "a-2", "a-3"]),
        (&["--topic", "app/*", "--key-prefix", "b-"], &["b-1"]),
        (
            &[
                "--topic",
                "app/stock",
                "--topic",
                "app/orders",
                "--key-prefix",
                "a-",
            ],
            &["a-1", "a-3"],
        ),
        (&["--topic", "registry"], &[]),
    ] {
        let end = if filter.is_empty() {
            &[][..]
        } else {
            &["--topic", "app/end"]
        };
        let arguments = [&["watch", "--earliest"], filter, end].concat();
        // A prefix holds for every topic, and the last change has it only if it is `a-`.
        if filter.contains(&"b-") {
            let arguments = [&["watch", "--earliest"], filter].concat();
            let mut watch = server.cli_running(&arguments);
            let line = watch.next_line().await.expect("a line");
            assert_eq!(line, "2  upsert  app/orders  b-1");
            continue;
        }
        let mut watch = server.cli_running(&arguments);
        let mut seen = Vec::new();
        loop {
            let line = watch.next_line().await.expect("a line");
            if line.contains("app/end") {
                break;
            }
            let key = line.split_whitespace().last().expect("a key");
            seen.push(key.to_owned());
        }
        assert_eq!(seen, keys, "{filter:?}");
    }
}

#[tokio::test]
async fn a_filter_that_can_match_nothing_is_refused() {
    let server = Server::builder().start().await;
    for topic in ["regsitry", "app", "app/two words", "*", "registry/*", ""] {
        let output = server.cli(&["watch", "--topic", topic]).await;
        let told = output.failure(1);
        assert!(
            told.contains("INVALID_ARGUMENT") && told.contains("filters[0]"),
            "{topic}: {told}"
        );
    }
    let connection = connection(&server).await;
    let refused = async |request: WatchRequest| -> Error {
        let answer = connection.watches().watch(request).await;
        Error::from(answer.expect_err("it is refused"))
    };
    let filter = Filter {
        topic: "app/x".to_owned(),
        key_prefix: String::new(),
    };
    let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
    for (request, field) in [
        (
            WatchRequest {
                filters: vec![filter; 65],
                ..WatchRequest::default()
            },
            "filters[64]",
        ),
        (
            WatchRequest {
                progress_interval: Some(seconds(0)),
                ..WatchRequest::default()
            },
            "progress_interval",
        ),
        (
            WatchRequest {
                progress_interval: Some(seconds(601)),
                ..WatchRequest::default()
            },
            "progress_interval",
        ),
        (
            WatchRequest {
                suppress_own: true,
                ..WatchRequest::default()
            },
            "suppress_own",
        ),
        (
            WatchRequest {
                suppress_own: true,
                include_values: true,
                node: Some(Node {
                    id: "n".to_owned(),
                    incarnation: "i".to_owned(),
                    ..Node::default()
                }),
                ..WatchRequest::default()
            },
            "suppress_own",
        ),
        (
            WatchRequest {
                node: Some(Node {
                    id: "n".to_owned(),
                    incarnation: "x".repeat(129),
                    ..Node::default()
                }),
                ..WatchRequest::default()
            },
            "node.incarnation",
        ),
        (
            WatchRequest {
                on_compacted: 7,
                ..WatchRequest::default()
            },
            "on_compacted",
        ),
    ] {
        let error = refused(request).await;
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert_eq!(error.field_violations[0].field, field);
    }
}

/// Nothing matches, and yet the cursor moves: a quiet stream stays young.
#[tokio::test]
async fn progress_moves_the_cursor_when_nothing_matches() {
    let server = Server::builder().start().await;
    let connection = connection(&server).await;
    let request = WatchRequest {
        filters: vec![Filter {
            topic: "app/quiet".to_owned(),
            key_prefix: String::new(),
        }],
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..WatchRequest::default()
    };
    let mut stream = open(&connection, request).await;
    let Event::Opened(opened) = next(&mut stream).await.expect("an event") else {
        panic!("the first message is always `opened`");
    };
    assert_eq!(opened.head, Some(head(&connection).await));
    let loud = publish(&connection, vec![change("app/loud", "k")]).await;
    let progress = async {
        loop {
            match next(&mut stream).await.expect("an event") {
                Event::Progress(progress) if progress.cursor.as_ref() == Some(&loud) => return,
                Event::Progress(_) => {}
                other => panic!("nothing matches, and yet came {other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), progress)
        .await
        .expect("progress comes every second");
}

#[tokio::test]
async fn streams_are_counted() {
    let server = Server::builder()
        .variable("STEADFAST_LIMITS__MAX_WATCH_STREAMS", "2")
        .start()
        .await;
    let connection = connection(&server).await;
    let _first = open(&connection, WatchRequest::default()).await;
    let second = open(&connection, WatchRequest::default()).await;
    let answer = connection.watches().watch(WatchRequest::default()).await;
    let error = Error::from(answer.expect_err("it is one too many"));
    assert_eq!(
        (error.code, error.reason.as_str()),
        (Code::ResourceExhausted, "TOO_MANY_STREAMS")
    );
    assert!(error.retry_after.is_some());
    drop(second);
    // The place is free again as soon as the server notices.
    crate::scene::eventually("a place", async || {
        let answer = connection.watches().watch(WatchRequest::default()).await;
        answer.ok().map(|_| ())
    })
    .await;
}
