//! Packages from folders of this machine: a monorepo of which each package is a folder below `packages`.
//!
//! # How it goes
//!
//! Each root has a lease, named after its source and its path. Whichever replica holds it reads the root (`folder`), compares it
//! with what is stored (`compare`, pure) and writes what differs, each package as a revision of its own (`worker`). It looks when the
//! system tells of a change (`watching`), and from time to time anyway: watches get lost on network file systems, in containers,
//! and when folders are moved. It keeps nothing that matters: a replica that takes over compares again.
//!
//! A refresh asks for a look at every root as its last part (`turn`), and the holders write what they found into it: the replica that
//! runs the refresh need not have the root.
//!
//! # What belongs to whom
//!
//! Sources come in the order of the configuration, and the roots of a source in theirs; a package that several have is taken whole
//! from the first of them, and the others are *shadowed*: named in the log, in a metric and in refreshes. Where a stored package came
//! from stands beside it, so that only the root that brought a package removes it.
//!
//! # What is believed
//!
//! A package that is gone from its root is removed from the catalogue, because the folder is the truth here. But a root in which
//! nothing is left, or that cannot be read, is taken for a lost mount: that is an error, and changes nothing. What is gone or broken is
//! looked at twice before it counts, because editors and version control replace files in steps. A broken package keeps what was
//! stored of it.

mod compare;
mod folder;
mod turn;
mod watching;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use steadfast_store::{Store, Wakeups};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    compiled::CompiledSchemas,
    follow::Memory,
    options::{LocalSource, Options, SourceKind},
};
use worker::Worker;

pub(crate) use turn::turn;

/// A root of a local source, as all replicas name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RootKey {
    pub(crate) source: String,
    pub(crate) root: String,
}

/// What stands beside a stored package in place of a registry's etag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) root: String,
    /// Below `packages`.
    pub(crate) folder: String,
}

/// The roots of this replica, for those who ask for a look.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) memory: Arc<Memory>,
    /// In the order of their precedence.
    pub(crate) roots: Vec<Root>,
    /// A root was looked at for a refresh.
    pub(crate) looked: Notify,
}

/// One root of this replica.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) key: RootKey,
    /// Wakes its worker.
    poke: Notify,
    /// Whether it was looked at since the start, with or without success.
    looked: watch::Sender<bool>,
    /// What was last found in it, by whichever replica's files these are.
    names: Mutex<BTreeSet<String>>,
}

// === impl RootKey ===

impl RootKey {
    /// The name of its lease.
    pub(crate) fn lease(&self) -> String {
        format!("local/{}/{}", self.source, self.root)
    }

    /// Under which it is remembered when it was last looked at, and under which it stands in refreshes. The names of sources have no
    /// colon.
    pub(crate) fn text(&self) -> String {
        format!("{}:{}", self.source, self.root)
    }
}

// === impl Origin ===

impl Origin {
    const PREFIX: &'static str = "local ";

    pub(crate) fn encode(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{}{json}", Self::PREFIX)
    }

    pub(crate) fn decode(etag: &str) -> Option<Self> {
        serde_json::from_str(etag.strip_prefix(Self::PREFIX)?).ok()
    }
}

// === impl Local ===

impl Local {
    pub(crate) fn new(options: &Options, memory: &Arc<Memory>) -> Self {
        let roots = local_sources(options).flat_map(|(name, local)| {
            local.roots.iter().map(move |root| Root {
                key: RootKey {
                    source: name.to_owned(),
                    root: root.clone(),
                },
                poke: Notify::new(),
                looked: watch::Sender::new(false),
                names: Mutex::default(),
            })
        });
        Self {
            memory: Arc::clone(memory),
            roots: roots.collect(),
            looked: Notify::new(),
        }
    }

    /// Reads the roots until `stop`, each as long as its lease is this replica's.
    pub(crate) fn start(
        self: &Arc<Self>,
        store: &Store,
        wakeups: &Wakeups,
        compiled: &CompiledSchemas,
        options: &Arc<Options>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        let rescans: BTreeMap<&str, _> = local_sources(options)
            .map(|(name, local)| (name, local.rescan_interval))
            .collect();
        for (at, root) in self.roots.iter().enumerate() {
            let worker = Worker {
                store: store.clone(),
                wakeups: wakeups.clone(),
                compiled: compiled.clone(),
                options: Arc::clone(options),
                local: Arc::clone(self),
                rescan_interval: rescans[root.key.source.as_str()],
                at,
            };
            tasks.spawn(worker.run(stop.clone()));
        }
    }

    /// Whether a package is, or is about to be, one of a local source.
    pub(crate) fn knows(&self, name: &str) -> bool {
        let is_ours = |source: &str| self.roots.iter().any(|root| root.key.source == source);
        let snapshot = self.memory.snapshot.load();
        let stored = snapshot.content.get(name);
        stored.is_some_and(|entry| is_ours(&entry.document.source))
            || self.roots.iter().any(|root| root.has(name))
    }

    /// Has all roots looked at soon.
    fn poke_all(&self) {
        for root in &self.roots {
            root.poke.notify_one();
        }
    }
}

// === impl Root ===

impl Root {
    fn has(&self, name: &str) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(name)
    }

    /// Remembers what was found, and tells whether that are other packages than before.
    fn found(&self, names: BTreeSet<String>) -> bool {
        let mut known = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != names;
        *known = names;
        is_new
    }
}

fn local_sources(options: &Options) -> impl Iterator<Item = (&str, &LocalSource)> {
    options
        .sources
        .iter()
        .filter_map(|source| match &source.kind {
            SourceKind::Local(local) => Some((source.name.as_str(), local)),
            SourceKind::Npm(_) => None,
        })
}
