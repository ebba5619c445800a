//! The catalogue as the rest of the server uses it.

use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use steadfast_api::{
    common::v1::{Cursor as CursorMessage, ReadState},
    registry::v1::{
        GetIconRequest, ListIconsRequest, ListIconsResponse, ListPackagesRequest,
        ListPackagesResponse, RefreshTrigger, Resolution,
    },
    schema::v1::{
        ListSchemasRequest, ListSchemasResponse, ValidateDocumentRequest, ValidateDocumentResponse,
    },
};
use steadfast_store::{Located, Store, Wakeups};
use steadfast_types::{Cursor, ReplicaId};
use steadfast_upstream::{IconFormat, IconShape};
use steadfast_watch::Hub;
use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    compiled::CompiledSchemas,
    error::Error,
    executor::Executor,
    follow::{Follower, Memory},
    icon::{IconEntry, IconSlot, format_from_proto, shape_from_proto},
    icon_bytes::IconBytes,
    icon_fetch::IconFetcher,
    local::Local,
    lookup::MAX_BATCH,
    options::Options,
    progress::RefreshProgress,
    refresh::Asker,
    snapshot::{EncodedAnswer, Snapshot, cursor_from_proto},
    validate::{self, Refused},
};

/// How often a lookup looks for the bytes of an icon that changes under its eyes.
const ICON_LOOKS: usize = 3;

/// How long a lookup that is ahead of memory waits before it asks the database whether its cursor exists at all.
const PATIENCE: Duration = Duration::from_millis(50);

/// The catalogue of this process. Clones share it.
#[derive(Debug, Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    memory: Arc<Memory>,
    options: Arc<Options>,
    wakeups: Wakeups,
    asker: Asker,
    progress: RefreshProgress,
    icons: IconBytes,
    fetcher: Arc<IconFetcher>,
}

/// An icon with its bytes, and what it was read from.
#[derive(Debug)]
pub struct IconFile {
    /// What it is.
    pub icon: Arc<IconEntry>,
    /// The file; `None` for a caller who said that they have it.
    pub bytes: Option<Bytes>,
    /// Encoded, as the last field of an answer.
    read_state: Bytes,
}

/// Resolutions of a batch, in the order of the specifiers, all from one state.
#[derive(Debug)]
pub struct BatchResolution {
    /// One per specifier.
    pub results: Vec<Result<Resolution, Error>>,
    /// The state that they were read from.
    pub read_state: ReadState,
}

// === impl Catalog: life ===

impl Catalog {
    /// Loads the catalogue from the database, then follows the log and carries out refreshes until `stop`. If there is a registry
    /// and no package but from folders, asks for a first refresh, unless that is not wanted.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn start(
        store: Store,
        hub: &Hub,
        wakeups: &Wakeups,
        options: Options,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, Error> {
        let compiled = CompiledSchemas::default();
        let icons = IconBytes::new(store.clone(), options.icon_memory_bytes);
        let snapshot = Follower::load(&store, &compiled, &icons).await?;
        let applied = watch::Sender::new(snapshot.stamp.cursor);
        let memory = Arc::new(Memory {
            snapshot: ArcSwap::from_pointee(snapshot),
            applied,
            recheck: Notify::new(),
        });
        let options = Arc::new(options);
        let follower = Follower {
            store: store.clone(),
            hub: hub.clone(),
            compiled: compiled.clone(),
            icons: icons.clone(),
            memory: Arc::clone(&memory),
            checked_poll_interval: options.checked_poll_interval,
        };
        let subscription = follower.subscribe().await?;
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(follower.run(subscription)),
        );
        let local = Arc::new(Local::new(&options, &memory));
        local.start(&store, wakeups, &compiled, &options, stop, tasks);
        let (asked, cancelled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let pulse = watch::Sender::new(());
        let asker = Asker {
            store: store.clone(),
            options: Arc::clone(&options),
            local: Arc::clone(&local),
            asked: Arc::clone(&asked),
            cancelled: Arc::clone(&cancelled),
            pulse: pulse.clone(),
        };
        let progress = RefreshProgress {
            store: store.clone(),
            pulse: pulse.clone(),
            applied: memory.applied.clone(),
            look_interval: options.refresh_poll_interval,
            stop: stop.clone(),
            tasks: tasks.clone(),
            watched: Mutex::default(),
        };
        let fetcher = IconFetcher::new(
            store.clone(),
            wakeups.clone(),
            Arc::clone(&options),
            stop.clone(),
            tasks.clone(),
        );
        if !options.sources.is_empty() {
            if options.refresh_on_empty && options.has_registry() {
                asker.ask_if_empty().await?;
            }
            let executor = Executor {
                store: store.clone(),
                wakeups: wakeups.clone(),
                compiled,
                memory: Arc::clone(&memory),
                options: Arc::clone(&options),
                local,
                asked,
                cancelled,
                pulse,
            };
            tasks.spawn(executor.run(stop.clone()));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                memory,
                options,
                wakeups: wakeups.clone(),
                asker,
                progress,
                icons,
                fetcher,
            }),
        })
    }

    /// The state of memory at this moment: whoever asks several things takes it once.
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.inner.memory.snapshot.load()
    }

    /// Where memory stands, now and as it moves.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Cursor> {
        self.inner.memory.applied.subscribe()
    }

    /// Whether there is anything to refresh from.
    #[must_use]
    pub fn has_source(&self) -> bool {
        !self.inner.options.sources.is_empty()
    }

    pub(crate) fn wakeups(&self) -> &Wakeups {
        &self.inner.fetcher.wakeups
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.inner.options.replica
    }

    /// Asks for refreshes and tells what became of them.
    #[must_use]
    pub fn refreshes(&self) -> &Asker {
        &self.inner.asker
    }

    /// Follows refreshes.
    #[must_use]
    pub fn progress(&self) -> &RefreshProgress {
        &self.inner.progress
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Has what was just written looked for.
    pub(crate) fn kick(&self) {
        self.inner.wakeups.kick();
    }

    /// Asks for a refresh of everything on behalf of a schedule. Returns the refresh's id.
    ///
    /// # Errors
    /// As [`Asker::start`].
    pub async fn run_schedule(&self, schedule: &str) -> Result<String, Error> {
        let request = Default::default();
        let answer = self
            .inner
            .asker
            .start(&request, schedule, RefreshTrigger::Schedule)
            .await?;
        Ok(answer.refresh.unwrap_or_default().id)
    }
}

// === impl Catalog: lookups ===

impl Catalog {
    /// `GetPackage`, from memory.
    ///
    /// # Errors
    /// As [`Snapshot::lookup_package`].
    pub fn lookup_package(&self, name: &str, if_none_match: &str) -> Result<EncodedAnswer, Error> {
        self.snapshot().lookup_package(name, if_none_match)
    }

    /// `ResolvePackage`, from memory.
    ///
    /// # Errors
    /// As [`Snapshot::lookup_resolution`].
    pub fn lookup_resolution(&self, specifier: &str) -> Result<EncodedAnswer, Error> {
        self.snapshot().lookup_resolution(specifier)
    }

    /// `GetSchema`, from memory.
    ///
    /// # Errors
    /// As [`Snapshot::lookup_schema`].
    pub fn lookup_schema(
        &self,
        package: &str,
        version: &str,
        if_none_match: &str,
    ) -> Result<EncodedAnswer, Error> {
        self.snapshot()
            .lookup_schema(package, version, if_none_match)
    }

    /// `ListPackages`, from memory.
    ///
    /// # Errors
    /// As [`Snapshot::list_packages`].
    pub fn list_packages(
        &self,
        request: &ListPackagesRequest,
    ) -> Result<ListPackagesResponse, Error> {
        self.snapshot().list_packages(request)
    }

    /// `ListSchemas`, from memory.
    ///
    /// # Errors
    /// As [`Snapshot::list_schemas`].
    pub fn list_schemas(&self, request: &ListSchemasRequest) -> Result<ListSchemasResponse, Error> {
        self.snapshot().list_schemas(request)
    }

    /// `GetIcon`, but for waiting. If nobody has asked for it, the fleet does so once, and this does not wait for that.
    ///
    /// # Errors
    /// As [`Catalog::icon`]; [`Error::InvalidArgument`].
    pub async fn lookup_icon(&self, request: &GetIconRequest) -> Result<EncodedAnswer, Error> {
        let invalid = |field, allowed: &str| Error::InvalidArgument {
            field,
            message: allowed.to_owned(),
        };
        let shape = shape_from_proto(request.shape).ok_or_else(|| {
            invalid(
                "shape",
                "ICON_SHAPE_SQUARE or ICON_SHAPE_RECTANGLE; unspecified means square",
            )
        })?;
        let format = format_from_proto(request.format).ok_or_else(|| {
            invalid(
                "format",
                "ICON_FORMAT_PNG or ICON_FORMAT_SVG; unspecified means whichever there is",
            )
        })?;
        let has = |icon: &IconEntry| {
            !request.if_none_match.is_empty() && request.if_none_match == icon.hash
        };
        let file = self.icon(&request.package, shape, format, has).await?;
        let (body, detail) = match file.bytes {
            Some(bytes) => (file.icon.head(), bytes),
            None => (file.icon.not_modified(), Bytes::new()),
        };
        Ok(EncodedAnswer {
            body,
            detail,
            read_state: file.read_state,
        })
    }

    /// An icon with its bytes, unless the caller has them. From memory, but for bytes that do not fit there.
    ///
    /// # Errors
    /// [`Error::InvalidSpecifier`], [`Error::PackageNotFound`], [`Error::IconNotFound`]; [`Error::IconNotFetched`] if nobody has
    /// asked for it, which is then done; [`Error::Store`] if its bytes are not in memory and the database does not answer.
    pub async fn icon(
        &self,
        package: &str,
        shape: IconShape,
        format: Option<IconFormat>,
        has: impl Fn(&IconEntry) -> bool,
    ) -> Result<IconFile, Error> {
        // A moment later the snapshot may name other bytes, and these be gone.
        for _ in 0..ICON_LOOKS {
            let (icon, read_state) = {
                let snapshot = self.snapshot();
                let (slot, source) = snapshot.icon(package, shape, format)?;
                match slot {
                    IconSlot::Some(icon) => (icon, snapshot.stamp.read_state_of(source)),
                    IconSlot::Unknown if self.inner.fetcher.want(package, source, shape) => break,
                    IconSlot::Unknown | IconSlot::None => {
                        let format = format.map_or_else(String::new, |format| format!(" {format}"));
                        return Err(Error::IconNotFound {
                            package: package.to_owned(),
                            what: format!("{}{format}", shape.as_str()),
                        });
                    }
                }
            };
            let bytes = if has(&icon) {
                None
            } else {
                match self.inner.icons.get(&icon.hash).await? {
                    Some(bytes) => Some(bytes),
                    None => continue,
                }
            };
            return Ok(IconFile {
                icon,
                bytes,
                read_state,
            });
        }
        Err(Error::IconNotFetched {
            package: package.to_owned(),
            shape: shape.as_str(),
        })
    }

    /// `ListIcons`, from memory.
    ///
    /// # Errors
    /// As [`Snapshot::list_icons`].
    pub fn list_icons(&self, request: &ListIconsRequest) -> Result<ListIconsResponse, Error> {
        self.snapshot().list_icons(request)
    }

    /// `BatchResolvePackages`, from memory.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no or too many specifiers.
    pub fn batch_resolve(&self, specifiers: &[String]) -> Result<BatchResolution, Error> {
        if specifiers.is_empty() || specifiers.len() > MAX_BATCH {
            return Err(Error::InvalidArgument {
                field: "specifiers",
                message: format!("1 to {MAX_BATCH} specifiers, not {}", specifiers.len()),
            });
        }
        let snapshot = self.snapshot();
        Ok(BatchResolution {
            results: specifiers
                .iter()
                .map(|specifier| snapshot.resolution(specifier))
                .collect(),
            read_state: snapshot.stamp.overall_message(),
        })
    }

    /// `ValidateDocument`, but for waiting. Nothing of the document is kept, logged, or part of the answer.
    ///
    /// # Errors
    /// As [`Snapshot::schema`]; [`Error::SchemaUnusable`]; [`Error::InvalidDocument`].
    pub async fn validate(
        &self,
        request: ValidateDocumentRequest,
    ) -> Result<ValidateDocumentResponse, Error> {
        let (found, read_state) = {
            let snapshot = self.snapshot();
            let found = snapshot.schema(&request.package, &request.version)?;
            let source = &found.package.document.source;
            (found.clone(), snapshot.stamp.read_state_message(source))
        };
        let schema = Arc::clone(&found.schema);
        let package = found.package.name().to_owned();
        let limits = self.inner.options.document_limits;
        let unusable = |reason: String| Error::SchemaUnusable {
            package: package.clone(),
            version: found.version.clone(),
            reason,
        };
        let checked = tokio::task::spawn_blocking(move || match &schema.compiled {
            Ok(compiled) => Ok(validate::validate(compiled, &request.document_json, limits)),
            Err(reason) => Err(reason.clone()),
        })
        .await
        .map_err(|_| Error::Internal("validation"))?;
        let violations = match checked.map_err(unusable)? {
            Ok(violations) => violations,
            Err(Refused::Document(error)) => return Err(Error::InvalidDocument(error)),
            Err(error @ Refused::TooMuch) => return Err(unusable(error.to_string())),
        };
        Ok(ValidateDocumentResponse {
            valid: violations.is_empty(),
            violations,
            package,
            version: found.version,
            schema_etag: found.schema.hash.clone(),
            auth_kind: found.schema.auth_kind.into(),
            read_state: Some(read_state),
        })
    }
}

// === impl Catalog: waiting ===

impl Catalog {
    /// Waits until memory reflects a caller's cursor; `None` is reached at once.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is malformed; [`Error::StoreChanged`] if it is of another history;
    /// [`Error::RevisionNotReached`] after `min_revision_wait`; [`Error::Store`] if that cannot be told because the database does
    /// not answer.
    pub async fn reach(&self, min_revision: Option<&CursorMessage>) -> Result<(), Error> {
        let Some(message) = min_revision else {
            return Ok(());
        };
        let wanted = cursor_from_proto(message)?;
        let mut applied = self.inner.memory.applied.subscribe();
        let start = Instant::now();
        let deadline = start + self.inner.options.min_revision_wait;
        let patience = deadline.min(start + PATIENCE);
        if let Ok(reached) = timeout_at(patience, reached(&mut applied, wanted)).await {
            return reached;
        }
        if self.inner.store.locate(wanted).await? == Located::Diverged {
            return Err(Error::StoreChanged);
        }
        match timeout_at(deadline, reached(&mut applied, wanted)).await {
            Ok(reached) => reached,
            Err(_) => Err(Error::RevisionNotReached {
                wanted: wanted.revision,
                applied: applied.borrow().revision,
            }),
        }
    }
}

/// Waits until memory is at or above a cursor of its own history. A cursor of another history is waited for too: memory may be
/// the one that has yet to notice.
async fn reached(applied: &mut watch::Receiver<Cursor>, wanted: Cursor) -> Result<(), Error> {
    let now = applied
        .wait_for(|now| now.store_id == wanted.store_id && now.revision >= wanted.revision)
        .await
        .map_err(|_| Error::Internal("memory is no longer followed"))?;
    if now.revision == wanted.revision && now.mark != wanted.mark {
        return Err(Error::StoreChanged);
    }
    Ok(())
}
