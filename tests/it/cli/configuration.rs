//! `init`, `config check` and `config print`.

use std::fs;

use serde_json::Value;
use steadfast_testkit::steadfast;
use tempfile::TempDir;

const PASSWORD: &str = "hunter2-Zq9";

#[tokio::test]
async fn init_writes_a_file_that_is_valid_and_is_never_overwritten_by_accident() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path();
    let output = steadfast(path, &[], &["init"]).await;
    let text = output.success();
    assert!(
        text.starts_with("wrote steadfast.toml\nnext: ") && text.contains("steadfast serve"),
        "{text}"
    );
    let output = steadfast(path, &[], &["config", "check"]).await;
    assert!(
        output.success().contains("valid (steadfast.toml)"),
        "{output:?}"
    );

    let file = path.join("steadfast.toml");
    fs::write(&file, "# mine\n").expect("the folder can be written");
    let output = steadfast(path, &[], &["init"]).await;
    assert!(
        output.failure(1).contains("--force replaces it"),
        "{output:?}"
    );
    assert_eq!(fs::read_to_string(&file).expect("a file"), "# mine\n");
    let _ = steadfast(path, &[], &["init", "--force"]).await.success();
    assert!(fs::read_to_string(&file).expect("a file").len() > 1_000);
    let output = steadfast(path, &[], &["init", "nowhere/s.toml"]).await;
    assert!(
        output.failure(1).contains("nowhere/s.toml: No such file"),
        "{output:?}"
    );
}

#[tokio::test]
async fn every_mistake_is_reported_at_once_with_its_place_and_remedy() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path();
    let text = format!(
        r#"
[server]
grpcc = "127.0.0.1:1"
http = "nonsense"

[database]
max_connections = 1
url = "mysql://me:{PASSWORD}@db.example/x"

[catalog]
refresh_schedule = "every day"

[[catalog.source]]
name = "a"
type = "npm"
names = ["no name"]

[nope]
x = 1
"#
    );
    fs::write(path.join("bad.toml"), text).expect("the folder can be written");
    let variables = [("STEADFAST_LEASE__DURATION_MS", "soon")];
    for command in [&["config", "check"][..], &["serve"], &["config", "print"]] {
        let arguments = [command, &["--config", "bad.toml"]].concat();
        let output = steadfast(path, &variables, &arguments).await;
        let told = output.failure(2);
        for part in [
            "server.grpcc (bad.toml, line 3)",
            "did you mean server.grpc?",
            "server.http (bad.toml, line 4)",
            "database.max_connections (bad.toml, line 7)",
            "a whole number, 2 to 1000",
            "database.url (bad.toml, line 8)",
            "catalog.refresh_schedule (bad.toml, line 11)",
            "nope (bad.toml, line 18)",
            "lease.duration_ms (variable STEADFAST_LEASE__DURATION_MS)",
            "no name",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains(PASSWORD), "{told}");
    }
    let output = steadfast(
        path,
        &variables,
        &["config", "check", "--config", "bad.toml", "-o", "json"],
    )
    .await;
    assert_eq!(output.status.code(), Some(2));
    let told: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(told["valid"], false);
    assert_eq!(told["errors"].as_array().map(Vec::len), Some(8), "{told}");
    assert!(!output.stdout.contains(PASSWORD));
    let output = steadfast(path, &[], &["config", "check", "--config", "none.toml"]).await;
    assert!(output.failure(2).contains("none.toml"), "{output:?}");
}

#[tokio::test]
async fn what_is_in_force_is_printed_with_its_origin_and_without_its_secrets() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path();
    let file = "[server]\ngrpc = \"127.0.0.1:1111\"\nhttp = \"127.0.0.1:2222\"\n[lease]\nduration_ms = 5000\n";
    fs::write(path.join("steadfast.toml"), file).expect("the folder can be written");
    let url = format!("postgres://me:{PASSWORD}@db.example/x");
    let variables = [
        ("STEADFAST_DATABASE__URL", url.as_str()),
        ("STEADFAST_SERVER__HTTP", "127.0.0.1:3333"),
        ("STEADFAST_LEASE__DURATION_MS", "6000"),
    ];
    let arguments = ["config", "print", "--listen-http", "127.0.0.1:4444"];
    let output = steadfast(path, &variables, &arguments).await;
    let text = output.success();
    for line in [
        "grpc = \"127.0.0.1:1111\" # steadfast.toml, line 2",
        "http = \"127.0.0.1:4444\" # flag",
        "duration_ms = 6000 # variable STEADFAST_LEASE__DURATION_MS",
        "url = \"postgres://me:***@db.example/x\" # variable STEADFAST_DATABASE__URL",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(!text.contains(PASSWORD), "{text}");
    let json = steadfast(path, &variables, &["config", "print", "-o", "json"]).await;
    assert_eq!(json.json()["server"]["http"], "127.0.0.1:3333");
    assert!(!json.stdout.contains(PASSWORD));

    // What it prints can be read again.
    fs::write(path.join("again.toml"), text).expect("the folder can be written");
    let again = steadfast(path, &[], &["config", "print", "--config", "again.toml"]).await;
    assert!(
        again.success().contains("grpc = \"127.0.0.1:1111\""),
        "{again:?}"
    );
}
