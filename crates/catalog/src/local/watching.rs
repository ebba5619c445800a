//! Being told by the system that something below a root has changed.
//!
//! Only folders that matter are watched, and none with all that is below it: a monorepo's `node_modules` would take every watch that
//! the system has. What was changed is not asked: whoever is told looks at everything again.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;

/// The watched folders of a root.
pub(crate) struct Watching {
    root: PathBuf,
    watcher: RecommendedWatcher,
    /// Relative to the root.
    watched: BTreeSet<String>,
    /// Paths that were moved or removed: a watch does not come back with what is put in their place.
    lost: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// A folder could not be watched; it was said.
    is_partial: bool,
}

// === impl Watching ===

impl Watching {
    /// Watches nothing yet. `changed` is told of changes.
    pub(crate) fn start(root: &str, changed: Arc<Notify>) -> Result<Self, notify::Error> {
        let lost = Arc::new(Mutex::new(BTreeSet::new()));
        let told = Arc::clone(&lost);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let matters = event.as_ref().map_or(true, |event| {
                if is_loss(event.kind) {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.extend(event.paths.iter().cloned());
                }
                event.need_rescan() || matters(event)
            });
            if matters {
                changed.notify_one();
            }
        })?;
        Ok(Self {
            root: PathBuf::from(root),
            watcher,
            watched: BTreeSet::new(),
            lost,
            is_partial: false,
        })
    }

    /// Watches these folders, relative to the root. True if one of them was not watched until now, so that what changed in it may
    /// have been missed.
    pub(crate) fn watch(&mut self, folders: &[String]) -> bool {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for path in lost {
            let Some(folder) = self.relative(&path) else {
                continue;
            };
            // What lay below it went along, with its watches, and says nothing of what lies there now.
            let is_below = |watched: &String| Path::new(watched).starts_with(&folder);
            for gone in self.watched.extract_if(.., is_below) {
                // Usually it is gone already.
                let _ = self.watcher.unwatch(&self.root.join(gone));
            }
        }
        let mut is_new = false;
        for folder in folders {
            if self.watched.contains(folder) {
                continue;
            }
            let path = self.root.join(folder);
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => is_new |= self.watched.insert(folder.clone()),
                Err(error) if !self.is_partial => {
                    self.is_partial = true;
                    tracing::warn!(
                        path = %path.display(),
                        error = &error as &dyn std::error::Error,
                        "a folder cannot be watched; changes there are found when all is read again"
                    );
                }
                Err(_) => {}
            }
        }
        is_new
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let relative = path.strip_prefix(&self.root).ok()?;
        relative.to_str().map(str::to_owned)
    }
}

const fn is_loss(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    )
}

/// Reading is told of too, and our own would go on for ever.
fn matters(event: &Event) -> bool {
    let is_change = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    let is_noise = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name == "node_modules" || name.starts_with('.') || name.ends_with('~')
    };
    is_change && (event.paths.is_empty() || !event.paths.iter().all(is_noise))
}
