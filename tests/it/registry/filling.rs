//! A server that starts with nothing fills itself, and answers meanwhile.

use serde_json::Value;

use crate::scene::{Engine, MISSING, PRESENT, Scene, configuration_of_dozen, eventually, registry};

#[tokio::test]
async fn it_fills_itself_while_lookups_answer() {
    for engine in Engine::BOTH {
        let npm = registry().await;
        let gate = npm.hold("/@openfn/language-http");
        let scene = Scene::over(engine, npm, &configuration_of_dozen, |builder| builder).await;
        gate.arrived(1).await;
        // One package keeps the refresh from ending; the others are there already.
        eventually("another package to land", async || {
            let got = scene.server.cli(&["package", "get", "left-pad"]).await;
            got.status.success().then_some(())
        })
        .await;
        let got = scene
            .server
            .cli(&["package", "get", "@openfn/language-http"])
            .await;
        assert!(got.failure(5).contains("PACKAGE_NOT_FOUND"), "{got:?}");
        let list = scene
            .server
            .cli(&["refresh", "list", "-o", "json"])
            .await
            .json();
        assert_eq!(list["refreshes"][0]["state"], "running", "{list}");
        assert_eq!(list["refreshes"][0]["trigger"], "empty_catalogue");
        gate.release();

        let refresh = scene.ended_refresh().await;
        assert_eq!(refresh["state"], "partial", "{refresh}");
        let list = scene
            .server
            .cli(&["package", "list", "--deprecated", "-o", "json"])
            .await
            .json();
        assert_eq!(names_of(&list["packages"]), PRESENT);
        assert!(list["read_state"]["checked_time"].is_string(), "{list}");

        // Each name that the registry does not have is told, with the reason.
        let id = refresh["id"].as_str().expect("an id");
        let told = scene.server.cli(&["refresh", "get", id]).await;
        for name in MISSING {
            let line = told.success().lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("{name} is not named in {told:?}"));
            assert!(line.contains("UPSTREAM_NOT_FOUND"), "{line}");
        }
        assert!(told.stdout.contains("6 failed"), "{}", told.stdout);
    }
}

#[tokio::test]
async fn a_restart_answers_at_once_and_asks_nobody() {
    for engine in Engine::BOTH {
        let mut scene = Scene::filled(engine).await;
        let before = scene.head().await;
        scene.server.stop().await;
        scene.npm.reset_requests();
        let directory = scene.server.directory().to_owned();
        let mut builder = steadfast_testkit::Server::builder()
            .directory(directory)
            .configuration(configuration_of_dozen(&scene.npm));
        if let Some(database) = &scene.database {
            builder = builder.database_url(database.url());
        }
        let server = builder.start().await;
        let got = server
            .cli(&["package", "get", "@openfn/language-http", "-o", "json"])
            .await
            .json();
        assert_eq!(got["package"]["versions"][0]["version"], "8.0.0-beta.1");
        assert_eq!(got["read_state"]["revision"], before.revision);
        assert_eq!(scene.npm.requests().total(), 0, "{}", scene.npm.counts());
    }
}

fn names_of(packages: &Value) -> Vec<String> {
    let packages = packages.as_array().expect("a list");
    let name = |package: &Value| package["name"].as_str().map(str::to_owned);
    packages.iter().filter_map(name).collect()
}
