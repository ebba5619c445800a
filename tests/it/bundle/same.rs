//! A full catalogue out of PostgreSQL and into SQLite without a network, and on into PostgreSQL.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use steadfast_testkit::{NpmServer, Server};

use super::{
    alike, assert_same,
    catalogue::{Catalogue, UNLISTED},
    counts, export, import,
    questions::{self, Found},
    wire::{self, Standing, Told},
};
use crate::{
    local::monorepo::PACKAGES,
    scene::{Engine, NoRegistry},
};

/// The last line, from the line end before it.
const TRAILER_BYTES: usize = 79;

/// A server without a source, on SQLite. If it asked anybody over HTTP, the request would be the registry's to count.
async fn cut_off(npm: &NpmServer) -> Server {
    let mut builder = Server::builder();
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"] {
        builder = builder.variable(variable, npm.url());
    }
    builder.start().await
}

/// The first line without what differs between two servers that have the same, the packed lines, and the last line. That is: where the
/// exporting server stands (`store_id`, `revision`, `mark`), and therefore the checksum.
fn parts(file: &Path) -> (Value, Vec<u8>, Vec<u8>) {
    let bytes = fs::read(file).expect("is there");
    let first = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a line");
    let mut header: Value = serde_json::from_slice(&bytes[..first]).expect("JSON");
    let fields = header.as_object_mut().expect("an object");
    for field in ["store_id", "revision", "mark"] {
        assert!(fields.remove(field).is_some(), "{field}");
    }
    let trailer = bytes.len() - TRAILER_BYTES;
    let packed = bytes[first + 1..trailer].to_vec();
    (header, packed, bytes[trailer..].to_vec())
}

/// That the catalogue has everything that the comparison is about.
fn assert_rich(found: &Found, questions: &[wire::Question], told: &[Told]) {
    let packages = &found.packages;
    assert_eq!(packages.len(), PACKAGES);
    let count = |of: &dyn Fn(&steadfast_client::api::registry::v1::Package) -> bool| {
        packages.iter().filter(|package| of(package)).count()
    };
    assert_eq!(count(&|package| package.unlisted), UNLISTED.len());
    assert_eq!(count(&|package| package.deprecated), 5);
    assert_eq!(count(&|package| package.source == "folder"), 10);
    assert_eq!(count(&|package| package.source == "plain"), 7);
    assert_eq!(count(&|package| !package.description.is_ascii()), 30);
    assert!(count(&|package| package.dist_tags.len() == 3) > 5);
    let versions = packages.iter().flat_map(|package| &package.versions);
    let peers = versions.filter(|version| version.peer_dependencies.len() > 2);
    assert!(peers.count() > 100);
    let kinds: BTreeSet<_> = found
        .icons
        .iter()
        .map(|icon| (icon.shape, icon.format))
        .collect();
    assert_eq!(kinds.len(), 4, "{kinds:?}");

    let asked: BTreeSet<String> = questions.iter().map(|one| one.path.to_owned()).collect();
    let expected: BTreeSet<String> = questions::reading_calls().into_iter().collect();
    assert_eq!(asked, expected, "every call that reads is made");
    let mut kinds: BTreeMap<(&str, i32), usize> = BTreeMap::new();
    for (question, told) in questions.iter().zip(told) {
        let code = match told {
            Told::Message(..) => 0,
            Told::Refused(code, ..) => *code,
        };
        *kinds.entry((question.path, code)).or_default() += 1;
    }
    println!("{} answers: {kinds:#?}", told.len());
    for path in &expected {
        let answered = kinds.get(&(path.as_str(), 0));
        assert!(
            answered.is_some_and(|count| *count > 3),
            "{path}: {answered:?}"
        );
    }
}

#[tokio::test]
async fn rule_15_a_site_without_a_network_answers_as_the_one_that_exported_byte_for_byte() {
    let from = Catalogue::refreshed(Engine::Postgres).await;
    let npm = &from.scene.npm;
    let file = export(from.server(), "whole.bundle").await;
    let target = cut_off(npm).await;
    let imported = import(&target, &file, &["--replace"]).await;
    assert_eq!(counts(&imported, "packages"), [108, 0, 0, 0], "{imported}");

    let there = Standing::of(from.server()).await;
    let found = questions::all(&there).await;
    let questions = &found.questions;
    let expected = there.ask_all(questions).await;
    assert_rich(&found, questions, &expected);
    let here = Standing::of(&target).await;
    assert_ne!(here.cursor, there.cursor);
    let told = here.ask_all(questions).await;
    assert_same(&told, &expected, |at| questions[at].what.clone());
    assert_eq!(npm.requests().total(), 0, "nobody was asked");
}

#[tokio::test]
async fn rule_15_a_site_without_a_network_serves_browsers_and_commands_as_the_one_that_exported() {
    let from = Catalogue::refreshed(Engine::Postgres).await;
    let npm = &from.scene.npm;
    let file = export(from.server(), "whole.bundle").await;
    let target = cut_off(npm).await;
    import(&target, &file, &["--replace"]).await;
    let found = questions::seen(&Standing::of(from.server()).await).await;

    let asked = questions::addresses(&found);
    let expected = wire::pages(from.server(), &asked).await;
    let told = wire::pages(&target, &asked).await;
    assert_same(&told, &expected, |at| format!("{:?}", asked[at]));
    let statuses: BTreeSet<u16> = expected.iter().map(|page| page.0.status).collect();
    assert_eq!(statuses, [200, 302, 304, 404].into());
    println!("{} pages", expected.len());

    for arguments in [
        [
            "package",
            "get",
            "@openfn/language-adaptor-001",
            "-o",
            "json",
        ]
        .as_slice(),
        &[
            "package",
            "resolve",
            "@openfn/language-folder-1@local",
            "-o",
            "json",
        ],
        &["schema", "get", "@openfn/language-adaptor-001"],
        &[
            "icon",
            "get",
            "@openfn/language-adaptor-004",
            "--shape",
            "rectangle",
        ],
    ] {
        let strip = |output: &str| match serde_json::from_str::<Value>(output) {
            Ok(mut value) if value.get("read_state").is_some() => {
                value["read_state"] = Value::Null;
                value.to_string()
            }
            _ => output.to_owned(),
        };
        let there = from.server().cli(arguments).await;
        let here = target.cli(arguments).await;
        assert_eq!(
            strip(here.success()),
            strip(there.success()),
            "{arguments:?}"
        );
    }
    assert_eq!(npm.requests().total(), 0, "nobody was asked");
}

#[tokio::test]
async fn rule_15_a_bundle_of_a_bundle_is_as_good() {
    let from = Catalogue::refreshed(Engine::Sqlite).await;
    let first = export(from.server(), "first.bundle").await;
    // The same is the same file.
    let again = export(from.server(), "again.bundle").await;
    assert!(fs::read(&first).expect("reads") == fs::read(&again).expect("reads"));

    let second = NoRegistry::start(Engine::Postgres).await;
    import(&second.server, &first, &["--replace"]).await;
    let second_file = export(&second.server, "second.bundle").await;
    let third = NoRegistry::start(Engine::Sqlite).await;
    import(&third.server, &second_file, &[]).await;
    let third_file = export(&third.server, "third.bundle").await;
    let (header, packed, trailer) = parts(&first);
    assert_eq!(header["packages"], PACKAGES);
    for file in [&second_file, &third_file] {
        let (other_header, other_packed, other_trailer) = parts(file);
        assert_eq!(other_header, header);
        assert!(other_packed == packed, "{}", file.display());
        assert_ne!(other_trailer, trailer);
    }
    assert!(alike(&third.server, from.server()).await > 500);

    // Once more changes nothing, and takes no revision.
    let server = &third.server;
    let before = super::head(server).await;
    for file in [&first, &third_file] {
        for mode in ["--replace", "--merge"] {
            let again = import(server, file, &[mode]).await;
            for kind in ["packages", "schemas", "icons"] {
                let [added, changed, unchanged, removed] = counts(&again, kind);
                assert_eq!([added, changed, removed], [0; 3], "{again}");
                assert!(unchanged >= 100, "{again}");
            }
            assert_eq!(again["cursor"], "");
        }
    }
    assert_eq!(super::head(server).await, before);
}
