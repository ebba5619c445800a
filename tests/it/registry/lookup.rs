//! `package get`, and what GetPackage says.

use steadfast_client::{Code, api::registry::v1::GetPackageRequest};
use steadfast_testkit::{NpmServer, PackageSpec, VersionSpec, npm::View};

use crate::scene::{Engine, Scene, configuration};

#[tokio::test]
async fn rule_12_a_package_is_shown_with_its_versions_newest_first() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let shown = scene
        .server
        .cli(&["package", "get", "@openfn/language-http"])
        .await;
    let text = shown.success();
    for part in [
        "name:         @openfn/language-http",
        "label:        HTTP",
        "description:  An HTTP request language package",
        "source:       test",
        "checked:      ",
        "latest",
        "deprecated: it leaks memory",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let versions: Vec<_> = text
        .lines()
        .skip_while(|line| !line.starts_with("VERSION"))
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        versions,
        [
            "8.0.0-beta.1",
            "7.2.0",
            "7.1.0",
            "7.0.0",
            "6.1.0",
            "6.0.0",
            "5.0.0"
        ]
    );
    let few = scene
        .server
        .cli(&["package", "get", "@openfn/language-http", "--versions", "2"])
        .await;
    assert!(few.success().contains("5 more; --versions shows them"));

    // Names with dots and without a scope are names like others.
    for name in ["json.patch", "left-pad"] {
        let got = scene
            .server
            .cli(&["package", "get", name, "-o", "json"])
            .await;
        assert_eq!(got.json()["package"]["name"], name);
    }
}

#[tokio::test]
async fn what_is_no_package_or_no_name_is_told_apart() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let unknown = scene
        .server
        .cli(&["package", "get", "@openfn/language-htp"])
        .await;
    let told = unknown.failure(5);
    assert!(told.contains("PACKAGE_NOT_FOUND"), "{told}");
    assert!(told.contains("@openfn/language-http"), "{told}");
    let garbage = scene.server.cli(&["package", "get", "left pad"]).await;
    let told = garbage.failure(1);
    assert!(told.contains("INVALID_SPECIFIER"), "{told}");
    // The mark stands below the blank.
    assert!(told.contains("hint: left pad\n          ^"), "{told}");

    let connection = scene.connect().await;
    let ask = |name: &str| GetPackageRequest {
        name: name.to_owned(),
        ..GetPackageRequest::default()
    };
    let error = connection
        .call(
            connection
                .registry()
                .get_package(ask("@openfn/language-htp")),
        )
        .await
        .expect_err("there is none");
    assert_eq!(error.code, Code::NotFound);
    let nearest = &error.metadata["nearest"];
    assert!(nearest.starts_with("@openfn/language-http"), "{nearest}");
    for name in ["", "@", "@openfn/", "a@1.0.0", "../etc", "a\0b"] {
        let error = connection
            .call(connection.registry().get_package(ask(name)))
            .await
            .expect_err(name);
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::InvalidArgument, "INVALID_SPECIFIER"),
            "{name:?}"
        );
        assert_eq!(error.field_violations[0].field, "name", "{name:?}");
        assert!(error.metadata.contains_key("position"), "{name:?}");
    }
}

#[tokio::test]
async fn an_etag_saves_the_answer() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let connection = scene.connect().await;
    let ask = async |etag: &str| {
        let request = GetPackageRequest {
            name: "left-pad".to_owned(),
            if_none_match: etag.to_owned(),
            min_revision: None,
        };
        let call = connection
            .call(connection.registry().get_package(request))
            .await;
        call.expect("there is one")
    };
    let first = ask("").await;
    let package = first.package.expect("the package");
    let again = ask(&package.etag).await;
    assert!(again.not_modified && again.package.is_none(), "{again:?}");
    assert_eq!(
        again.read_state.map(|state| state.revision),
        first.read_state.map(|state| state.revision)
    );
    assert!(ask("something else").await.package.is_some());

    scene.npm.add_version("left-pad", "1.4.0");
    scene.refresh(3).await;
    let changed = ask(&package.etag).await;
    let changed = changed.package.expect("it is another one now");
    assert_eq!(changed.versions.len(), 2);
    assert_ne!(changed.etag, package.etag);
}

/// Some mirrors leave out ETags, times of creation, sizes, and write times in another way.
#[tokio::test]
async fn a_registry_that_leaves_fields_out_is_read_all_the_same() {
    let npm = NpmServer::start().await;
    npm.set_view(View::Trimmed);
    npm.put(
        PackageSpec::new("plain")
            .version(VersionSpec::new("1.0.0").schema(&serde_json::json!({ "type": "object" }))),
    );
    let configured = |npm: &NpmServer| configuration(npm, &["plain"]);
    let scene = Scene::over(Engine::Sqlite, npm, &configured, |builder| builder).await;
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["state"], "succeeded", "{refresh}");
    let got = scene
        .server
        .cli(&["package", "get", "plain", "-o", "json"])
        .await
        .json();
    let version = &got["package"]["versions"][0];
    assert!(version["publish_time"].is_string(), "{version}");
    assert_eq!(version["unpacked_size"], 0);
    let head = scene.head().await;
    scene.npm.reset_requests();
    let again = scene.refresh(0).await;
    assert_eq!(again["refresh"]["counts"][0]["unchanged"], 1, "{again}");
    assert_eq!(scene.head().await, head);
    assert_eq!(scene.npm.requests().count("*.tgz"), 0);
}
