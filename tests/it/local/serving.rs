//! What lies in a monorepo is served, and what changes there is told.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;
use steadfast_testkit::Server;

use super::{
    monorepo::{Monorepo, PACKAGES, manifest, name, schema},
    stage::{Stage, listed, revision, schema_of, told, watch, within_a_second},
};
use crate::{
    http::get,
    scene::{Engine, eventually},
};

#[tokio::test]
async fn rule_4_a_monorepo_is_served_and_its_edits_are_told_within_a_second() {
    for engine in Engine::BOTH {
        let repo = Monorepo::of(PACKAGES);
        let configuration = Monorepo::source("dev", &[&repo], 30_000);
        let stage = Stage::start(engine, &configuration).await;
        let server = &stage.server;
        let packages = listed(server, PACKAGES).await;
        assert!(
            packages
                .iter()
                .all(|package| package["latest_version"] == "local")
        );
        assert!(packages.iter().all(|package| package["source"] == "dev"));
        let with_schema = packages
            .iter()
            .filter(|package| package["has_schema"] == true);
        assert_eq!(with_schema.count(), PACKAGES - PACKAGES / 7);
        let first = name("adaptor-000");
        for specifier in [
            first.clone(),
            format!("{first}@local"),
            format!("{first}@latest"),
        ] {
            let arguments = ["package", "resolve", &specifier, "-o", "json"];
            let resolved = server.cli(&arguments).await.json();
            let text = resolved.to_string();
            assert!(text.contains(r#""version":"local""#), "{specifier}: {text}");
        }
        for unknown in ["@1.0.0", "@^1", "@next"] {
            let specifier = format!("{first}{unknown}");
            let refused = server.cli(&["package", "resolve", &specifier]).await;
            assert!(
                refused.failure(5).contains("VERSION_NOT_FOUND"),
                "{specifier}"
            );
        }
        let got = server
            .cli(&["package", "get", &first, "-o", "json"])
            .await
            .json();
        assert_eq!(got["package"]["label"], "adaptor-000", "{got}");
        assert_eq!(got["package"]["license"], "LGPL-3.0");
        assert_eq!(
            got["package"]["repository"]["directory"],
            "packages/adaptor-000"
        );
        assert_eq!(
            got["package"]["versions"][0]["dependencies"]["@openfn/language-common"],
            "workspace:*"
        );
        assert!(got["read_state"]["checked_time"].is_string(), "{got}");
        assert_eq!(schema_of(server, &first).await["$comment"], "OAuth2");
        // One revision for each package, and none for what is as it was.
        let head = revision(server).await;
        assert_eq!(head, i64::try_from(PACKAGES).expect("small"));

        let mut watch = watch(server).await;
        let changed = name("adaptor-001");
        within_a_second(
            &mut watch,
            &format!("upsert schema {changed}@local"),
            |attempt| {
                let mut edited = schema("adaptor-001");
                edited["title"] = json!(format!("edit {attempt}"));
                repo.schema("adaptor-001", &edited);
            },
        )
        .await;
        // A lookup that names no revision may be a moment behind the stream.
        eventually("the edited schema to be served", async || {
            let title = schema_of(server, &changed).await["title"].clone();
            let is_edited = title.as_str()?.starts_with("edit ");
            is_edited.then_some(())
        })
        .await;
        within_a_second(
            &mut watch,
            &format!("upsert registry {changed}"),
            |attempt| {
                let mut edited = manifest("adaptor-001");
                edited["description"] = json!(format!("edit {attempt}"));
                repo.manifest("adaptor-001", &edited);
            },
        )
        .await;
        let pictured = name("adaptor-001");
        within_a_second(
            &mut watch,
            &format!("upsert icon {pictured}/square.svg"),
            |attempt| {
                let svg = format!(
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1 {}\"/>",
                    attempt + 1
                );
                repo.write("packages/adaptor-001/assets/square.svg", &svg);
            },
        )
        .await;
        eventually("the new icon to be listed", async || {
            let arguments = ["icon", "list", &pictured, "-o", "json"];
            let shown = server.cli(&arguments).await.json();
            (shown["icons"].as_array()?.len() == 3).then_some(())
        })
        .await;
        let added = name("added");
        within_a_second(
            &mut watch,
            &format!("upsert schema {added}@local"),
            |attempt| {
                if attempt > 0 {
                    repo.remove("added");
                }
                let mut first = schema("added");
                first["title"] = json!(format!("new {attempt}"));
                repo.schema("added", &first);
                repo.manifest("added", &manifest("added"));
            },
        )
        .await;
        // Its folder is new, so that a watch of it had to be set up.
        within_a_second(
            &mut watch,
            &format!("upsert schema {added}@local"),
            |attempt| {
                let mut edited = schema("added");
                edited["title"] = json!(format!("later {attempt}"));
                repo.schema("added", &edited);
            },
        )
        .await;
        within_a_second(&mut watch, &format!("delete registry {added}"), |attempt| {
            if attempt > 0 {
                repo.manifest("added", &manifest("added"));
            }
            repo.remove("added");
        })
        .await;
        listed(server, PACKAGES).await;
        let gone = server.cli(&["package", "get", &added]).await;
        assert!(gone.failure(5).contains("PACKAGE_NOT_FOUND"));
        // A schema that is taken away is told of, too.
        let path = "packages/adaptor-002/configuration-schema.json";
        fs::remove_file(repo.path().join(path)).expect("removed");
        let without = name("adaptor-002");
        let before = told(&mut watch, &format!("delete schema {without}@local")).await;
        let others: Vec<_> = before
            .iter()
            .filter(|change| !change.contains(&added))
            .collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

#[tokio::test]
async fn rule_4_what_is_broken_or_shadowed_is_named_and_keeps_what_was_stored() {
    for engine in Engine::BOTH {
        let (first, second) = (Monorepo::empty(), Monorepo::empty());
        for short in ["both", "good", "fragile"] {
            first.manifest(short, &manifest(short));
            first.schema(short, &schema(short));
        }
        let mut shadowed = manifest("both");
        shadowed["description"] = json!("of the second root");
        second.manifest("twin", &shadowed);
        second.manifest("only", &manifest("only"));
        second.write("packages/bad/package.json", "{\"name\": \"bad\",");
        second.write("packages/nameless/package.json", "{}");
        second.write("packages/odd/package.json", r#"{"name":"Not A Name"}"#);
        second.manifest("large", &manifest("large"));
        second.write(
            "packages/large/configuration-schema.json",
            &" ".repeat((1 << 20) + 1),
        );
        symlink("/etc/hostname", second.path().join("packages/good-link")).expect("linked");
        let configuration = Monorepo::source("dev", &[&first, &second], 30_000);
        let stage = Stage::start(engine, &configuration).await;
        let server = &stage.server;
        let packages = listed(server, 4).await;
        let names: Vec<_> = packages
            .iter()
            .map(|package| package["name"].clone())
            .collect();
        assert_eq!(
            json!(names),
            json!([name("both"), name("fragile"), name("good"), name("only")])
        );
        let both = packages
            .iter()
            .find(|package| package["name"] == name("both"));
        assert_eq!(both.expect("is there")["description"], "both adaptor");

        // An edit that breaks a package keeps what was there, and says what and why.
        let kept = schema_of(server, &name("fragile")).await;
        first.schema("fragile", &json!({ "type": "no such type" }));
        let log = eventually("the log to name what is broken", async || {
            let log = server.log();
            log.contains("packages/fragile/configuration-schema.json")
                .then_some(log)
        })
        .await;
        for (file, reason) in [
            ("packages/bad/package.json", "LOCAL_JSON_INVALID"),
            ("packages/nameless/package.json", "LOCAL_NAME_INVALID"),
            ("packages/odd/package.json", "LOCAL_NAME_INVALID"),
            (
                "packages/large/configuration-schema.json",
                "LOCAL_FILE_TOO_LARGE",
            ),
            ("packages/good-link", "LOCAL_OUTSIDE_ROOT_OR_FORBIDDEN"),
            (
                "packages/fragile/configuration-schema.json",
                "LOCAL_SCHEMA_INVALID",
            ),
        ] {
            let is_named = |line: &&str| line.contains(file) && line.contains(reason);
            assert!(
                log.lines().any(|line| is_named(&line)),
                "{file}, {reason}: {log}"
            );
        }
        let is_shadow = |line: &&str| line.contains("shadowed") && line.contains(first.text());
        assert!(log.lines().any(|line| is_shadow(&line)), "{log}");
        assert_eq!(schema_of(server, &name("fragile")).await, kept);
        // The metrics name them, too, as long as they are so.
        let (_, _, metrics) = get(server, "/metrics").await;
        let named = |part: &str| {
            let mut lines = metrics
                .lines()
                .filter(|line| line.starts_with("steadfast_local_skipped"));
            lines.any(|line| line.contains(part) && line.ends_with(" 1"))
        };
        assert!(
            named("reason=\"SHADOWED\"") && named("LOCAL_JSON_INVALID"),
            "{metrics}"
        );
        assert!(
            named("packages/fragile/configuration-schema.json"),
            "{metrics}"
        );
        first.schema("fragile", &schema("mended"));
        eventually("the mended schema", async || {
            let now = schema_of(server, &name("fragile")).await;
            (now["title"] == "mended").then_some(())
        })
        .await;
        let (_, _, metrics) = get(server, "/metrics").await;
        let fragile = metrics
            .lines()
            .find(|line| line.contains("packages/fragile/"));
        assert!(
            fragile.is_some_and(|line| line.ends_with(" 0")),
            "{metrics}"
        );

        // What the first root gives up, the second one has.
        first.remove("both");
        eventually("the second root's package", async || {
            let list = server.cli(&["package", "list", "-o", "json"]).await.json();
            list.to_string()
                .contains("of the second root")
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn rule_4_a_missing_root_is_an_error_at_start() {
    let repo = Monorepo::of(1);
    let gone = repo.path().join("gone");
    let plain = repo.path().join("packages/adaptor-000");
    for (missing, problem) in [(&gone, "No such file"), (&plain, "packages")] {
        let missing = missing.to_str().expect("text");
        let configuration = format!(
            "[[catalog.source]]\nname = \"dev\"\ntype = \"local\"\nroots = [{:?}, {missing:?}]\n",
            repo.text()
        );
        let server = Server::builder().configuration(configuration);
        let failure = server.try_start().await.expect_err("it does not start");
        let told = format!("{failure:?}");
        for part in ["catalog.source[0].roots[1]", missing, problem, "`dev`"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[tokio::test]
async fn rule_4_an_emptied_or_lost_root_changes_nothing() {
    for engine in Engine::BOTH {
        let repo = Monorepo::of(3);
        let configuration = Monorepo::source("dev", &[&repo], 500);
        let stage = Stage::start(engine, &configuration).await;
        let server = &stage.server;
        listed(server, 3).await;
        let head = revision(server).await;
        let packages = repo.path().join("packages");
        let away = repo.path().join("away");
        fs::rename(&packages, &away).expect("renamed");
        eventually("the lost root to be named", async || {
            server.log().contains("LOCAL_ROOT_UNREADABLE").then_some(())
        })
        .await;
        fs::create_dir(&packages).expect("made");
        eventually("the emptied root to be named", async || {
            server.log().contains("LOCAL_ROOT_EMPTIED").then_some(())
        })
        .await;
        let refresh = server.cli(&["refresh", "-o", "json"]).await;
        assert_ne!(refresh.status.code(), Some(0), "{refresh:?}");
        assert!(refresh.stdout.contains("LOCAL_ROOT_EMPTIED"), "{refresh:?}");
        let (_, _, metrics) = get(server, "/metrics").await;
        let usable = metrics
            .lines()
            .find(|line| line.starts_with("steadfast_local_root_usable"));
        assert!(usable.is_some_and(|line| line.ends_with(" 0")), "{metrics}");
        listed(server, 3).await;
        assert_eq!(revision(server).await, head);

        // Back again, with one package fewer, which now counts as removed.
        fs::remove_dir(&packages).expect("removed");
        fs::remove_dir_all(away.join("adaptor-002")).expect("removed");
        fs::rename(&away, &packages).expect("renamed");
        listed(server, 2).await;
        assert_eq!(revision(server).await, head + 1);
    }
}

#[tokio::test]
async fn rule_4_a_change_that_nobody_was_told_of_is_found() {
    let (before, after) = (Monorepo::of(2), Monorepo::of(3));
    // A root that is a link, put over to another tree: the watches are still those of the first.
    let place = tempfile::tempdir().expect("a folder");
    let link = place.path().join("current");
    symlink(before.path(), &link).expect("linked");
    let configuration = format!(
        "[[catalog.source]]\nname = \"dev\"\ntype = \"local\"\nroots = [{link:?}]\nrescan_ms = 500\n"
    );
    let stage = Stage::start(Engine::Sqlite, &configuration).await;
    listed(&stage.server, 2).await;
    let next = place.path().join("next");
    symlink(after.path(), &next).expect("linked");
    fs::rename(&next, &link).expect("renamed");
    listed(&stage.server, 3).await;
    // From now on the new tree is watched.
    let mut watch = watch(&stage.server).await;
    let changed = name("adaptor-002");
    within_a_second(
        &mut watch,
        &format!("upsert schema {changed}@local"),
        |attempt| {
            let mut edited = schema("adaptor-002");
            edited["title"] = json!(format!("edit {attempt}"));
            after.schema("adaptor-002", &edited);
        },
    )
    .await;
}
