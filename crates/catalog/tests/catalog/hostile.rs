//! Registries whose answers are meant to do harm, and databases that refuse what they brought.

use steadfast_api::registry::v1::RefreshState;
use steadfast_testkit::{Fault, Times, VersionSpec};

use crate::fixture::{DOTTED, Database, FHIR, HTTP, failures, options, registry, state};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

#[tokio::test]
async fn rule_7_what_a_schema_says_of_itself_keeps_no_refresh_from_ending() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.add_version(
            HTTP,
            VersionSpec::new("7.3.0").schema_text(r#"{"$schema":"a\u0000b","type":"object"}"#),
        );
        npm.add_version(
            FHIR,
            VersionSpec::new("1.1.0").schema_text(format!(
                r#"{{"type":"object","enum":7,"$ref":"http://x/\u0000","x":"{}"}}"#,
                "y".repeat(500_000)
            )),
        );
        let replica = database.replica(options(&npm, ALL)).await;
        let found = replica.filled().await;
        assert_eq!(state(&found), RefreshState::Succeeded);
        assert_eq!(found.refresh.expect("has one").attempts, 1);
        for item in &found.items {
            assert!(item.message.len() <= 4_096, "{} bytes", item.message.len());
        }
    }
}

#[tokio::test]
async fn rule_9_a_failure_is_told_in_few_words_whatever_the_registry_answers() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let long = format!("\"{}\"", "x".repeat(6 << 20));
        npm.fault(
            &format!("/{HTTP}"),
            Fault::Body(long.into()),
            Times::Forever,
        );
        let found = replica.refresh().await;
        let expected = (
            HTTP.to_owned(),
            String::new(),
            "MALFORMED_ANSWER".to_owned(),
        );
        assert_eq!(failures(&found), [expected]);
        for item in &found.items {
            assert!(item.message.len() <= 4_096, "{} bytes", item.message.len());
        }
    }
}
