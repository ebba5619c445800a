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
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
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
    /// Folders could not be watched; it was said.
    is_partial: bool,
}

// === impl Watching ===

impl Watching {
    /// Watches nothing yet. `changed` is told of changes. It takes the place of `before`, if that is there, and says nothing again.
    pub(crate) fn start(
        root: &str,
        changed: Arc<Notify>,
        before: Option<&Self>,
    ) -> Result<Self, notify::Error> {
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
            is_partial: before.is_some_and(|before| before.is_partial),
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
        let (mut unwatched, mut first) = (0_usize, None);
        for folder in folders {
            if self.watched.contains(folder) {
                continue;
            }
            let path = self.root.join(folder);
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => is_new |= self.watched.insert(folder.clone()),
                Err(error) => {
                    unwatched += 1;
                    first = first.or(Some((path, error)));
                }
            }
        }
        if let Some((path, error)) = first.filter(|_| !self.is_partial) {
            tracing::warn!(
                path = %path.display(),
                unwatched,
                watched = self.watched.len(),
                error = &error as &dyn std::error::Error,
                "folders cannot be watched; changes there are found when all is read again{}",
                remedy(&error.kind, folders.len())
            );
        }
        self.is_partial = unwatched > 0;
        is_new
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let relative = path.strip_prefix(&self.root).ok()?;
        relative.to_str().map(str::to_owned)
    }
}

/// What an operator can do about folders that cannot be watched, when so many are wanted; perhaps nothing.
fn remedy(kind: &ErrorKind, wanted: usize) -> String {
    match kind {
        ErrorKind::MaxFilesWatch => format!(
            ": this root alone takes {wanted} watches; raise the sysctl fs.inotify.max_user_watches beyond what all programs of \
             this user take together"
        ),
        _ => String::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_watches_is_named_with_what_is_wanted() {
        let told = remedy(&ErrorKind::MaxFilesWatch, 20_000);
        for part in ["20000 watches", "fs.inotify.max_user_watches"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(remedy(&ErrorKind::PathNotFound, 20_000), "");
    }
}
