//! ListSagas: full pages, whatever the filter keeps, and every saga once.

use std::collections::BTreeSet;

use serde_json::json;
use steadfast_client::{
    Code,
    api::saga::v1::{
        BatchStartSagasRequest, DefinitionRef, ListSagaDefinitionsRequest, ListSagasRequest,
        SagaState, StartSagaRequest, batch_start_sagas_response::result::Result as Item,
    },
};

use super::stage::{Stage, inline, named};
use crate::scene::Engine;

/// More than were looked at in one call when filters were not the database's.
const SAGAS: usize = 2_300;
/// Every so many of them has a label.
const RARE: usize = 460;

#[tokio::test]
async fn a_page_is_full_whenever_there_are_enough() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let steps = |name: &str| json!([{ "name": name, "action": { "builtin": { "name": "noop" } }, "undo": "none" }]);
        for version in 1..=2 {
            let document = json!({ "name": "site", "version": version, "steps": steps(&format!("v{version}")) });
            stage.define(&document).await.expect("it is stored");
        }
        // The rare ones are the oldest: a filter has to pass all others to find them.
        let rare: Vec<StartSagaRequest> = (0..5)
            .map(|n| StartSagaRequest {
                labels: [
                    ("team".to_owned(), "rare".to_owned()),
                    ("n".to_owned(), n.to_string()),
                ]
                .into(),
                kind: "rare".to_owned(),
                ..named("site", 1)
            })
            .collect();
        let rest = (rare.len()..SAGAS).map(|n| StartSagaRequest {
            labels: [("team".to_owned(), "common".to_owned())].into(),
            deployment_id: (n / RARE).to_string(),
            ..named("site", 2)
        });
        let all: Vec<_> = rare.into_iter().chain(rest).collect();
        let mut ids = Vec::new();
        for chunk in all.chunks(100) {
            let requests = chunk.to_vec();
            let mut client = stage.connection.sagas();
            let started = client.batch_start_sagas(BatchStartSagasRequest { requests });
            let started = stage
                .connection
                .call(started)
                .await
                .expect("it is answered");
            for result in started.results {
                match result.result {
                    Some(Item::Started(started)) => ids.push(started.saga.expect("a saga").id),
                    other => panic!("{other:?}"),
                }
            }
        }
        for id in &ids {
            stage.until_state(id, SagaState::Completed).await;
        }
        // Those of one millisecond and one batch come in some order; the list has its own.
        let order = |found: &mut Vec<String>| found.sort_by(|a, b| b.cmp(a));
        let mut oldest = ids[..5].to_vec();
        order(&mut oldest);

        let list = async |request: ListSagasRequest| {
            let mut client = stage.connection.sagas();
            let answer = stage
                .connection
                .call(client.list_sagas(request))
                .await
                .expect("it is answered");
            let ids: Vec<_> = answer.sagas.into_iter().map(|saga| saga.id).collect();
            (ids, answer.next_page_token)
        };
        let whole = ListSagasRequest::default();
        let of_version = |version| ListSagasRequest {
            definition: Some(DefinitionRef {
                name: "site".to_owned(),
                version,
            }),
            ..whole.clone()
        };
        let with_label = ListSagasRequest {
            labels: [("team".to_owned(), "rare".to_owned())].into(),
            ..whole.clone()
        };
        let both = ListSagasRequest {
            states: vec![SagaState::Completed.into(), SagaState::Stuck.into()],
            kinds: vec!["rare".to_owned(), "unheard".to_owned()],
            ..whole.clone()
        };
        for filter in [with_label.clone(), of_version(1), both] {
            let (found, next) = list(filter.clone()).await;
            assert_eq!(
                (found, next.as_str()),
                (oldest.clone(), ""),
                "{engine:?}: {filter:?}"
            );
            // Two and two, and one on the last page.
            let (mut found, mut page_token, mut sizes) = (Vec::new(), String::new(), Vec::new());
            loop {
                let request = ListSagasRequest {
                    page_size: 2,
                    page_token,
                    ..filter.clone()
                };
                let (page, next) = list(request).await;
                sizes.push(page.len());
                found.extend(page);
                page_token = next;
                if page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(
                (sizes, found),
                (vec![2, 2, 1], oldest.clone()),
                "{engine:?}"
            );
        }
        // An exact fit is the last page, and says so.
        let (page, next) = list(ListSagasRequest {
            page_size: 5,
            ..with_label.clone()
        })
        .await;
        assert_eq!((page.len(), next.as_str()), (5, ""));

        // All of them, in pages that are full.
        let (mut found, mut page_token) = (BTreeSet::new(), String::new());
        let mut last = "~".to_owned();
        loop {
            let request = ListSagasRequest {
                page_size: 1_000,
                page_token: page_token.clone(),
                ..of_version(2)
            };
            let (page, next) = list(request).await;
            assert_eq!(page.len(), 1_000.min(SAGAS - 5 - found.len()), "{engine:?}");
            for id in page {
                assert!(id < last, "newest first");
                last.clone_from(&id);
                assert!(found.insert(id), "twice");
            }
            if next.is_empty() {
                break;
            }
            page_token = next;
        }
        assert_eq!(found, ids[5..].iter().cloned().collect());
        let nothing = ListSagasRequest {
            states: vec![SagaState::Stuck.into()],
            ..of_version(2)
        };
        assert_eq!(list(nothing).await, (Vec::new(), String::new()));

        refuse_wrong_pages(&stage, page_token).await;
    }
}

async fn refuse_wrong_pages(stage: &Stage, of_version_2: String) {
    let mut client = stage.connection.sagas();
    let default = ListSagasRequest::default;
    for (request, reason) in [
        // A token belongs to its filters.
        (
            ListSagasRequest {
                page_token: of_version_2,
                ..default()
            },
            "INVALID_PAGE_TOKEN",
        ),
        (
            ListSagasRequest {
                page_token: "x".to_owned(),
                ..default()
            },
            "INVALID_PAGE_TOKEN",
        ),
        (
            ListSagasRequest {
                page_size: -1,
                ..default()
            },
            "INVALID_ARGUMENT",
        ),
        (
            ListSagasRequest {
                states: vec![99],
                ..default()
            },
            "INVALID_ARGUMENT",
        ),
        (
            ListSagasRequest {
                kinds: vec!["k".to_owned(); 17],
                ..default()
            },
            "INVALID_ARGUMENT",
        ),
    ] {
        let refused = stage
            .connection
            .call(client.list_sagas(request))
            .await
            .expect_err("it is refused");
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, reason)
        );
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSagaDefinitionsRequest {
            page_size: 1,
            page_token,
        };
        let answer = stage
            .connection
            .call(client.list_saga_definitions(request))
            .await
            .expect("it is answered");
        names.extend(
            answer
                .definitions
                .into_iter()
                .map(|found| (found.name, found.version)),
        );
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, [("site".to_owned(), 1), ("site".to_owned(), 2)]);
    // What is started without a definition has none to be found by.
    let steps = r#"[{"name":"a","action":{"builtin":{"name":"noop"}},"undo":"none"}]"#;
    let saga = stage.start_saga(inline(steps)).await.expect("it starts");
    assert_eq!(
        (
            saga.definition_name.as_str(),
            saga.definition_version,
            saga.kind.as_str()
        ),
        ("", 0, "inline")
    );
}
