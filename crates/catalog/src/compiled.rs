//! Schemas in memory, one per content hash: compiled once, whoever needs them, and dropped with the last package that has them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::schema::Schema;

/// All compiled schemas that are in use. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompiledSchemas {
    by_hash: Arc<Mutex<HashMap<String, Weak<Schema>>>>,
}

// === impl CompiledSchemas ===

impl CompiledSchemas {
    /// The schema of this hash, if it is in use.
    #[must_use]
    pub(crate) fn get(&self, hash: &str) -> Option<Arc<Schema>> {
        let by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        by_hash.get(hash)?.upgrade()
    }

    /// The schema of this hash, compiled from the text if need be. Compiling takes about a millisecond.
    #[must_use]
    pub(crate) fn get_or_compile(&self, hash: &str, text: &str) -> Arc<Schema> {
        if let Some(schema) = self.get(hash) {
            return schema;
        }
        // Not under the lock: two that compile the same at once waste a little time, and the first one is kept.
        let compiled = Arc::new(Schema::new(hash.to_owned(), text.to_owned()));
        let mut by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = by_hash.get(hash).and_then(Weak::upgrade) {
            return schema;
        }
        // Only where the map would grow: looking at all of them for each one would cost the square of their number.
        if by_hash.len() == by_hash.capacity() {
            by_hash.retain(|_, schema| schema.strong_count() > 0);
        }
        by_hash.insert(hash.to_owned(), Arc::downgrade(&compiled));
        compiled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_13_equal_schemas_are_compiled_once() {
        let schemas = CompiledSchemas::default();
        let first = schemas.get_or_compile("h", "{}");
        assert!(Arc::ptr_eq(&first, &schemas.get_or_compile("h", "{}")));
        drop(first);
        assert!(schemas.get("h").is_none());
    }
}
