//! ResourceService, DriftService and PolicyService.
//!
//! What is kept is rows of texts, and what they mean is the drift crate's: here arguments are checked, refusals named, and rows
//! turned into messages. A document leaves through the rules of its type, which hide what is secret.

mod message;
mod policy;
mod request;
mod resource;
mod run;

use std::{sync::Arc, time::Duration};

use steadfast_api::drift::v1::{
    self as api, batch_accept_drifts_response::result::Result as BatchResult,
    drift_service_server::DriftService,
};
use steadfast_drift::{Rules, Sweeper, accept, intake};
use steadfast_store::{
    AcceptScene, AcceptWrite, Accepted, NewSweep, SnoozeWrite, Store, SweepAsked, Wakeups,
};
use steadfast_types::{PageToken, Timestamp};
use tonic::{Code, Request, Response, Status};

use super::{
    field::{self, Page},
    status::{self, Problem},
};
use crate::inventories::Inventories;

/// Drifts accepted in one call at most.
const MAX_BATCH: usize = 100;
/// How long a call may wait for its sweep at most.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a drift may be hidden at most.
const MAX_SNOOZE: Duration = Duration::from_secs(366 * 86_400);
/// Hidden drifts looked at, to count those that a list leaves out.
const HIDDEN_ROWS: i64 = 10_000;
/// Drifts read at a time: with their values, each is up to 128 KiB.
const LIST_ROWS: usize = 101;

/// What the services need.
#[derive(Clone)]
pub(crate) struct DriftEdge {
    pub(crate) store: Store,
    pub(crate) wakeups: Wakeups,
    pub(crate) sweeper: Sweeper,
    pub(crate) inventories: Inventories,
}

// === impl DriftEdge ===

impl DriftEdge {
    fn rules(&self) -> &Arc<Rules> {
        self.sweeper.rules()
    }

    async fn wanted_sweep(&self, request: &api::DetectDriftRequest) -> Result<NewSweep, Problem> {
        field::check_optional_text("triggered_by", &request.triggered_by)?;
        let labels = field::read_labels(request.labels.clone())?;
        let only_key = match &request.key {
            None => None,
            Some(_) if !labels.is_empty() => {
                let message = "name one resource, or labels, and not both";
                return Err(status::invalid("labels", message));
            }
            key => {
                let name = request::key(key.as_ref())?;
                let found = self.store.resource(&name).await.map_err(refused)?;
                let found = found.filter(steadfast_store::ResourceRow::is_known);
                let row = found.ok_or_else(|| resource_not_found(&name))?;
                Some(row.key)
            }
        };
        Ok(NewSweep {
            forced: request.full,
            only_key,
            labels: labels.into_iter().collect(),
            triggered_by: request.triggered_by.clone(),
        })
    }

    async fn accept(
        &self,
        request: api::AcceptDriftRequest,
    ) -> Result<api::AcceptDriftResponse, Problem> {
        field::check_text("id", &request.id)?;
        seen(&request.etag)?;
        field::decision(&request.actor, &request.reason)?;
        let rules = Arc::clone(self.rules());
        let (etag, actor, reason) = (request.etag, request.actor, request.reason);
        let accepted = self.store.accept_drift(&request.id, move |scene| {
            accept(scene, &etag, &rules).map(|spec| AcceptWrite {
                spec,
                actor,
                reason,
            })
        });
        match accepted.await.map_err(refused)? {
            Accepted::Done(scene) => {
                self.wakeups.kick();
                let recorded = Some(&scene.resource).filter(|resource| resource.recorded);
                Ok(api::AcceptDriftResponse {
                    drift: Some(message::drift(
                        &scene.drift,
                        self.now().await?,
                        self.rules(),
                    )),
                    resource: recorded.map(|resource| message::resource(resource, self.rules())),
                })
            }
            Accepted::Refused(refusal) => Err(status::of_accept(refusal, &request.id)),
            Accepted::Unknown => Err(drift_not_found(&request.id)),
        }
    }

    /// The database's clock: what flaps does so by it.
    async fn now(&self) -> Result<Timestamp, Problem> {
        let now = self.store.database_time().await.map_err(refused)?;
        Ok(Timestamp(now))
    }
}

#[tonic::async_trait]
impl DriftService for DriftEdge {
    async fn detect_drift(
        &self,
        request: Request<api::DetectDriftRequest>,
    ) -> Result<Response<api::DetectDriftResponse>, Status> {
        let request = request.into_inner();
        let wait = request::wait_timeout(request.wait_timeout, MAX_WAIT)?;
        let wanted = self.wanted_sweep(&request).await?;
        let SweepAsked { mut row, joined } = self.sweeper.ask(&wanted).await.map_err(refused)?;
        if !wait.is_zero() {
            let ended = self.sweeper.wait(&row.id, wait).await.map_err(refused)?;
            row = ended.unwrap_or(row);
        }
        let sweep = self.sweep_message(&row).await?;
        Ok(Response::new(api::DetectDriftResponse {
            sweep: Some(sweep),
            joined,
        }))
    }

    async fn get_sweep(
        &self,
        request: Request<api::GetSweepRequest>,
    ) -> Result<Response<api::GetSweepResponse>, Status> {
        let id = request.into_inner().id;
        field::check_text("id", &id)?;
        let row = self.store.sweep(&id).await.map_err(refused)?;
        let row = row.ok_or_else(|| sweep_not_found(&id))?;
        Ok(Response::new(api::GetSweepResponse {
            sweep: Some(self.sweep_message(&row).await?),
        }))
    }

    async fn list_sweeps(
        &self,
        request: Request<api::ListSweepsRequest>,
    ) -> Result<Response<api::ListSweepsResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, 1_000)?;
        let states = request::sweep_states(&request.states)?;
        let bound = states.join(",");
        let before = field::page_token(&request.page_token, &[&bound])?;
        let before = before.map_or_else(String::new, |token| token.after);
        let mut rows = self
            .store
            .sweeps(&states, &before, i64::from(limit) + 1)
            .await
            .map_err(refused)?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_page_token = match rows.last() {
            Some(last) if more => PageToken::new(last.id.clone()).encode(&[&bound]),
            _ => String::new(),
        };
        let mut sweeps = Vec::with_capacity(rows.len());
        for row in &rows {
            sweeps.push(self.sweep_message(row).await?);
        }
        Ok(Response::new(api::ListSweepsResponse {
            sweeps,
            next_page_token,
        }))
    }

    async fn cancel_sweep(
        &self,
        request: Request<api::CancelSweepRequest>,
    ) -> Result<Response<api::CancelSweepResponse>, Status> {
        let request = request.into_inner();
        field::check_text("id", &request.id)?;
        field::decision(&request.actor, &request.reason)?;
        let reason = format!("cancelled by {}: {}", request.actor, request.reason);
        let cancelled = self.store.cancel_sweep(&request.id, &reason).await;
        let row = cancelled.map_err(refused)?;
        let row = row.ok_or_else(|| sweep_not_found(&request.id))?;
        Ok(Response::new(api::CancelSweepResponse {
            sweep: Some(self.sweep_message(&row).await?),
        }))
    }

    async fn list_drifts(
        &self,
        request: Request<api::ListDriftsRequest>,
    ) -> Result<Response<api::ListDriftsResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, 1_000)?;
        let filter = request::drift_filter(&request)?;
        let bound = format!("{filter:?}");
        let token = field::page_token(&request.page_token, &[&bound])?;
        let mut before = token.map_or_else(String::new, |token| token.after);
        let now = self.now().await?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        let suppressed = match filter.include_suppressed {
            true => 0,
            false => {
                let hidden = self.store.hidden_drifts(&filter, HIDDEN_ROWS).await;
                hidden.map_err(refused)?
            }
        };
        'all: loop {
            // One more than the page takes tells whether another page follows.
            let rows = (limit as usize - page.items.len() + 1).min(LIST_ROWS);
            let found = self.store.drifts(&filter, &before, rows as i64).await;
            let found = found.map_err(refused)?;
            let last = found.len() < rows;
            for row in &found {
                if page.is_full() {
                    next_page_token = PageToken::new(before).encode(&[&bound]);
                    break 'all;
                }
                before.clone_from(&row.id);
                page.push(message::drift(row, now, self.rules()));
            }
            if last {
                break;
            }
        }
        Ok(Response::new(api::ListDriftsResponse {
            drifts: page.items,
            next_page_token,
            suppressed,
        }))
    }

    async fn get_drift(
        &self,
        request: Request<api::GetDriftRequest>,
    ) -> Result<Response<api::GetDriftResponse>, Status> {
        let id = request.into_inner().id;
        field::check_text("id", &id)?;
        let row = self.store.drift(&id).await.map_err(refused)?;
        let row = row.ok_or_else(|| drift_not_found(&id))?;
        Ok(Response::new(api::GetDriftResponse {
            drift: Some(message::drift(&row, self.now().await?, self.rules())),
        }))
    }

    async fn accept_drift(
        &self,
        request: Request<api::AcceptDriftRequest>,
    ) -> Result<Response<api::AcceptDriftResponse>, Status> {
        let accepted = self.accept(request.into_inner()).await;
        Ok(Response::new(accepted.map_err(Problem::into_status)?))
    }

    async fn batch_accept_drifts(
        &self,
        request: Request<api::BatchAcceptDriftsRequest>,
    ) -> Result<Response<api::BatchAcceptDriftsResponse>, Status> {
        let requests = request.into_inner().requests;
        if requests.is_empty() || requests.len() > MAX_BATCH {
            let message = format!("{} requests; 1 to {MAX_BATCH}", requests.len());
            return Err(status::invalid_argument("requests", message));
        }
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(api::batch_accept_drifts_response::Result {
                result: Some(match self.accept(request).await {
                    Ok(accepted) => BatchResult::Accepted(accepted),
                    Err(problem) => BatchResult::Error(problem.into_item()),
                }),
            });
        }
        Ok(Response::new(api::BatchAcceptDriftsResponse { results }))
    }

    async fn snooze_drift(
        &self,
        request: Request<api::SnoozeDriftRequest>,
    ) -> Result<Response<api::SnoozeDriftResponse>, Status> {
        let request = request.into_inner();
        field::check_text("id", &request.id)?;
        seen(&request.etag)?;
        field::decision(&request.actor, &request.reason)?;
        let until = request.until_time.ok_or_else(|| {
            status::invalid(
                "until_time",
                "say until when; a time that has passed ends a snooze",
            )
        })?;
        let until = field::time("until_time", until)?;
        let (etag, actor, reason) = (request.etag, request.actor, request.reason);
        let snoozed = self.store.snooze_drift(&request.id, move |scene, now| {
            let until = may_snooze(scene, &etag, until, Timestamp(now))?;
            Ok(SnoozeWrite {
                until_us: until.map(|until| until.0),
                actor,
                reason,
            })
        });
        match snoozed.await.map_err(refused)? {
            Accepted::Done(scene) => {
                self.wakeups.kick();
                Ok(Response::new(api::SnoozeDriftResponse {
                    drift: Some(message::drift(
                        &scene.drift,
                        self.now().await?,
                        self.rules(),
                    )),
                }))
            }
            Accepted::Refused(SnoozeRefusal::Accept(refusal)) => {
                Err(status::of_accept(refusal, &request.id).into_status())
            }
            Accepted::Refused(SnoozeRefusal::TooFar) => Err(status::invalid_argument(
                "until_time",
                "at most 366 days from now",
            )),
            Accepted::Unknown => Err(drift_not_found(&request.id).into_status()),
        }
    }
}

impl DriftEdge {
    async fn sweep_message(&self, row: &steadfast_store::SweepRow) -> Result<api::Sweep, Problem> {
        let name = match row.only_key {
            0 => None,
            key => {
                let found = self.store.fetch_resources(&[key]).await.map_err(refused)?;
                found.into_iter().next()
            }
        };
        let key = name.map(|resource| api::ResourceKey {
            provider: resource.provider,
            r#type: resource.kind,
            id: resource.id,
        });
        Ok(message::sweep(row, key))
    }
}

/// Why a drift is not hidden.
enum SnoozeRefusal {
    /// As it would not be accepted.
    Accept(steadfast_drift::AcceptRefusal),
    /// The time is too far away.
    TooFar,
}

/// Until when a drift is to be hidden, `None` if it is to be shown.
fn may_snooze(
    scene: &AcceptScene,
    etag: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<Timestamp>, SnoozeRefusal> {
    use steadfast_drift::AcceptRefusal as Refusal;
    if scene.drift.state != "open" {
        return Err(SnoozeRefusal::Accept(Refusal::Closed));
    }
    if scene.drift.etag() != etag {
        return Err(SnoozeRefusal::Accept(Refusal::DriftChanged));
    }
    if until.since(now) > MAX_SNOOZE {
        return Err(SnoozeRefusal::TooFar);
    }
    Ok(Some(until).filter(|until| *until > now))
}

/// What was displayed has to be named.
fn seen(etag: &str) -> Result<(), Problem> {
    if etag.is_empty() {
        let message = "name the etag of the drift as it was displayed; GetDrift tells it";
        return Err(status::invalid("etag", message));
    }
    field::check_text("etag", etag)
}

fn refused(error: steadfast_store::Error) -> Problem {
    status::of_store(&error)
}

fn not_found(reason: &'static str, what: &str, id: &str) -> Problem {
    let id: String = id.chars().take(400).collect();
    Problem::new(Code::NotFound, reason, format!("there is no {what} `{id}`")).with("id", id)
}

fn resource_not_found(name: &steadfast_store::ResourceName) -> Problem {
    not_found("RESOURCE_NOT_FOUND", "resource", &name.to_string())
}

fn drift_not_found(id: &str) -> Problem {
    not_found("DRIFT_NOT_FOUND", "drift", id)
}

fn sweep_not_found(id: &str) -> Problem {
    not_found("SWEEP_NOT_FOUND", "sweep", id)
}

/// An argument that the drift crate refuses.
fn wrong(wrong: intake::Wrong) -> Problem {
    status::invalid(wrong.field, wrong.message)
}
