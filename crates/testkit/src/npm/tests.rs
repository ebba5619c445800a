//! Speaks HTTP by hand: no client library stands between these tests and the bytes.

use std::io::Read;

use flate2::read::GzDecoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (given, value) = line.split_once(": ")?;
            given.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn get(server: &NpmServer, target: &str, headers: &str) -> Reply {
    let address = server.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A reset after the head is one of the faults under test.
    let _ = stream.read_to_end(&mut bytes).await;
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or(bytes.len());
    Reply {
        head: String::from_utf8(bytes[..end].to_vec()).unwrap(),
        body: bytes.get(end + 4..).unwrap_or_default().to_vec(),
    }
}

async fn registry() -> NpmServer {
    let server = NpmServer::start().await;
    server.put(
        PackageSpec::new("@openfn/language-http")
            .description("HTTP")
            .version(VersionSpec::new("1.0.0").deprecated("too old"))
            .version(
                VersionSpec::new("2.0.0")
                    .label("HTTP")
                    .schema(&json!({ "type": "object" }))
                    .dependency("@openfn/language-common", "^1.0.0"),
            )
            .tag("next", "2.0.0"),
    );
    server.put(PackageSpec::new("lodash.merge").version("4.6.2"));
    server
}

#[tokio::test]
async fn a_packument_is_conditional_compressed_and_found_however_it_is_written() {
    let server = registry().await;
    let plain = get(&server, "/@openfn/language-http", "").await;
    assert_eq!(plain.status(), 200);
    let document = plain.json();
    assert_eq!(
        document["dist-tags"],
        json!({ "latest": "2.0.0", "next": "2.0.0" })
    );
    assert_eq!(document["versions"]["1.0.0"]["deprecated"], "too old");
    assert_eq!(document["time"]["2.0.0"], "2024-01-02T12:00:00.000Z");

    for target in [
        "/@openfn%2flanguage-http",
        "/@openfn%2Flanguage-http",
        "/%40openfn%2flanguage-http",
    ] {
        assert_eq!(get(&server, target, "").await.body, plain.body, "{target}");
    }
    let etag = plain.header("etag").unwrap();
    let same = get(
        &server,
        "/@openfn/language-http",
        &format!("if-none-match: {etag}\r\n"),
    )
    .await;
    assert_eq!((same.status(), same.body.len()), (304, 0));

    let compressed = get(
        &server,
        "/@openfn/language-http",
        "accept-encoding: gzip\r\n",
    )
    .await;
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    GzDecoder::new(compressed.body.as_slice())
        .read_to_end(&mut unpacked)
        .unwrap();
    assert_eq!(unpacked, plain.body);

    server.add_version("@openfn/language-http", "2.1.0");
    let changed = get(
        &server,
        "/@openfn/language-http",
        &format!("if-none-match: {etag}\r\n"),
    )
    .await;
    assert_eq!(changed.json()["dist-tags"]["latest"], "2.1.0");
    assert_eq!(server.requests().count("/@openfn/language-http"), 7);
    assert_eq!(server.requests().0[4].header("if-none-match"), Some(etag));

    assert_eq!(get(&server, "/nothing", "").await.status(), 404);
    server.remove("lodash.merge");
    assert_eq!(get(&server, "/lodash.merge", "").await.status(), 404);
}

#[tokio::test]
async fn a_tarball_is_what_its_integrity_says_unless_it_shall_not_be() {
    let server = registry().await;
    let document = get(&server, "/@openfn%2flanguage-http", "").await.json();
    let dist = &document["versions"]["2.0.0"]["dist"];
    let path = dist["tarball"]
        .as_str()
        .unwrap()
        .strip_prefix(server.url())
        .unwrap();
    let tarball = get(&server, path, "").await.body;
    assert_eq!(dist["integrity"], integrity_of(&tarball));
    let mut archive = tar::Archive::new(GzDecoder::new(tarball.as_slice()));
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        ["package/package.json", "package/configuration-schema.json"]
    );

    server.fault("*.tgz", Fault::WrongIntegrity, Times::N(1));
    let wrong = get(&server, path, "").await.body;
    assert_eq!(wrong.len(), tarball.len());
    assert_ne!(dist["integrity"], integrity_of(&wrong));
    assert_eq!(get(&server, path, "").await.body, tarball);
}

#[tokio::test]
async fn listing_and_search_know_what_is_public() {
    let server = registry().await;
    server.generate(GeneratedPackages {
        prefix: "@bench/p-".to_owned(),
        count: 10_000,
        versions: 2,
    });
    server.put(
        PackageSpec::new("@openfn/hidden")
            .version("1.0.0")
            .unlisted(),
    );
    server
        .put(PackageSpec::new("@openfn/old").version(VersionSpec::new("1.0.0").deprecated("gone")));
    let listing = get(&server, "/-/org/openfn/package", "").await.json();
    assert_eq!(
        listing,
        json!({ "@openfn/language-http": "write", "@openfn/old": "write" })
    );
    assert_eq!(
        get(&server, "/-/org/nobody/package", "").await.status(),
        404
    );
    assert_eq!(get(&server, "/@openfn/hidden", "").await.status(), 200);

    let found = get(&server, "/-/v1/search?text=scope:openfn", "")
        .await
        .json();
    assert_eq!(found["total"], 1);
    let page = get(&server, "/-/v1/search?text=%40bench&from=9990&size=250", "")
        .await
        .json();
    assert_eq!(page["total"], 10_000);
    assert_eq!(page["objects"].as_array().unwrap().len(), 10);
    let one = get(&server, "/@bench/p-09999", "").await.json();
    assert_eq!(one["dist-tags"]["latest"], "1.1.0");
    assert_eq!(get(&server, "/@bench/p-10000", "").await.status(), 404);
}

#[tokio::test]
async fn faults_strike_as_often_as_they_were_told() {
    let server = registry().await;
    let path = "/lodash.merge";
    server.fault(path, Fault::Delay(Duration::from_millis(1)), Times::Forever);
    server.fault(path, Fault::too_many_requests(7), Times::N(1));
    server.fault(path, Fault::status(500), Times::N(1));
    server.fault(path, Fault::Truncated, Times::N(1));
    server.fault(path, Fault::Disconnect, Times::N(1));
    server.fault(path, Fault::Body("<html>".to_owned()), Times::N(1));
    server.fault(path, Fault::Redirect("/elsewhere".to_owned()), Times::N(1));

    let busy = get(&server, path, "").await;
    assert_eq!(
        (busy.status(), busy.header("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(get(&server, path, "").await.status(), 500);
    let truncated = get(&server, path, "").await;
    let promised: usize = truncated.header("content-length").unwrap().parse().unwrap();
    assert!(!truncated.body.is_empty() && truncated.body.len() < promised);
    assert_eq!(get(&server, path, "").await.head, "");
    assert_eq!(get(&server, path, "").await.body, b"<html>");
    assert_eq!(
        get(&server, path, "").await.header("location"),
        Some("/elsewhere")
    );
    assert_eq!(get(&server, path, "").await.status(), 200);

    server.fault(path, Fault::Dripping, Times::N(1));
    server.fault(path, Fault::Flood, Times::N(1));
    for _ in 0..2 {
        let endless = timeout(Duration::from_millis(100), get(&server, path, "")).await;
        assert!(endless.is_err());
    }
}

#[tokio::test]
async fn a_gate_shows_who_waits_and_a_dead_registry_says_nothing() {
    let server = registry().await;
    let gate = server.hold("/lodash*");
    let (reply, ()) = tokio::join!(get(&server, "/lodash.merge", ""), async {
        gate.arrived(1).await;
        assert_eq!(server.in_flight_peak(), 1);
        gate.release();
    });
    assert_eq!(reply.status(), 200);
    server.wait_for_requests("/lodash.merge", 1).await;

    server.set_down(true);
    assert_eq!(get(&server, "/lodash.merge", "").await.head, "");
    server.set_down(false);
    assert_eq!(get(&server, "/lodash.merge", "").await.status(), 200);

    server.require_token("secret");
    assert_eq!(get(&server, "/lodash.merge", "").await.status(), 401);
    let allowed = get(&server, "/lodash.merge", "authorization: Bearer secret\r\n").await;
    assert_eq!(allowed.status(), 200);
}

#[tokio::test]
async fn the_trimmed_view_leaves_out_what_mirrors_leave_out() {
    let server = registry().await;
    server.set_view(View::Trimmed);
    let reply = get(&server, "/@openfn/language-http", "").await;
    assert_eq!(reply.header("etag"), None);
    let document = reply.json();
    assert_eq!(
        document["time"],
        json!({
            "1.0.0": "2024-01-01T12:00:00.123456+00:00",
            "2.0.0": "2024-01-02T12:00:00.123456+00:00",
        })
    );
    assert!(document.get("readme").is_none());
    assert_eq!(get(&server, "/-/v1/search?text=a", "").await.status(), 404);

    server.set_view(View::Full);
    let install = "accept: application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8\r\n";
    let short = get(&server, "/@openfn/language-http", install).await.json();
    assert!(short.get("time").is_none());
}
