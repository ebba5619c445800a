//! Encoded answers are the messages they stand for, and lists page through everything once.

use std::collections::BTreeMap;

use proptest::prelude::*;
use steadfast_api::registry::v1::{GetPackageResponse, ResolvePackageResponse};
use steadfast_types::{Cursor, Mark, Revision, StoreId, Timestamp};

use super::*;
use crate::{
    package::{PackageDocument, VersionDocument},
    snapshot::{CheckedTimes, Content},
};

fn entry(name: &str, source: &str, schema: Option<&str>) -> Arc<PackageEntry> {
    let version = |version: &str| VersionDocument {
        version: version.into(),
        deprecated: name.contains("old").then(|| "gone".to_owned()),
        dependencies: BTreeMap::from([("a".into(), "^1".into())]),
        ..Default::default()
    };
    let document = PackageDocument {
        name: name.into(),
        source: source.into(),
        label: "Label".into(),
        dist_tags: BTreeMap::from([("latest".into(), "1.1.0".into())]),
        versions: vec![version("1.0.0"), version("1.1.0"), version("2.0.0-rc.1")],
        ..Default::default()
    };
    let etag = document.canonical().expect("encodes").hash;
    let mut schemas = BTreeMap::from([("1.0.0".to_owned(), SchemaSlot::None)]);
    if let Some(text) = schema {
        let schema = Schema::new("hash".into(), text.into());
        schemas.insert("1.1.0".into(), SchemaSlot::Some(Arc::new(schema)));
    }
    Arc::new(PackageEntry::new(document, etag, schemas))
}

fn snapshot() -> Snapshot {
    let content = Content::new([
        entry("@s/http", "npm", Some(r#"{"title":"T"}"#)),
        entry("@s/fhir", "npm", None),
        entry("lodash.get", "other", None),
        entry("old-one", "npm", Some("{}")),
    ]);
    let checked = CheckedTimes::from([("npm".into(), Timestamp(5_000_000))]);
    Snapshot::new(Arc::new(content), cursor(7), checked)
}

fn cursor(revision: i64) -> Cursor {
    Cursor {
        store_id: StoreId::default(),
        revision: Revision(revision),
        mark: Mark(9),
    }
}

#[test]
fn a_package_is_answered_whole_or_not_modified() {
    let snapshot = snapshot();
    let answer = snapshot.lookup_package("@s/http", "").expect("is there");
    let found: GetPackageResponse = answer.decode().expect("decodes");
    let package = found.package.expect("has a package");
    assert_eq!(package.versions[0].version, "2.0.0-rc.1");
    assert_eq!(package.source, "npm");
    let state = found.read_state.expect("has a read state");
    assert_eq!((state.revision, state.mark), (7, 9));
    assert_eq!(state.checked_time.map(|time| time.seconds), Some(5));

    let again = snapshot
        .lookup_package("@s/http", &package.etag)
        .expect("is there");
    let again: GetPackageResponse = again.decode().expect("decodes");
    assert!(again.not_modified && again.package.is_none());
    assert!(again.read_state.is_some());

    let other = snapshot.lookup_package("lodash.get", "").expect("is there");
    let other: GetPackageResponse = other.decode().expect("decodes");
    assert_eq!(other.read_state.and_then(|state| state.checked_time), None);
}

#[test]
fn an_unknown_name_is_told_from_garbage() {
    let snapshot = snapshot();
    match snapshot.lookup_package("@s/htp", "") {
        Err(Error::PackageNotFound { nearest, .. }) => assert_eq!(nearest[0], "@s/http"),
        other => panic!("{other:?}"),
    }
    match snapshot.lookup_package("@s/http@1", "") {
        Err(Error::InvalidSpecifier { field, source }) => {
            assert_eq!((field, source.position), ("name", 7));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_resolution_is_the_same_encoded_and_not() {
    let snapshot = snapshot();
    for specifier in [
        "@s/http",
        "@s/http@1.0.0",
        "old-one@^1",
        "@s/http@>=2.0.0-a",
    ] {
        let answer = snapshot.lookup_resolution(specifier).expect(specifier);
        let encoded: ResolvePackageResponse = answer.decode().expect("decodes");
        let plain = snapshot.resolution(specifier).expect(specifier);
        assert_eq!(encoded.resolution, Some(plain));
        assert!(encoded.read_state.is_some());
    }
    match snapshot.resolution("@s/http@^3") {
        Err(Error::VersionNotFound { wanted, newest, .. }) => {
            assert_eq!((wanted.as_str(), newest.as_deref()), ("^3", Some("1.1.0")));
        }
        other => panic!("{other:?}"),
    }
    let old = snapshot.resolution("old-one@1.0.0").expect("resolves");
    assert!(old.version.expect("has a version").deprecated);
}

#[test]
fn a_schema_is_found_absent_or_unread() {
    let snapshot = snapshot();
    for version in ["", "latest", "1.1.0", "^1"] {
        let answer = snapshot
            .lookup_schema("@s/http", version, "")
            .expect(version);
        let found: GetSchemaResponse = answer.decode().expect("decodes");
        assert_eq!(found.schema_json, r#"{"title":"T"}"#);
        assert_eq!(
            (found.package.as_str(), found.version.as_str()),
            ("@s/http", "1.1.0")
        );
        assert_eq!(found.etag, "hash");
        assert_eq!(found.read_state.map(|state| state.revision), Some(7));
    }
    let same = snapshot
        .lookup_schema("@s/http", "", "hash")
        .expect("is there");
    let same: GetSchemaResponse = same.decode().expect("decodes");
    assert!(same.not_modified && same.schema_json.is_empty());
    assert_eq!(
        (same.etag.as_str(), same.version.as_str()),
        ("hash", "1.1.0")
    );
    assert!(matches!(
        snapshot.schema("@s/http", "1.0.0"),
        Err(Error::SchemaNotFound { .. })
    ));
    assert!(matches!(
        snapshot.schema("@s/http", "2.0.0-rc.1"),
        Err(Error::SchemaNotFetched { .. })
    ));
    assert!(matches!(
        snapshot.schema("@s/http", "5"),
        Err(Error::VersionNotFound { .. })
    ));
    assert!(matches!(
        snapshot.schema("@s/http", "not a tag"),
        Err(Error::InvalidSpecifier {
            field: "version",
            ..
        })
    ));
}

#[test]
fn rule_12_lists_hide_what_is_deprecated_and_find_text() {
    let snapshot = snapshot();
    let names = |request: ListPackagesRequest| -> Vec<String> {
        let found = snapshot.list_packages(&request).expect("lists");
        assert_eq!(found.total_size as usize, found.packages.len());
        found.packages.into_iter().map(|found| found.name).collect()
    };
    assert_eq!(
        names(ListPackagesRequest::default()),
        ["@s/fhir", "@s/http", "lodash.get"]
    );
    let all = ListPackagesRequest {
        include_deprecated: true,
        query: "LABEL".into(),
        ..Default::default()
    };
    assert_eq!(names(all).len(), 4);
    let http = ListPackagesRequest {
        query: "Http".into(),
        ..Default::default()
    };
    assert_eq!(names(http), ["@s/http"]);
    let schemas = snapshot
        .list_schemas(&ListSchemasRequest::default())
        .expect("lists");
    assert_eq!(schemas.total_size, 2);
    assert_eq!(schemas.schemas[0].title, "T");
    let negative = ListPackagesRequest {
        page_size: -1,
        ..Default::default()
    };
    assert!(matches!(
        snapshot.list_packages(&negative),
        Err(Error::InvalidArgument {
            field: "page_size",
            ..
        })
    ));
}

#[test]
fn a_stamp_moves_without_the_content() {
    let before = snapshot();
    let after = before.stamped(cursor(8), CheckedTimes::new());
    assert!(Arc::ptr_eq(&before.content, &after.content));
    let answer = after.lookup_package("@s/http", "").expect("is there");
    let state = answer
        .decode::<GetPackageResponse>()
        .expect("decodes")
        .read_state;
    assert_eq!(state.map(|state| state.revision), Some(8));
}

#[test]
fn content_replaces_and_removes() {
    let before = snapshot();
    let changed = BTreeMap::from([
        ("@s/fhir".to_owned(), None),
        ("new".to_owned(), Some(entry("new", "npm", None))),
    ]);
    let after = before.content.with(changed);
    assert!(after.get("@s/fhir").is_none());
    assert!(after.get("new").is_some());
    let (same, was) = (after.get("@s/http"), before.content.get("@s/http"));
    assert!(Arc::ptr_eq(same.expect("kept"), was.expect("is there")));
}

proptest! {
    #[test]
    fn pages_show_everything_once(names in proptest::collection::btree_set("[a-z]{1,3}", 0..30), size in 1i32..9) {
        let content = Content::new(names.iter().map(|name| entry(name, "npm", None)));
        let snapshot = Snapshot::new(Arc::new(content), cursor(1), CheckedTimes::new());
        let mut request = ListPackagesRequest { page_size: size, include_deprecated: true, ..Default::default() };
        let mut seen = Vec::new();
        loop {
            let page = snapshot.list_packages(&request).expect("lists");
            prop_assert!(page.packages.len() <= size as usize);
            seen.extend(page.packages.into_iter().map(|found| found.name));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        prop_assert_eq!(seen, names.into_iter().collect::<Vec<_>>());
    }
}
