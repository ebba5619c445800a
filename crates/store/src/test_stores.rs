//! Stores on real databases, for this crate's tests.

use steadfast_testkit::postgres::TestDatabase;
use tempfile::TempDir;

use crate::{Options, Store};

/// A migrated store, and what keeps its database alive.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) options: Options,
    _folder: Option<TempDir>,
    pub(crate) database: Option<TestDatabase>,
}

pub(crate) async fn sqlite() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        data_dir: folder.path().join("data"),
        ..Options::default()
    };
    Fixture::open(options, Some(folder), None).await
}

pub(crate) async fn postgres() -> Fixture {
    let database = TestDatabase::create_empty().await;
    let options = Options {
        url: database.url(),
        max_connections: 8,
        ..Options::default()
    };
    Fixture::open(options, None, Some(database)).await
}

/// One of each engine.
pub(crate) async fn both() -> [Fixture; 2] {
    [sqlite().await, postgres().await]
}

impl Fixture {
    async fn open(
        options: Options,
        folder: Option<TempDir>,
        database: Option<TestDatabase>,
    ) -> Self {
        let store = Store::open(&options).await.unwrap();
        store.migrate().await.unwrap();
        Self {
            store,
            options,
            _folder: folder,
            database,
        }
    }
}
