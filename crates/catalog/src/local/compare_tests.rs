use std::{sync::Arc, time::Duration};

use steadfast_store::IconBlob;
use steadfast_types::ReplicaId;
use steadfast_upstream::{IconFormat, IconShape};

use super::{super::folder::Broken, *};
use crate::{
    compiled::CompiledSchemas,
    options::{LocalSource, Source},
    package::{PackageDocument, VersionDocument, content_hash},
};

fn local(name: &str, roots: &[&str]) -> Source {
    Source {
        name: name.to_owned(),
        kind: SourceKind::Local(LocalSource {
            roots: roots.iter().map(|root| (*root).to_owned()).collect(),
            rescan_interval: Duration::from_secs(30),
        }),
    }
}

fn options() -> Options {
    Options {
        sources: vec![
            local("first", &["/f"]),
            local("dev", &["/a", "/b"]),
            local("last", &["/l"]),
        ],
        ..Options::new(ReplicaId::random())
    }
}

fn key(source: &str, root: &str) -> RootKey {
    RootKey {
        source: source.to_owned(),
        root: root.to_owned(),
    }
}

fn found(folder: &str, name: &str, schema: Option<&str>) -> Found {
    let compiled = CompiledSchemas::default();
    Found {
        folder: folder.to_owned(),
        document: PackageDocument {
            name: name.to_owned(),
            source: "dev".to_owned(),
            versions: vec![VersionDocument {
                version: LOCAL.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        },
        schema: schema.map(|text| compiled.get_or_compile(&content_hash(text.as_bytes()), text)),
        icons: Vec::new(),
    }
}

fn listing(packages: Vec<Found>) -> Listing {
    Listing {
        packages,
        ..Listing::default()
    }
}

/// What is stored after a comparison was carried out.
fn stored(comparison: &Comparison) -> LocalView {
    let mut view = LocalView::default();
    for write in &comparison.writes {
        let row = write.package.as_ref().expect("new");
        view.origins.push(PackageOrigin {
            name: row.name.clone(),
            source: row.source.clone(),
            content_hash: row.content_hash.clone(),
            upstream_etag: row.upstream_etag.clone(),
        });
        view.schemas
            .extend(write.schemas.iter().map(|schema| SchemaRow {
                package: row.name.clone(),
                version: schema.version.clone(),
                hash: schema.blob.as_ref().map(|blob| blob.hash.clone()),
                integrity: String::new(),
                label: String::new(),
                origin: String::new(),
                misses: 0,
                retry_us: None,
            }));
    }
    view
}

fn run(listing: &Listing, view: &LocalView, own: &RootKey) -> Result<Comparison, RootError> {
    compare(listing, view, &Precedence::new(&options(), own))
}

#[test]
fn what_is_stored_already_is_not_written_again() {
    let own = key("dev", "/a");
    let there = listing(vec![found("x", "x", Some("{}")), found("y", "y", None)]);
    let first = run(&there, &LocalView::default(), &own).expect("usable");
    assert_eq!(first.writes.len(), 2);
    assert!(first.writes.iter().all(|write| write.schemas.len() == 1));
    let second = run(&there, &stored(&first), &own).expect("usable");
    assert!(second.is_settled(), "{second:?}");
    assert_eq!(second.unchanged, ["x", "y"]);
    // Another schema is that schema and nothing else.
    let edited = listing(vec![found("x", "x", Some("true")), found("y", "y", None)]);
    let third = run(&edited, &stored(&first), &own).expect("usable");
    assert_eq!(third.writes.len(), 1);
    assert_eq!(third.writes[0].package, None);
    assert_eq!(third.writes[0].schemas.len(), 1);
    // Another folder is remembered without a revision.
    let moved = listing(vec![found("z", "x", Some("{}")), found("y", "y", None)]);
    let fourth = run(&moved, &stored(&first), &own).expect("usable");
    assert_eq!(fourth.unchanged, ["x", "y"]);
    assert!(fourth.writes[0].etag.is_some() && !fourth.writes[0].takes_revision());
}

#[test]
fn what_is_gone_is_removed_but_not_what_is_broken_nor_what_others_brought() {
    let own = key("dev", "/a");
    let both = listing(vec![found("x", "x", Some("{}")), found("y", "y", None)]);
    let view = stored(&run(&both, &LocalView::default(), &own).expect("usable"));
    let one = || vec![found("y", "y", None)];
    let removed = run(&listing(one()), &view, &own).expect("usable");
    assert_eq!(removed.removals, ["x"]);
    assert!(removed.compared.contains_key("x"));
    let broken = |name: Option<&str>| Broken {
        folder: "x".to_owned(),
        name: name.map(str::to_owned),
        file: "packages/x/package.json".to_owned(),
        reason: "LOCAL_JSON_INVALID",
        message: String::new(),
    };
    for name in [None, Some("x")] {
        let half = Listing {
            packages: one(),
            broken: vec![broken(name)],
            ..Listing::default()
        };
        let compared = run(&half, &view, &own).expect("usable");
        assert!(compared.removals.is_empty(), "{:?}", compared.removals);
    }
    // Neither another root nor another source removes it.
    for other in [key("dev", "/b"), key("last", "/l")] {
        let compared = run(&listing(one()), &view, &other).expect("usable");
        assert!(compared.removals.is_empty(), "{:?}", compared.removals);
    }
}

#[test]
fn rule_4_what_is_gone_is_in_doubt_be_it_a_package_a_schema_or_an_icon() {
    let own = key("dev", "/a");
    let with_icon = |mut found: Found| {
        found.icons.push(FoundIcon {
            shape: IconShape::Square,
            format: IconFormat::Png,
            blob: IconBlob {
                hash: "h".to_owned(),
                bytes: vec![1],
            },
        });
        found
    };
    let whole = listing(vec![
        with_icon(found("x", "x", Some("{}"))),
        found("y", "y", None),
    ]);
    let first = run(&whole, &LocalView::default(), &own).expect("usable");
    assert!(!first.is_doubtful(), "all is new");
    let mut view = stored(&first);
    view.icons.push(IconRow {
        package: "x".to_owned(),
        shape: "square".to_owned(),
        ext: "png".to_owned(),
        hash: Some("h".to_owned()),
        size: 1,
        upstream_etag: String::new(),
        misses: 0,
        due: false,
    });
    let doubt = |packages: Vec<Found>| {
        let found = run(&listing(packages), &view, &own).expect("usable");
        found.is_doubtful()
    };
    let y = || found("y", "y", None);
    assert!(!doubt(vec![with_icon(found("x", "x", Some("{}"))), y()]));
    assert!(!doubt(vec![with_icon(found("x", "x", Some("true"))), y()]));
    assert!(doubt(vec![with_icon(found("x", "x", Some("{}")))]));
    assert!(doubt(vec![with_icon(found("x", "x", None)), y()]));
    assert!(doubt(vec![found("x", "x", Some("{}")), y()]));
}

#[test]
fn an_emptied_root_is_an_error_and_no_removal() {
    let own = key("dev", "/a");
    let view = stored(
        &run(
            &listing(vec![found("x", "x", None)]),
            &LocalView::default(),
            &own,
        )
        .expect("usable"),
    );
    let emptied = run(&listing(Vec::new()), &view, &own).expect_err("taken for a lost mount");
    assert_eq!(
        emptied,
        RootError::Emptied {
            path: "/a".to_owned(),
            had: 1
        }
    );
    assert!(
        run(&listing(Vec::new()), &LocalView::default(), &own).is_ok(),
        "it never had any"
    );
}

#[test]
fn the_first_root_and_the_first_source_win() {
    let there = listing(vec![found("x", "x", None)]);
    let by = |source: &str, root: &str| {
        let mut view =
            stored(&run(&there, &LocalView::default(), &key("dev", "/a")).expect("usable"));
        view.origins[0].source = source.to_owned();
        view.origins[0].upstream_etag = Origin {
            root: root.to_owned(),
            folder: "p".to_owned(),
        }
        .encode();
        view
    };
    let shadowed = |view: &LocalView, own: &RootKey| {
        let found = run(&there, view, own).expect("usable");
        assert!(found.shadowed.is_empty() || found.is_settled(), "{found:?}");
        found.shadowed.first().map(|shadowed| shadowed.by.clone())
    };
    let (a, b) = (key("dev", "/a"), key("dev", "/b"));
    assert_eq!(
        shadowed(&by("dev", "/a"), &b),
        Some("/a/packages/p".to_owned())
    );
    assert_eq!(shadowed(&by("dev", "/b"), &a), None);
    assert_eq!(
        shadowed(&by("first", "/f"), &a),
        Some("source first".to_owned())
    );
    assert_eq!(shadowed(&by("last", "/l"), &a), None);
    assert_eq!(shadowed(&by("unconfigured", "/u"), &a), None);
    // A root of this source that only another replica has wins as long as it is served.
    let mut view = by("dev", "/elsewhere");
    assert_eq!(shadowed(&view, &a), None);
    view.held.insert("local/dev//elsewhere".to_owned());
    assert_eq!(
        shadowed(&view, &a),
        Some("/elsewhere/packages/p".to_owned())
    );
    // Two folders of one name: the first by the folders' order.
    let twice = listing(vec![found("p", "x", None), found("q", "x", Some("{}"))]);
    let found = run(&twice, &LocalView::default(), &a).expect("usable");
    assert_eq!(found.shadowed[0].folder, "q");
    assert_eq!(found.shadowed[0].by, "/a/packages/p");
    assert_eq!(found.writes.len(), 1);
}

#[test]
fn what_a_registry_had_before_is_forgotten_with_its_versions() {
    let own = key("dev", "/a");
    let there = listing(vec![found("x", "x", None)]);
    let registry = LocalView {
        origins: vec![PackageOrigin {
            name: "x".to_owned(),
            source: "last".to_owned(),
            content_hash: "h".to_owned(),
            upstream_etag: "1 etag".to_owned(),
        }],
        schemas: vec![SchemaRow {
            package: "x".to_owned(),
            version: "7.2.0".to_owned(),
            hash: Some("s".to_owned()),
            integrity: "sha512-".to_owned(),
            label: String::new(),
            origin: String::new(),
            misses: 0,
            retry_us: None,
        }],
        ..LocalView::default()
    };
    let found = run(&there, &registry, &own).expect("usable");
    assert_eq!(found.writes[0].gone, ["7.2.0"]);
    assert_eq!(Arc::new(found).compared["x"].source, "last");
}

#[test]
fn icons_follow_their_files() {
    let own = key("dev", "/a");
    let icon = |shape, text: &str| FoundIcon {
        shape,
        format: IconFormat::Svg,
        blob: IconBlob {
            hash: content_hash(text.as_bytes()),
            bytes: text.into(),
        },
    };
    let with = |icons: Vec<FoundIcon>| {
        let mut x = found("x", "x", None);
        x.icons = icons;
        listing(vec![x])
    };
    let first = with(vec![icon(IconShape::Square, "1")]);
    let compared = run(&first, &LocalView::default(), &own).expect("usable");
    let mut view = stored(&compared);
    let row = |shape: &str, hash: Option<&str>| IconRow {
        package: "x".to_owned(),
        shape: shape.to_owned(),
        ext: "svg".to_owned(),
        hash: hash.map(|text| content_hash(text.as_bytes())),
        size: 1,
        upstream_etag: String::new(),
        misses: 0,
        due: false,
    };
    view.icons = vec![row("square", Some("1"))];
    assert!(run(&first, &view, &own).expect("usable").is_settled());
    // An edited one is that icon and nothing else.
    let edited = with(vec![icon(IconShape::Square, "2")]);
    let compared = run(&edited, &view, &own).expect("usable");
    let write = &compared.writes[0];
    assert!(write.package.is_none() && write.schemas.is_empty() && write.takes_revision());
    let [new] = &write.icons[..] else {
        panic!("{:?}", write.icons);
    };
    assert!(matches!(&new.content, IconContent::Found { blob, .. } if blob.bytes == b"2"));
    // One that is gone goes, and what a registry's source had not is forgotten.
    view.icons.push(row("rectangle", None));
    let compared = run(&with(Vec::new()), &view, &own).expect("usable");
    let writes = compared.writes[0].icons.iter();
    let gone = writes.map(|write| (write.shape.as_str(), write.content == IconContent::Gone));
    assert!(gone.eq([("square", true), ("rectangle", true)]));
}
