//! What files may hold.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::root;

/// Lines in the longest Rust file.
const LINES_MAX: usize = 800;
/// Folders that hold nothing of the project.
const FOREIGN: &[&str] = &[
    "target",
    ".git",
    ".cache",
    ".steadfast",
    "node_modules",
    "__pycache__",
];
/// Hosts of package registries, taken apart so that this file does not name them itself.
const HOSTS: &[(&str, &str)] = &[
    ("registry", "npm"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("yarnpkg", "com"),
    ("npmmirror", "com"),
    ("npm.pkg.github", "com"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("crates", "io"),
];

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the project can be read") {
        let path = entry.expect("the project can be read").path();
        if path.is_symlink() || FOREIGN.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn rust_files(directory: &Path) -> Vec<(PathBuf, String)> {
    files(directory)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("Rust is text");
            (path, text)
        })
        .collect()
}

/// The code of a file, without lines that are comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// Whether a line names tonic or one of its crates, as a path.
fn names_tonic(line: &str) -> bool {
    line.match_indices("tonic").any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + "tonic".len()..];
        let begins_a_word = before.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_');
        begins_a_word
            && (after.starts_with("::") || after.starts_with('_') || after.starts_with(';'))
    })
}

fn registry_host(text: &str) -> Option<String> {
    HOSTS
        .iter()
        .map(|(name, domain)| format!("{name}.{domain}"))
        .find(|host| text.contains(host.as_str()))
}

#[test]
fn no_rust_file_is_too_long() {
    let files = rust_files(root());
    assert!(files.len() > 30, "the walk finds the project");
    for (path, text) in files {
        let lines = text.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines, more than {LINES_MAX}: split it",
            path.display()
        );
    }
}

#[test]
fn no_test_is_ignored() {
    let attribute = concat!("#[", "ignore");
    for (path, text) in rust_files(root()) {
        assert!(
            !text.contains(attribute),
            "{} ignores a test",
            path.display()
        );
    }
}

#[test]
fn only_the_grpc_edge_of_the_server_names_the_transport() {
    let server = root().join("crates/server/src");
    for (path, text) in rust_files(&server) {
        let edge = path.starts_with(server.join("grpc")) || path == server.join("grpc.rs");
        let line = code(&text).find(|line| names_tonic(line));
        if let (false, Some(line)) = (edge, line) {
            panic!(
                "{} names tonic outside server::grpc: {line}",
                path.display()
            );
        }
    }
}

#[test]
fn a_named_transport_is_found() {
    for line in [
        "use tonic::Status;",
        "    tonic_health::server()",
        "x(tonic::Code::Ok)",
        "use tonic;",
    ] {
        assert!(names_tonic(line), "{line}");
    }
    for line in [
        "let electronic = 1;",
        "architectonic::x",
        "a tonic for the nerves",
    ] {
        assert!(!names_tonic(line), "{line}");
    }
}

#[test]
fn both_engines_have_the_same_migrations() {
    let names = |engine: &str| -> BTreeSet<String> {
        fs::read_dir(root().join("migrations").join(engine))
            .expect("each engine has migrations")
            .map(|entry| {
                entry
                    .expect("a folder can be read")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    };
    let (postgres, sqlite) = (names("postgres"), names("sqlite"));
    assert!(!postgres.is_empty());
    assert_eq!(postgres, sqlite);
}

#[test]
fn no_file_names_a_registry_host() {
    for path in files(root()) {
        if path.ends_with("Cargo.lock") {
            continue;
        }
        let bytes = fs::read(&path).expect("the project can be read");
        let host = registry_host(&String::from_utf8_lossy(&bytes));
        assert_eq!(
            host,
            None,
            "{} names a registry's host: read it from npm's configuration",
            path.display()
        );
    }
    assert!(registry_host(&["https://registry", "npmjs", "org/x"].join(".")).is_some());
}

#[test]
fn the_shared_foundations_exist_once() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    for name in ["tonic", "prost", "rustls", "hyper", "h2", "tokio"] {
        let count = lock
            .lines()
            .filter(|line| *line == format!("name = \"{name}\""))
            .count();
        assert_eq!(count, 1, "{name} is in the tree {count} times");
    }
}
