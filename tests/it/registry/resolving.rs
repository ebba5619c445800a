//! `package resolve`, alone and in batches.

use serde_json::Value;
use steadfast_client::api::{
    common::v1::ItemError,
    registry::v1::{
        BatchResolvePackagesRequest, MatchKind,
        batch_resolve_packages_response::result::Result as Outcome,
    },
};

use crate::scene::{Engine, Scene};

#[tokio::test]
async fn rule_11_a_specifier_resolves_to_one_version() {
    for engine in Engine::BOTH {
        let scene = Scene::filled(engine).await;
        for (specifier, resolved, by) in [
            ("@openfn/language-http", "7.2.0", "tag"),
            ("@openfn/language-http@latest", "7.2.0", "tag"),
            ("@openfn/language-http@next", "8.0.0-beta.1", "tag"),
            ("@openfn/language-http@^7", "7.2.0", "range"),
            ("@openfn/language-http@~7.1", "7.1.0", "range"),
            ("@openfn/language-http@7.x", "7.2.0", "range"),
            ("@openfn/language-http@>=5 <7", "6.0.0", "range"),
            ("@openfn/language-http@5 || 6", "6.0.0", "range"),
            ("@openfn/language-http@7.0.0", "7.0.0", "exact"),
            ("@openfn/language-http@6.1.0", "6.1.0", "exact"),
            (
                "@openfn/language-http@8.0.0-beta.1",
                "8.0.0-beta.1",
                "exact",
            ),
            (
                "@openfn/language-http@>=8.0.0-alpha",
                "8.0.0-beta.1",
                "range",
            ),
            ("@openfn/language-openmrs@^1", "1.0.0", "range"),
            ("json.patch@1", "1.0.0", "range"),
            ("left-pad", "1.3.0", "tag"),
        ] {
            let output = scene
                .server
                .cli(&["package", "resolve", specifier, "-o", "json"])
                .await;
            let resolution = &output.json()["resolution"];
            assert_eq!(resolution["version"]["version"], resolved, "{specifier}");
            assert_eq!(resolution["match"], by, "{specifier}");
        }
        let text = scene
            .server
            .cli(&["package", "resolve", "@openfn/language-http@6.1"])
            .await;
        assert_eq!(
            text.success(),
            "@openfn/language-http@6.1.0 (deprecated)\n",
            "only a deprecated version fits the range"
        );
    }
}

#[tokio::test]
async fn rule_11_what_does_not_resolve_says_why() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let resolve =
        async |specifier: &str| scene.server.cli(&["package", "resolve", specifier]).await;
    let output = resolve("@openfn/language-htpp@^7").await;
    let told = output.failure(5);
    assert!(told.contains("PACKAGE_NOT_FOUND"), "{told}");
    assert!(told.contains("@openfn/language-http"), "{told}");
    let output = resolve("@openfn/language-http@^9").await;
    let told = output.failure(5);
    assert!(
        told.contains("VERSION_NOT_FOUND") && told.contains("7.2.0"),
        "{told}"
    );
    let output = resolve("@openfn/language-http@nonesuch").await;
    assert!(output.failure(5).contains("VERSION_NOT_FOUND"));
    let output = resolve("@openfn/language-http@^^7").await;
    let told = output.failure(1);
    let mark = format!("hint: @openfn/language-http@^^7\n{:1$}^", "", 6 + 23);
    assert!(told.contains(&mark), "{told}");
    let long = "x".repeat(600);
    let output = resolve(&long).await;
    assert!(output.failure(1).contains("INVALID_SPECIFIER"));
    for line in told.lines() {
        assert_eq!(told.matches(line).count(), 1, "said twice: {line}");
    }
}

#[tokio::test]
async fn a_batch_answers_in_order_and_one_failure_fails_no_other() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let specifiers = [
        "@openfn/language-http@^7",
        "@openfn/language-htp",
        "left-pad@1.3.0",
        "not a name",
        "json.patch@9",
    ];
    let arguments: Vec<_> = ["package", "resolve"]
        .into_iter()
        .chain(specifiers)
        .collect();
    let output = scene.server.cli(&arguments).await;
    assert_eq!(output.status.code(), Some(3), "some failed: {output:?}");
    let rows: Vec<_> = output.stdout.lines().skip(1).collect();
    assert_eq!(rows.len(), specifiers.len());
    let named = rows[1].matches("@openfn/language-http").count();
    assert_eq!(named, 1, "the nearest name is told once: {}", rows[1]);
    for (row, (specifier, note)) in rows.iter().zip(specifiers.into_iter().zip([
        "7.2.0",
        "PACKAGE_NOT_FOUND",
        "1.3.0",
        "INVALID_SPECIFIER",
        "VERSION_NOT_FOUND",
    ])) {
        assert!(row.starts_with(specifier) && row.contains(note), "{row}");
    }
    let json = [&arguments[..], &["-o", "json"]].concat();
    let output = scene.server.cli(&json).await;
    let json: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(
        json["results"][2]["resolution"]["version"]["version"],
        "1.3.0"
    );
    assert_eq!(
        json["results"][4]["error"]["reason"], "VERSION_NOT_FOUND",
        "{json}"
    );
    let fine = scene
        .server
        .cli(&["package", "resolve", "left-pad", "json.patch@1"])
        .await;
    assert_eq!(fine.success().lines().count(), 3);

    let connection = scene.connect().await;
    let batch = async |specifiers: Vec<String>| {
        let request = BatchResolvePackagesRequest {
            specifiers,
            min_revision: None,
        };
        connection
            .call(connection.registry().batch_resolve_packages(request))
            .await
    };
    let answer = batch(specifiers.map(str::to_owned).to_vec())
        .await
        .expect("an answer");
    let outcomes: Vec<_> = answer.results.iter().map(|result| &result.result).collect();
    assert!(
        matches!(&outcomes[0], Some(Outcome::Resolution(found)) if found.r#match() == MatchKind::Range)
    );
    assert!(matches!(
        &outcomes[3],
        Some(Outcome::Error(ItemError { reason, metadata, .. }))
            if reason == "INVALID_SPECIFIER" && metadata.contains_key("position")
    ));
    for count in [0, 1_001] {
        let error = batch(vec!["left-pad".to_owned(); count])
            .await
            .expect_err("too few or too many");
        assert_eq!(error.field_violations[0].field, "specifiers", "{error}");
    }
}
