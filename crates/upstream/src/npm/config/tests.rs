use std::fs;

use super::*;

fn places(variables: &[(&str, &str)]) -> Places {
    Places {
        environment: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Places::none()
    }
}

fn name(text: &str) -> PackageName {
    PackageName::parse(text).expect("a name")
}

fn default_of(config: &NpmConfig) -> &str {
    config.default_registry().expect("a default").as_str()
}

/// A program that stands in for npm.
fn npm(behaviour: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/npm")
        .join(behaviour)
}

/// Two folders, each with an `.npmrc` if there is a text for it, and an npm that names a registry.
fn folders(project: Option<&str>, user: Option<&str>) -> (tempfile::TempDir, Places) {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (folder, text) in [("project", project), ("home", user)] {
        fs::create_dir(root.path().join(folder)).expect("creates a folder");
        if let Some(text) = text {
            fs::write(root.path().join(folder).join(".npmrc"), text).expect("writes");
        }
    }
    let places = Places {
        working_folder: Some(root.path().join("project")),
        home_folder: Some(root.path().join("home")),
        npm_program: Some(npm("names-one")),
        ..Places::none()
    };
    (root, places)
}

#[tokio::test]
async fn the_first_place_that_names_a_registry_wins() {
    let (_root, mut places) = folders(
        Some("registry=https://project.example"),
        Some("registry=https://user.example/npm"),
    );
    let expect = async |explicit: Option<&str>, places: &Places, registry: &str| {
        let config = NpmConfig::load(explicit, places).await.expect("found");
        assert_eq!(default_of(&config), registry, "{}", config.found_in());
    };
    let variable = ("NPM_CONFIG_REGISTRY", "https://capitals.example/");
    places.environment = self::places(&[variable]).environment;
    expect(
        Some("http://explicit.example/a"),
        &places,
        "http://explicit.example/a/",
    )
    .await;
    expect(None, &places, "https://capitals.example/").await;
    let small = ("npm_config_registry", "https://small.example/");
    places.environment = self::places(&[variable, small]).environment;
    expect(None, &places, "https://small.example/").await;
    places.environment.clear();
    expect(None, &places, "https://project.example/").await;
    places.working_folder = None;
    expect(None, &places, "https://user.example/npm/").await;
    places.home_folder = None;
    expect(None, &places, "https://program.example/").await;
}

#[tokio::test]
async fn without_a_registry_every_place_is_named() {
    let (_root, mut places) = folders(Some("color=false"), None);
    places.npm_program = Some("/nonexistent/npm".into());
    let error = NpmConfig::load(None, &places).await.expect_err("none");
    assert_eq!(error.reason(), "INVALID_CONFIGURATION");
    let text = error.to_string();
    for part in [
        "explicit setting",
        "NPM_CONFIG_REGISTRY: not set",
        "project/.npmrc: no line",
        "home/.npmrc: no such file",
        "`npm config get registry`: npm is not installed",
        "Remedy",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn an_npm_that_hangs_or_fails_is_not_waited_for() {
    let (_root, mut places) = folders(None, None);
    places.npm_timeout = Duration::from_millis(200);
    places.environment = self::places(&[("PATH", "/usr/bin:/bin")]).environment;
    for (behaviour, part) in [
        ("hangs", "no answer within 200 ms"),
        ("fails", "it failed"),
        ("names-none", "it names none"),
    ] {
        places.npm_program = Some(npm(behaviour));
        let error = NpmConfig::load(None, &places).await.expect_err("none");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn scopes_and_credentials_come_from_all_places_the_nearest_winning() {
    let (_root, mut places) = folders(
        Some("@acme:registry=https://acme.example/npm\n//npm.example/:_authToken=${TOKEN}\n"),
        Some(concat!(
            "registry=https://npm.example/\n",
            "//npm.example/:_authToken=user-token\n",
            "//acme.example/npm/:_auth=cGFpcg==\n",
            "//old.example/:username=ann\n//old.example/:_password=cHc=\n",
            "//unset.example/:_authToken=${ABSENT}\n",
        )),
    );
    places.environment = self::places(&[("TOKEN", "project-token")]).environment;
    let config = NpmConfig::load(None, &places).await.expect("found");
    let registry = |text: &str| config.registry_for(&name(text)).expect("one").as_str();
    assert_eq!(registry("@acme/a"), "https://acme.example/npm/");
    assert_eq!(registry("@other/a"), "https://npm.example/");
    // A source that names its registry has it for all that it takes.
    let named = NpmConfig::load(Some("https://mirror.example/"), &places).await;
    let named = named.expect("found");
    let of_acme = named.registry_for(&name("@acme/a")).expect("one");
    assert_eq!(of_acme.as_str(), "https://mirror.example/");
    let credential = |url: &str| {
        let url: Url = url.parse().expect("a URL");
        config.credential_for(&url).cloned()
    };
    assert_eq!(
        credential("https://npm.example/@a%2Fb"),
        Some(Credential::bearer("project-token"))
    );
    assert_eq!(
        credential("https://acme.example/npm/x/-/x.tgz"),
        Some(Credential::basic("cGFpcg=="))
    );
    assert_eq!(
        credential("https://old.example/x"),
        Some(Credential::basic("YW5uOnB3"))
    );
    for url in [
        "https://acme.example/",
        "https://acme.example/npmx/y",
        "https://npm.example:444/",
        "https://unset.example/",
        "https://evil.example/npm.example/",
    ] {
        assert_eq!(credential(url), None, "{url}");
    }
    let shown = format!("{config:?} {places:?}");
    assert!(!shown.contains("project-token"), "{shown}");
}

#[tokio::test]
async fn the_environment_holds_every_kind_of_setting() {
    let places = places(&[
        ("npm_config_@acme:registry", "https://acme.example"),
        ("npm_config_//acme.example/:_authToken", "t"),
        ("NPM_CONFIG_REPLACE_REGISTRY_HOST", "CDN.example"),
    ]);
    let config = NpmConfig::load(None, &places).await.expect("found");
    let acme = config.registry_for(&name("@acme/a")).expect("one");
    assert_eq!(config.credential_for(acme), Some(&Credential::bearer("t")));
    assert_eq!(
        *config.tarball_host(),
        TarballHost::RegistryInsteadOf("cdn.example".to_owned())
    );
    let error = config.registry_for(&name("b")).expect_err("no default");
    assert!(error.to_string().contains("for b"), "{error}");
}

#[tokio::test]
async fn addresses_that_are_none_are_refused_without_repeating_secrets() {
    for (address, part) in [
        ("npm.example s3cret", "not a URL"),
        ("ftp://npm.example/", "neither http nor https"),
        ("https://ann:s3cret@npm.example/", "password"),
        ("https://npm.example/?t=s3cret", "query"),
    ] {
        let error = NpmConfig::load(Some(address), &Places::none())
            .await
            .expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(part), "{text}");
        assert!(text.contains("the explicit setting"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named() {
    let (root, places) = folders(None, None);
    let file = root.path().join("project/.npmrc");
    fs::write(&file, [0xff, 0xfe]).expect("writes");
    let error = NpmConfig::load(None, &places).await.expect_err("refused");
    assert!(error.to_string().contains("project/.npmrc"), "{error}");
    fs::write(&file, "#".repeat(1024 * 1024 + 1)).expect("writes");
    let error = NpmConfig::load(None, &places).await.expect_err("refused");
    assert!(error.to_string().contains("larger than"), "{error}");
}
