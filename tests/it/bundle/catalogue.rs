//! A full catalogue: 108 packages shaped like the reference ones, of two sources of a registry and of a folder, with everything that a
//! package may have and may lack.

use std::fs;

use serde_json::{Value, json};
use steadfast_client::Cursor;
use steadfast_testkit::{NpmServer, PackageSpec, Server, VersionSpec, npm::Integrity};

use super::level;
use crate::{
    local::monorepo::{Monorepo, PACKAGES, name},
    scene::{Engine, Scene},
};

/// Of a source of names, in another order than most collations have.
const PLAIN: [&str; 7] = ["Zeta_pkg", "a-b", "a.b", "a_b", "aB", "ab", "left-pad"];
/// Of the folder.
const FOLDER: usize = 10;
/// Published by an organisation.
const PUBLISHED: usize = PACKAGES - FOLDER - PLAIN.len();
/// No longer listed by it.
pub(super) const UNLISTED: [usize; 3] = [2, 33, 71];
/// What is no letter of English.
const WORDS: &str = "Données – 数据 – πληροφορίες – 🗝";

/// A server that has it all, and what it was made from.
pub(super) struct Catalogue {
    pub(super) scene: Scene,
    _folder: Monorepo,
}

// === impl Catalogue ===

impl Catalogue {
    /// Refreshed by the real program, twice, so that some packages are unlisted. The registry counts what it is asked from then on.
    pub(super) async fn refreshed(engine: Engine) -> Self {
        let (published, folder) = (Monorepo::of(PUBLISHED), Monorepo::empty());
        for number in 0..FOLDER {
            folder.generate(&format!("folder-{number}"), number);
        }
        let npm = NpmServer::start().await;
        for number in 0..PUBLISHED {
            publish(&npm, &published, number);
        }
        for (number, name) in PLAIN.into_iter().enumerate() {
            let mut package = PackageSpec::new(name).description(WORDS);
            for minor in 0..=number {
                package = package.version(format!("0.{minor}.0").as_str());
            }
            npm.put(package);
        }
        let configuration = |npm: &NpmServer| configuration(npm, &folder);
        let scene = Scene::over(engine, npm, &configuration, |builder| builder).await;
        // One version has no integrity, so that its schema is never read.
        let _ = scene.refresh(3).await;
        for number in UNLISTED {
            let name = name(&format!("adaptor-{number:03}"));
            scene.npm.change(&name, |package| package.unlisted = true);
        }
        let refresh = scene.refresh(3).await;
        let counts = refresh["refresh"]["counts"].as_array().expect("a list");
        let failed = counts.iter().map(|kind| kind["failed"].as_i64());
        assert_eq!(failed.flatten().sum::<i64>(), 1, "{refresh}");
        level(&scene.server, scene.head().await.revision).await;
        scene.npm.reset_requests();
        Self {
            scene,
            _folder: folder,
        }
    }

    pub(super) fn server(&self) -> &Server {
        &self.scene.server
    }
}

fn configuration(npm: &NpmServer, folder: &Monorepo) -> String {
    let url = npm.url();
    let plain = json!(PLAIN);
    // The folder is read once: a later reading would move the time at which it was read.
    let folder = Monorepo::source("folder", &[folder], 3_600_000);
    format!(
        r#"
[catalog]
refresh_on_empty = false

[[catalog.source]]
name = "adaptors"
type = "npm"
registry = "{url}"
organization = "openfn"
icon_url = "{url}/-icons/{{short}}/{{shape}}.{{ext}}"
short_prefix = "language-"

[[catalog.source]]
name = "plain"
type = "npm"
registry = "{url}"
names = {plain}

{folder}"#
    )
}

/// Publishes a package of a monorepo as its authors did, with what came before and what is to come. Most numbers have something of their
/// own.
fn publish(npm: &NpmServer, repo: &Monorepo, number: usize) {
    let short = format!("adaptor-{number:03}");
    let folder = repo.path().join("packages").join(&short);
    let manifest = fs::read_to_string(folder.join("package.json")).expect("is there");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let text = |field: &str| manifest[field].as_str().map(str::to_owned);
    let schema = fs::read_to_string(folder.join("configuration-schema.json")).ok();
    let words = number % 4 == 1;
    let label = if words { WORDS } else { &short };
    let version = |version: String| {
        let mut spec = VersionSpec::new(version).label(label);
        for (name, range) in manifest["dependencies"].as_object().expect("has some") {
            let range = range.as_str().expect("text").replace("workspace:", "");
            spec = spec.dependency(name, &range);
        }
        for peer in ["zod", "ajv", "left-pad", "@openfn/language-common"]
            .iter()
            .take(number % 5)
        {
            spec = spec.peer_dependency(peer, &format!("^{number}.0.0 || >=99"));
        }
        spec
    };
    let with = |spec: VersionSpec, schema: Option<String>| match schema {
        Some(schema) => spec.schema_text(schema),
        None => spec,
    };
    let newest = text("version").expect("has one");
    let major = number % 9;
    assert_eq!(newest, format!("{major}.2.0"));
    // Formerly nothing was required, and something else was.
    let former = schema.as_deref().filter(|_| number % 5 != 4).map(former);
    let mut first = with(
        version(format!("{major}.0.0")),
        former.as_ref().map(|(first, _)| first.clone()),
    );
    let mut second = with(
        version(format!("{major}.1.0")),
        former.map(|(_, second)| second),
    );
    let mut third = with(version(newest), odd_schema(number).or(schema));
    if number.is_multiple_of(5) {
        second = second.deprecated("");
    }
    if number % 10 == 5 {
        first = first.deprecated("it lost data – ".repeat(20).trim());
    }
    if number % 17 == 5 {
        first = first.deprecated("gone");
        second = second.deprecated("gone");
        third = third.deprecated(WORDS);
    }
    if number == 7 {
        first = first.integrity(Integrity::Absent);
    }
    if number == 8 {
        first = first.published("2019-02-29T24:00:00Z");
    }
    let mut package = PackageSpec::new(name(&short));
    package.description = Some(if words {
        format!("{WORDS} {short}")
    } else {
        text("description").expect("has one")
    });
    package.homepage = text("homepage");
    package.license = text("license");
    package.repository = Some(if number.is_multiple_of(3) {
        json!("github:example/adaptors")
    } else {
        manifest["repository"].clone()
    });
    package = package.version(first).version(second).version(third);
    if number.is_multiple_of(6) {
        let beta = format!("{}.0.0-beta.{number}", major + 1);
        package = package
            .version(with(version(beta.clone()), Some("true".to_owned())))
            .tag("latest", &format!("{major}.2.0"))
            .tag("next", &beta);
    }
    if number.is_multiple_of(4) {
        package = package.tag("lts", &format!("{major}.0.0"));
    }
    npm.put(package);
    for file in fs::read_dir(folder.join("assets")).expect("is there") {
        let file = file.expect("can be read");
        let bytes = fs::read(file.path()).expect("can be read");
        let file = file.file_name().into_string().expect("is text");
        let is_left_out = number % 8 == 7 || (number % 8 == 3 && file.starts_with("rect"));
        if !is_left_out {
            npm.put_file(&format!("/-icons/{short}/{file}"), &bytes);
        }
        if number % 10 == 9 && file == "square.png" {
            let svg = crate::icons::svg(&short);
            npm.put_file(&format!("/-icons/{short}/square.svg"), &svg);
        }
    }
}

/// What a schema was in the first and in the second version.
fn former(schema: &str) -> (String, String) {
    let mut first: Value = serde_json::from_str(schema).expect("JSON");
    first["required"] = json!([]);
    let mut second = first.clone();
    second["required"] = json!(["username"]);
    second["properties"]["username"]["title"] = json!(WORDS);
    second["properties"]["port"] = json!({ "type": "integer", "maximum": 1e3 });
    (first.to_string(), second.to_string())
}

/// Schemas that are none, or look odd, and are carried as they are.
fn odd_schema(number: usize) -> Option<String> {
    Some(match number {
        10 => "{ this is no JSON".to_owned(),
        11 => r#"{"$ref":"http://127.0.0.1:1/elsewhere.json"}"#.to_owned(),
        12 => "\u{feff}{}".to_owned(),
        14 => " {\r\n\t\"title\": \"\u{2028}\\u0000\\ud83d\\udddd\",\"n\":1e400,\"n\":-0.0 }\r\n\n"
            .to_owned(),
        15 => r#"{"$schema":"https://example.com/own","format":"made-up"}"#.to_owned(),
        16 => String::new(),
        17 => json!({ "type": "object", "description": "long ".repeat(30_000) }).to_string(),
        18..=22 => r#"{"title":"shared by several"}"#.to_owned(),
        _ => return None,
    })
}

/// Where a server stands.
pub(super) async fn standing(server: &Server) -> Cursor {
    let head = crate::scene::head(&crate::scene::connection(server).await).await;
    steadfast_client::cursor_from_api(Some(head)).expect("is one")
}
