//! Requests join only what serves them, versions are read once, and runs are judged by what was read.

use proptest::prelude::*;

use super::*;

const PACKAGES: Kinds = Kinds {
    packages: true,
    schemas: false,
    icons: false,
};

const ICONS: Kinds = Kinds {
    packages: false,
    schemas: false,
    icons: true,
};

fn wish(kinds: Kinds, package: &str) -> Wish {
    Wish {
        kinds,
        package: (!package.is_empty()).then(|| package.to_owned()),
        ..Wish::ALL
    }
}

fn run(id: &str, wish: Wish, begun_through: &str) -> Underway {
    Underway {
        id: id.into(),
        wish,
        begun_through: (!begun_through.is_empty()).then(|| begun_through.to_owned()),
    }
}

#[test]
fn rule_6_a_wish_joins_only_what_has_yet_to_read_it() {
    let join = |id: &str| Placement::Join(id.to_owned());
    let all = wish(Kinds::ALL, "");
    let fresh = [run("a", all.clone(), "")];
    assert_eq!(place(&all, &fresh), join("a"));
    assert_eq!(place(&wish(PACKAGES, "p"), &fresh), join("a"));

    let reading = [run("a", all.clone(), "m")];
    assert_eq!(place(&wish(PACKAGES, "n"), &reading), join("a"));
    for late in [wish(PACKAGES, "m"), wish(PACKAGES, "a"), all.clone()] {
        assert_eq!(place(&late, &reading), Placement::Queue(late));
    }
    let followed = [run("a", all.clone(), "m"), run("b", all.clone(), "")];
    assert_eq!(place(&all, &followed), join("b"));

    let narrow = [run("a", wish(PACKAGES, "p"), "")];
    assert_eq!(place(&wish(PACKAGES, "p"), &narrow), join("a"));
    for wider in [
        wish(Kinds::ALL, "p"),
        wish(PACKAGES, "q"),
        wish(PACKAGES, ""),
    ] {
        assert_eq!(place(&wider, &narrow), Placement::Queue(wider));
    }
}

#[test]
fn the_queue_is_bounded() {
    let mut underway = vec![run("running", wish(Kinds::ALL, ""), "zzz")];
    for index in 0..1_000 {
        match place(&wish(PACKAGES, &format!("p{index}")), &underway) {
            Placement::Join(_) => {}
            Placement::Queue(wish) => underway.push(run(&index.to_string(), wish, "")),
            Placement::Refuse => panic!("only dry runs are"),
        }
    }
    assert_eq!(underway.len(), 1 + MAX_QUEUED_RUNS + 1);
    assert_eq!(underway.last().map(|run| &run.wish.package), Some(&None));
}

#[test]
fn rule_6_a_dry_run_joins_nothing_and_is_joined_by_nothing() {
    let dry = Wish {
        dry_run: true,
        ..Wish::ALL
    };
    let underway = [run("a", Wish::ALL, ""), run("b", dry.clone(), "")];
    assert_eq!(place(&dry, &underway), Placement::Queue(dry.clone()));
    assert_eq!(
        place(&Wish::ALL, &underway[1..]),
        Placement::Queue(Wish::ALL)
    );
    let many: Vec<_> = (0..=MAX_QUEUED_RUNS)
        .map(|index| run(&index.to_string(), dry.clone(), ""))
        .collect();
    assert_eq!(place(&dry, &many), Placement::Refuse);
    assert_eq!(place(&Wish::ALL, &many), Placement::Queue(Wish::ALL));
}

#[test]
fn rule_6_force_joins_only_what_is_forced() {
    let forced = Wish {
        force: true,
        ..Wish::ALL
    };
    let plain = [run("a", Wish::ALL, "")];
    assert_eq!(place(&forced, &plain), Placement::Queue(forced.clone()));
    let both = [run("a", Wish::ALL, "m"), run("b", forced.clone(), "")];
    assert_eq!(place(&forced, &both), Placement::Join("b".to_owned()));
    assert_eq!(place(&Wish::ALL, &both), Placement::Join("b".to_owned()));
    // Where too many wait, they become one that does all that was wished.
    let many: Vec<_> = (0..=MAX_QUEUED_RUNS)
        .map(|index| run(&index.to_string(), wish(PACKAGES, "p"), "p"))
        .collect();
    assert_eq!(place(&forced, &many), Placement::Queue(forced));
}

const TARBALLS: SchemaReading<'_> = SchemaReading {
    origin: "",
    newest_stable: 2,
    now_us: 0,
    force: false,
};

#[test]
fn rule_2_an_absence_at_an_address_is_asked_about_again_later() {
    let document = document(&["1.1.0", "1.0.0"], &[("latest", "1.1.0")]);
    let known = |version: &str, hash: Option<&str>, origin: &str, retry_us| {
        let schema = KnownSchema {
            integrity: format!("sha512-{version}"),
            hash: hash.map(Into::into),
            origin: origin.into(),
            retry_us,
            ..Default::default()
        };
        (version.to_owned(), schema)
    };
    let reading = |origin, now_us| SchemaReading {
        origin,
        now_us,
        ..TARBALLS
    };
    let stored = BTreeMap::from([
        known("1.1.0", None, "t", Some(100)),
        known("1.0.0", Some("h"), "t", None),
    ]);
    let fetched = |reading| schema_plan(&document, &stored, reading).fetch;
    assert_eq!(fetched(reading("t", 99)), [""; 0]);
    assert_eq!(fetched(reading("t", 100)), ["1.1.0"]);
    // Read elsewhere than now, it is read anew; so is everything by force.
    assert_eq!(fetched(reading("u", 0)), ["1.1.0", "1.0.0"]);
    assert_eq!(fetched(reading("", 0)), ["1.1.0", "1.0.0"]);
    let forced = SchemaReading {
        force: true,
        ..reading("t", 0)
    };
    assert_eq!(fetched(forced), ["1.1.0", "1.0.0"]);
    let hours: Vec<_> = [1, 2, 3, 8, 9, 1_000]
        .map(|misses| retry_in_us(misses) / 3_600_000_000)
        .into();
    assert_eq!(hours, [1, 2, 4, 128, 168, 168]);
}

fn document(versions: &[&str], tags: &[(&str, &str)]) -> PackageDocument {
    PackageDocument {
        versions: versions
            .iter()
            .map(|version| VersionDocument {
                version: (*version).into(),
                integrity: format!("sha512-{version}"),
                ..Default::default()
            })
            .collect(),
        dist_tags: tags
            .iter()
            .map(|(tag, version)| ((*tag).into(), (*version).into()))
            .collect(),
        ..Default::default()
    }
    .sorted()
}

#[test]
fn rule_2_schemas_are_read_once() {
    let document = document(
        &["3.0.0-a", "2.1.0", "2.0.0", "1.0.0", "0.9.0"],
        &[
            ("latest", "2.1.0"),
            ("next", "3.0.0-a"),
            ("old", "0.9.0"),
            ("x", "7.0.0"),
        ],
    );
    let known = |version: &str, integrity: &str, hash: Option<&str>| {
        let schema = KnownSchema {
            integrity: integrity.into(),
            hash: hash.map(Into::into),
            label: "L".into(),
            ..Default::default()
        };
        (version.to_owned(), schema)
    };
    let nothing = schema_plan(&document, &BTreeMap::new(), TARBALLS);
    assert_eq!(nothing.fetch, ["3.0.0-a", "2.1.0", "2.0.0", "0.9.0"]);
    let stored = BTreeMap::from([
        known("3.0.0-a", "sha512-3.0.0-a", None),
        known("2.1.0", "sha512-2.1.0", Some("h")),
        known("2.0.0", "sha512-republished", Some("h")),
        known("1.5.0", "sha512-1.5.0", Some("h")),
    ]);
    let plan = schema_plan(&document, &stored, TARBALLS);
    assert_eq!(plan.fetch, ["2.0.0", "0.9.0"]);
    assert_eq!(plan.settled, 2);
    assert_eq!(plan.gone, ["1.5.0"]);
}

#[test]
fn a_label_comes_from_the_tarball_then_the_registry_then_the_past() {
    let document = document(&["1.0.0"], &[("latest", "1.0.0")]);
    let read = |label: &str| {
        let schema = KnownSchema {
            label: label.into(),
            ..Default::default()
        };
        BTreeMap::from([("1.0.0".to_owned(), schema)])
    };
    let stated = StatedLabel::Some("S".into());
    for (known, stated, expected) in [
        (read("L"), &stated, "L"),
        (read("L"), &StatedLabel::AsBefore, "L"),
        (read(""), &stated, "S"),
        (read(""), &StatedLabel::None, ""),
        (read(""), &StatedLabel::AsBefore, "before"),
        (BTreeMap::new(), &stated, "S"),
        (BTreeMap::new(), &StatedLabel::None, "before"),
        (BTreeMap::new(), &StatedLabel::AsBefore, "before"),
    ] {
        let found = label(&document, &known, stated, "before");
        assert_eq!(found, expected, "{known:?} {stated:?}");
    }
}

#[test]
fn what_changed_is_told_from_what_did_not() {
    assert_eq!(difference(None, "", "h", ""), Difference::Content);
    assert_eq!(difference(Some("g"), "e", "h", "e"), Difference::Content);
    assert_eq!(difference(Some("h"), "e", "h", "f"), Difference::EtagOnly);
    assert_eq!(difference(Some("h"), "e", "h", "e"), Difference::None);
}

#[test]
fn rule_8_a_run_succeeds_only_if_all_was_read() {
    let tally = |changed, unchanged, failed| Tally {
        listed: changed + unchanged + failed,
        changed,
        unchanged,
        failed,
    };
    let none = Tally::default();
    let state = |packages, schemas| verdict(Kinds::ALL, packages, schemas, none, "").state;
    assert_eq!(
        state(tally(1, 1, 0), tally(0, 2, 0)),
        RefreshState::Succeeded
    );
    assert_eq!(state(tally(1, 1, 1), tally(0, 2, 0)), RefreshState::Partial);
    assert_eq!(state(tally(1, 1, 0), tally(0, 0, 2)), RefreshState::Partial);
    assert_eq!(state(tally(1, 1, 0), tally(0, 0, 0)), RefreshState::Partial);
    assert_eq!(state(tally(0, 0, 9), tally(0, 0, 0)), RefreshState::Failed);
    assert_eq!(state(tally(0, 0, 0), tally(0, 0, 0)), RefreshState::Failed);
    let packages = verdict(PACKAGES, tally(0, 1, 0), none, none, "");
    assert_eq!(packages.state, RefreshState::Succeeded);
    let with_icons = |icons| verdict(Kinds::ALL, tally(1, 0, 0), tally(1, 0, 0), icons, "").state;
    assert_eq!(with_icons(tally(1, 1, 0)), RefreshState::Succeeded);
    assert_eq!(with_icons(tally(0, 1, 1)), RefreshState::Partial);
    let only = |icons| verdict(ICONS, none, none, icons, "").state;
    assert_eq!(only(tally(0, 1, 0)), RefreshState::Succeeded);
    assert_eq!(only(tally(0, 0, 1)), RefreshState::Failed);
    assert_eq!(only(tally(0, 0, 0)), RefreshState::Failed);
    let listed = |read| {
        verdict(
            Kinds::ALL,
            tally(0, read, 0),
            tally(0, read, 0),
            none,
            "short",
        )
    };
    assert_eq!(listed(0).state, RefreshState::Failed);
    assert_eq!(listed(1).state, RefreshState::Partial);
    assert_eq!(listed(1).error, "short");
}

proptest! {
    #[test]
    fn rule_6_whatever_is_joined_reads_what_was_wished_later(
        runs in proptest::collection::vec((any::<bool>(), any::<bool>(), "[a-c]?", "[a-c]?"), 0..4),
        (packages, schemas, package) in (any::<bool>(), any::<bool>(), "[a-c]?"),
    ) {
        let underway: Vec<_> = runs
            .iter()
            .enumerate()
            .map(|(index, (packages, schemas, package, begun))| {
                run(&index.to_string(), wish(Kinds { packages: *packages, schemas: *schemas, icons: false }, package), begun)
            })
            .collect();
        let asked = wish(Kinds { packages, schemas, icons: false }, &package);
        if let Placement::Join(id) = place(&asked, &underway) {
            let joined = underway.iter().find(|run| run.id == id).expect("exists");
            prop_assert!(joined.wish.kinds.packages || !packages);
            prop_assert!(joined.wish.kinds.schemas || !schemas);
            for name in ["a", "b", "c"] {
                let asks = package.is_empty() || package == name;
                let reads = joined.wish.package.as_deref().is_none_or(|only| only == name);
                let unread = joined.begun_through.as_deref().is_none_or(|through| name > through);
                prop_assert!(!asks || (reads && unread));
            }
        }
    }
}
