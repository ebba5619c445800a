//! Icons: what fetches may write, and bytes that nobody refers to.

use std::time::Duration;

use steadfast_types::ReplicaId;

use crate::{
    BundlePackage, IconBlob, IconClaim, IconContent, IconRow, IconWrite, Lease, PackageRow, Store,
    icon::put_blob,
    test_stores::{both, postgres},
};

const LONG: Duration = Duration::from_secs(60);

fn blob(hash: &str) -> IconBlob {
    IconBlob {
        hash: hash.to_owned(),
        bytes: hash.as_bytes().to_vec(),
    }
}

/// The package `p`, with a square PNG of this hash if there is one.
fn package(hash: Option<&str>) -> BundlePackage {
    let icon = |hash: &str| {
        let row = IconRow {
            package: "p".into(),
            shape: "square".into(),
            ext: "png".into(),
            hash: Some(hash.to_owned()),
            size: 1,
            upstream_etag: String::new(),
            misses: 0,
            due: false,
        };
        (row, blob(hash))
    };
    BundlePackage {
        row: PackageRow {
            name: "p".into(),
            source: "npm".into(),
            document: "{}".into(),
            content_hash: "h".into(),
            upstream_etag: String::new(),
        },
        schemas: Vec::new(),
        texts: Vec::new(),
        icons: hash.map(icon).into_iter().collect(),
    }
}

async fn lease(store: &Store) -> Lease {
    let lease = store.claim_lease("refresh", ReplicaId::random(), LONG);
    lease.await.unwrap().unwrap()
}

async fn import(store: &Store, lease: &Lease, hash: Option<&str>) {
    let mut import = store.import_catalog(lease).await.unwrap();
    import.put(&package(hash)).await.unwrap();
    import.commit().await.unwrap();
}

async fn claim(store: &Store) -> IconClaim {
    let claim = store.claim_icon("p", "square", LONG).await.unwrap();
    claim.expect("nobody does it")
}

/// What a fetch of both formats brings: a PNG of this hash, and no SVG.
fn fetched(hash: &str) -> [IconWrite; 2] {
    let of = |ext: &str, content| IconWrite {
        shape: "square".into(),
        ext: ext.into(),
        content,
    };
    let found = IconContent::Found {
        blob: blob(hash),
        upstream_etag: "t".into(),
    };
    let missing = IconContent::Missing { retry_after: LONG };
    [of("png", found), of("svg", missing)]
}

/// Format and hash of what is known of the package's icons.
async fn known(store: &Store) -> Vec<(String, Option<String>)> {
    let icons = store.icons_of("p").await.unwrap();
    icons.into_iter().map(|row| (row.ext, row.hash)).collect()
}

fn png(hash: &str) -> (String, Option<String>) {
    ("png".to_owned(), Some(hash.to_owned()))
}

fn no_svg() -> (String, Option<String>) {
    ("svg".to_owned(), None)
}

#[tokio::test]
async fn rule_3_a_fetch_stores_what_it_found_only_where_nothing_is_known() {
    for fixture in both().await {
        let store = &fixture.store;
        let lease = lease(store).await;
        import(store, &lease, None).await;
        let first = claim(store).await;
        let saved = store.save_fetched_icons(&first, &fetched("a")).await;
        let saved = saved.unwrap();
        assert!(saved.landed.is_some());
        assert_eq!(saved.late, 0);
        assert_eq!(known(store).await, [png("a"), no_svg()]);
        let row = store.icons_of("p").await.unwrap().remove(1);
        assert_eq!((row.misses, row.due), (1, false));

        // Somebody writes while the upstream is asked, and what they wrote is newer than its answer.
        let second = claim(store).await;
        import(store, &lease, Some("b")).await;
        let head = store.head().await.unwrap().cursor;
        let saved = store.save_fetched_icons(&second, &fetched("c")).await;
        let saved = saved.unwrap();
        assert_eq!((saved.landed, saved.late), (None, 2));
        assert_eq!(known(store).await, [png("b"), no_svg()]);
        assert_eq!(store.head().await.unwrap().cursor, head);
        let _ = claim(store).await;
    }
}

/// The writer has not committed when the fetch looks: it is waited for, not overwritten.
#[tokio::test]
async fn rule_3_a_fetch_waits_for_who_is_writing_and_leaves_it() {
    for fixture in both().await {
        let store = fixture.store.clone();
        let lease = lease(&store).await;
        import(&store, &lease, None).await;
        let claim = claim(&store).await;
        let mut writing = store.import_catalog(&lease).await.unwrap();
        writing.put(&package(Some("new"))).await.unwrap();
        let late = tokio::spawn({
            let store = store.clone();
            async move { store.save_fetched_icons(&claim, &fetched("old")).await }
        });
        tokio::task::yield_now().await;
        writing.commit().await.unwrap();
        assert_eq!(late.await.unwrap().unwrap().late, 1);
        assert_eq!(known(&store).await, [png("new"), no_svg()]);
    }
}

/// An icon came and went while the upstream was asked: nothing is known of it, and yet the answer is too old.
#[tokio::test]
async fn rule_3_a_fetch_brings_nothing_back_that_was_forgotten_meanwhile() {
    for fixture in both().await {
        let store = &fixture.store;
        let lease = lease(store).await;
        import(store, &lease, None).await;
        let claim = claim(store).await;
        import(store, &lease, Some("new")).await;
        import(store, &lease, None).await;
        assert_eq!(known(store).await, []);
        let saved = store.save_fetched_icons(&claim, &fetched("old")).await;
        let saved = saved.unwrap();
        assert_eq!((saved.landed, saved.late), (None, 2));
        assert_eq!(known(store).await, []);
    }
}

#[tokio::test]
async fn rule_3_only_bytes_without_an_icon_are_pruned_and_only_those_that_are_named() {
    for fixture in both().await {
        let store = &fixture.store;
        let lease = lease(store).await;
        for hash in ["a", "b", "c"] {
            import(store, &lease, Some(hash)).await;
        }
        assert_eq!(store.loose_icon_blobs(10).await.unwrap(), ["a", "b"]);
        assert_eq!(store.loose_icon_blobs(1).await.unwrap(), ["a"]);
        let prune = async |hashes: &[&str]| {
            let hashes: Vec<String> = hashes.iter().map(|hash| (*hash).to_owned()).collect();
            store.prune_icon_blobs(&hashes).await.unwrap()
        };
        assert_eq!(prune(&["b", "c", "d"]).await, 1);
        assert_eq!(store.loose_icon_blobs(10).await.unwrap(), ["a"]);
        assert!(store.icon_blob("c").await.unwrap().is_some());
        // Whose package was removed.
        let mut removing = store.import_catalog(&lease).await.unwrap();
        removing.remove("p").await.unwrap();
        removing.commit().await.unwrap();
        assert_eq!(store.loose_icon_blobs(10).await.unwrap(), ["a", "c"]);
        assert_eq!(prune(&["a", "c"]).await, 2);
        assert_eq!(store.icon_blob("c").await.unwrap(), None);
    }
}

/// Bytes that nobody refers to are about to get an icon: neither who prunes nor who writes fails, and the icon has its bytes.
#[tokio::test]
async fn rule_3_bytes_that_are_about_to_get_an_icon_are_not_pruned() {
    let fixture = postgres().await;
    let store = &fixture.store;
    let lease = lease(store).await;
    import(store, &lease, Some("old")).await;
    import(store, &lease, None).await;
    assert_eq!(store.loose_icon_blobs(10).await.unwrap(), ["old"]);
    let mut writing = store.import_catalog(&lease).await.unwrap();
    writing.put(&package(Some("old"))).await.unwrap();
    // It does not wait for the writer, either.
    assert_eq!(
        store.prune_icon_blobs(&["old".to_owned()]).await.unwrap(),
        0
    );
    writing.commit().await.unwrap();
    assert_eq!(store.icon_blob("old").await.unwrap(), Some(blob("old")));
}

/// Who writes has found the bytes there, and has yet to write the icon.
#[tokio::test]
async fn rule_3_bytes_that_a_writer_has_found_there_are_not_pruned_under_its_hands() {
    let fixture = postgres().await;
    let store = &fixture.store;
    let lease = lease(store).await;
    import(store, &lease, Some("old")).await;
    import(store, &lease, None).await;
    let mut tx = store.db().begin().await.unwrap();
    put_blob(&mut tx, &blob("old")).await.unwrap();
    let hashes = ["old".to_owned()];
    assert_eq!(store.prune_icon_blobs(&hashes).await.unwrap(), 0);
    tx.commit().await.unwrap();
    assert_eq!(store.prune_icon_blobs(&hashes).await.unwrap(), 1);
}
