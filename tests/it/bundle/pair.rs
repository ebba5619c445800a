//! Two full catalogues as bundles, and what has to be told when the one becomes the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde_json::json;
use steadfast_client::{
    Connection, Cursor, WatchEvent, WatchOptions, WatchStart, WatchStream,
    api::watch::v1::{Change, Filter, Op},
};
use steadfast_testkit::Server;
use tempfile::TempDir;
use tokio::time::timeout;

use super::export;
use crate::local::{
    monorepo::{Monorepo, PACKAGES, manifest, name, schema},
    stage::listed,
};

/// Removed from the second.
pub(super) const REMOVED: [usize; 8] = [0, 3, 6, 20, 48, 60, 61, 107];
/// Only in the second.
const ADDED: [usize; 3] = [108, 109, 110];
/// With another schema, another icon, another description, without a schema, without an icon.
const SCHEMA: [usize; 6] = [1, 9, 18, 30, 31, 91];
const ICON: [usize; 5] = [4, 5, 7, 9, 88];
const MANIFEST: [usize; 4] = [2, 9, 50, 51];
const NO_SCHEMA: [usize; 2] = [10, 11];
const NO_ICON: [usize; 2] = [12, 14];

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// What happened to what: `upsert icon NAME/square.png`.
pub(super) type Told = BTreeSet<String>;

/// The two.
pub(super) struct Pair {
    pub(super) before: PathBuf,
    pub(super) after: PathBuf,
    /// What is told when the first becomes the second.
    pub(super) forth: Told,
    /// What is told when the second becomes the first.
    pub(super) back: Told,
    _folder: TempDir,
}

// === impl Pair ===

impl Pair {
    pub(super) async fn exported() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let repo = Monorepo::of(PACKAGES);
        let exported = async |count: usize, name: &str| {
            let configuration = Monorepo::source("folder", &[&repo], 3_600_000);
            let server = Server::builder().configuration(configuration).start().await;
            let _ = listed(&server, count).await;
            let file = export(&server, name).await;
            let kept = folder.path().join(name);
            std::fs::copy(file, &kept).expect("copies");
            kept
        };
        let before = exported(PACKAGES, "before.bundle").await;
        edit(&repo);
        let after = exported(PACKAGES - REMOVED.len() + ADDED.len(), "after.bundle").await;
        let (forth, back) = expected();
        Self {
            before,
            after,
            forth,
            back,
            _folder: folder,
        }
    }
}

fn short(number: usize) -> String {
    format!("adaptor-{number:03}")
}

fn edit(repo: &Monorepo) {
    for number in REMOVED {
        repo.remove(&short(number));
    }
    for number in ADDED {
        repo.generate(&short(number), number);
    }
    for number in SCHEMA {
        let mut edited = schema(&short(number));
        edited["title"] = json!("edited");
        repo.schema(&short(number), &edited);
    }
    for number in ICON {
        let text = "<svg xmlns=\"http://www.w3.org/2000/svg\"><title>edited</title></svg>";
        let shapes = format!("packages/{}/assets", short(number));
        // Of a number without SVG icons it is one more, and of the others another one.
        repo.write(&format!("{shapes}/square.svg"), text);
    }
    for number in MANIFEST {
        let mut edited = manifest(&short(number));
        edited["description"] = json!("edited");
        repo.manifest(&short(number), &edited);
    }
    let remove = |number: usize, file: &str| {
        let path = repo.path().join("packages").join(short(number)).join(file);
        std::fs::remove_file(path).expect("removed");
    };
    for number in NO_SCHEMA {
        remove(number, "configuration-schema.json");
    }
    for number in NO_ICON {
        remove(number, &format!("assets/rectangle.{}", extension(number)));
    }
}

/// As the monorepo's generator has it.
fn extension(number: usize) -> &'static str {
    if number.is_multiple_of(4) {
        "svg"
    } else {
        "png"
    }
}

fn has_schema(number: usize) -> bool {
    number % 7 != 6
}

/// What is told each way, by what was edited and not by what any program makes of it.
fn expected() -> (Told, Told) {
    let (mut forth, mut back) = (Told::new(), Told::new());
    let mut add = |on_forth: &str, on_back: &str, what: String| {
        forth.insert(format!("{on_forth} {what}"));
        back.insert(format!("{on_back} {what}"));
    };
    let package = |number| format!("registry {}", name(&short(number)));
    let schema = |number| format!("schema {}@local", name(&short(number)));
    let icon = |number, shape: &str, extension: &str| {
        format!("icon {}/{shape}.{extension}", name(&short(number)))
    };
    let whole = |number, add: &mut dyn FnMut(String)| {
        add(package(number));
        if has_schema(number) {
            add(schema(number));
        }
        for shape in ["square", "rectangle"] {
            add(icon(number, shape, extension(number)));
        }
    };
    for number in REMOVED {
        whole(number, &mut |what| add("delete", "upsert", what));
    }
    for number in ADDED {
        whole(number, &mut |what| add("upsert", "delete", what));
    }
    for number in SCHEMA {
        add("upsert", "upsert", schema(number));
    }
    for number in ICON {
        let on_back = if extension(number) == "svg" {
            "upsert"
        } else {
            "delete"
        };
        add("upsert", on_back, icon(number, "square", "svg"));
    }
    for number in MANIFEST {
        add("upsert", "upsert", package(number));
    }
    for number in NO_SCHEMA {
        add("delete", "upsert", schema(number));
    }
    for number in NO_ICON {
        add(
            "delete",
            "upsert",
            icon(number, "rectangle", extension(number)),
        );
    }
    // Of a version that comes it is told that it has none; of one that goes there is nothing to tell.
    for number in REMOVED.into_iter().filter(|number| !has_schema(*number)) {
        back.insert(format!("delete {}", schema(number)));
    }
    (forth, back)
}

/// A watcher of the catalogue, from a cursor on.
pub(super) fn watcher(connection: &Connection, after: Cursor) -> WatchStream {
    let filter = |topic: &str| Filter {
        topic: topic.to_owned(),
        key_prefix: String::new(),
    };
    let options = WatchOptions {
        filters: ["registry", "schema", "icon"].map(filter).to_vec(),
        start: WatchStart::After(after),
        progress_interval: Duration::from_secs(1),
        ..WatchOptions::default()
    };
    WatchStream::new(connection, options)
}

/// Waits until a watcher's stream is open.
pub(super) async fn opened(watcher: &mut WatchStream) {
    let event = timeout(DEADLINE, watcher.next()).await.expect("in time");
    let event = event.expect("watches");
    assert!(matches!(event, WatchEvent::Opened { .. }), "{event:?}");
}

/// Everything that a watcher hears up to a cursor, having seen that nothing is told twice and that all about one package is of one
/// revision.
pub(super) async fn heard(watcher: &mut WatchStream, until: Cursor) -> Told {
    let mut told = Told::new();
    let mut revisions: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    while watcher
        .cursor()
        .is_none_or(|at| at.revision < until.revision)
    {
        let event = timeout(DEADLINE, watcher.next()).await.expect("in time");
        match event.expect("watches") {
            WatchEvent::Batch { changes, .. } => {
                for change in changes {
                    let package = package_of(&change).to_owned();
                    revisions
                        .entry(package)
                        .or_default()
                        .insert(change.revision);
                    let op = match change.op() {
                        Op::Upsert => "upsert",
                        Op::Delete => "delete",
                        Op::Unspecified => "unspecified",
                    };
                    let line = format!("{op} {} {}", change.topic, change.key);
                    assert!(told.insert(line.clone()), "{line} twice");
                }
            }
            WatchEvent::Opened { .. } | WatchEvent::Progress { .. } => {}
            event @ (WatchEvent::Reset { .. } | WatchEvent::Disconnected { .. }) => {
                panic!("{event:?}")
            }
        }
    }
    for (package, revisions) in revisions {
        assert_eq!(revisions.len(), 1, "{package}: {revisions:?}");
    }
    told
}

fn package_of(change: &Change) -> &str {
    let key = change.key.as_str();
    let parts = match change.topic.as_str() {
        "schema" => key.rsplit_once('@'),
        "icon" => key.rsplit_once('/'),
        _ => None,
    };
    parts.map_or(key, |(package, _)| package)
}

/// That two lists are the same; shows what only one of them has.
pub(super) fn assert_told(told: &Told, expected: &Told, what: &str) {
    let more: Vec<_> = told.difference(expected).collect();
    let less: Vec<_> = expected.difference(told).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "{what}: more {more:#?}, less {less:#?}"
    );
}
