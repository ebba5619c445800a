//! The race that every read-through cache has, and that the design names: a fill begins, what it asks for changes, the fill lands.
//! Here it is no matter of luck: the upstream's answer is held back until the change is served.

use steadfast_testkit::{NpmServer, Server, Signal, npm::Gate};

use super::{HTTP, configuration, filled, get, path_of, png};
use crate::scene::{Engine, Scene, eventually, registry};

const PLACE: &str = "/-icons/http/square.png";

/// As the other tests' sources, but patient: what is held back must not be given up.
fn patient(npm: &NpmServer) -> String {
    configuration(npm).replace("timeout_ms = 2000", "timeout_ms = 18000")
}

/// Waits until a server leads to this icon, and has it.
async fn serves(server: &Server, bytes: &[u8]) {
    let path = path_of(HTTP, "square", "png", bytes);
    eventually("the icon is served", async || {
        let moved = get(server, &format!("/icons/{HTTP}/square.png")).await;
        (moved.header("location") == path).then_some(())
    })
    .await;
    assert_eq!(get(server, &path).await.body, bytes);
}

/// The first server of a scene knows the packages and no icon, and has begun to fetch one: the upstream's answer, which has the icon
/// `old`, is behind the gate.
async fn begun(engine: Engine) -> (Scene, Gate) {
    let npm = registry().await;
    npm.put_file(PLACE, &png("old"));
    let scene = Scene::over(engine, npm, &patient, |builder| {
        builder.variable("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false")
    })
    .await;
    let packages = ["refresh", "--kind", "packages"];
    let _ = scene.server.cli(&packages).await.success();
    eventually("the package is there", async || {
        let output = scene.server.cli(&["package", "get", HTTP]).await;
        output.status.success().then_some(())
    })
    .await;
    let gate = scene.npm.hold(PLACE);
    let early = get(&scene.server, &format!("/icons/{HTTP}/square.png")).await;
    assert_eq!(early.status, 503);
    gate.arrived(1).await;
    (scene, gate)
}

/// Lets the answer go, and waits until the server has dealt with it.
async fn ended(server: &Server, gate: Gate) {
    let dropped = "came too late and is dropped";
    assert!(!server.log().contains(dropped));
    gate.release();
    eventually("the late answer is dropped", async || {
        server.log().contains(dropped).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fill_that_began_before_a_refresh_of_another_replica_never_lands_after_it() {
    let (scene, gate) = begun(Engine::Postgres).await;
    let database = scene.database.as_ref().expect("is PostgreSQL");
    let second = Server::builder()
        .configuration(patient(&scene.npm))
        .database_url(database.url())
        .variable("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false")
        .start()
        .await;
    // What is at the gate stays there; who asks from now on passes it, and is told of the new one.
    scene.npm.clear_faults();
    scene.npm.put_file(PLACE, &png("new"));
    // The first one is frozen meanwhile: were it to take the refresh, that would wait at the gate, too, as it asks the same question.
    scene.server.signal(Signal::SIGSTOP);
    let refreshed = second.cli(&["refresh", "--kind", "icons"]).await;
    scene.server.signal(Signal::SIGCONT);
    assert!(refreshed.success().contains("succeeded"), "{refreshed:?}");
    let servers = [&scene.server, &second];
    for server in servers {
        serves(server, &png("new")).await;
    }
    let before = scene.head().await;
    ended(&scene.server, gate).await;
    assert_eq!(scene.head().await, before);
    for server in servers {
        serves(server, &png("new")).await;
    }
}

#[tokio::test]
async fn a_fill_that_began_before_an_import_never_lands_after_it() {
    let other = filled(Engine::Sqlite).await;
    let bundle = other.server.directory().join("catalogue.bundle");
    let bundle = bundle.to_str().expect("a path that is text");
    let _ = other.server.cli(&["export", bundle]).await.success();
    for engine in Engine::BOTH {
        let (scene, gate) = begun(engine).await;
        let _ = scene.server.cli(&["import", bundle]).await.success();
        serves(&scene.server, &png("http")).await;
        let before = scene.head().await.revision;
        ended(&scene.server, gate).await;
        // That there is no SVG is news, which the same answer brought.
        assert_eq!(scene.head().await.revision, before + 1);
        serves(&scene.server, &png("http")).await;
    }
}
