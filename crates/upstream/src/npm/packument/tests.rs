use serde_json::json;

use super::*;

fn name(text: &str) -> PackageName {
    PackageName::parse(text).expect("a name")
}

fn read_json(json: &serde_json::Value) -> (Packument, Vec<PackumentWarning>) {
    read(json.to_string().as_bytes(), &name("@acme/a")).expect("a packument")
}

fn refused(json: &str) -> PackumentRefused {
    read(json.as_bytes(), &name("@acme/a")).expect_err("refused")
}

#[test]
fn a_full_packument_is_read_whole() {
    let (packument, warnings) = read_json(&json!({
        "_id": "@acme/a",
        "name": "@acme/a",
        "description": "An adaptor",
        "homepage": "https://acme.example",
        "license": "MIT",
        "repository": {"type": "git", "url": "git+https://acme.example/a.git", "directory": "packages/a"},
        "dist-tags": {"latest": "1.10.0", "next": "2.0.0-rc.1"},
        "readme": "long",
        "time": {
            "created": "2020-01-01T00:00:00.000Z",
            "modified": "2024-01-01T00:00:00.000Z",
            "1.9.0": "2024-01-02T03:04:05.123456+00:00",
            "1.10.0": "2024-01-02T04:04:05.5+01:00",
        },
        "versions": {
            "1.9.0": {
                "name": "@acme/a", "version": "1.9.0", "label": "Acme", "deprecated": "use 1.10",
                "dependencies": {"b": "^1"}, "peerDependencies": {"c": "*"},
                "dist": {"integrity": "sha512-x", "tarball": "http://h/a.tgz", "unpackedSize": 1234},
            },
            "2.0.0-rc.1": {"dist": {"shasum": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}},
            "1.10.0": {},
        },
    }));
    assert_eq!(warnings, []);
    assert_eq!(packument.license.as_deref(), Some("MIT"));
    assert_eq!(packument.dist_tags["next"], "2.0.0-rc.1");
    let repository = packument.repository.expect("one");
    assert_eq!(repository.directory.as_deref(), Some("packages/a"));
    let numbers: Vec<_> = packument
        .versions
        .iter()
        .map(|v| v.version.as_str())
        .collect();
    assert_eq!(numbers, ["2.0.0-rc.1", "1.10.0", "1.9.0"]);
    let [next, current, old] = &packument.versions[..] else {
        panic!("three versions");
    };
    assert_eq!(
        next.integrity.as_deref(),
        Some("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=")
    );
    assert_eq!(next.publish_time, None);
    assert_eq!(current.publish_time, Some(Timestamp(1_704_164_645_500_000)));
    assert_eq!(current.deprecated, None);
    assert_eq!(
        *old,
        VersionEntry {
            version: "1.9.0".to_owned(),
            publish_time: Some(Timestamp(1_704_164_645_123_456)),
            deprecated: Some("use 1.10".to_owned()),
            integrity: Some("sha512-x".to_owned()),
            tarball_url: Some("http://h/a.tgz".to_owned()),
            unpacked_size: Some(1234),
            dependencies: [("b".to_owned(), "^1".to_owned())].into(),
            peer_dependencies: [("c".to_owned(), "*".to_owned())].into(),
            label: Some("Acme".to_owned()),
        }
    );
}

#[test]
fn a_trimmed_mirror_is_filled_from_its_latest_version() {
    let (packument, warnings) = read_json(&json!({
        "name": "@acme/a",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {
            "1.0.0": {"description": "latest", "license": {"type": "ISC"}, "repository": "acme/a"},
            "2.0.0": {"description": "newest"},
        },
    }));
    assert_eq!(warnings, []);
    assert_eq!(packument.description.as_deref(), Some("latest"));
    assert_eq!(packument.license.as_deref(), Some("ISC"));
    assert_eq!(packument.repository.expect("one").url, "acme/a");

    let (packument, _) = read_json(&json!({
        "name": "@acme/a",
        "dist-tags": {"latest": "9.9.9"},
        "versions": {"1.0.0": {"description": "older"}, "2.0.0": {"description": "newest"}},
    }));
    assert_eq!(packument.description.as_deref(), Some("newest"));
    assert_eq!(packument.dist_tags["latest"], "9.9.9");
}

#[test]
fn odd_shapes_cost_their_field_and_are_named() {
    let (packument, warnings) = read_json(&json!({
        "name": "@acme/a",
        "description": ["no", "text"],
        "homepage": null,
        "license": [{"type": "MIT"}, "Apache-2.0"],
        "repository": {"type": "git"},
        "dist-tags": {"latest": "1.0.0", "odd": 7},
        "time": {"1.0.0": "yesterday", "created": 7},
        "versions": {
            "1.0.0": {
                "deprecated": {"why": "?"}, "dependencies": [], "label": 1,
                "dist": {"integrity": 5, "tarball": "a\u{0}b", "unpackedSize": -3},
            },
            "1.1.0": "not an object",
            "v2.0.0": {},
            "nonsense": {},
        },
    }));
    assert_eq!(packument.license.as_deref(), Some("MIT OR Apache-2.0"));
    assert_eq!(packument.dist_tags.len(), 1);
    assert_eq!(packument.versions.len(), 1);
    let entry = &packument.versions[0];
    assert_eq!(entry.deprecated, None);
    assert_eq!((&entry.integrity, &entry.tarball_url), (&None, &None));
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    for text in [
        "description skipped: unknown shape",
        "repository skipped: unknown shape",
        "dist-tags skipped: unknown shape",
        "time of version 1.0.0 skipped: unknown shape",
        "deprecated of version 1.0.0 skipped: unknown shape",
        "dependencies of version 1.0.0 skipped: unknown shape",
        "label of version 1.0.0 skipped: unknown shape",
        "integrity of version 1.0.0 skipped: unknown shape",
        "tarball of version 1.0.0 skipped: unknown shape",
        "unpackedSize of version 1.0.0 skipped: unknown shape",
        "version 1.1.0 dropped: not a JSON object",
        "version \"v2.0.0\" dropped: not a semantic version",
        "version \"nonsense\" dropped: not a semantic version",
    ] {
        assert!(texts.iter().any(|t| t == text), "{text}: {texts:#?}");
    }
    assert_eq!(texts.len(), 13, "{texts:#?}");
}

#[test]
fn deprecation_is_a_message_or_a_flag() {
    for (value, expected) in [
        (json!("gone"), Some("gone")),
        (json!(""), Some("")),
        (json!(true), Some("")),
        (json!(false), None),
        (json!(null), None),
    ] {
        let (packument, warnings) = read_json(&json!({
            "name": "@acme/a",
            "versions": {"1.0.0": {"deprecated": value}},
        }));
        assert_eq!(
            packument.versions[0].deprecated.as_deref(),
            expected,
            "{value}"
        );
        assert_eq!(warnings, [], "{value}");
    }
}

#[test]
fn another_package_and_no_packument_are_refused() {
    let malformed = |json: &str, part: &str| match refused(json) {
        PackumentRefused::Malformed(problem) => assert!(problem.contains(part), "{problem}"),
        other => panic!("{json}: {other:?}"),
    };
    malformed(r#"{"name":"@acme/b","versions":{}}"#, "@acme/b");
    malformed(r#"{"versions":{}}"#, "does not name");
    malformed(r#"{"name":"@acme/a"}"#, "no versions");
    malformed(r#"{"name":"@acme/a","versions":[]}"#, "no versions");
    malformed("[]", "not a packument");
    malformed("<html>", "not a packument");
    let cut = refused(r#"{"name":"@acme/a","versions":{"1.0.0":{"#);
    assert!(matches!(cut, PackumentRefused::Truncated(_)), "{cut:?}");
    let unpublished = refused(r#"{"name":"@acme/a","time":{"unpublished":{"name":"x"}}}"#);
    assert_eq!(unpublished, PackumentRefused::Unpublished);
}

#[test]
fn warnings_are_bounded() {
    let versions: serde_json::Map<_, _> =
        (0..150).map(|n| (format!("bad{n}"), json!({}))).collect();
    let (_, warnings) = read_json(&json!({"name": "@acme/a", "versions": versions}));
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    assert_eq!(warnings.last(), Some(&PackumentWarning::More { count: 50 }));
}

#[test]
fn the_stored_form_is_stable_and_comes_back() {
    let document = json!({"name": "@acme/a", "versions": {"1.0.0": {}, "0.9.0": {}}});
    let reordered = json!({"versions": {"0.9.0": {}, "1.0.0": {}}, "name": "@acme/a"});
    let text = serde_json::to_string(&read_json(&document).0).expect("serializes");
    assert_eq!(
        text,
        serde_json::to_string(&read_json(&reordered).0).expect("serializes")
    );
    assert!(
        text.starts_with(r#"{"name":"@acme/a","description":null,"homepage":null"#),
        "{text}"
    );
    let back: Packument = serde_json::from_str(&text).expect("reads back");
    assert_eq!(back, read_json(&document).0);
}
