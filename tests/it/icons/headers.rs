//! What each answer about an icon says besides its bytes: how long it holds, what it is, and to whom it need not be sent.

use steadfast_testkit::Server;

use super::{Answer, HTTP, ask, filled, get, hash, path_of, png, svg};
use crate::scene::Engine;

const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Status, how long it holds, whether its type is to be believed, and its policy.
fn said(answer: &Answer) -> (u16, &str, &str, &str) {
    (
        answer.status,
        answer.header("cache-control"),
        answer.header("x-content-type-options"),
        answer.header("content-security-policy"),
    )
}

async fn with(server: &Server, path: &str, headers: &[(&str, &str)]) -> u16 {
    ask(server, "GET", path, headers).await.status
}

#[tokio::test]
async fn rule_14_each_answer_says_how_long_it_holds_and_nothing_is_guessed() {
    let scene = filled(Engine::Sqlite).await;
    let server = &scene.server;
    let present = path_of(HTTP, "square", "png", &png("http"));
    let drawn = path_of(HTTP, "rectangle", "svg", &svg("http"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
    let unnamed = format!("/icons/{HTTP}/square.png");
    // All of it is looked at, to the last digit.
    let digest = hash(&png("http"));
    let other = if digest[7..].starts_with('0') {
        '1'
    } else {
        '0'
    };
    let almost = format!("/icons/{HTTP}/square-{}{other}.png", &digest[..7]);
    let none = format!("/icons/{HTTP}/square.png/");
    let unknown = "/icons/@openfn/language-nope/square.png";
    let without = "/icons/@openfn/language-common/square.png";
    let manifest = "/icons/manifest.json";
    for (path, expected) in [
        (present.as_str(), (200, FOR_EVER, "nosniff", "")),
        (&drawn, (200, FOR_EVER, "nosniff", policy)),
        (&unnamed, (302, "no-store", "nosniff", "")),
        (&almost, (302, "no-store", "nosniff", "")),
        (&none, (404, "no-store", "nosniff", "")),
        (unknown, (404, "no-store", "nosniff", "")),
        (without, (404, "no-store", "nosniff", "")),
        (manifest, (200, "public, max-age=60", "nosniff", "")),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(server, method, path, &[]).await;
            assert_eq!(said(&answer), expected, "{method} {path}");
        }
    }
    // What a caller has already is no less protected.
    let kept = ask(server, "GET", &drawn, &[("If-None-Match", "*")]).await;
    assert_eq!(said(&kept), (304, FOR_EVER, "nosniff", policy));
    let kept = ask(server, "GET", manifest, &[("If-None-Match", "*")]).await;
    assert_eq!(said(&kept), (304, "public, max-age=60", "nosniff", ""));
    let tag = get(server, manifest).await.header("etag").to_owned();
    assert!(tag.len() > 2 && tag.starts_with('"'), "{tag}");
    assert_eq!(kept.header("etag"), tag);
    assert_eq!(scene.npm.requests().total(), 0, "nobody was asked");
}

#[tokio::test]
async fn rule_14_head_says_what_get_would() {
    let scene = filled(Engine::Sqlite).await;
    let server = &scene.server;
    for (path, size) in [
        (path_of(HTTP, "square", "png", &png("http")), png("http")),
        (path_of(HTTP, "rectangle", "svg", &svg("http")), svg("http")),
    ]
    .map(|(path, bytes)| (path, bytes.len()))
    {
        let answers = [
            ask(server, "GET", &path, &[]).await,
            ask(server, "HEAD", &path, &[]).await,
        ];
        let [whole, head] = answers.map(|mut answer| {
            answer.headers.remove("date");
            answer
        });
        assert_eq!((whole.status, whole.body.len()), (200, size));
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.headers, whole.headers, "{path}");
        let tag = whole.header("etag");
        let kept = ask(server, "HEAD", &path, &[("If-None-Match", tag)]).await;
        assert_eq!((kept.status, kept.body.len()), (304, 0));
    }
}

#[tokio::test]
async fn rule_14_only_a_tag_that_names_what_there_is_spares_the_bytes() {
    let scene = filled(Engine::Sqlite).await;
    let server = &scene.server;
    let path = path_of(HTTP, "square", "png", &png("http"));
    let digest = hash(&png("http"));
    let tag = format!("\"{digest}\"");
    for named in [
        tag.clone(),
        format!("W/{tag}"),
        "*".to_owned(),
        format!("\"x\",{tag}"),
        format!("W/\"x\" ,  W/{tag} , \"y\""),
    ] {
        let status = with(server, &path, &[("If-None-Match", &named)]).await;
        assert_eq!(status, 304, "{named}");
    }
    let short = format!("\"{}\"", &digest[..8]);
    for named in [
        "\"x\"".to_owned(),
        digest.clone(),
        format!("w/{tag}"),
        format!("W/W/{tag}"),
        format!("\"{}\"", digest.to_uppercase()),
        short,
        "\"*\"".to_owned(),
        String::new(),
    ] {
        let status = with(server, &path, &[("If-None-Match", &named)]).await;
        assert_eq!(status, 200, "{named}");
    }
    let twice = [("If-None-Match", "\"x\""), ("If-None-Match", tag.as_str())];
    assert_eq!(with(server, &path, &twice).await, 304);
    // A date says less than a tag, and is not looked at; nor is what would ask for a part.
    let future = ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT");
    assert_eq!(with(server, &path, &[future]).await, 200);
    let both = [future, ("If-None-Match", "\"x\"")];
    assert_eq!(with(server, &path, &both).await, 200);
    let part = ask(server, "GET", &path, &[("Range", "bytes=0-3")]).await;
    assert_eq!((part.status, &part.body), (200, &png("http")));
    assert_eq!(part.header("content-range"), "");
}
