//! A watcher that is killed and started again misses nothing and repeats nothing.

use std::{fs, path::Path};

use serde_json::Value;
use steadfast_testkit::RunningCommand;

use super::{change, publish};
use crate::scene::{Engine, NoRegistry, eventually};

/// Ends a watcher at once, and returns what it printed and nobody has read yet.
async fn kill(mut watch: RunningCommand) -> Vec<String> {
    watch.kill().await;
    let mut rest = Vec::new();
    while let Some(line) = watch.next_line().await {
        rest.push(line);
    }
    rest
}

fn stored(file: &Path) -> Option<i64> {
    let cursor = fs::read_to_string(file).ok()?;
    cursor.split(':').nth(1)?.parse().ok()
}

fn revision(line: &str) -> i64 {
    let first = line.split_whitespace().next().expect("a revision");
    first.parse().expect("a number")
}

#[tokio::test]
async fn with_a_cursor_file_nothing_is_missed_and_nothing_repeated() {
    for engine in Engine::BOTH {
        let scene = NoRegistry::start(engine).await;
        let (server, connection) = (&scene.server, scene.connect().await);
        let file = server.directory().join("cursor");
        let arguments = ["watch", "--earliest", "--cursor-file", "cursor"];
        let mut seen = Vec::new();
        for round in 0..5 {
            // Some come while nobody watches, and some while somebody does.
            publish(&connection, vec![change("app/t", &format!("{round}-away"))]).await;
            let mut watch = server.cli_running(&arguments);
            seen.push(watch.next_line().await.expect("a line"));
            publish(&connection, vec![change("app/t", &format!("{round}-here"))]).await;
            seen.push(watch.next_line().await.expect("a line"));
            let last = revision(&seen[seen.len() - 1]);
            eventually("the cursor to be stored", async || {
                (stored(&file) == Some(last)).then_some(())
            })
            .await;
            assert_eq!(kill(watch).await, Vec::<String>::new());
        }
        let expected: Vec<_> = (0..5)
            .flat_map(|round| ["away", "here"].map(|when| format!("{round}-{when}")))
            .zip(1..)
            .map(|(key, revision)| format!("{revision}  upsert  app/t  {key}"))
            .collect();
        assert_eq!(seen, expected);
    }
}

/// Killed while it prints, the file may be one batch behind the lines; then that batch comes again, and nothing else.
#[tokio::test]
async fn killed_in_full_flight_it_goes_on_from_its_file() {
    const CHANGES: i64 = 300;
    let scene = NoRegistry::start(Engine::Sqlite).await;
    let (server, connection) = (&scene.server, scene.connect().await);
    let file = server.directory().join("cursor");
    let publishing = tokio::spawn({
        let connection = connection.clone();
        async move {
            for number in 0..CHANGES {
                publish(&connection, vec![change("app/t", &number.to_string())]).await;
            }
        }
    });
    let arguments = ["watch", "--earliest", "--cursor-file", "cursor"];
    let mut expected = 1;
    while expected <= CHANGES {
        let mut watch = server.cli_running(&arguments);
        let mut printed = Vec::new();
        while printed.len() < 40 && printed.last() != Some(&CHANGES) {
            let line = watch.next_line().await.expect("a line");
            printed.push(revision(&line));
        }
        // The last line may be half a line.
        let rest = kill(watch).await;
        let whole = rest.len().saturating_sub(1);
        printed.extend(rest[..whole].iter().map(|line| revision(line)));
        let run: Vec<_> = (expected..).take(printed.len()).collect();
        assert_eq!(printed, run, "it goes on after its cursor, in order");
        let stored = stored(&file).expect("a cursor");
        assert!(stored >= expected - 1, "the file never goes back");
        assert!(
            stored <= printed[printed.len() - 1] + 1,
            "the file is never ahead of the lines: {stored}"
        );
        expected = stored + 1;
    }
    publishing.await.expect("all is published");
}

/// A program that reads the lines needs no file: each tells from where to go on.
#[tokio::test]
async fn a_reader_of_its_lines_gets_everything_exactly_once() {
    const CHANGES: i64 = 300;
    for engine in Engine::BOTH {
        let scene = NoRegistry::start(engine).await;
        let (server, connection) = (&scene.server, scene.connect().await);
        let publishing = tokio::spawn({
            let connection = connection.clone();
            async move {
                for number in (0..CHANGES).step_by(2) {
                    let keys = [number, number + 1].map(|key| key.to_string());
                    publish(&connection, keys.map(|key| change("app/t", &key)).to_vec()).await;
                }
            }
        });
        let mut done: Vec<i64> = Vec::new();
        let mut cursor: Option<String> = None;
        while done.len() < usize::try_from(CHANGES).expect("a small number") {
            let from = match &cursor {
                Some(cursor) => vec!["--after", cursor.as_str()],
                None => vec!["--earliest"],
            };
            let arguments = [&["watch", "-o", "json"][..], &from].concat();
            let mut watch = server.cli_running(&arguments);
            // What came since the last line whose cursor covers it is not done yet.
            let mut pending = Vec::new();
            let mut lines = 0;
            while lines < 60 && done.last() != Some(&(CHANGES - 1)) {
                let line = watch.next_line().await.expect("a line");
                lines += 1;
                let value: Value = serde_json::from_str(&line).expect("JSON");
                let key = value["key"].as_str().expect("a key");
                pending.push(key.parse().expect("a number"));
                let told = value["cursor"].as_str().expect("a cursor").to_owned();
                let covers: i64 = told
                    .split(':')
                    .nth(1)
                    .expect("a revision")
                    .parse()
                    .expect("a number");
                if Some(covers) >= value["revision"].as_i64() {
                    done.append(&mut pending);
                    cursor = Some(told);
                }
            }
            kill(watch).await;
        }
        assert_eq!(done, (0..CHANGES).collect::<Vec<_>>());
        publishing.await.expect("all is published");
    }
}

#[tokio::test]
async fn a_cursor_file_that_is_none_is_refused_and_kept() {
    let server = NoRegistry::start(Engine::Sqlite).await.server;
    let file = server.directory().join("cursor");
    fs::write(&file, "not a cursor").expect("the directory can be written");
    let output = server.cli(&["watch", "--cursor-file", "cursor"]).await;
    let told = output.failure(1);
    assert!(told.contains("STORE_ID:REVISION:MARK"), "{told}");
    assert_eq!(
        fs::read_to_string(&file).expect("it is there"),
        "not a cursor"
    );
    let nowhere = server.cli(&["watch", "--after", "nonsense"]).await;
    assert!(nowhere.failure(2).contains("STORE_ID:REVISION:MARK"));
}
