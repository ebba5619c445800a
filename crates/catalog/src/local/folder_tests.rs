use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

const SVG: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
/// Its beginning, as far as it is looked at.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\0";

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("written");
}

fn package(root: &Path, folder: &str, name: &str) {
    let text = format!(r#"{{"name":"{name}","version":"1.0.0"}}"#);
    put(root, &format!("packages/{folder}/package.json"), &text);
}

fn look(root: &Path) -> Listing {
    let root = root.to_str().expect("text");
    read(root, "dev", &CompiledSchemas::default()).expect("readable")
}

fn names(listing: &Listing) -> Vec<&str> {
    let names = listing.packages.iter();
    names.map(|found| found.document.name.as_str()).collect()
}

fn reasons(listing: &Listing) -> Vec<(&str, &str)> {
    let broken = listing.broken.iter();
    broken
        .map(|broken| (broken.file.as_str(), broken.reason))
        .collect()
}

#[test]
fn packages_schemas_and_icons_are_found() {
    let root = tempfile::tempdir().expect("a folder");
    package(root.path(), "http", "@openfn/language-http");
    put(
        root.path(),
        "packages/http/configuration-schema.json",
        r#"{"type":"object"}"#,
    );
    let assets = root.path().join("packages/http/assets");
    put(root.path(), "packages/http/assets/rectangle.svg", SVG);
    put(root.path(), "packages/http/assets/other.gif", "x");
    fs::write(assets.join("square.png"), PNG).expect("written");
    package(root.path(), "common", "@openfn/language-common");
    put(root.path(), "packages/README.md", "no package");
    put(
        root.path(),
        "packages/left-behind/node_modules/x/package.json",
        r#"{"name":"x"}"#,
    );
    package(root.path(), ".hidden", "hidden");
    let listing = look(root.path());
    assert_eq!(
        names(&listing),
        ["@openfn/language-common", "@openfn/language-http"]
    );
    assert_eq!(reasons(&listing), []);
    let http = &listing.packages[1];
    assert_eq!(
        http.schema.as_ref().expect("one").text,
        r#"{"type":"object"}"#
    );
    let icons = http.icons.iter().map(|icon| {
        let place = (icon.shape.as_str(), icon.format.ext());
        (place, icon.blob.bytes.as_slice())
    });
    let expected = [
        (("square", "png"), PNG),
        (("rectangle", "svg"), SVG.as_bytes()),
    ];
    assert!(icons.eq(expected), "{:?}", http.icons);
    assert!(listing.packages[0].schema.is_none());
    let watched = [
        "",
        "packages",
        "packages/common",
        "packages/http",
        "packages/http/assets",
    ];
    assert!(
        watched
            .iter()
            .all(|folder| listing.watched.iter().any(|found| found == folder))
    );
}

#[test]
fn what_is_broken_is_named_with_its_file_and_reason() {
    let root = tempfile::tempdir().expect("a folder");
    put(root.path(), "packages/a/package.json", "{\"name\":");
    put(root.path(), "packages/b/package.json", "{}");
    put(
        root.path(),
        "packages/c/package.json",
        r#"{"name":"../../etc"}"#,
    );
    package(root.path(), "d", "d");
    put(
        root.path(),
        "packages/d/configuration-schema.json",
        "nonsense",
    );
    package(root.path(), "e", "e");
    put(
        root.path(),
        "packages/e/configuration-schema.json",
        r#"{"type":"strin"}"#,
    );
    package(root.path(), "f", "f");
    let large = " ".repeat(SCHEMA_LIMITS.max_bytes + 1);
    put(root.path(), "packages/f/configuration-schema.json", &large);
    package(root.path(), "g", "g");
    fs::create_dir_all(root.path().join("packages/g/configuration-schema.json")).expect("made");
    package(root.path(), "good", "good");
    let listing = look(root.path());
    assert_eq!(names(&listing), ["good"]);
    assert_eq!(
        reasons(&listing),
        [
            ("packages/a/package.json", "LOCAL_JSON_INVALID"),
            ("packages/b/package.json", "LOCAL_NAME_INVALID"),
            ("packages/c/package.json", "LOCAL_NAME_INVALID"),
            (
                "packages/d/configuration-schema.json",
                "LOCAL_SCHEMA_INVALID"
            ),
            (
                "packages/e/configuration-schema.json",
                "LOCAL_SCHEMA_INVALID"
            ),
            (
                "packages/f/configuration-schema.json",
                "LOCAL_FILE_TOO_LARGE"
            ),
            (
                "packages/g/configuration-schema.json",
                "LOCAL_FILE_UNREADABLE"
            ),
        ]
    );
    assert_eq!(listing.broken[3].label(), "d");
    assert_eq!(listing.broken[0].label(), "packages/a");
}

#[test]
fn nothing_outside_of_the_root_is_read() {
    let outside = tempfile::tempdir().expect("a folder");
    package(outside.path(), "secret", "secret");
    put(outside.path(), "package.json", r#"{"name":"stolen"}"#);
    put(outside.path(), "schema.json", r#"{"title":"stolen"}"#);
    let root = tempfile::tempdir().expect("a folder");
    package(root.path(), "good", "good");
    package(root.path(), "linked", "linked");
    let packages = root.path().join("packages");
    symlink(
        outside.path().join("packages/secret"),
        packages.join("absolute"),
    )
    .expect("linked");
    let name = outside
        .path()
        .file_name()
        .expect("a name")
        .to_str()
        .expect("text");
    symlink(
        format!("../../{name}/packages/secret"),
        packages.join("relative"),
    )
    .expect("linked");
    symlink(
        outside.path().join("schema.json"),
        packages.join("linked/configuration-schema.json"),
    )
    .expect("linked");
    fs::create_dir(packages.join("file")).expect("made");
    symlink(
        outside.path().join("package.json"),
        packages.join("file/package.json"),
    )
    .expect("linked");
    // One that stays inside is followed, as workspaces need it.
    put(
        root.path(),
        "tools/inner/package.json",
        r#"{"name":"inner"}"#,
    );
    symlink("../tools/inner", packages.join("inner")).expect("linked");
    let listing = look(root.path());
    assert_eq!(names(&listing), ["good", "inner"]);
    assert_eq!(
        reasons(&listing),
        [
            ("packages/absolute", "LOCAL_OUTSIDE_ROOT_OR_FORBIDDEN"),
            (
                "packages/file/package.json",
                "LOCAL_OUTSIDE_ROOT_OR_FORBIDDEN"
            ),
            (
                "packages/linked/configuration-schema.json",
                "LOCAL_OUTSIDE_ROOT_OR_FORBIDDEN"
            ),
            ("packages/relative", "LOCAL_OUTSIDE_ROOT_OR_FORBIDDEN"),
        ]
    );
}

#[test]
fn a_pipe_is_not_waited_for() {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(root.path().join("packages/pipe")).expect("made");
    let pipe = root.path().join("packages/pipe/package.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("there is mkfifo").success());
    let listing = look(root.path());
    assert_eq!(
        reasons(&listing),
        [("packages/pipe/package.json", "LOCAL_FILE_UNREADABLE")]
    );
}

#[test]
fn a_root_that_is_gone_is_no_empty_root() {
    let root = tempfile::tempdir().expect("a folder");
    let gone = root.path().join("gone");
    for path in [root.path(), gone.as_path()] {
        let refused = read(
            path.to_str().expect("text"),
            "dev",
            &CompiledSchemas::default(),
        )
        .expect_err("unreadable");
        assert_eq!(refused.reason(), "LOCAL_ROOT_UNREADABLE", "{refused}");
        assert!(refused.to_string().contains(path.to_str().expect("text")));
    }
}

#[test]
fn an_icon_that_is_none_makes_its_package_broken() {
    let root = tempfile::tempdir().expect("a folder");
    package(root.path(), "a", "a");
    put(root.path(), "packages/a/assets/square.png", SVG);
    package(root.path(), "b", "b");
    put(root.path(), "packages/b/assets/square.svg", SVG);
    let listing = look(root.path());
    assert_eq!(names(&listing), ["b"]);
    assert_eq!(
        reasons(&listing),
        [("packages/a/assets/square.png", "LOCAL_ICON_INVALID")]
    );
    assert_eq!(listing.broken[0].name.as_deref(), Some("a"));
}
