//! Registries whose answers are meant to do harm, and databases that refuse what they brought.

use steadfast_api::registry::v1::{RefreshState, StartRefreshRequest};
use steadfast_testkit::{Fault, Times, VersionSpec};

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, counts, failures, options, registry, state, version,
};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

/// Has the database refuse the rows of a table for which a condition holds.
async fn refuse(database: &Database, table: &str, condition: &str) {
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    let sql = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN IF {condition} THEN RAISE EXCEPTION 'no' USING ERRCODE = '22000'; END IF; RETURN NEW; END$$; \
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    postgres.psql(&sql).await;
}

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
        npm.fault(&format!("/{HTTP}"), Fault::Body(long), Times::Forever);
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

#[tokio::test]
async fn rule_7_a_package_that_the_database_refuses_is_named_and_the_others_land() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    refuse(&database, "package", "NEW.name = '@s/language-fhir'").await;
    npm.add_version(HTTP, version("7.3.0", "three"));
    npm.add_version(FHIR, version("1.1.0", "three"));
    let found = replica.refresh().await;
    assert_eq!(state(&found), RefreshState::Partial);
    let expected = (FHIR.to_owned(), String::new(), "NOT_STORABLE".to_owned());
    assert_eq!(failures(&found), [expected]);
    assert_eq!(counts(&found)[0], [3, 1, 1, 1]);
    let snapshot = replica.catalog.snapshot();
    assert!(snapshot.resolution(&format!("{HTTP}@7.3.0")).is_ok());
    assert!(snapshot.resolution(&format!("{FHIR}@1.1.0")).is_err());
}

#[tokio::test]
async fn rule_6_a_refresh_that_cannot_be_carried_out_ends_and_lets_the_next_one_run() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    refuse(&database, "refresh_item", "true").await;
    let id = replica.start(Default::default()).await;
    let next = StartRefreshRequest {
        force: true,
        ..Default::default()
    };
    let next = replica.start(next).await;
    let refresh = replica.ended(&id).await.refresh.expect("has one");
    assert_eq!(refresh.state(), RefreshState::Failed);
    assert_eq!(refresh.attempts, 1);
    assert_eq!(
        refresh.error,
        "it could not be carried out: the database refused the data"
    );
    replica.ended(&next).await;
    let postgres = database.postgres.as_ref().expect("is PostgreSQL");
    postgres.psql("DROP TRIGGER refuse ON refresh_item").await;
    assert_eq!(state(&replica.refresh().await), RefreshState::Succeeded);
}
