//! The bytes of icons, in memory as far as they fit, and read through from the database beyond.
//!
//! They are kept under the hash of what they are. So the race that every read-through cache has, a fill that began before a change
//! and lands after it, does no harm here: what it brings is still what its hash names, and which hash an icon has is known from the
//! snapshot alone, which follows the log. A fill carries its revision in its key, as it were.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use moka::future::Cache;
use steadfast_store::{IconBlob, IconRow, Store};

use crate::error::Error;

/// Blobs that are read at a time.
const BATCH: usize = 64;

/// Icon bytes by hash. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct IconBytes {
    store: Store,
    by_hash: Cache<Arc<str>, Bytes>,
    memory_bytes: u64,
}

/// Why a fill brought nothing.
#[derive(Debug)]
struct NotFilled;

// === impl IconBytes ===

impl IconBytes {
    pub(crate) fn new(store: Store, memory_bytes: u64) -> Self {
        let weight = |_: &Arc<str>, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let by_hash = Cache::builder()
            .max_capacity(memory_bytes)
            .weigher(weight)
            .build();
        Self {
            store,
            by_hash,
            memory_bytes,
        }
    }

    /// The bytes of a hash; `None` if no icon has it any more. Callers who want the same ones at the same time wait for one read.
    pub(crate) async fn get(&self, hash: &str) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.by_hash.get(hash).await {
            return Ok(Some(bytes));
        }
        let store = self.store.clone();
        let wanted = hash.to_owned();
        let fill = async move {
            let blob = store.icon_blob(&wanted).await.map_err(|_| NotFilled)?;
            blob.map(|blob| Bytes::from(blob.bytes)).ok_or(NotFilled)
        };
        if let Ok(bytes) = self.by_hash.try_get_with(Arc::from(hash), fill).await {
            return Ok(Some(bytes));
        }
        // The reason is everybody's who waited, and errors are not shared: each asks for its own.
        let blob = self.store.icon_blob(hash).await?;
        Ok(blob.map(|blob| Bytes::from(blob.bytes)))
    }

    /// Takes the bytes of these icons into memory, as many as fit, so that nobody has to wait for them.
    pub(crate) async fn load(&self, icons: &[IconRow]) -> Result<(), steadfast_store::Error> {
        let mut room = self.memory_bytes;
        let mut wanted = BTreeSet::new();
        for icon in icons {
            let Some(hash) = &icon.hash else { continue };
            let size = u64::try_from(icon.size).unwrap_or(u64::MAX);
            let is_new = !wanted.contains(hash) && !self.by_hash.contains_key(hash.as_str());
            if is_new && size <= room {
                room -= size;
                wanted.insert(hash.clone());
            }
        }
        let wanted: Vec<String> = wanted.into_iter().collect();
        for batch in wanted.chunks(BATCH) {
            for IconBlob { hash, bytes } in self.store.icon_blobs(batch).await? {
                self.by_hash.insert(hash.into(), bytes.into()).await;
            }
        }
        Ok(())
    }
}
