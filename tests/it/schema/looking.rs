//! `schema get` and `schema list`.

use serde_json::{Value, json};
use steadfast_client::{
    Code, Error,
    api::schema::v1::{AuthKind, GetSchemaRequest, GetSchemaResponse, ListSchemasRequest},
};
use steadfast_testkit::{NpmServer, PackageSpec, VersionSpec};

use crate::scene::{Engine, Scene, configuration, http_schema};

#[tokio::test]
async fn a_schema_is_served_byte_for_byte() {
    for engine in Engine::BOTH {
        let scene = Scene::filled(engine).await;
        let got = scene
            .server
            .cli(&["schema", "get", "@openfn/language-http"])
            .await;
        assert_eq!(got.success().trim_end(), http_schema().to_string());
        for specifier in ["@openfn/language-http@^7", "@openfn/language-http@7.0.0"] {
            let got = scene
                .server
                .cli(&["schema", "get", specifier, "-o", "json"])
                .await
                .json();
            assert_eq!(got["schema"], http_schema(), "{specifier}");
            assert_eq!(got["warnings"], json!([]));
        }
        let list = scene.server.cli(&["schema", "list"]).await;
        let text = list.success();
        assert!(text.starts_with("PACKAGE"), "{text}");
        assert!(text.contains("oauth2"), "{text}");
        assert!(text.ends_with("\n2 schemas\n"), "{text}");
        let none = scene.server.cli(&["schema", "list", "nonesuch"]).await;
        assert!(none.success().contains("nonesuch"));
    }
}

#[tokio::test]
async fn no_schema_and_a_schema_that_was_not_read_are_told_apart() {
    let scene = Scene::filled(Engine::Sqlite).await;
    for (specifier, reason, hint) in [
        (
            "@openfn/language-common",
            "SCHEMA_NOT_FOUND",
            "`steadfast schema list`",
        ),
        (
            "@openfn/language-http@5.0.0",
            "SCHEMA_NOT_FETCHED",
            "catalog.schema_newest",
        ),
        ("@openfn/language-http@9", "VERSION_NOT_FOUND", "7.2.0"),
        (
            "@openfn/language-htp",
            "PACKAGE_NOT_FOUND",
            "@openfn/language-http",
        ),
    ] {
        let output = scene.server.cli(&["schema", "get", specifier]).await;
        let told = output.failure(5);
        assert!(told.contains(reason) && told.contains(hint), "{told}");
    }
    let garbage = scene.server.cli(&["schema", "get", "left-pad@^^"]).await;
    assert!(garbage.failure(1).contains("INVALID_SPECIFIER"));
}

#[tokio::test]
async fn an_etag_saves_the_schema_and_lists_come_in_pages() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let connection = scene.connect().await;
    let get = async |etag: &str| -> Result<GetSchemaResponse, Error> {
        let request = GetSchemaRequest {
            package: "@openfn/language-fhir".to_owned(),
            version: String::new(),
            if_none_match: etag.to_owned(),
            min_revision: None,
        };
        connection
            .call(connection.schemas().get_schema(request))
            .await
    };
    let whole = get("").await.expect("a schema");
    assert_eq!(whole.auth_kind(), AuthKind::Oauth2);
    let again = get(&whole.etag).await.expect("an answer");
    assert!(again.not_modified && again.schema_json.is_empty());
    assert_eq!(
        (again.version, again.etag),
        (whole.version, whole.etag.clone())
    );
    assert!(again.read_state.is_some());

    let page = async |token: String, query: &str| {
        let request = ListSchemasRequest {
            page_size: 1,
            page_token: token,
            query: query.to_owned(),
            min_revision: None,
        };
        connection
            .call(connection.schemas().list_schemas(request))
            .await
    };
    let first = page(String::new(), "").await.expect("a page");
    assert_eq!(
        (first.total_size, first.schemas[0].package.as_str()),
        (2, "@openfn/language-fhir")
    );
    assert_eq!(first.schemas[0].etag, whole.etag);
    let error = page(first.next_page_token.clone(), "http")
        .await
        .expect_err("another question");
    assert_eq!(error.reason, "INVALID_PAGE_TOKEN");
    let second = page(first.next_page_token, "").await.expect("a page");
    assert_eq!(second.schemas[0].package, "@openfn/language-http");
    assert_eq!(second.next_page_token, "");
}

/// The registry is not ours: what it carries as a schema may be anything.
#[tokio::test]
async fn a_schema_that_cannot_be_used_is_served_with_a_warning_and_never_guessed_around() {
    let npm = NpmServer::start().await;
    let schema = |text: &str| VersionSpec::new("1.0.0").schema_text(text);
    npm.put(PackageSpec::new("broken").version(schema("{ not json")));
    npm.put(PackageSpec::new("unsound").version(schema(r#"{"type": "no such type"}"#)));
    // Nothing is ever fetched on behalf of a schema: nobody listens there, and nobody is asked.
    let remote =
        json!({ "properties": { "a": { "$ref": format!("{}/elsewhere.json", npm.url()) } } });
    npm.put(PackageSpec::new("remote").version(schema(&remote.to_string())));
    npm.put(PackageSpec::new("fine").version(schema("{}")));
    let configured = |npm: &NpmServer| configuration(npm, &["broken", "fine", "remote", "unsound"]);
    let scene = Scene::over(Engine::Sqlite, npm, &configured, |builder| builder).await;
    scene.ended_refresh().await;
    assert_eq!(scene.npm.requests().count("/elsewhere.json"), 0);

    let connection = scene.connect().await;
    let validate = async |package: &str| -> Result<_, Error> {
        let request = steadfast_client::api::schema::v1::ValidateDocumentRequest {
            package: package.to_owned(),
            document_json: "{\"a\": 1}".to_owned(),
            ..Default::default()
        };
        connection
            .call(connection.schemas().validate_document(request))
            .await
    };
    assert!(validate("fine").await.expect("an answer").valid);
    for package in ["broken", "unsound", "remote"] {
        let error = validate(package).await.expect_err(package);
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::FailedPrecondition, "SCHEMA_UNUSABLE"),
            "{package}: {error}"
        );
        let got = scene.server.cli(&["schema", "get", package]).await;
        assert!(got.stderr.starts_with("warning: "), "{package}: {got:?}");
    }
    let list = scene
        .server
        .cli(&["package", "list", "-o", "json"])
        .await
        .json();
    let packages: Vec<&Value> = list["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    assert_eq!(packages.len(), 4, "they are all there");
}
