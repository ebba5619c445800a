//! `steadfast resource`, `inventory`, `drift` and `policy`: what they print, and how they exit.

use std::fs;

use serde_json::Value;

use super::stage::{Stage, live, resized, spec};
use crate::scene::Engine;

impl Stage {
    fn file(&self, name: &str, text: &str) {
        fs::write(self.server.directory().join(name), text).expect("it can be written");
    }

    /// What the command prints, having exited with this code.
    async fn told(&self, code: i32, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = self.server.cli(&arguments).await;
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        if output.stdout.is_empty() {
            output.stderr
        } else {
            output.stdout
        }
    }

    async fn told_json(&self, code: i32, line: &str) -> Value {
        let text = self.told(code, &format!("{line} -o json")).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// The only drift, as the commands that decide take it.
    async fn seen(&self) -> String {
        let told = self.told_json(0, "drift list").await;
        let drift = &told["drifts"][0];
        format!(
            "{}@{}",
            drift["id"].as_str().expect("an id"),
            drift["etag"].as_str().expect("an etag")
        )
    }
}

/// The seed's scenario: a droplet whose size is wrong and whose region is right.
#[tokio::test]
async fn a_wrong_size_is_found_accepted_and_found_no_more() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.file("spec.json", &spec().to_string());
        stage.file("live.json", &resized().to_string());
        let told = stage
            .told(
                0,
                "resource record do/droplet/4711 --spec spec.json --label env=prod",
            )
            .await;
        assert_eq!(told.trim(), "do/droplet/4711 is recorded as version 1");
        assert_eq!(
            stage
                .told(0, "resource report do/droplet/4711 --attributes live.json")
                .await
                .trim(),
            "reported 1 resource: 1 first"
        );

        let told = stage.told(2, "drift detect").await;
        assert!(
            told.starts_with("drifted; compared 1 resource, 1 opened"),
            "{told}"
        );
        assert!(
            told.contains("/size_slug") && !told.contains("region"),
            "{told}"
        );
        let events = stage.told_json(0, "resource events do/droplet/4711").await;
        let kinds: Vec<_> = events["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| &event["kind"])
            .collect();
        assert_eq!(kinds, ["recorded", "appeared", "drift_detected"]);

        let seen = stage.seen().await;
        let shown = stage
            .told(0, &format!("drift show {seen} --color always"))
            .await;
        assert!(
            shown.contains(
                "\u{1b}[31m- \"s-1vcpu-1gb\"\u{1b}[0m\n\u{1b}[32m+ \"s-2vcpu-2gb\"\u{1b}[0m"
            ),
            "{shown}"
        );
        let plain = stage.told(0, &format!("drift show {seen}")).await;
        assert!(
            plain.contains("- \"s-1vcpu-1gb\"\n+ \"s-2vcpu-2gb\"") && !plain.contains('\u{1b}'),
            "{plain}"
        );

        let told = stage
            .told(
                0,
                &format!("drift accept {seen} --reason resized --actor ann"),
            )
            .await;
        assert_eq!(
            told.trim(),
            "accepted do/droplet/4711/size_slug: the spec is version 2 now"
        );
        let told = stage.told(0, "drift detect").await;
        assert!(told.starts_with("in sync;"), "{told}");
        assert_eq!(stage.told(0, "drift list").await.trim(), "no drifts");
        let resource = stage.told_json(0, "resource get do/droplet/4711").await;
        assert_eq!(resource["spec"]["size_slug"], "s-2vcpu-2gb");
        assert_eq!(
            (&resource["verdict"], &resource["spec_version"]),
            (&"in_sync".into(), &2.into())
        );
        let told = stage
            .told(1, &format!("drift accept {seen} --reason again"))
            .await;
        assert!(told.contains("FAILED_PRECONDITION DRIFT_CLOSED"), "{told}");
    }
}

#[tokio::test]
async fn detect_exits_with_numbers_of_its_own() {
    let stage = Stage::start(Engine::Sqlite).await;
    stage.file("spec.toml", "size_slug = \"s-1vcpu-1gb\"\n");
    stage.file("live.json", &resized().to_string());
    let told = stage.told(1, "drift detect do/droplet/1").await;
    assert!(told.contains("NOT_FOUND RESOURCE_NOT_FOUND"), "{told}");
    stage.told(1, "drift detect --ful").await;
    stage.told(1, "drift detect do/droplet").await;
    stage
        .told(1, "drift detect --endpoint http://127.0.0.1:1")
        .await;
    stage
        .told(
            0,
            "resource record do/droplet/1 --spec spec.toml --label env=prod",
        )
        .await;
    stage
        .told(0, "resource report do/droplet/1 --attributes live.json")
        .await;
    stage.told(2, "drift detect do/droplet/1").await;
    stage.told(2, "drift detect --label env=prod").await;
}

/// What could not be compared is not in sync.
#[tokio::test]
async fn that_nothing_could_be_compared_is_an_error() {
    let stage = Stage::start(Engine::Sqlite).await;
    let unproven = async |line: &str, complaint: &str, counts: Value| {
        let output = stage.server.cli(&line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        assert!(output.stdout.starts_with("unproven; "), "{output:?}");
        assert!(output.stderr.contains(complaint), "{line}: {output:?}");
        let told = stage.told_json(1, line).await;
        assert_eq!(told["result"], "unproven", "{line}");
        assert_eq!(told["proof"]["not_compared"], counts, "{line}");
    };
    let none = || serde_json::json!({});
    unproven("drift detect", "no resource is recorded", none()).await;
    stage.file("spec.json", &spec().to_string());
    stage.file("live.json", &live().to_string());
    stage
        .told(
            0,
            "resource record do/droplet/1 --spec spec.json --label env=prod",
        )
        .await;
    let one = || serde_json::json!({ "not_observed": 1 });
    for line in ["do/droplet/1", "", "--full", "--label env=prod"] {
        let line = format!("drift detect {line}");
        let complaint = "error: nothing could be compared: 1 not observed\n";
        unproven(line.trim(), complaint, one()).await;
    }
    let mistyped = "no resource has these labels";
    unproven("drift detect --label env=prd", mistyped, none()).await;
    // A look that fails, and a record that is not applied.
    let id = stage.told(0, "inventory begin do").await;
    stage
        .told(0, &format!("inventory end {} --failed cut", id.trim()))
        .await;
    stage
        .told(0, "resource record do/droplet/2 --spec spec.json --pending")
        .await;
    let two = serde_json::json!({ "unreadable": 1, "pending": 1 });
    unproven("drift detect", "1 pending, 1 unreadable", two).await;
    // Nobody asks for what is only reported.
    stage
        .told(0, "resource report do/droplet/3 --attributes live.json")
        .await;
    let nobody = serde_json::json!({ "unrecorded": 1 });
    unproven("drift detect do/droplet/3", "recorded by nobody", nobody).await;

    // Some of it is enough, unless asked otherwise.
    stage
        .told(0, "resource report do/droplet/1 --attributes live.json")
        .await;
    let told = stage.told(0, "drift detect").await;
    assert!(told.starts_with("in sync; compared 1 resource"), "{told}");
    assert!(
        told.contains("; 1 resource could not be compared: 1 pending"),
        "{told}"
    );
    let output = stage.server.cli(&["drift", "detect", "--strict"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        output
            .stderr
            .contains("not everything could be compared: 1 pending"),
        "{output:?}"
    );
    stage.told(0, "drift detect do/droplet/1 --strict").await;
    stage
        .told(0, "drift detect --label env=prod --strict")
        .await;
    // What drifted did so, whatever else is not known.
    stage.file("live.json", &resized().to_string());
    stage
        .told(0, "resource report do/droplet/1 --attributes live.json")
        .await;
    let told = stage.told_json(2, "drift detect --strict").await;
    assert_eq!(told["result"], "drifted");
}

#[tokio::test]
async fn hiding_is_said_and_ended() {
    let stage = Stage::start(Engine::Sqlite).await;
    stage.file("spec.json", &spec().to_string());
    stage.file("live.json", &resized().to_string());
    stage
        .told(0, "resource record do/droplet/1 --spec spec.json")
        .await;
    stage
        .told(0, "resource report do/droplet/1 --attributes live.json")
        .await;
    stage.told(2, "drift detect").await;
    let seen = stage.seen().await;
    let told = stage
        .told(0, &format!("drift snooze {seen} --for 7d --reason later"))
        .await;
    assert!(
        told.contains("do/droplet/1/size_slug is hidden, ends in 7d"),
        "{told}"
    );
    let told = stage.told(0, "drift detect").await;
    assert!(told.contains("1 hidden"), "{told}");
    let told = stage.told_json(0, "drift list --hidden").await;
    assert_eq!(told["drifts"][0]["suppressed_by"], "snooze");
    let seen = format!(
        "{}@{}",
        told["drifts"][0]["id"].as_str().expect("an id"),
        told["drifts"][0]["etag"].as_str().expect("an etag")
    );
    stage
        .told(0, &format!("drift snooze {seen} --end --reason now"))
        .await;
    stage.told(2, "drift detect").await;

    let told = stage
        .told(1, "policy create sizes --path /size_slug --handling ignore")
        .await;
    assert!(
        told.contains("policy.reason") && told.contains("policy.expire_time"),
        "{told}"
    );
    let told = stage
        .told_json(
            0,
            "policy create sizes --path /size_slug --handling ignore --reason noise --expires 30d",
        )
        .await;
    assert_eq!(
        (&told["handling"], &told["path"]),
        (&"ignore".into(), &"/size_slug".into())
    );
    stage.told(0, "drift detect").await;
    let told = stage.told(0, "policy list").await;
    assert!(
        told.contains("sizes") && told.contains("/size_slug") && told.contains("ignore"),
        "{told}"
    );
    let told = stage
        .told_json(
            0,
            "policy update sizes --handling manual --severity critical",
        )
        .await;
    assert_eq!(
        (&told["handling"], &told["reason"]),
        (&"manual".into(), &"noise".into())
    );
    let told = stage.told(2, "drift detect").await;
    assert!(told.contains("critical"), "{told}");
    stage.told(0, "policy delete sizes").await;
    let told = stage.told(5, "policy get sizes").await;
    assert!(told.contains("POLICY_NOT_FOUND"), "{told}");
}

#[tokio::test]
async fn many_are_reported_from_a_file_within_an_inventory() {
    let stage = Stage::start(Engine::Sqlite).await;
    let line = |id: usize| {
        let mut line = serde_json::json!({ "provider": "do", "type": "droplet", "id": id, "attributes": live() });
        if id == 7 {
            line["type"] = "volume".into();
        }
        line.to_string() + "\n"
    };
    stage.file("many.jsonl", &(0..1_200).map(line).collect::<String>());
    let id = stage.told(0, "inventory begin do --type droplet").await;
    let id = id.trim();
    let told = stage
        .told(
            3,
            &format!("resource report --from many.jsonl --inventory {id}"),
        )
        .await;
    assert_eq!(
        told.trim(),
        "reported 1200 resources: 1199 first, 1 refused"
    );
    let told = stage
        .told_json(0, &format!("inventory end {id} --complete"))
        .await;
    assert_eq!(
        (&told["state"], &told["reported"]),
        (&"complete".into(), &1199.into())
    );
    let told = stage.told(0, &format!("inventory get {id}")).await;
    assert!(
        told.contains("do/droplet") && told.contains("1199"),
        "{told}"
    );
    assert!(stage.told(0, "inventory list").await.contains(id));
    let told = stage.told_json(0, "resource list --limit 1100").await;
    assert_eq!(told["resources"].as_array().map(Vec::len), Some(1_100));
    assert_eq!(told["more"], true);
}

/// The commands of the README's section, each with the exit code that it promises.
fn readme() -> Vec<(i32, String)> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(readme).expect("there is a README");
    let section = readme
        .split("\n## Find drift\n")
        .nth(1)
        .expect("it has the section");
    let section = section.split("\n## ").next().expect("it ends");
    let commands = section
        .lines()
        .filter_map(|line| line.strip_prefix("steadfast "));
    commands
        .map(|line| {
            let code = i32::from(line.contains("# exits 2")) * 2;
            let command = line.split('#').next().expect("a command").trim();
            // One word, as a shell makes of it.
            (code, command.replace("\"it was too small\"", "resized"))
        })
        .collect()
}

#[tokio::test]
async fn the_commands_of_the_readme_work() {
    let stage = Stage::start(Engine::Sqlite).await;
    let readme_text = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = fs::read_to_string(readme_text).expect("there is a README");
    let documents: Vec<&str> = text.split("```json\n").skip(1).collect();
    for (name, document) in ["spec.json", "live.json"].into_iter().zip(documents) {
        stage.file(name, document.split("```").next().expect("it ends"));
    }
    let line = serde_json::json!({ "provider": "digitalocean", "type": "droplet", "id": "4711", "attributes": resized() });
    stage.file("droplets.jsonl", &line.to_string());
    let commands = readme();
    assert_eq!(commands.len(), 11, "{commands:?}");
    let mut inventory = String::new();
    for (code, command) in commands {
        let command = if command.contains("ID@ETAG") {
            command.replace("ID@ETAG", &stage.seen().await)
        } else {
            command.replace("ID", &inventory)
        };
        let told = stage.told(code, &command).await;
        if command.starts_with("inventory begin") {
            inventory = told.trim().to_owned();
        }
    }
}
