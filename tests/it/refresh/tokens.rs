//! Private registries: each is opened by its own token from `.npmrc`, and none sees another's.

use std::fs;

use serde_json::Value;
use steadfast_testkit::{NpmServer, PackageSpec, Server, VersionSpec};

use crate::scene::{eventually, http_schema};

async fn private(token: &str, names: &[&str]) -> NpmServer {
    let npm = NpmServer::start().await;
    npm.require_token(token);
    for name in names {
        npm.put(PackageSpec::new(*name).version(VersionSpec::new("1.0.0").schema(&http_schema())));
    }
    npm
}

#[tokio::test]
async fn rule_1_private_registries_and_scopes_are_opened_by_the_tokens_of_npmrc() {
    let first = private("t0ken-first", &["@acme/a", "@acme/b"]).await;
    let second = private("t0ken-second", &["@acme/c", "@other/d"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let npmrc = folder.path().join("npmrc");
    let host = |npm: &NpmServer| npm.url().trim_start_matches("http:").to_owned();
    // The scope's registry is the second; the source that names its registry has the first one all the same.
    let text = format!(
        "@acme:registry={}\n{}/:_authToken=${{FIRST}}\n{}/:_authToken=t0ken-second\n",
        second.url(),
        host(&first),
        host(&second),
    );
    fs::write(&npmrc, text).expect("writes");
    let configuration = format!(
        r#"
[[catalog.source]]
name = "first"
type = "npm"
registry = "{}"
organization = "acme"

[[catalog.source]]
name = "scope"
type = "npm"
names = ["@acme/c"]

[[catalog.source]]
name = "second"
type = "npm"
registry = "{}"
organization = "@other"
"#,
        first.url(),
        second.url(),
    );
    let server = Server::builder()
        .configuration(configuration)
        .variable("NPM_CONFIG_USERCONFIG", npmrc.to_str().expect("UTF-8"))
        .variable("FIRST", "t0ken-first")
        .start()
        .await;
    let refresh = eventually("the first refresh to end", async || {
        let list = server.cli(&["refresh", "list", "-o", "json"]).await.json();
        let refresh = list["refreshes"].get(0).cloned()?;
        (!refresh["end_time"].is_null()).then_some(refresh)
    })
    .await;
    assert_eq!(refresh["state"], "succeeded", "{refresh}\n{}", server.log());
    let list = server.cli(&["package", "list", "-o", "json"]).await.json();
    let of = |package: &Value| (package["name"].clone(), package["source"].clone());
    let found: Vec<_> = list["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(of)
        .collect();
    let expected = [
        ("@acme/a", "first"),
        ("@acme/b", "first"),
        ("@acme/c", "scope"),
        ("@other/d", "second"),
    ];
    assert_eq!(
        found,
        expected.map(|(name, source)| (name.into(), source.into()))
    );
    for (npm, token) in [
        (&first, "Bearer t0ken-first"),
        (&second, "Bearer t0ken-second"),
    ] {
        let requests = npm.requests();
        assert!(requests.total() >= 4, "{:?}", requests.per_path());
        for request in &requests.0 {
            let given = request.header("authorization");
            assert_eq!(given, Some(token), "{}", request.target);
        }
    }
    let log = server.log();
    assert!(!log.contains("t0ken"), "{log}");
}
