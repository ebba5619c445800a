//! What is refused, with its reason and the field at fault.

use std::time::Duration;

use steadfast_client::{
    Code, Error,
    api::{
        common::v1::Cursor,
        watch::v1::{
            Filter, ListNodesRequest, Node, ReportAppliedRequest, WaitForRevisionRequest,
            WatchRequest,
        },
    },
};
use tokio::time::Instant;

use super::stage::{Stage, list, node, open, publish, report, try_wait, wait, watchers};
use crate::{
    scene::{Engine, head},
    watch::next,
};

const LEASE: Duration = Duration::from_secs(60);

/// The reason, and the field that is named.
fn told(error: &Error) -> (&str, &str) {
    let field = error.field_violations.first();
    (
        error.reason.as_str(),
        field.map_or("", |violation| violation.field.as_str()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_above_what_was_sent_is_refused_on_every_replica() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, LEASE).await;
        let who = node("web", "1");
        // It is told of other topics only, and seldom of how far it is.
        let request = WatchRequest {
            node: Some(who.clone()),
            filters: vec![Filter {
                topic: "app/other".to_owned(),
                key_prefix: String::new(),
            }],
            progress_interval: Duration::from_secs(600).try_into().ok(),
            ..WatchRequest::default()
        };
        let opened = stage.connection(0).watches().watch(request).await;
        let mut stream = opened.expect("it opens").into_inner();
        next(&mut stream).await.expect("it is open");
        let sent = head(stage.connection(0)).await;
        let above = publish(stage.connection(0), "thing", "1").await;
        let report = async |turn: usize, cursor: &Cursor| {
            let connection = stage.connection(turn);
            let mut nodes = connection.nodes();
            let reported = nodes.report_applied(report(&who, cursor.clone()));
            connection.call(reported).await
        };
        for turn in 0..2 {
            report(turn, &sent).await.expect("it was sent");
            let error = report(turn, &above).await.expect_err("it was not sent");
            assert_eq!(error.code, Code::InvalidArgument);
            assert_eq!(told(&error), ("REVISION_NOT_SENT", "cursor"));
            assert_eq!(error.metadata["reported"], above.revision.to_string());
            assert_eq!(error.metadata["sent"], sent.revision.to_string());
            // The cursor of another history, and a mark that no revision has.
            let other = Cursor {
                store_id: "00000000-0000-0000-0000-000000000001".to_owned(),
                ..sent.clone()
            };
            let marked = Cursor {
                mark: sent.mark ^ 1,
                ..sent.clone()
            };
            for cursor in [other, marked] {
                let error = report(turn, &cursor).await.expect_err("another history");
                assert_eq!(error.code, Code::FailedPrecondition);
                assert_eq!(told(&error).0, "STORE_CHANGED");
            }
        }
        let waited = wait(stage.connection(1), &above, Duration::ZERO).await;
        // A replica may lag too, for a moment.
        assert_eq!(
            watchers(&waited.lagging),
            ["web"],
            "the refused reports count for nothing"
        );
    }
}

#[tokio::test]
async fn every_argument_is_checked() {
    let stage = Stage::start(Engine::Sqlite, LEASE).await;
    let connection = stage.connection(0);
    let head = head(connection).await;
    let long = "x".repeat(129);

    let labels = |count: usize| {
        let labels = (0..count).map(|n| (n.to_string(), String::new()));
        labels.collect::<std::collections::HashMap<_, _>>()
    };
    for (who, field) in [
        (node("web", ""), "node.incarnation"),
        (node(&long, "1"), "node.id"),
        (node("web", &long), "node.incarnation"),
        (node("we\0b", "1"), "node.id"),
        (
            Node {
                labels: labels(33),
                ..node("web", "1")
            },
            "node.labels",
        ),
    ] {
        let request = WatchRequest {
            node: Some(who),
            ..WatchRequest::default()
        };
        let refused = connection.watches().watch(request).await;
        let error = Error::from(refused.expect_err(field));
        assert_eq!(told(&error), ("INVALID_ARGUMENT", field));
    }

    let good = report(&node("web", "1"), head.clone());
    let refusals: [(ReportAppliedRequest, Code, &str, &str); 8] = [
        (
            ReportAppliedRequest {
                node: String::new(),
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "node",
        ),
        (
            ReportAppliedRequest {
                incarnation: String::new(),
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "incarnation",
        ),
        (
            ReportAppliedRequest {
                node: long.clone(),
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "node",
        ),
        (
            ReportAppliedRequest {
                cursor: None,
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "cursor",
        ),
        (
            ReportAppliedRequest {
                cursor: Some(Cursor::default()),
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "cursor",
        ),
        (
            ReportAppliedRequest {
                cursor: Some(Cursor {
                    revision: -1,
                    ..head.clone()
                }),
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "cursor",
        ),
        (
            ReportAppliedRequest {
                error: "e".repeat(513),
                ..good.clone()
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            "error",
        ),
        (good, Code::NotFound, "NODE_NOT_FOUND", ""),
    ];
    for (request, code, reason, field) in refusals {
        let mut nodes = connection.nodes();
        let error = connection.call(nodes.report_applied(request)).await;
        let error = error.expect_err(field);
        assert_eq!(
            (error.code, told(&error)),
            (code, (reason, field)),
            "{error}"
        );
    }

    let good = WaitForRevisionRequest {
        cursor: Some(head.clone()),
        ..WaitForRevisionRequest::default()
    };
    let of = |cursor: Cursor| WaitForRevisionRequest {
        cursor: Some(cursor),
        ..good.clone()
    };
    let timeout = |seconds: i64, nanos: i32| WaitForRevisionRequest {
        timeout: Some(prost_types::Duration { seconds, nanos }),
        ..good.clone()
    };
    let nodes = |nodes: Vec<String>| WaitForRevisionRequest {
        nodes,
        ..good.clone()
    };
    let revision = |revision: i64| Cursor {
        revision,
        ..Cursor::default()
    };
    let above = Cursor {
        revision: head.revision + 1,
        ..head.clone()
    };
    let marked = Cursor {
        mark: head.mark ^ 1,
        ..head.clone()
    };
    for (request, reason, field) in [
        (
            WaitForRevisionRequest {
                cursor: None,
                ..good.clone()
            },
            "INVALID_ARGUMENT",
            "cursor",
        ),
        (of(revision(-1)), "INVALID_ARGUMENT", "cursor"),
        (
            of(Cursor {
                store_id: "x".to_owned(),
                ..head.clone()
            }),
            "INVALID_ARGUMENT",
            "cursor",
        ),
        (
            of(revision(head.revision + 1)),
            "INVALID_ARGUMENT",
            "cursor.revision",
        ),
        (of(above), "STORE_CHANGED", ""),
        (of(marked), "STORE_CHANGED", ""),
        (timeout(601, 0), "INVALID_ARGUMENT", "timeout"),
        (timeout(-1, 0), "INVALID_ARGUMENT", "timeout"),
        (timeout(600, 1), "INVALID_ARGUMENT", "timeout"),
        (nodes(vec![String::new()]), "INVALID_ARGUMENT", "nodes[0]"),
        (
            nodes(vec!["a".to_owned(), long]),
            "INVALID_ARGUMENT",
            "nodes[1]",
        ),
        (
            nodes((0..1_001).map(|n| n.to_string()).collect()),
            "INVALID_ARGUMENT",
            "nodes",
        ),
    ] {
        let error = try_wait(connection, request).await.expect_err(field);
        assert_eq!(told(&error), (reason, field), "{error}");
    }
    // What is good is good, with the revision alone and with a node twice.
    let answer = try_wait(connection, of(revision(0)))
        .await
        .expect("an answer");
    assert!(answer.complete && answer.cursor == Some(head));
    let twice = nodes(vec!["a".to_owned(), "a".to_owned()]);
    let twice = WaitForRevisionRequest {
        timeout: Some(prost_types::Duration::default()),
        ..twice
    };
    let answer = try_wait(connection, twice).await.expect("an answer");
    assert_eq!((answer.complete, answer.lagging_count), (false, 1));

    for (page_size, page_token, reason, field) in [
        (-1, "", "INVALID_ARGUMENT", "page_size"),
        (0, "nonsense", "INVALID_PAGE_TOKEN", "page_token"),
    ] {
        let mut nodes = connection.nodes();
        let request = ListNodesRequest {
            page_size,
            page_token: page_token.to_owned(),
            include_gone: false,
        };
        let error = connection
            .call(nodes.list_nodes(request))
            .await
            .expect_err(field);
        assert_eq!(told(&error), (reason, field));
    }
}

#[tokio::test]
async fn nodes_are_listed_in_pages_with_what_they_say_of_themselves() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, LEASE).await;
        let mut streams = Vec::new();
        for number in 0..7 {
            let who = Node {
                labels: [("number".to_owned(), number.to_string())].into(),
                ..node(&format!("n{number}"), "1")
            };
            let mut stream = open(stage.connection(number), &who).await;
            next(&mut stream).await.expect("it is open");
            streams.push(stream);
        }
        let connection = stage.connection(0);
        let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let mut nodes = connection.nodes();
            let request = ListNodesRequest {
                page_size: 3,
                page_token: std::mem::take(&mut token),
                include_gone: false,
            };
            let page = connection.call(nodes.list_nodes(request.clone())).await;
            let page = page.expect("a page");
            pages += 1;
            names.extend(page.nodes.iter().map(|status| status.node.clone()));
            if page.next_page_token.is_empty() {
                break;
            }
            assert_eq!(page.nodes.len(), 3);
            token = page.next_page_token.clone();
            // It belongs to its own arguments.
            let other = ListNodesRequest {
                include_gone: true,
                page_token: token.clone(),
                ..request
            };
            let error = connection.call(nodes.list_nodes(other)).await;
            assert_eq!(told(&error.expect_err("refused")).0, "INVALID_PAGE_TOKEN");
        }
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(names, sorted, "in order, each once");
        assert_eq!(names.len(), 7 + stage.servers.len());
        assert_eq!(pages, names.len().div_ceil(3));
        let listed = list(connection, false).await;
        let third = listed
            .iter()
            .find(|status| status.node == "n3")
            .expect("it is there");
        assert_eq!(third.labels["number"], "3");
        assert_eq!(third.applied_revision, None);
    }
}

#[tokio::test]
async fn the_number_of_nodes_is_limited() {
    let server = steadfast_testkit::Server::builder()
        .configuration("[limits]\nmax_nodes = 3\n")
        .start()
        .await;
    let connection = crate::scene::connection(&server).await;
    let _streams = [
        open(&connection, &node("a", "1")).await,
        open(&connection, &node("b", "1")).await,
    ];
    let request = WatchRequest {
        node: Some(node("c", "1")),
        ..WatchRequest::default()
    };
    let refused = connection.watches().watch(request).await;
    let error = Error::from(refused.expect_err("it is one too many"));
    assert_eq!(error.code, Code::ResourceExhausted);
    assert_eq!(
        (told(&error).0, error.metadata["limit"].as_str()),
        ("TOO_MANY_NODES", "3")
    );
    // One of those that are known may come again.
    open(&connection, &node("b", "1")).await;
}

/// Whoever waits longer than its own call lasts is answered before the call ends.
#[tokio::test]
async fn a_wait_ends_before_the_call_does() {
    let stage = Stage::start(Engine::Sqlite, LEASE).await;
    let connection = stage.connection(0);
    let mut stream = open(connection, &node("web", "1")).await;
    next(&mut stream).await.expect("it is open");
    let cursor = publish(connection, "thing", "1").await;
    let short = connection.with_timeout(Duration::from_secs(1));
    let began = Instant::now();
    let waited = wait(&short, &cursor, Duration::from_secs(300)).await;
    assert!(!waited.complete);
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "{:?}",
        began.elapsed()
    );
}
