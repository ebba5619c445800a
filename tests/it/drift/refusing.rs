//! What is refused, and how it is told.

use serde_json::json;
use steadfast_client::{
    Code, Error,
    api::drift::v1::{
        CreatePolicyRequest, DetectDriftRequest, GetDriftRequest, GetInventoryRequest,
        GetPolicyRequest, GetResourceRequest, GetSweepRequest, ListDriftsRequest,
        ListResourcesRequest, Observation, Policy, RecordResourceRequest,
        report_resources_response::result::Result as ReportResult,
    },
};

use super::stage::{Stage, key, live, observation, spec};
use crate::scene::Engine;

fn assert_field(error: &Error, field: &str) {
    assert_eq!(
        (error.code, error.reason.as_str()),
        (Code::InvalidArgument, "INVALID_ARGUMENT")
    );
    assert_eq!(error.field_violations[0].field, field, "{error:?}");
}

#[tokio::test]
async fn a_wrong_argument_is_named() {
    let stage = Stage::start(Engine::Sqlite).await;
    let good = RecordResourceRequest {
        key: key("droplet", "1"),
        spec_json: spec().to_string(),
        ..RecordResourceRequest::default()
    };
    let wrong = async |field: &str, change: fn(&mut RecordResourceRequest)| {
        let mut request = good.clone();
        change(&mut request);
        let refused = stage.try_record(request).await.expect_err(field);
        assert_field(&refused, field);
    };
    wrong("key", |request| request.key = None).await;
    wrong("key.provider", |request| {
        request.key.as_mut().expect("a key").provider.clear()
    })
    .await;
    wrong("key.type", |request| {
        request.key.as_mut().expect("a key").r#type = "a/b".to_owned()
    })
    .await;
    wrong("key.id", |request| {
        request.key.as_mut().expect("a key").id = "x".repeat(257)
    })
    .await;
    wrong("spec_json", |request| request.spec_json = "[1]".to_owned()).await;
    wrong("spec_json", |request| {
        request.spec_json = format!("{{\"a\":\"{}\"}}", "x".repeat(65_536))
    })
    .await;
    wrong("spec_json", |request| {
        request.spec_json = r#"{"a":"\u0000"}"#.to_owned()
    })
    .await;
    wrong("expected_version", |request| {
        request.expected_version = Some(-1)
    })
    .await;
    wrong("labels", |request| {
        request.labels = (0..33)
            .map(|label| (label.to_string(), String::new()))
            .collect();
    })
    .await;
    let detect = DetectDriftRequest {
        key: key("droplet", "1"),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..DetectDriftRequest::default()
    };
    assert_field(&stage.try_detect(detect).await.expect_err("both"), "labels");
    let mut drifts = stage.connection.drifts();
    let list = ListDriftsRequest {
        id: "1".to_owned(),
        ..ListDriftsRequest::default()
    };
    let refused = stage.connection.call(drifts.list_drifts(list)).await;
    assert_field(&refused.expect_err("half a name"), "id");
    let list = ListDriftsRequest {
        provider: "do".to_owned(),
        r#type: "droplet".to_owned(),
        id: "x".repeat(257),
        ..ListDriftsRequest::default()
    };
    let refused = stage.connection.call(drifts.list_drifts(list)).await;
    assert_field(&refused.expect_err("too long"), "id");
    let mut policies = stage.connection.policies();
    for (policy, field) in [
        (
            Policy {
                provider: "a/b".to_owned(),
                ..Policy::default()
            },
            "policy.provider",
        ),
        (
            Policy {
                path: "/a\0".to_owned(),
                ..Policy::default()
            },
            "policy.path",
        ),
        (
            Policy {
                labels: [(String::new(), "b".to_owned())].into(),
                ..Policy::default()
            },
            "policy.labels",
        ),
    ] {
        let request = CreatePolicyRequest {
            policy: Some(Policy {
                name: "noise".to_owned(),
                ..policy
            }),
            actor: "ann".to_owned(),
        };
        let refused = stage.connection.call(policies.create_policy(request)).await;
        assert_field(&refused.expect_err(field), field);
    }
    let refused = stage.accept("0190", "").await.expect_err("unseen");
    assert_field(&refused, "etag");
    assert_eq!(stage.revision().await, 0, "nothing was written");
}

#[tokio::test]
async fn what_is_not_there_is_told_by_its_kind() {
    let stage = Stage::start(Engine::Sqlite).await;
    let connection = &stage.connection;
    let (mut resources, mut drifts, mut policies) = (
        connection.resources(),
        connection.drifts(),
        connection.policies(),
    );
    let id = || "0190".to_owned();
    let told = |reason: &str, error: Error| {
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::NotFound, reason)
        );
    };
    let call = connection.call(resources.get_resource(GetResourceRequest {
        key: key("droplet", "1"),
    }));
    told("RESOURCE_NOT_FOUND", call.await.expect_err("none"));
    let call = connection.call(resources.get_inventory(GetInventoryRequest { id: id() }));
    told("INVENTORY_NOT_FOUND", call.await.expect_err("none"));
    let call = connection.call(drifts.get_drift(GetDriftRequest { id: id() }));
    told("DRIFT_NOT_FOUND", call.await.expect_err("none"));
    let call = connection.call(drifts.get_sweep(GetSweepRequest { id: id() }));
    told("SWEEP_NOT_FOUND", call.await.expect_err("none"));
    let call = connection.call(policies.get_policy(GetPolicyRequest { name: id() }));
    told("POLICY_NOT_FOUND", call.await.expect_err("none"));
    told(
        "DRIFT_NOT_FOUND",
        stage.accept("0190", "1").await.expect_err("none"),
    );
    let one = DetectDriftRequest {
        key: key("droplet", "1"),
        ..DetectDriftRequest::default()
    };
    told(
        "RESOURCE_NOT_FOUND",
        stage.try_detect(one).await.expect_err("none"),
    );
    let reported = stage
        .report_all("0190", vec![observation("1", &live())])
        .await;
    told("INVENTORY_NOT_FOUND", reported.expect_err("none"));
}

#[tokio::test]
async fn one_wrong_report_does_not_stop_the_others() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let begun = stage.begin("droplet").await;
        let mut volume = observation("3", &live());
        volume.key = key("volume", "3");
        let aged = Observation {
            age: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..observation("4", &live())
        };
        let results = stage
            .report_all(
                &begun.id,
                vec![
                    observation("1", &live()),
                    observation("2", &json!([])),
                    volume,
                    aged,
                    observation("5", &live()),
                ],
            )
            .await
            .expect("they are answered one by one");
        let told: Vec<_> = results
            .iter()
            .map(|result| match result {
                ReportResult::Outcome(outcome) => outcome.to_string(),
                ReportResult::Error(error) => format!(
                    "{} {} {}",
                    error.reason,
                    error.metadata["field"],
                    error.metadata.contains_key("out_of_scope")
                ),
            })
            .collect();
        assert_eq!(
            told,
            [
                "1",
                "INVALID_ARGUMENT attributes_json false",
                "INVALID_ARGUMENT key true",
                "INVALID_ARGUMENT age false",
                "1"
            ]
        );
        let ended = stage.end(&begun.id, true).await.expect("it ends");
        assert_eq!((ended.reported, ended.changed), (2, 2));
        assert_eq!(
            stage.end(&begun.id, true).await.expect("again").id,
            ended.id
        );
        let refused = stage
            .end(&begun.id, false)
            .await
            .expect_err("it ended otherwise");
        assert_eq!(refused.reason, "INVENTORY_ENDED");
        let late = stage
            .report_all(&begun.id, vec![observation("1", &live())])
            .await;
        assert_eq!(late.expect_err("it has ended").reason, "INVENTORY_ENDED");
    }
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let ids: Vec<String> = (10..35).map(|id| id.to_string()).collect();
        for id in &ids {
            stage.record(id, &spec()).await;
        }
        let observations = ids
            .iter()
            .map(|id| observation(id, &super::stage::resized()));
        stage
            .report_all("", observations.collect())
            .await
            .expect("they are reported");
        stage.detect().await;
        let mut resources = stage.connection.resources();
        let mut drifts = stage.connection.drifts();
        let (mut seen, mut request) = (
            Vec::new(),
            ListResourcesRequest {
                page_size: 10,
                labels: [("env".to_owned(), "test".to_owned())].into(),
                ..ListResourcesRequest::default()
            },
        );
        loop {
            let call = resources.list_resources(request.clone());
            let page = stage.connection.call(call).await.expect("a page");
            seen.extend(
                page.resources
                    .into_iter()
                    .map(|one| one.key.expect("a key").id),
            );
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, ids);
        let (mut seen, mut request) = (
            Vec::new(),
            ListDriftsRequest {
                page_size: 10,
                ..ListDriftsRequest::default()
            },
        );
        loop {
            let call = drifts.list_drifts(request.clone());
            let page = stage.connection.call(call).await.expect("a page");
            assert!(page.drifts.len() <= 10);
            seen.extend(
                page.drifts
                    .into_iter()
                    .map(|one| one.key.expect("a key").id),
            );
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        seen.sort();
        assert_eq!(seen, ids);
        request.page_token = "!".to_owned();
        let refused = stage.connection.call(drifts.list_drifts(request)).await;
        assert_eq!(refused.expect_err("no token").reason, "INVALID_PAGE_TOKEN");
    }
}
