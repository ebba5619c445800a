//! Asking for refreshes, and telling what became of them.

use std::sync::Arc;

use prost::Message;
use steadfast_api::registry::v1::{
    GetRefreshRequest, GetRefreshResponse, ListRefreshesRequest, ListRefreshesResponse, Refresh,
    RefreshCounts, RefreshItem, RefreshKind, RefreshOutcome, RefreshState, RefreshTrigger,
    StartRefreshRequest, StartRefreshResponse,
};
use steadfast_store::{
    NewRefresh, RefreshAsk, RefreshAsked, RefreshItemRow, RefreshPlacement, RefreshRow, Request,
    Store,
};
use steadfast_types::{PageToken, Timestamp};
use tokio::sync::Notify;

use crate::{
    error::Error,
    lookup::page_size_from,
    options::Options,
    package::to_proto_time,
    plan::{self, Kinds, Placement, Underway, Wish},
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
    /// Wakes this replica's executor.
    pub(crate) asked: Arc<Notify>,
}

// === impl Asker ===

impl Asker {
    /// `StartRefresh`. `identity` is the caller's, or the schedule's name.
    ///
    /// # Errors
    /// [`Error::NoSource`], [`Error::PackageNotConfigured`], [`Error::InvalidSpecifier`], [`Error::InvalidArgument`],
    /// [`Error::RequestIdReused`], or if the database does not answer.
    pub async fn start(
        &self,
        request: &StartRefreshRequest,
        identity: &str,
        trigger: RefreshTrigger,
    ) -> Result<StartRefreshResponse, Error> {
        let wish = self.wish(request)?;
        let ask = RefreshAsk {
            cause: cause_text(trigger),
            requested_by: identity.to_owned(),
            request: idempotency(request, identity)?,
            only_if_empty: false,
        };
        match self.ask(&ask, &wish).await? {
            RefreshAsked::Placed { run, joined } => Ok(StartRefreshResponse {
                refresh: Some(to_proto(&run)),
                joined,
            }),
            RefreshAsked::Forgotten { id } => Err(Error::RefreshNotFound { id }),
            RefreshAsked::HeldBack => Err(Error::Internal("refresh held back")),
        }
    }

    /// Asks for a first refresh, unless there is a package or a refresh underway.
    pub(crate) async fn ask_if_empty(&self) -> Result<(), Error> {
        let ask = RefreshAsk {
            cause: cause_text(RefreshTrigger::EmptyCatalogue),
            requested_by: String::new(),
            request: None,
            only_if_empty: true,
        };
        let all = Wish {
            kinds: Kinds::ALL,
            package: None,
        };
        if let RefreshAsked::Placed { run, .. } = self.ask(&ask, &all).await? {
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
        let unknown = || Error::RefreshNotFound {
            id: request.id.chars().take(64).collect(),
        };
        let id: uuid::Uuid = request.id.parse().map_err(|_| unknown())?;
        let skip = i64::from(request.skip_items);
        let found = self.store.refresh(&id.to_string(), skip, MAX_ITEMS).await?;
        let (run, items) = found.ok_or_else(unknown)?;
        Ok(GetRefreshResponse {
            refresh: Some(to_proto(&run)),
            items: items.into_iter().map(item_to_proto).collect(),
        })
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
                }),
            }
        };
        let asked = self.store.ask_refresh(ask, place).await?;
        self.asked.notify_one();
        Ok(asked)
    }

    fn wish(&self, request: &StartRefreshRequest) -> Result<Wish, Error> {
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
                if !self.is_configured(&name) {
                    return Err(Error::PackageNotConfigured { name });
                }
                Some(name)
            }
        };
        Ok(Wish { kinds, package })
    }

    fn is_configured(&self, name: &str) -> bool {
        let packages = self.options.packages();
        packages
            .iter()
            .any(|(configured, _)| configured.as_str() == name)
    }
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

pub(crate) fn wish_of(run: &RefreshRow) -> Wish {
    Wish {
        kinds: Kinds {
            packages: run.packages,
            schemas: run.schemas,
            icons: run.icons,
        },
        package: run.package.clone(),
    }
}

fn underway_from(run: &RefreshRow) -> Underway {
    Underway {
        id: run.id.clone(),
        wish: wish_of(run),
        begun_through: run.begun_through.clone(),
    }
}

const fn cause_text(trigger: RefreshTrigger) -> &'static str {
    match trigger {
        RefreshTrigger::Schedule => "schedule",
        RefreshTrigger::EmptyCatalogue => "empty_catalogue",
        RefreshTrigger::Request | RefreshTrigger::Unspecified => "request",
    }
}

/// How a state is stored.
pub(crate) const fn state_text(state: RefreshState) -> &'static str {
    match state {
        RefreshState::Queued | RefreshState::Unspecified => "queued",
        RefreshState::Running => "running",
        RefreshState::Succeeded => "succeeded",
        RefreshState::Partial => "partial",
        RefreshState::Failed => "failed",
    }
}

fn to_proto(run: &RefreshRow) -> Refresh {
    let state = match run.state.as_str() {
        "queued" => RefreshState::Queued,
        "running" => RefreshState::Running,
        "succeeded" => RefreshState::Succeeded,
        "partial" => RefreshState::Partial,
        _ => RefreshState::Failed,
    };
    let trigger = match run.cause.as_str() {
        "schedule" => RefreshTrigger::Schedule,
        "empty_catalogue" => RefreshTrigger::EmptyCatalogue,
        _ => RefreshTrigger::Request,
    };
    let count = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
    let packages = run.packages.then(|| RefreshCounts {
        kind: RefreshKind::Packages.into(),
        listed: count(run.packages_listed),
        changed: count(run.packages_changed),
        unchanged: count(run.packages_unchanged),
        failed: count(run.packages_failed),
    });
    let schemas = run.schemas.then(|| RefreshCounts {
        kind: RefreshKind::Schemas.into(),
        listed: count(run.schemas_listed),
        changed: count(run.schemas_changed),
        unchanged: count(run.schemas_unchanged),
        failed: count(run.schemas_failed),
    });
    let has_icons = run.icons_listed > 0 || !(run.packages || run.schemas);
    let icons = (run.icons && has_icons).then(|| RefreshCounts {
        kind: RefreshKind::Icons.into(),
        listed: count(run.icons_listed),
        changed: count(run.icons_changed),
        unchanged: count(run.icons_unchanged),
        failed: count(run.icons_failed),
    });
    Refresh {
        id: run.id.clone(),
        state: state.into(),
        kinds: wish_of(run).kinds.to_proto(),
        package: run.package.clone().unwrap_or_default(),
        trigger: trigger.into(),
        requested_by: run.requested_by.clone(),
        create_time: Some(to_proto_time(Timestamp(run.create_us))),
        start_time: run.start().map(to_proto_time),
        end_time: run.end().map(to_proto_time),
        counts: packages.into_iter().chain(schemas).chain(icons).collect(),
        owner: run.owner.clone(),
        attempts: count(run.attempts),
        error: run.error.clone(),
    }
}

fn item_to_proto(item: RefreshItemRow) -> RefreshItem {
    let kind = match item.kind.as_str() {
        "schemas" => RefreshKind::Schemas,
        "icons" => RefreshKind::Icons,
        _ => RefreshKind::Packages,
    };
    let outcome = match item.outcome.as_str() {
        "changed" => RefreshOutcome::Changed,
        "unchanged" => RefreshOutcome::Unchanged,
        _ => RefreshOutcome::Failed,
    };
    RefreshItem {
        kind: kind.into(),
        package: item.package,
        version: item.version,
        outcome: outcome.into(),
        reason: item.reason,
        message: item.message,
        revision: item.revision.unwrap_or_default(),
    }
}
