//! Icons over gRPC, on the command line and over HTTP, against the real binary.

use std::collections::BTreeMap;

use sha2_of::hash;
use steadfast_client::{Code, api::registry::v1::GetIconRequest};
use steadfast_testkit::{NpmServer, Server, Times};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::scene::{Engine, Scene, eventually, registry};

mod headers;
mod late;
mod listed;
mod sha2_of;

const HTTP: &str = "@openfn/language-http";
const COMMON: &str = "@openfn/language-common";
const PLAIN: &str = "left-pad";

pub(crate) fn png(text: &str) -> Vec<u8> {
    let mut bytes =
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89"
            .to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(crate) fn svg(text: &str) -> Vec<u8> {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><script>{text}</script></svg>").into_bytes()
}

/// Packages with icons, of which names without `language-` are asked for.
pub(crate) fn configuration(npm: &NpmServer) -> String {
    let url = npm.url();
    format!(
        r#"
[upstream]
timeout_ms = 2000
attempts = 1

[[catalog.source]]
name = "test"
type = "npm"
registry = "{url}"
names = ["{HTTP}", "{COMMON}", "{PLAIN}"]
icon_url = "{url}/-icons/{{short}}/{{shape}}.{{ext}}"
short_prefix = "language-"
"#
    )
}

/// A server that has read icons: a square PNG and a rectangular SVG of one package, a square PNG of another.
pub(crate) async fn filled(engine: Engine) -> Scene {
    let npm = registry().await;
    npm.put_file("/-icons/http/square.png", &png("http"));
    npm.put_file("/-icons/http/rectangle.svg", &svg("http"));
    npm.put_file("/-icons/left-pad/square.png", &png("left-pad"));
    let scene = Scene::over(engine, npm, &configuration, |builder| builder).await;
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["state"], "succeeded", "{refresh}");
    eventually("memory is level", async || {
        let list = scene.server.cli(&["icon", "list", "-o", "json"]).await;
        (list.json()["total_size"] == 3).then_some(())
    })
    .await;
    scene.npm.reset_requests();
    scene
}

/// An answer as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Sends one request with this path, byte for byte, which no library would.
pub(crate) async fn ask(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let url = server.http_url();
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("it answers");
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let split = split.unwrap_or_else(|| panic!("{path}: no head in {bytes:?}"));
    let head = String::from_utf8(bytes[..split].to_vec()).expect("ASCII");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    Answer {
        status: status
            .and_then(|status| status.parse().ok())
            .expect("a status"),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: bytes[split + 4..].to_vec(),
    }
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, "GET", path, &[]).await
}

fn path_of(package: &str, shape: &str, ext: &str, bytes: &[u8]) -> String {
    format!("/icons/{package}/{shape}-{}.{ext}", &hash(bytes)[..8])
}

#[tokio::test]
async fn rule_14_an_icon_is_immutable_at_its_content_address() {
    for engine in Engine::BOTH {
        let scene = filled(engine).await;
        let server = &scene.server;
        let path = path_of(HTTP, "square", "png", &png("http"));
        let tag = format!("\"{}\"", hash(&png("http")));
        for path in [path.clone(), path.replace("@openfn/", "%40openfn%2F")] {
            let answer = get(server, &path).await;
            assert_eq!((answer.status, &answer.body), (200, &png("http")), "{path}");
            assert_eq!(answer.header("content-type"), "image/png");
            assert_eq!(
                answer.header("cache-control"),
                "public, max-age=31536000, immutable"
            );
            assert_eq!(answer.header("etag"), tag);
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
        for named in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".to_owned(),
        ] {
            let answer = ask(server, "GET", &path, &[("If-None-Match", &named)]).await;
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{named}");
            assert_eq!(answer.header("etag"), tag, "{named}");
            assert_eq!(
                answer.header("cache-control"),
                "public, max-age=31536000, immutable"
            );
        }
        let other = ask(server, "GET", &path, &[("If-None-Match", "\"x\"")]).await;
        assert_eq!(other.status, 200);
        let head = ask(server, "HEAD", &path, &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), png("http").len().to_string());
        assert_eq!(head.header("etag"), tag);
        assert_eq!(ask(server, "POST", &path, &[]).await.status, 405);
        assert_eq!(scene.npm.requests().total(), 0, "nobody was asked");
    }
}

#[tokio::test]
async fn rule_14_an_svg_is_sandboxed() {
    let scene = filled(Engine::Sqlite).await;
    let path = path_of(HTTP, "rectangle", "svg", &svg("http"));
    let answer = get(&scene.server, &path).await;
    assert_eq!((answer.status, &answer.body), (200, &svg("http")));
    assert_eq!(answer.header("content-type"), "image/svg+xml");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let policy = answer.header("content-security-policy");
    assert_eq!(
        policy,
        "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    );
}

#[tokio::test]
async fn rule_14_a_stale_hash_leads_to_what_there_is() {
    for engine in Engine::BOTH {
        let scene = filled(engine).await;
        let server = &scene.server;
        let old = path_of(HTTP, "square", "png", &png("http"));
        let svg_path = path_of(HTTP, "rectangle", "svg", &svg("http"));
        scene.npm.put_file("/-icons/http/square.png", &png("new"));
        let refreshed = server
            .cli(&["refresh", "--kind", "icons", "-o", "json"])
            .await;
        assert_eq!(refreshed.json()["refresh"]["counts"][0]["changed"], 1);
        let new = path_of(HTTP, "square", "png", &png("new"));
        let moved = eventually("the new icon is there", async || {
            let answer = get(server, &old).await;
            (answer.status == 302).then_some(answer)
        })
        .await;
        assert_eq!(moved.header("location"), new);
        assert_eq!(moved.header("cache-control"), "no-store");
        assert_eq!(get(server, &new).await.body, png("new"));
        for (from, to) in [
            (format!("/icons/{HTTP}/square-00000000.png"), &new),
            (format!("/icons/{HTTP}/square.png"), &new),
            // It is of another format than somebody remembers.
            (format!("/icons/{HTTP}/rectangle-00000000.png"), &svg_path),
        ] {
            let answer = get(server, &from).await;
            assert_eq!(
                (answer.status, answer.header("location")),
                (302, to.as_str()),
                "{from}"
            );
            assert_eq!(answer.header("cache-control"), "no-store", "{from}");
        }
        // A redirect is not answered from the caller's copy of what it leads to.
        let tag = format!("\"{}\"", hash(&png("new")));
        let moved = ask(server, "GET", &old, &[("If-None-Match", &tag)]).await;
        assert_eq!(moved.status, 302);
    }
}

#[tokio::test]
async fn rule_14_the_manifest_lists_only_what_there_is() {
    for engine in Engine::BOTH {
        let scene = filled(engine).await;
        let server = &scene.server;
        let answer = get(server, "/icons/manifest.json").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("cache-control"), "public, max-age=60");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let manifest: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let expected = serde_json::json!({"icons": {
            HTTP: {
                "square": {"png": path_of(HTTP, "square", "png", &png("http"))},
                "rectangle": {"svg": path_of(HTTP, "rectangle", "svg", &svg("http"))},
            },
            PLAIN: {"square": {"png": path_of(PLAIN, "square", "png", &png("left-pad"))}},
        }});
        assert_eq!(manifest, expected);
        let tag = answer.header("etag");
        let again = ask(
            server,
            "GET",
            "/icons/manifest.json",
            &[("If-None-Match", tag)],
        )
        .await;
        assert_eq!((again.status, again.body.len()), (304, 0));
        let head = ask(server, "HEAD", "/icons/manifest.json", &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), answer.body.len().to_string());

        scene.npm.remove_file("/-icons/left-pad/square.png");
        let _ = server.cli(&["refresh", "--kind", "icons"]).await.success();
        let changed = eventually("the manifest follows", async || {
            let asked = ask(
                server,
                "GET",
                "/icons/manifest.json",
                &[("If-None-Match", tag)],
            )
            .await;
            (asked.status == 200).then_some(asked)
        })
        .await;
        let manifest: serde_json::Value = serde_json::from_slice(&changed.body).expect("JSON");
        assert_eq!(
            manifest["icons"].as_object().map(|icons| icons.len()),
            Some(1)
        );
        assert_ne!(changed.header("etag"), tag);
    }
}

#[tokio::test]
async fn rule_14_no_name_leaves_its_folder_or_reaches_another_address() {
    let scene = filled(Engine::Sqlite).await;
    let server = &scene.server;
    let file = format!("square-{}.png", &hash(&png("http"))[..8]);
    for path in [
        format!("/icons/@openfn/language-nope/{file}"),
        format!("/icons/language-http/{file}"),
        format!("/icons/{HTTP}/{file}/"),
        format!("/icons/{HTTP}/../language-http/{file}"),
        format!("/icons/../icons/{HTTP}/{file}"),
        format!("/icons/..%2ficons%2f{HTTP}/{file}"),
        format!("/icons/%2e%2e/%2e%2e/etc/passwd/{file}"),
        format!("/icons/@openfn%252Flanguage-http/{file}"),
        format!("/icons/@openfn%5Clanguage-http/{file}"),
        format!("/icons/@openfn/language-http%00/{file}"),
        format!("/icons/@openfn/language-http%0d%0aX: y/{file}"),
        format!("/icons/@openfn/language-ht%C3%BCp/{file}"),
        format!("/icons/@openfn/language-http%FF/{file}"),
        format!("/icons/http://127.0.0.1:1/a/{file}"),
        format!("/icons//{HTTP}/{file}"),
        format!("/icons/{HTTP}/square-%2e%2e%2f%2e.png"),
        format!("/icons/{HTTP}/{}", file.to_uppercase()),
        format!("/icons/{HTTP}/round-00000000.png"),
        format!("/icons/{HTTP}/square-00000000.gif"),
        "/icons/".to_owned(),
        "/icons".to_owned(),
        "/icons/etc/passwd".to_owned(),
    ] {
        let answer = get(server, &path.replace("X: y", "X:%20y")).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert_eq!(answer.header("location"), "", "{path}");
    }
    for name in [
        "@openfn/language-nope",
        "../../-icons/http",
        "@openfn%2Flanguage-http",
    ] {
        let output = server.cli(&["icon", "get", name]).await;
        assert!(!output.status.success(), "{output:?}");
    }
    assert_eq!(
        scene.npm.requests().total(),
        0,
        "{:?}",
        scene.npm.requests().per_path()
    );
}

#[tokio::test]
async fn rule_3_whoever_asks_first_is_told_to_come_back_and_the_fleet_asks_once() {
    let npm = registry().await;
    npm.put_file("/-icons/http/square.png", &png("http"));
    let scene = Scene::over(Engine::Postgres, npm, &configuration, |builder| {
        builder.variable("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false")
    })
    .await;
    let database = scene.database.as_ref().expect("is PostgreSQL");
    let second = Server::builder()
        .configuration(configuration(&scene.npm))
        .database_url(database.url())
        .variable("STEADFAST_CATALOG__REFRESH_ON_EMPTY", "false")
        .start()
        .await;
    let _ = scene
        .server
        .cli(&["refresh", "--kind", "packages"])
        .await
        .success();
    let servers = [&scene.server, &second];
    for server in servers {
        eventually("the package is there", async || {
            let output = server.cli(&["package", "get", HTTP]).await;
            output.status.success().then_some(())
        })
        .await;
    }
    scene.npm.reset_requests();
    let gate = scene.npm.hold("/-icons/http/square.png");
    for server in servers {
        let connection = crate::scene::connection(server).await;
        for _ in 0..3 {
            let request = GetIconRequest {
                package: HTTP.to_owned(),
                ..Default::default()
            };
            let early = connection.call(connection.icons().get_icon(request)).await;
            let error = early.expect_err("is not there yet");
            assert_eq!(
                (error.code, error.reason.as_str()),
                (Code::Unavailable, "ICON_NOT_FETCHED")
            );
            assert!(error.retry_after.is_some(), "{error:?}");
        }
        let early = get(server, &format!("/icons/{HTTP}/square.png")).await;
        assert_eq!((early.status, early.header("retry-after")), (503, "1"));
        assert_eq!(early.header("cache-control"), "no-store");
    }
    gate.arrived(1).await;
    gate.release();
    // The command asks again by itself.
    for server in servers {
        let got = server.cli(&["icon", "get", HTTP, "-o", "json"]).await;
        assert_eq!(got.json()["icon"]["etag"], hash(&png("http")));
        let path = path_of(HTTP, "square", "png", &png("http"));
        assert_eq!(get(server, &path).await.body, png("http"));
    }
    let asked = scene.npm.requests().per_path();
    assert_eq!(asked.get("/-icons/http/square.png"), Some(&1), "{asked:?}");
    assert_eq!(scene.npm.requests().total(), 2, "{asked:?}");
}

#[tokio::test]
async fn rule_3_the_old_icon_is_served_while_the_upstream_fails() {
    for engine in Engine::BOTH {
        let scene = filled(engine).await;
        let server = &scene.server;
        scene.npm.put_file("/-icons/http/square.png", &png("new"));
        let fault = steadfast_testkit::Fault::status(500);
        scene.npm.fault("/-icons/*", fault, Times::Forever);
        let failed = server.cli(&["refresh", "--kind", "icons"]).await;
        let told = failed.failure(1);
        assert!(told.is_empty() || !told.contains("panicked"), "{told}");
        assert!(
            failed.stdout.contains(&format!("{HTTP}/square.png")),
            "{failed:?}"
        );
        let path = path_of(HTTP, "square", "png", &png("http"));
        assert_eq!(get(server, &path).await.body, png("http"));
    }
}
