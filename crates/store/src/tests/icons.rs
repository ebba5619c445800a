//! Icons: bytes that nobody refers to.

use std::time::Duration;

use steadfast_types::ReplicaId;

use crate::{
    BundlePackage, IconBlob, IconRow, Lease, PackageRow, Store,
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
