//! Asking for refreshes, and telling what became of them.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message;
use steadfast_api::registry::v1::{
    CancelRefreshRequest, CancelRefreshResponse, GetRefreshRequest, GetRefreshResponse,
    ListRefreshesRequest, ListRefreshesResponse, RefreshTrigger, StartRefreshRequest,
    StartRefreshResponse,
};
use steadfast_store::{
    NewRefresh, RefreshAsk, RefreshAsked, RefreshCancel, RefreshPlacement, RefreshRow, Request,
    Store,
};
use steadfast_types::PageToken;
use tokio::sync::{Notify, watch};

use crate::{
    error::Error,
    local::Local,
    lookup::page_size_from,
    membership, metric,
    options::Options,
    plan::{self, Kinds, MAX_QUEUED_RUNS, Placement, Underway, Wish},
    report::{cause_text, item_to_proto, to_proto, underway_from},
    specifier::parse_name,
};

/// A `GetRefresh` answer has at most this many items.
pub const MAX_ITEMS: i64 = 1_000;

/// Longer request ids are refused.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// Asks for refreshes. What is asked for is carried out by whichever replica takes it.
#[derive(Debug)]
pub struct Asker {
    pub(crate) store: Store,
    pub(crate) options: Arc<Options>,
    pub(crate) local: Arc<Local>,
    /// Wakes this replica's executor.
    pub(crate) asked: Arc<Notify>,
    /// Tells it that one was cancelled.
    pub(crate) cancelled: Arc<Notify>,
    /// Tells those who watch refreshes here that one has moved on.
    pub(crate) pulse: watch::Sender<()>,
}

// === impl Asker ===

impl Asker {
    /// `StartRefresh`. `identity` is the caller's, or the schedule's name.
    ///
    /// # Errors
    /// [`Error::NoSource`], [`Error::PackageNotConfigured`], [`Error::InvalidSpecifier`], [`Error::InvalidArgument`],
    /// [`Error::RequestIdReused`], [`Error::TooManyRefreshes`], or if the database does not answer.
    pub async fn start(
        &self,
        request: &StartRefreshRequest,
        identity: &str,
        trigger: RefreshTrigger,
    ) -> Result<StartRefreshResponse, Error> {
        let wish = self.wish(request).await?;
        let ask = RefreshAsk {
            cause: cause_text(trigger),
            requested_by: identity.to_owned(),
            request: idempotency(request, identity)?,
            only_if_empty: None,
        };
        match self.ask(&ask, &wish).await? {
            RefreshAsked::Placed { run, joined } => Ok(StartRefreshResponse {
                refresh: Some(to_proto(&run)),
                joined,
            }),
            RefreshAsked::Forgotten { id } => Err(Error::RefreshNotFound { id }),
            RefreshAsked::Refused => Err(Error::TooManyRefreshes {
                limit: MAX_QUEUED_RUNS,
            }),
            RefreshAsked::HeldBack => Err(Error::Internal("refresh held back")),
        }
    }

    /// Asks for a first refresh, unless there is a package or a refresh underway. What lies in folders is read without being asked,
    /// and says nothing of the registries beside them.
    pub(crate) async fn ask_if_empty(&self) -> Result<(), Error> {
        let local = self.options.sources.iter();
        let local = local.filter(|source| source.npm().is_none());
        let ask = RefreshAsk {
            cause: cause_text(RefreshTrigger::EmptyCatalogue),
            requested_by: String::new(),
            request: None,
            only_if_empty: Some(local.map(|source| source.name.clone()).collect()),
        };
        if let RefreshAsked::Placed { run, .. } = self.ask(&ask, &Wish::ALL).await? {
            tracing::info!(refresh = run.id, "the catalogue is empty; filling it");
        }
        Ok(())
    }

    /// `GetRefresh`.
    ///
    /// # Errors
    /// [`Error::RefreshNotFound`], [`Error::InvalidArgument`], or if the database does not answer.
    pub async fn get(&self, request: &GetRefreshRequest) -> Result<GetRefreshResponse, Error> {
        if request.skip_items < 0 {
            return Err(Error::InvalidArgument {
                field: "skip_items",
                message: "how many items were seen: 0 or more".to_owned(),
            });
        }
        let id = parse_id(&request.id)?;
        let skip = i64::from(request.skip_items);
        let found = self.store.refresh(&id, skip, MAX_ITEMS).await?;
        let (run, items) = found.ok_or(Error::RefreshNotFound { id })?;
        Ok(GetRefreshResponse {
            refresh: Some(to_proto(&run)),
            items: items.into_iter().map(item_to_proto).collect(),
        })
    }

    /// `CancelRefresh`. `identity` is the caller's.
    ///
    /// # Errors
    /// [`Error::RefreshNotFound`], [`Error::RefreshEnded`], or if the database does not answer.
    pub async fn cancel(
        &self,
        request: &CancelRefreshRequest,
        identity: &str,
    ) -> Result<CancelRefreshResponse, Error> {
        let id = parse_id(&request.id)?;
        let error = format!("cancelled by {identity}");
        match self.store.cancel_refresh(&id, &error).await? {
            RefreshCancel::Cancelled(run) => {
                // Here, where it ends, whether or not any replica runs it.
                metrics::counter!(metric::REFRESHES, "state" => run.state.clone()).increment(1);
                self.cancelled.notify_one();
                self.pulse.send_replace(());
                Ok(CancelRefreshResponse {
                    refresh: Some(to_proto(&run)),
                })
            }
            RefreshCancel::Already(run) => Ok(CancelRefreshResponse {
                refresh: Some(to_proto(&run)),
            }),
            RefreshCancel::Ended(run) => Err(Error::RefreshEnded {
                id,
                state: run.state,
            }),
            RefreshCancel::Unknown => Err(Error::RefreshNotFound { id }),
        }
    }

    /// `ListRefreshes`.
    ///
    /// # Errors
    /// [`Error::InvalidPageToken`], [`Error::InvalidArgument`], or if the database does not answer.
    pub async fn list(
        &self,
        request: &ListRefreshesRequest,
    ) -> Result<ListRefreshesResponse, Error> {
        const ARGUMENTS: &[&str] = &["ListRefreshes"];
        let size = page_size_from(request.page_size)?;
        let token = PageToken::decode(&request.page_token, ARGUMENTS)?;
        let before = token.map(|token| token.after).unwrap_or_default();
        let limit = i64::try_from(size).unwrap_or(i64::MAX - 1) + 1;
        let mut runs = self.store.refreshes(&before, limit).await?;
        let more = runs.len() > size;
        runs.truncate(size);
        let next_page_token = match runs.last() {
            Some(last) if more => PageToken::new(&last.id).encode(ARGUMENTS),
            _ => String::new(),
        };
        Ok(ListRefreshesResponse {
            refreshes: runs.iter().map(to_proto).collect(),
            next_page_token,
        })
    }

    async fn ask(&self, ask: &RefreshAsk, wish: &Wish) -> Result<RefreshAsked, Error> {
        let place = |underway: &[RefreshRow]| {
            let underway: Vec<Underway> = underway.iter().map(underway_from).collect();
            match plan::place(wish, &underway) {
                Placement::Join(id) => RefreshPlacement::Join(id),
                Placement::Queue(wish) => RefreshPlacement::Queue(NewRefresh {
                    packages: wish.kinds.packages,
                    schemas: wish.kinds.schemas,
                    icons: wish.kinds.icons,
                    package: wish.package,
                    dry_run: wish.dry_run,
                    forced: wish.force,
                }),
                Placement::Refuse => RefreshPlacement::Refuse,
            }
        };
        let asked = self.store.ask_refresh(ask, place).await?;
        self.asked.notify_one();
        Ok(asked)
    }

    async fn wish(&self, request: &StartRefreshRequest) -> Result<Wish, Error> {
        let kinds = Kinds::from_proto(&request.kinds).ok_or_else(|| Error::InvalidArgument {
            field: "kinds",
            message: "each is REFRESH_KIND_PACKAGES, REFRESH_KIND_SCHEMAS or REFRESH_KIND_ICONS; none means all"
                .to_owned(),
        })?;
        if self.options.sources.is_empty() {
            return Err(Error::NoSource);
        }
        let package = match request.package.as_str() {
            "" => None,
            name => {
                let name = parse_name(name).map_err(|source| Error::InvalidSpecifier {
                    field: "package",
                    source,
                })?;
                if !self.is_known(&name).await? {
                    return Err(Error::PackageNotConfigured { name });
                }
                Some(name)
            }
        };
        Ok(Wish {
            kinds,
            package,
            dry_run: request.dry_run,
            force: request.force,
        })
    }

    /// Whether a source names the package, was told of it, or has it in its folders.
    async fn is_known(&self, name: &str) -> Result<bool, Error> {
        if self.local.knows(name) {
            return Ok(true);
        }
        let sources = &self.options.sources;
        let told = self.store.sources_of(name).await?;
        let members = membership::members(sources, &told, &BTreeSet::new()).members;
        Ok(members.iter().any(|member| member.name.as_str() == name))
    }
}

/// As it is stored.
pub(crate) fn parse_id(text: &str) -> Result<String, Error> {
    let unknown = || Error::RefreshNotFound {
        id: text.chars().take(64).collect(),
    };
    let id: uuid::Uuid = text.parse().map_err(|_| unknown())?;
    Ok(id.to_string())
}

/// What makes the call safe to repeat, if the caller wants that.
fn idempotency(request: &StartRefreshRequest, identity: &str) -> Result<Option<Request>, Error> {
    let id = request.request_id.clone();
    if id.is_empty() {
        return Ok(None);
    }
    if id.len() > MAX_REQUEST_ID_BYTES || id.chars().any(char::is_control) {
        return Err(Error::InvalidArgument {
            field: "request_id",
            message: format!("at most {MAX_REQUEST_ID_BYTES} bytes, without control characters"),
        });
    }
    let arguments = StartRefreshRequest {
        request_id: String::new(),
        ..request.clone()
    };
    Ok(Some(Request {
        identity: identity.to_owned(),
        rpc: "StartRefresh",
        id,
        body_hash: Request::hash(&arguments.encode_to_vec()),
    }))
}
