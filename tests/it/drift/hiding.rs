//! What hides a drift, until when, and what comes back.

use steadfast_client::api::drift::v1::{
    CreatePolicyRequest, Drift, DriftState, Handling, ListDriftsRequest, Policy, Severity,
    Suppression, UpdatePolicyRequest,
};

use super::stage::{Stage, resized, spec};
use crate::scene::{Engine, eventually};

async fn hidden(stage: &Stage) -> Vec<Drift> {
    let (drifts, _) = stage
        .list(ListDriftsRequest {
            include_suppressed: true,
            ..ListDriftsRequest::default()
        })
        .await;
    drifts
}

#[tokio::test]
async fn what_is_hidden_stays_open_and_comes_back() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        stage.report("1", &resized()).await;
        stage.detect().await;
        let drift = stage.only().await;
        let snoozed = stage.snooze(&drift, 3_600).await.expect("as seen");
        assert_eq!(snoozed.suppressed_by(), Suppression::Snooze);
        assert_eq!(stage.list(ListDriftsRequest::default()).await, (vec![], 1));
        assert_eq!(hidden(&stage).await[0].state(), DriftState::Open);
        stage.detect().await;
        assert_eq!(stage.open().await, []);
        // It was for the value that was seen.
        let mut larger = resized();
        larger["size_slug"] = "s-4vcpu-8gb".into();
        stage.report("1", &larger).await;
        stage.detect().await;
        let drift = stage.only().await;
        let refused = stage.snooze(&snoozed, 60).await.expect_err("unseen");
        assert_eq!(refused.reason, "DRIFT_CHANGED");
        // A snooze ends by itself.
        stage.snooze(&drift, 2).await.expect("as seen");
        assert_eq!(stage.open().await, []);
        eventually("the snooze to end", async || {
            stage.detect().await;
            stage.open().await.pop()
        })
        .await;

        // A policy ignores it, until it is changed.
        let mut policies = stage.connection.policies();
        let expire = std::time::SystemTime::now() + std::time::Duration::from_secs(3_600);
        let policy = Policy {
            name: "sizes".to_owned(),
            provider: "do".to_owned(),
            path: "/size_slug".to_owned(),
            handling: Handling::Ignore.into(),
            severity: Severity::Info.into(),
            reason: "a test".to_owned(),
            expire_time: Some(expire.into()),
            ..Policy::default()
        };
        let request = CreatePolicyRequest {
            policy: Some(policy),
            actor: "ann".to_owned(),
        };
        let created = stage
            .connection
            .call(policies.create_policy(request.clone()));
        let mut policy = created
            .await
            .expect("it is created")
            .policy
            .expect("a policy");
        let twice = stage.connection.call(policies.create_policy(request)).await;
        assert_eq!(twice.expect_err("there is one").reason, "POLICY_EXISTS");
        stage.detect().await;
        let ignored = hidden(&stage).await;
        assert_eq!(ignored[0].suppressed_by(), Suppression::Policy);
        assert_eq!(ignored[0].suppressed_by_policy, "sizes");
        assert_eq!(ignored[0].severity(), Severity::Info);
        assert_eq!(stage.open().await, []);
        policy.handling = Handling::Accept.into();
        let request = UpdatePolicyRequest {
            policy: Some(policy),
            actor: "bob".to_owned(),
        };
        let updated = stage
            .connection
            .call(policies.update_policy(request.clone()));
        assert_eq!(
            updated
                .await
                .expect("it is updated")
                .policy
                .expect("a policy")
                .actor,
            "bob"
        );
        let stale = stage.connection.call(policies.update_policy(request)).await;
        assert_eq!(stale.expect_err("it has changed").reason, "POLICY_CHANGED");
        let sweep = stage.detect().await;
        assert_eq!(sweep.drifts_accepted, 1, "{sweep:?}");
        assert_eq!(hidden(&stage).await, []);
        let resource = stage.get("1").await;
        assert!(resource.spec_json.contains("s-4vcpu-8gb"), "{resource:?}");
    }
}
