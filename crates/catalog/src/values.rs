//! What the catalogue has of a thing that a change names.

use steadfast_store::{PACKAGE_TOPIC, SCHEMA_TOPIC};
use steadfast_types::Cursor;
use steadfast_watch::{Value, Values};
use tokio::sync::watch;

use crate::Catalog;

/// The fields of the contract's `Value`.
const PACKAGE: u32 = 1;
const SCHEMA: u32 = 2;

impl Values for Catalog {
    fn reached(&self) -> watch::Receiver<Cursor> {
        self.applied()
    }

    fn value(&self, topic: &str, key: &str) -> Option<Value> {
        let (field, answer) = match topic {
            PACKAGE_TOPIC => (PACKAGE, self.lookup_package(key, "").ok()?),
            SCHEMA_TOPIC => {
                let (package, version) = key.rsplit_once('@')?;
                (SCHEMA, self.lookup_schema(package, version, "").ok()?)
            }
            _ => return None,
        };
        Some(Value {
            field,
            parts: [answer.body, answer.detail, answer.read_state],
        })
    }
}
