//! Who may ask for what, joins what, and reads about it later.

use serde_json::Value;
use steadfast_client::{
    Code, Error,
    api::registry::v1::{GetRefreshRequest, ListRefreshesRequest, ListRefreshesResponse},
};
use steadfast_testkit::Server;

use crate::scene::{Engine, Scene, configuration_of_dozen, eventually, registry};

/// What `refresh --no-wait` with some arguments prints as JSON.
async fn ask(server: &Server, arguments: &[&str]) -> Value {
    let arguments = [&["refresh", "--no-wait", "-o", "json"], arguments].concat();
    server.cli(&arguments).await.json()
}

fn id(answer: &Value) -> &str {
    answer["refresh"]["id"].as_str().expect("an id")
}

#[tokio::test]
async fn a_request_joins_what_will_do_it_and_else_queues_one_follow_up() {
    for engine in Engine::BOTH {
        let npm = registry().await;
        let gate = npm.hold("/@openfn/language-common");
        let scene = Scene::over(engine, npm, &configuration_of_dozen, |builder| {
            builder
                .variable("STEADFAST_CATALOG__REFRESH_CONCURRENCY", "1")
                .variable("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false")
        })
        .await;
        let server = &scene.server;
        let empty = server.cli(&["refresh", "list"]).await;
        assert_eq!(
            empty.success(),
            "no refreshes yet: run `steadfast refresh`\n"
        );
        let first = ask(server, &[]).await;
        assert_eq!(first["joined"], false, "{first}");
        // Packages are read by name, one at a time; the second of them waits at the gate.
        gate.arrived(1).await;
        let still_to_come = ask(server, &["--package", "left-pad"]).await;
        assert_eq!(still_to_come["joined"], true);
        assert_eq!(id(&still_to_come), id(&first));
        let read_already = ask(server, &["--package", "@openfn/language-commcare"]).await;
        assert_eq!(read_already["joined"], false);
        assert_eq!(read_already["refresh"]["state"], "queued");
        let everything = ask(server, &[]).await;
        let again = ask(server, &[]).await;
        assert_eq!(again["joined"], true, "{again}");
        assert_eq!(id(&again), id(&everything));
        assert_ne!(id(&everything), id(&first));
        gate.release();

        let last = eventually("all of them to end", async || {
            let list = server.cli(&["refresh", "list", "-o", "json"]).await.json();
            let list = list["refreshes"].as_array().expect("a list").clone();
            let ended = list.iter().all(|refresh| !refresh["end_time"].is_null());
            ended.then_some(list)
        })
        .await;
        assert!(last.len() <= 3, "{last:?}");
        let newest = last.first().expect("there are some");
        assert_eq!(newest["package"], "", "the last one was for everything");
    }
}

#[tokio::test]
async fn a_request_id_makes_asking_safe_to_repeat() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let server = &scene.server;
    let first = ask(server, &["--request-id", "r-1"]).await;
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["id"], id(&first));
    let again = ask(server, &["--request-id", "r-1"]).await;
    assert_eq!(id(&again), id(&first), "the same one, though it has ended");
    assert_eq!(scene.ended_refresh().await["id"], id(&first));
    let other = server
        .cli(&["refresh", "--request-id", "r-1", "--package", "left-pad"])
        .await;
    let told = other.failure(1);
    assert!(
        told.contains("REQUEST_ID_REUSED") && told.contains("another --request-id"),
        "{told}"
    );
    let long = "x".repeat(129);
    let long = server.cli(&["refresh", "--request-id", &long]).await;
    assert!(long.failure(1).contains("request_id"));
}

#[tokio::test]
async fn history_is_kept_and_can_be_read() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let server = &scene.server;
    let first = scene.ended_refresh().await["id"].clone();
    scene.refresh(3).await;
    let kinds = server
        .cli(&["refresh", "--kind", "packages", "-o", "json"])
        .await;
    let kinds: Value = serde_json::from_str(&kinds.stdout).expect("JSON");
    assert_eq!(kinds["refresh"]["kinds"], serde_json::json!(["packages"]));

    let list = server.cli(&["refresh", "list"]).await;
    let lines: Vec<_> = list.success().lines().collect();
    assert_eq!(lines.len(), 4, "{list:?}");
    assert!(lines[0].starts_with("ID "), "{}", lines[0]);
    assert!(lines[3].starts_with(first.as_str().expect("an id")));
    assert!(lines[3].contains("partial") && lines[3].contains("empty_catalogue"));
    let one = server.cli(&["refresh", "list", "--limit", "1"]).await;
    assert_eq!(one.success().lines().count(), 2);

    for unknown in ["01900000-0000-7000-8000-000000000000", "nonsense"] {
        let output = server.cli(&["refresh", "get", unknown]).await;
        let told = output.failure(5);
        assert!(
            told.contains("REFRESH_NOT_FOUND") && told.contains("refresh list"),
            "{told}"
        );
    }

    let connection = scene.connect().await;
    let page = async |page_token: String| -> Result<ListRefreshesResponse, Error> {
        let request = ListRefreshesRequest {
            page_size: 2,
            page_token,
        };
        connection
            .call(connection.refreshes().list_refreshes(request))
            .await
    };
    let newest = page(String::new()).await.expect("a page");
    let oldest = page(newest.next_page_token).await.expect("the rest");
    assert_eq!(oldest.refreshes.len(), 1);
    assert_eq!(oldest.refreshes[0].id, first.as_str().expect("an id"));
    assert_eq!(oldest.next_page_token, "");
    let error = page("nonsense".to_owned()).await.expect_err("no token");
    assert_eq!(error.reason, "INVALID_PAGE_TOKEN");

    let get = async |skip_items: i32| {
        let request = GetRefreshRequest {
            id: oldest.refreshes[0].id.clone(),
            skip_items,
        };
        connection
            .call(connection.refreshes().get_refresh(request))
            .await
    };
    let all = get(0).await.expect("it is kept").items;
    let rest = get(3).await.expect("it is kept").items;
    assert_eq!(rest, all[3..]);
    let error = get(-1).await.expect_err("negative");
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(error.field_violations[0].field, "skip_items");
}

#[tokio::test]
async fn what_is_in_no_source_cannot_be_refreshed() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let output = scene.server.cli(&["refresh", "--package", "nope"]).await;
    let told = output.failure(5);
    assert!(
        told.contains("PACKAGE_NOT_CONFIGURED") && told.contains("[[catalog.source]]"),
        "{told}"
    );
    let output = scene.server.cli(&["refresh", "--package", "no name"]).await;
    assert!(output.failure(1).contains("INVALID_SPECIFIER"));

    let none = Server::builder().start().await;
    let output = none.cli(&["refresh"]).await;
    let told = output.failure(1);
    assert!(
        told.contains("NO_SOURCE") && told.contains("steadfast init"),
        "{told}"
    );
    let empty = none.cli(&["package", "list"]).await;
    assert_eq!(
        empty.success(),
        "no packages yet: run `steadfast refresh`\n"
    );
    let empty = none.cli(&["schema", "list"]).await;
    assert_eq!(empty.success(), "no schemas yet: run `steadfast refresh`\n");
    assert!(
        none.log()
            .contains("run `steadfast init`, name packages in a [[catalog.source]]"),
        "{}",
        none.log()
    );
}
