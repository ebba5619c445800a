//! The README's grpcurl commands, as they stand there.

use std::fs;

use serde_json::{Deserializer, Value};
use steadfast_testkit::{CommandOutput, foreign::grpcurl};

use crate::scene::{Engine, Scene};

/// What grpcurl exits with: 64 and the code, here DEADLINE_EXCEEDED.
const EXIT_DEADLINE_EXCEEDED: i32 = 68;

/// Every command line of the README that begins with `grpcurl`, split as a shell would.
fn commands() -> Vec<Vec<String>> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(readme).expect("there is a README");
    readme
        .lines()
        .filter(|line| line.starts_with("grpcurl "))
        .map(words)
        .collect()
}

/// Words parted by blanks, except between single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (index, piece) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            let last = words.len() - 1;
            words[last].push_str(piece);
            continue;
        }
        for (index, word) in piece.split(' ').enumerate() {
            if index > 0 {
                words.push(String::new());
            }
            let last = words.len() - 1;
            words[last].push_str(word);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn quotes_keep_words_together() {
    assert_eq!(
        words("grpcurl -d '{\"a\": 1}' h:1 s/M"),
        ["grpcurl", "-d", "{\"a\": 1}", "h:1", "s/M"]
    );
}

/// The JSON documents that grpcurl printed, one after the other.
fn documents(output: &CommandOutput) -> Vec<Value> {
    Deserializer::from_str(&output.stdout)
        .into_iter()
        .map(|document| document.unwrap_or_else(|error| panic!("{error} in {output:?}")))
        .collect()
}

#[tokio::test]
async fn the_grpcurl_commands_of_the_readme_work() {
    for engine in Engine::BOTH {
        let scene = Scene::filled(engine).await;
        let address = scene.server.grpc_address();
        let commands = commands();
        assert!(commands.len() >= 6, "{commands:?}");
        let mut published = None;
        for command in &commands {
            assert!(
                command.iter().any(|word| word == "127.0.0.1:7400"),
                "the default address, for whoever copies it: {command:?}"
            );
            let arguments: Vec<_> = command[1..]
                .iter()
                .map(|word| match word.as_str() {
                    "127.0.0.1:7400" => address,
                    word => word,
                })
                .collect();
            let output = grpcurl(&arguments).await;
            match arguments.last().copied().unwrap_or_default() {
                "list" => {
                    let services: Vec<_> = output.success().lines().collect();
                    for service in [
                        "grpc.health.v1.Health",
                        "grpc.reflection.v1.ServerReflection",
                        "grpc.reflection.v1alpha.ServerReflection",
                        "steadfast.admin.v1.ScheduleService",
                        "steadfast.admin.v1.ServerService",
                        "steadfast.registry.v1.RefreshService",
                        "steadfast.registry.v1.RegistryService",
                        "steadfast.schema.v1.SchemaService",
                        "steadfast.watch.v1.WatchService",
                    ] {
                        assert!(services.contains(&service), "{service} in {services:?}");
                    }
                }
                "steadfast.registry.v1.RegistryService" => {
                    let text = output.success();
                    assert!(text.contains("rpc ResolvePackage"), "{text}");
                    // The reference comes with it.
                    assert!(text.contains("Looks packages up"), "{text}");
                }
                "steadfast.registry.v1.RegistryService/GetPackage" => {
                    let answer = &documents(&output)[0];
                    assert_eq!(answer["package"]["name"], "@openfn/language-http");
                    assert_eq!(answer["package"]["distTags"]["latest"], "7.2.0");
                    assert!(answer["readState"]["storeId"].is_string(), "{answer}");
                }
                "steadfast.registry.v1.RegistryService/ResolvePackage" => {
                    let answer = &documents(&output)[0];
                    assert_eq!(answer["resolution"]["version"]["version"], "7.2.0");
                }
                "steadfast.watch.v1.WatchService/Publish" => {
                    let _ = output.success();
                    let answer = &documents(&output)[0];
                    published = Some(answer["cursor"]["revision"].clone());
                }
                "steadfast.watch.v1.WatchService/Watch" => {
                    let told = output.failure(EXIT_DEADLINE_EXCEEDED);
                    assert!(told.contains("DeadlineExceeded"), "{told}");
                    let events = documents(&output);
                    assert!(events[0]["opened"]["head"].is_object(), "{events:?}");
                    let batch = &events[1]["batch"];
                    assert_eq!(batch["changes"][0]["topic"], "app/orders");
                    assert_eq!(batch["changes"][0]["key"], "4711");
                    assert_eq!(
                        Some(&batch["changes"][0]["revision"]),
                        published.as_ref(),
                        "{events:?}"
                    );
                }
                _ => {
                    let _ = output.success();
                }
            }
        }
        assert!(published.is_some(), "{commands:?}");
    }
}

#[tokio::test]
async fn errors_carry_their_details() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let ask = async |body: &str, method: &str| {
        let address = scene.server.grpc_address();
        grpcurl(&["-plaintext", "-d", body, address, method]).await
    };
    let output = ask(
        r#"{"name": "@openfn/language-htp"}"#,
        "steadfast.registry.v1.RegistryService/GetPackage",
    )
    .await;
    let told = output.failure(64 + 5);
    for part in [
        "Code: NotFound",
        "PACKAGE_NOT_FOUND",
        "@openfn/language-http",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let output = ask(
        r#"{"changes": [{"topic": "orders", "op": "OP_UPSERT"}]}"#,
        "steadfast.watch.v1.WatchService/Publish",
    )
    .await;
    let told = output.failure(64 + 3);
    for part in ["changes[0].topic", "changes[0].key", "INVALID_ARGUMENT"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}
