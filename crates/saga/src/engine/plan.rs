//! Definitions, and the plans that sagas are carried out by: stored once under their hash, and kept in memory.

use std::sync::{Arc, PoisonError};

use sha2::{Digest, Sha256};
use steadfast_store::{SagaDefinitionRow, SagaPlanRow};

use super::{Engine, Error, StoredDefinition, to_json};
use crate::{Definition, KnownActions, Step, check::check};

/// Plans held in memory, and definitions; few programs have more in use.
const PLANS: usize = 1_000;

/// What a definition's sagas are started with.
#[derive(Debug)]
pub(super) struct Planned {
    /// Name and version.
    pub(super) definition: (String, i64),
    /// Of the definition's document.
    pub(super) hash: String,
    pub(super) plan: SagaPlanRow,
    pub(super) steps: Arc<Vec<Step>>,
}

// === impl Engine ===

impl Engine {
    /// The actions that definitions are checked against.
    #[must_use]
    pub fn known_actions(&self) -> KnownActions {
        self.inner.known.clone()
    }

    /// Checks a definition whole and, unless `validate_only`, stores it. The same again is a no-op.
    ///
    /// # Errors
    /// [`Error::DefinitionInvalid`] with every problem; [`Error::DefinitionExists`] if the name and version have another body.
    pub async fn create_definition(
        &self,
        definition: Definition,
        validate_only: bool,
    ) -> Result<StoredDefinition, Error> {
        let problems = check(&definition, &self.inner.known);
        if !problems.is_empty() {
            return Err(Error::DefinitionInvalid(problems));
        }
        let document = to_json(&definition)?;
        let hash = hash(&document);
        if validate_only {
            return Ok(StoredDefinition {
                definition,
                document,
                hash,
                create_time: self.now(),
            });
        }
        let (name, version) = (&definition.name, i64::from(definition.version));
        let stored = self
            .inner
            .store
            .put_saga_definition(name, version, &hash, &document)
            .await?;
        if stored.hash != hash {
            return Err(Error::DefinitionExists {
                name: definition.name,
                version: definition.version,
            });
        }
        StoredDefinition::read(stored)
    }

    /// One version of a definition, or its newest.
    ///
    /// # Errors
    /// [`Error::DefinitionNotFound`].
    pub async fn definition(
        &self,
        name: &str,
        version: Option<i32>,
    ) -> Result<StoredDefinition, Error> {
        let row = self.definition_row(name, version).await?;
        StoredDefinition::read(row)
    }

    /// Definitions after a name and version, by name and version.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn definitions(
        &self,
        after: Option<(String, i32)>,
        limit: u32,
    ) -> Result<Vec<StoredDefinition>, Error> {
        let (name, version) = after.unwrap_or_default();
        let rows = self
            .inner
            .store
            .saga_definitions((&name, i64::from(version)), i64::from(limit))
            .await?;
        rows.into_iter().map(StoredDefinition::read).collect()
    }

    /// The steps of a plan, from memory or from the database.
    pub(super) async fn plan(&self, hash: &str) -> Result<Arc<Vec<Step>>, Error> {
        if let Some(steps) = self.known_plan(hash) {
            return Ok(steps);
        }
        let rows = self.inner.store.saga_plans(&[hash]).await?;
        let row = rows
            .into_iter()
            .next()
            .ok_or(Error::Internal("a saga without a plan"))?;
        let steps: Vec<Step> = serde_json::from_str(&row.document)
            .map_err(|_| Error::Internal("a plan that cannot be read"))?;
        Ok(self.remember_plan(row.hash, steps))
    }

    async fn definition_row(
        &self,
        name: &str,
        version: Option<i32>,
    ) -> Result<SagaDefinitionRow, Error> {
        let store = &self.inner.store;
        let row = store.saga_definition(name, version.map(i64::from)).await?;
        row.ok_or_else(|| Error::DefinitionNotFound {
            name: name.to_owned(),
            version,
        })
    }

    /// What sagas of a definition are started with. A version that was read before is not read again, as it never changes; after
    /// the database was restored this replica gets another life, and forgets.
    pub(super) async fn planned(
        &self,
        name: &str,
        version: Option<i32>,
    ) -> Result<Arc<Planned>, Error> {
        let known = |version| {
            let definitions = &self.inner.definitions;
            let definitions = definitions.lock().unwrap_or_else(PoisonError::into_inner);
            definitions.get(&(name.to_owned(), version)).cloned()
        };
        if let Some(planned) = version.and_then(|version| known(i64::from(version))) {
            return Ok(planned);
        }
        let row = self.definition_row(name, version).await?;
        if let Some(planned) = known(row.version).filter(|planned| planned.hash == row.hash) {
            return Ok(planned);
        }
        let (definition, hash) = ((row.name.clone(), row.version), row.hash.clone());
        let steps = StoredDefinition::read(row)?.definition.steps;
        let plan = plan_row(&steps)?;
        let planned = Arc::new(Planned {
            definition: definition.clone(),
            hash,
            steps: self.keep_plan(&plan.hash, steps),
            plan,
        });
        let definitions = &self.inner.definitions;
        let mut definitions = definitions.lock().unwrap_or_else(PoisonError::into_inner);
        if definitions.len() >= PLANS {
            definitions.pop_first();
        }
        definitions.insert(definition, Arc::clone(&planned));
        Ok(planned)
    }

    pub(super) fn forget_definitions(&self) {
        let definitions = &self.inner.definitions;
        definitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn keep_plan(&self, hash: &str, steps: Vec<Step>) -> Arc<Vec<Step>> {
        match self.known_plan(hash) {
            Some(steps) => steps,
            None => self.remember_plan(hash.to_owned(), steps),
        }
    }

    fn known_plan(&self, hash: &str) -> Option<Arc<Vec<Step>>> {
        let plans = self
            .inner
            .plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        plans.get(hash).cloned()
    }

    fn remember_plan(&self, hash: String, steps: Vec<Step>) -> Arc<Vec<Step>> {
        let steps = Arc::new(steps);
        let mut plans = self
            .inner
            .plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS {
            plans.pop_first();
        }
        plans.insert(hash, Arc::clone(&steps));
        steps
    }
}

fn hash(document: &str) -> String {
    hex::encode(Sha256::digest(document.as_bytes()))
}

pub(super) fn plan_row(steps: &[Step]) -> Result<SagaPlanRow, Error> {
    let document = to_json(&steps)?;
    Ok(SagaPlanRow {
        hash: hash(&document),
        document,
    })
}
