//! Definitions, immutable under their name and version, and plans: the steps that a running saga was started with.

use sqlx::FromRow;

use crate::{
    Error, Store,
    engine::{Tx, statements},
};

statements! {
    /// Adds a definition, unless the name and version are taken.
    PUT = "saga_definition_put" => [
        "INSERT INTO saga_definition (name, version, hash, document, created_us) \
         VALUES ($1, $2, $3, $4, " now ") ON CONFLICT (name, version) DO NOTHING"
    ];
    /// One version.
    GET = "saga_definition_get" => [
        "SELECT * FROM saga_definition WHERE name = $1 AND version = $2"
    ];
    /// The newest version.
    NEWEST = "saga_definition_newest" => [
        "SELECT * FROM saga_definition WHERE name = $1 ORDER BY version DESC LIMIT 1"
    ];
    /// A page, by name and version.
    LIST = "saga_definition_list" => [
        "SELECT * FROM saga_definition WHERE (name, version) > ($1, $2) ORDER BY name, version LIMIT $3"
    ];
    /// Adds a plan.
    PUT_PLAN = "saga_plan_put" => [
        "INSERT INTO saga_plan (hash, document) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING"
    ];
    /// Plans by a JSON array of hashes.
    PLANS = "saga_plans" => [
        postgres {
            "SELECT hash, document FROM saga_plan \
             WHERE hash IN (SELECT json_array_elements_text($1::json))"
        }
        sqlite {
            "SELECT hash, document FROM saga_plan WHERE hash IN (SELECT value FROM json_each($1))"
        }
    ];
}

/// A definition, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SagaDefinitionRow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: i64,
    /// Of the document.
    pub hash: String,
    /// JSON.
    pub document: String,
    /// When it was created.
    pub created_us: i64,
}

/// Steps by their hash.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SagaPlanRow {
    /// Of the document.
    pub hash: String,
    /// JSON.
    pub document: String,
}

impl Store {
    /// Adds a definition and returns what is stored under its name and version: another hash means that they were taken.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn put_saga_definition(
        &self,
        name: &str,
        version: i64,
        hash: &str,
        document: &str,
    ) -> Result<SagaDefinitionRow, Error> {
        self.db()
            .write(&PUT)
            .bind(name)
            .bind(version)
            .bind(hash)
            .bind(document)
            .execute()
            .await?;
        self.db().write(&GET).bind(name).bind(version).one().await
    }

    /// One version of a definition, or its newest.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_definition(
        &self,
        name: &str,
        version: Option<i64>,
    ) -> Result<Option<SagaDefinitionRow>, Error> {
        match version {
            Some(version) => {
                self.db()
                    .read(&GET)
                    .bind(name)
                    .bind(version)
                    .optional()
                    .await
            }
            None => self.db().read(&NEWEST).bind(name).optional().await,
        }
    }

    /// Definitions after a name and version.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_definitions(
        &self,
        after: (&str, i64),
        limit: i64,
    ) -> Result<Vec<SagaDefinitionRow>, Error> {
        self.db()
            .read(&LIST)
            .bind(after.0)
            .bind(after.1)
            .bind(limit)
            .all()
            .await
    }

    /// Plans by their hashes.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn saga_plans(&self, hashes: &[&str]) -> Result<Vec<SagaPlanRow>, Error> {
        let hashes = serde_json::to_string(hashes).map_err(|_| Error::Corrupt("argument"))?;
        self.db().read(&PLANS).bind(hashes).all().await
    }
}

pub(super) async fn put_plan(tx: &mut Tx, plan: &SagaPlanRow) -> Result<(), Error> {
    tx.statement(&PUT_PLAN)
        .bind(&plan.hash)
        .bind(&plan.document)
        .execute()
        .await?;
    Ok(())
}
