//! The identity of the store's history.

use sqlx::FromRow;
use steadfast_types::StoreId;

use crate::{Error, Store, engine::statements, log::parse_store_id};

statements! {
    /// Gives a new store its identity.
    CREATE = "meta_create" => [
        "INSERT INTO store_meta (id, store_id, created_us, compacted_revision, compacted_mark) \
         SELECT 1, $1, " now ", 0, mark FROM change_log WHERE revision = 0 \
         ON CONFLICT (id) DO NOTHING"
    ];
    /// Declares another history.
    REPLACE = "meta_replace_store_id" => [
        "UPDATE store_meta SET store_id = $1 WHERE store_id = $2"
    ];
    /// Reads the identity.
    READ = "meta_read" => ["SELECT store_id FROM store_meta WHERE id = 1"];
    /// Asks the database for a sign of life.
    PING = "ping" => ["SELECT " now " AS now_us"];
}

#[derive(FromRow)]
struct Row {
    store_id: String,
}

impl Store {
    /// Gives a freshly migrated database its identity; does nothing if it has one.
    pub(crate) async fn ensure_identity(&self) -> Result<StoreId, Error> {
        self.db()
            .write(&CREATE)
            .bind(StoreId::random().to_string())
            .execute()
            .await?;
        self.store_id().await
    }

    /// The identity of the database's history.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn store_id(&self) -> Result<StoreId, Error> {
        let row: Row = self.db().read(&READ).one().await?;
        parse_store_id(&row.store_id)
    }

    /// Draws a new identity, unless another replica did so since `known` was read: for a history that turned out not to be the
    /// one this replica had followed. Returns the identity that holds now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn declare_new_history(&self, known: StoreId) -> Result<StoreId, Error> {
        self.db()
            .write(&REPLACE)
            .bind(StoreId::random().to_string())
            .bind(known.to_string())
            .execute()
            .await?;
        self.store_id().await
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// If it gives none.
    pub async fn ping(&self) -> Result<(), Error> {
        let _: (i64,) = self.db().read(&PING).one().await?;
        Ok(())
    }
}
