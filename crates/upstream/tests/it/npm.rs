//! npm's two reads, over the wire.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha512};
use steadfast_upstream::{
    Error, NpmConfig, NpmRegistry, PackageName, PackumentAnswer, TarballFindings, TarballLimits,
    Url, UrlTemplate,
};

use crate::{
    http::{client, gzip, options},
    server::{Reply, Server},
};

const PACKUMENT: &str = r#"{"name":"@acme/a","versions":{"1.0.0":{}}}"#;

fn name() -> PackageName {
    PackageName::parse("@acme/a").expect("a name")
}

/// The registry below the server's `/npm`, with a token for it.
fn registry(server: &Server) -> NpmRegistry {
    let address = server.url("npm");
    let config = NpmConfig::for_registry(address.as_str())
        .expect("an address")
        .with_token(&address, "t0ken");
    NpmRegistry::new(client(options()), config)
}

async fn packument(reply: Reply) -> Result<PackumentAnswer, Error> {
    let server = Server::always(reply).await;
    registry(&server).packument(&name(), None).await
}

fn tgz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, *bytes)
            .expect("writes to memory");
    }
    gzip(&builder.into_inner().expect("writes to memory"))
}

fn sri(bytes: &[u8]) -> String {
    format!("sha512-{}", STANDARD.encode(Sha512::digest(bytes)))
}

async fn tarball(bytes: Vec<u8>, integrity: &str) -> (Server, Result<TarballFindings, Error>) {
    let server = Server::always(Reply::ok(bytes)).await;
    let url = server.url("npm/a.tgz").to_string();
    let limits = TarballLimits::default();
    let outcome = registry(&server)
        .read_tarball(&name(), &url, Some(integrity), &limits)
        .await;
    (server, outcome)
}

#[tokio::test]
async fn rule_1_a_packument_is_asked_for_as_npm_asks() {
    let server = Server::start(|_, seen| match seen.headers.get("if-none-match") {
        Some(_) => Reply::new(304, ""),
        None => Reply::ok(gzip(PACKUMENT.as_bytes()))
            .header("content-encoding", "gzip")
            .header("etag", "W/\"1\""),
    })
    .await;
    let registry = registry(&server);
    let answer = registry.packument(&name(), None).await.expect("an answer");
    let PackumentAnswer::Found {
        packument,
        etag,
        warnings,
    } = answer
    else {
        panic!("nothing to be unmodified");
    };
    assert_eq!(packument.versions[0].version, "1.0.0");
    assert_eq!(etag.as_deref(), Some("W/\"1\""));
    assert!(warnings.is_empty());
    let again = registry.packument(&name(), etag.as_deref()).await;
    assert_eq!(again, Ok(PackumentAnswer::NotModified));

    let seen = server.seen();
    assert_eq!(seen[0].target, "/npm/@acme%2Fa");
    assert_eq!(seen[0].headers["accept"], "application/json");
    assert_eq!(seen[0].headers["authorization"], "Bearer t0ken");
    assert_eq!(seen[1].headers["if-none-match"], "W/\"1\"");
}

#[tokio::test]
async fn answers_that_are_no_packument_have_their_reasons() {
    for (reply, reason) in [
        (
            Reply::ok(r#"{"name":"@acme/b","versions":{}}"#),
            "MALFORMED_ANSWER",
        ),
        (Reply::ok("<html>"), "MALFORMED_ANSWER"),
        (Reply::ok(&PACKUMENT[..20]), "TRUNCATED_ANSWER"),
        (
            Reply::ok(r#"{"name":"@acme/a","time":{"unpublished":{}}}"#),
            "UPSTREAM_NOT_FOUND",
        ),
        (Reply::new(404, "{}"), "UPSTREAM_NOT_FOUND"),
    ] {
        let error = packument(reply).await.expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains("/npm/@acme%2Fa"), "{error}");
    }
}

#[tokio::test]
async fn a_packument_larger_than_the_limit_is_refused() {
    let server = Server::always(Reply::ok(PACKUMENT)).await;
    let registry = registry(&server).with_packument_bytes_max(PACKUMENT.len() - 1);
    let error = registry
        .packument(&name(), None)
        .await
        .expect_err("refused");
    assert_eq!(error.reason(), "BODY_TOO_LARGE");
}

#[tokio::test]
async fn a_verified_tarball_is_read() {
    let bytes = tgz(&[
        ("package/package.json", br#"{"label":"Acme"}"#),
        ("package/configuration-schema.json", b"{}"),
    ]);
    let (server, findings) = tarball(bytes.clone(), &sri(&bytes)).await;
    let expected = TarballFindings {
        schema: Some(b"{}".to_vec()),
        label: Some("Acme".to_owned()),
    };
    assert_eq!(findings, Ok(expected.clone()));
    let headers = &server.seen()[0].headers;
    assert_eq!(headers["authorization"], "Bearer t0ken");
    assert_eq!(headers["accept-encoding"], "identity");

    // Some servers take the file's own compression for one of theirs.
    let reply = Reply::ok(bytes.clone()).header("content-encoding", "gzip");
    let server = Server::always(reply).await;
    let url = server.url("a.tgz").to_string();
    let limits = TarballLimits::default();
    let findings = registry(&server)
        .read_tarball(&name(), &url, Some(&sri(&bytes)), &limits)
        .await;
    assert_eq!(findings, Ok(expected));
}

#[tokio::test]
async fn rule_2_bytes_that_were_not_published_are_not_looked_at() {
    let bytes = tgz(&[("package/configuration-schema.json", b"{}")]);
    // Rubbish would be TARBALL_INVALID if anything had looked at it.
    for sent in [b"rubbish".to_vec(), tgz(&[("package/other", b"")])] {
        let (_, outcome) = tarball(sent, &sri(&bytes)).await;
        assert_eq!(outcome.expect_err("refused").reason(), "INTEGRITY_MISMATCH");
    }
}

#[tokio::test]
async fn a_tarball_with_only_a_weak_hash_is_not_even_fetched() {
    let (server, outcome) = tarball(Vec::new(), "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=").await;
    let error = outcome.expect_err("refused");
    assert_eq!(error.reason(), "INTEGRITY_MISSING");
    assert!(error.to_string().contains("sha512 is required"), "{error}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn authentic_tarballs_are_still_measured() {
    let bomb = tgz(&[("package/zeros", &vec![0; 129 * 1024 * 1024])]);
    let schema = vec![b' '; 1024 * 1024 + 1];
    let schema = tgz(&[("package/configuration-schema.json", &schema)]);
    for (bytes, reason) in [
        (bomb, "TARBALL_INVALID"),
        (schema, "SCHEMA_TOO_LARGE"),
        (b"rubbish".to_vec(), "TARBALL_INVALID"),
    ] {
        let integrity = sri(&bytes);
        let (_, outcome) = tarball(bytes, &integrity).await;
        assert_eq!(outcome.expect_err(reason).reason(), reason);
    }
}

#[tokio::test]
async fn the_token_stays_with_its_registry() {
    let bytes = tgz(&[]);
    let other = Server::always(Reply::ok(bytes.clone())).await;
    let server = Server::always(Reply::new(404, "")).await;
    let url = other.url("npm/a.tgz");
    // Even a token configured for the other host is not this registry's to hand over.
    let address = server.url("npm");
    let config = NpmConfig::for_registry(address.as_str())
        .expect("an address")
        .with_token(&address, "t0ken")
        .with_token(&url, "other");
    let findings = NpmRegistry::new(client(options()), config)
        .read_tarball(
            &name(),
            url.as_str(),
            Some(&sri(&bytes)),
            &TarballLimits::default(),
        )
        .await;
    assert_eq!(findings, Ok(TarballFindings::default()));
    assert!(!other.seen()[0].headers.contains_key("authorization"));
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn rule_1_an_organisation_is_listed_and_a_user_where_there_is_none() {
    let listing = r#"{"@acme/b":"write","@acme/a":"read","a b":"read","../x":"read"}"#;
    let server = Server::start(move |_, seen| match seen.target.as_str() {
        "/npm/-/org/acme/package" | "/npm/-/user/ann/package" => Reply::ok(listing),
        "/npm/-/org/odd/package" => Reply::ok("[]"),
        "/npm/-/org/down/package" => Reply::new(503, ""),
        _ => Reply::new(404, "{}"),
    })
    .await;
    let registry = registry(&server);
    for name in ["acme", "@acme", "ann"] {
        let listed = registry.organization(name).await.expect(name);
        let names: Vec<_> = listed.names.iter().map(PackageName::as_str).collect();
        assert_eq!(names, ["@acme/a", "@acme/b"], "{name}");
        assert_eq!((listed.left_out, listed.truncated), (2, false));
    }
    // Only that there is no such organisation leads to the users: a failure is no absence.
    for (name, reason) in [
        ("nobody", "UPSTREAM_NOT_FOUND"),
        ("odd", "MALFORMED_ANSWER"),
        ("down", "UPSTREAM_UNAVAILABLE"),
        ("a/../b", "INVALID_CONFIGURATION"),
    ] {
        let error = registry.organization(name).await.expect_err(name);
        assert_eq!(error.reason(), reason, "{name}");
    }
    let users = server.seen();
    let users = users.iter().filter(|seen| seen.target.contains("/user/"));
    assert_eq!(users.count(), 2);
}

#[tokio::test]
async fn rule_1_a_search_is_read_page_by_page() {
    let server = Server::start(|number, _| {
        let name = |at: usize| format!(r#"{{"package":{{"name":"@acme/p{at}"}}}}"#);
        let names: Vec<_> = (0..2).map(|at| name(number * 2 + at)).collect();
        let names = if number == 2 { &names[..1] } else { &names[..] };
        Reply::ok(format!(r#"{{"objects":[{}],"total":5}}"#, names.join(",")))
    })
    .await;
    let found = registry(&server)
        .search("scope:acme & co")
        .await
        .expect("finds");
    assert_eq!((found.names.len(), found.truncated), (5, false));
    let asked: Vec<_> = server.seen().into_iter().map(|seen| seen.target).collect();
    let page = |from| format!("/npm/-/v1/search?text=scope%3Aacme+%26+co&size=250&from={from}");
    assert_eq!(asked, [page(0), page(2), page(4)]);

    let endless = Server::always(Reply::ok(
        r#"{"objects":[{"package":{"name":"a"}}],"total":1000000}"#,
    ))
    .await;
    let found = registry(&endless).search("a").await.expect("finds");
    assert_eq!((found.names.len(), found.truncated), (1, true));
    assert_eq!(endless.count(), 40);
}

#[tokio::test]
async fn rule_2_a_schema_is_read_from_a_template_and_404_says_that_there_is_none() {
    let server = Server::start(|_, seen| match seen.target.as_str() {
        "/s/@acme/thing@1.0.0/schema.json" => Reply::ok("{}"),
        "/s/@acme/thing@2.0.0/schema.json" => Reply::new(404, ""),
        "/s/@acme/thing@3.0.0/schema.json" => Reply::ok("x".repeat(33)),
        _ => Reply::new(500, ""),
    })
    .await;
    let template = server.url("").to_string() + "s/{name}@{version}/schema.json";
    let template = UrlTemplate::parse(&template).expect("a template");
    let elsewhere = NpmConfig::for_registry("http://127.0.0.1:1/")
        .expect("an address")
        .with_token(&"http://127.0.0.1:1/".parse().expect("a URL"), "t0ken");
    let registry = NpmRegistry::new(client(options()), elsewhere);
    let limits = TarballLimits {
        schema_bytes_max: 32,
        ..TarballLimits::default()
    };
    let name = PackageName::parse("@acme/thing").expect("a name");
    let read = async |version: &str| {
        let read = registry
            .read_schema(&template, &name, version, &limits)
            .await;
        read.map_err(|error| error.reason())
    };
    assert_eq!(read("1.0.0").await, Ok(Some(b"{}".to_vec())));
    assert_eq!(read("2.0.0").await, Ok(None));
    assert_eq!(read("3.0.0").await, Err("SCHEMA_TOO_LARGE"));
    assert_eq!(read("4.0.0").await, Err("UPSTREAM_UNAVAILABLE"));
    let told = |seen: &crate::server::Seen| seen.headers.contains_key("authorization");
    assert!(!server.seen().iter().any(told));
}

#[tokio::test]
async fn rule_1_a_listing_takes_the_token_of_its_registry_and_of_no_other() {
    let server = Server::always(Reply::ok("{}")).await;
    let other = Server::always(Reply::ok("{}")).await;
    let (address, elsewhere) = (server.url("npm"), other.url("npm"));
    let config = |at: &Url| {
        NpmConfig::for_registry(at.as_str())
            .expect("an address")
            .with_token(&address, "t0ken")
    };
    for at in [&address, &elsewhere] {
        let registry = NpmRegistry::new(client(options()), config(at));
        registry.organization("acme").await.expect("lists");
    }
    let token = |server: &Server| server.seen()[0].headers.get("authorization").cloned();
    assert_eq!(token(&server).as_deref(), Some("Bearer t0ken"));
    assert_eq!(token(&other), None);
}

#[tokio::test]
async fn a_version_without_a_tarball_is_told_as_such() {
    let server = Server::always(Reply::new(404, "")).await;
    let limits = TarballLimits::default();
    let read = registry(&server)
        .read_tarball(&name(), "", None, &limits)
        .await;
    let error = read.expect_err("there is none").to_string();
    assert!(
        error.contains("no address of this version's tarball"),
        "{error}"
    );
    assert_eq!(server.count(), 0);
}
