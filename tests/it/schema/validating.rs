//! `schema validate`: every violation, and never a secret.

use std::fs;

use serde_json::{Value, json};
use steadfast_client::{
    Code, Error,
    api::schema::v1::{ValidateDocumentRequest, ValidateDocumentResponse},
};
use steadfast_testkit::{CommandOutput, Server};

use crate::scene::{Engine, Scene, configuration_of_dozen, registry};

/// In the documents below, and in nothing that is printed.
const SECRET: &str = "hunter2-Zq9";

async fn validate(server: &Server, document: &str, more: &[&str]) -> CommandOutput {
    let file = server.directory().join("document.json");
    fs::write(&file, document).expect("the directory can be written");
    let file = file.to_str().expect("a path that is text");
    let arguments = [&["schema", "validate", "@openfn/language-http", file], more].concat();
    server.cli(&arguments).await
}

#[tokio::test]
async fn rule_13_every_violation_is_told_and_no_secret() {
    for engine in Engine::BOTH {
        let npm = registry().await;
        let scene = Scene::over(engine, npm, &configuration_of_dozen, |builder| {
            builder.variable("STEADFAST_TELEMETRY__LOG_LEVEL", "trace")
        })
        .await;
        scene.ended_refresh().await;
        let good = json!({ "baseUrl": "https://example.org", "password": SECRET, "port": 443 });
        let output = validate(&scene.server, &good.to_string(), &[]).await;
        assert_eq!(
            output.success(),
            "valid: the document fits the schema of @openfn/language-http@7.2.0\n"
        );

        let bad = json!({
            "baseUrl": format!("no URL {SECRET}"),
            "password": [SECRET],
            "port": 70_000,
            SECRET: true,
            "pasword": SECRET,
        });
        let text = validate(&scene.server, &bad.to_string(), &[]).await;
        assert_eq!(text.status.code(), Some(6), "{text:?}");
        assert!(text.stdout.starts_with("AT "), "{text:?}");
        assert!(
            text.stdout.ends_with(
                "\nnot valid: 5 problems with the schema of @openfn/language-http@7.2.0\n"
            ),
            "{text:?}"
        );
        let answer = validate(&scene.server, &bad.to_string(), &["-o", "json"]).await;
        assert_eq!(answer.status.code(), Some(6));
        let told: Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!(told["valid"], false);
        let violations = told["violations"].as_array().expect("a list");
        assert_eq!(violations.len(), 5, "{told}");
        let at = |pointer: &str| {
            let mut all = violations.iter();
            all.find(|violation| violation["pointer"] == pointer)
                .unwrap_or_else(|| panic!("nothing at {pointer} in {told}"))
        };
        assert_eq!(at("/baseUrl")["message"], "expected to be a URI");
        assert_eq!(at("/baseUrl")["title"], "Base URL");
        assert_eq!(at("/password")["secret"], true);
        assert_eq!(at("/port")["keyword"], "maximum");
        let strangers = violations
            .iter()
            .filter(|violation| violation["keyword"] == "additionalProperties");
        assert_eq!(strangers.count(), 2, "{told}");

        let missing = validate(&scene.server, &format!("{{\"port\": \"{SECRET}\"}}"), &[]).await;
        for pointer in ["/baseUrl", "/password", "/port"] {
            assert!(missing.stdout.contains(pointer), "{missing:?}");
        }
        let broken = validate(&scene.server, &format!("{{\"password\": {SECRET}}}"), &[]).await;
        let said = broken.failure(1);
        assert!(
            said.contains("INVALID_DOCUMENT") && said.contains("line 1, column 14"),
            "{said}"
        );
        // Three lines at most, and none of them shows the document.
        assert!(!said.contains('^'), "{said}");

        for output in [text, answer, missing, broken] {
            let all = format!("{}{}", output.stdout, output.stderr);
            assert!(!all.contains(SECRET), "{all}");
        }
        let log = scene.server.log();
        assert!(log.contains("\"level\":\"DEBUG\""), "the log is a full one");
        assert!(!log.contains(SECRET), "the log has the secret");
    }
}

#[tokio::test]
async fn rule_13_documents_have_limits_which_can_be_lowered() {
    let npm = registry().await;
    let scene = Scene::over(Engine::Sqlite, npm, &configuration_of_dozen, |builder| {
        builder
            .variable("STEADFAST_LIMITS__DOCUMENT_MAX_BYTES", "2048")
            .variable("STEADFAST_LIMITS__DOCUMENT_MAX_DEPTH", "8")
    })
    .await;
    scene.ended_refresh().await;
    let connection = scene.connect().await;
    let ask = async |document: String| -> Result<ValidateDocumentResponse, Error> {
        let request = ValidateDocumentRequest {
            package: "@openfn/language-http".to_owned(),
            document_json: document,
            ..Default::default()
        };
        connection
            .call(connection.schemas().validate_document(request))
            .await
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (document, reason) in [
        (format!("\"{}\"", SECRET.repeat(300)), "DOCUMENT_TOO_LARGE"),
        (nested(9), "DOCUMENT_TOO_DEEP"),
        (String::new(), "INVALID_DOCUMENT"),
        (format!("{{\"{SECRET}\": }}"), "INVALID_DOCUMENT"),
        ("{} {}".to_owned(), "INVALID_DOCUMENT"),
    ] {
        let error = ask(document).await.expect_err(reason);
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::InvalidArgument, reason)
        );
        assert_eq!(error.field_violations[0].field, "document_json");
        assert!(!error.message.contains(SECRET), "{error}");
    }
    let answer = ask(nested(8)).await.expect("within the limits");
    assert!(!answer.valid);
    let output = validate(&scene.server, &nested(9), &[]).await;
    assert!(output.failure(1).contains("DOCUMENT_TOO_DEEP"));
}

#[tokio::test]
async fn what_is_asked_for_must_be_there() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let missing = scene
        .server
        .cli(&["schema", "validate", "left-pad", "nofile.json"])
        .await;
    assert!(missing.failure(1).contains("nofile.json: No such file"));
    let file = scene.server.directory().join("latin1.json");
    fs::write(&file, b"{\"a\": \"\xe9\"}").expect("the directory can be written");
    let file = file.to_str().expect("a path that is text");
    let latin = scene
        .server
        .cli(&["schema", "validate", "left-pad", file])
        .await;
    assert!(
        latin.failure(1).contains("not UTF-8 at byte 7"),
        "{latin:?}"
    );
    fs::write(file, "{}").expect("the directory can be written");
    let none = scene
        .server
        .cli(&["schema", "validate", "left-pad", file])
        .await;
    assert!(none.failure(5).contains("SCHEMA_NOT_FOUND"));
}
