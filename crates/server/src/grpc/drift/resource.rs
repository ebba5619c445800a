//! ResourceService.

use std::{collections::BTreeMap, time::Duration};

use steadfast_api::drift::v1::{
    self as api, report_resources_response::result::Result as ReportResult,
    resource_service_server::ResourceService,
};
use steadfast_drift::intake;
use steadfast_store::{
    DriftEventRow, InventoryEnd, InventoryEnded, InventoryFilter, NewRecord, NewReports, Observed,
    Recorded, Reported, ResourceName, ResourceRow,
};
use steadfast_types::PageToken;
use tonic::{Code, Request, Response, Status};

use super::{DriftEdge, message, not_found, refused, request, resource_not_found, wrong};
use crate::{
    grpc::{
        field,
        status::{self, Problem},
    },
    inventories,
};

/// Observations of one call at most.
const MAX_OBSERVATIONS: usize = 1_000;
/// Bytes of an error at most.
const MAX_ERROR_BYTES: usize = 1_024;
/// Rows of one page at most.
const MAX_PAGE: u32 = 1_000;

/// Between the parts of a resource's name in a page token: no part of a name holds it.
const SEPARATOR: char = '\0';

impl DriftEdge {
    /// A resource that somebody knows.
    async fn known(&self, name: &ResourceName) -> Result<ResourceRow, Problem> {
        let row = self.store.resource(name).await.map_err(refused)?;
        let row = row.filter(ResourceRow::is_known);
        row.ok_or_else(|| resource_not_found(name))
    }

    fn record(&self, request: api::RecordResourceRequest) -> Result<NewRecord, Problem> {
        let name = request::key(request.key.as_ref())?;
        let rules = self.rules().of(&name.provider, &name.kind);
        field::check_optional_text("recorded_by", &request.recorded_by)?;
        field::check_optional_text("saga_id", &request.saga_id)?;
        if request.expected_version.is_some_and(|version| version < 0) {
            return Err(status::invalid("expected_version", "it is below 0"));
        }
        let labels: BTreeMap<String, String> =
            field::read_labels(request.labels)?.into_iter().collect();
        Ok(NewRecord {
            spec: intake::spec(rules, &request.spec_json).map_err(wrong)?,
            labels: serde_json::to_string(&labels).unwrap_or_default(),
            name,
            recorded_by: request.recorded_by,
            saga_id: request.saga_id,
            pending: request.pending,
            expected_version: request.expected_version,
        })
    }

    fn observed(&self, observation: &api::Observation, alone: bool) -> Result<Observed, Problem> {
        let name = request::key(observation.key.as_ref())?;
        let age = match observation.age {
            None => Duration::ZERO,
            Some(_) if !alone => {
                let message = "an inventory's reports count from its beginning: leave it out";
                return Err(status::invalid("age", message));
            }
            Some(age) => {
                Duration::try_from(age).map_err(|_| status::invalid("age", "it is below 0"))?
            }
        };
        let report = intake::Report {
            attributes: &observation.attributes_json,
            transition: &observation.transition,
            gone: observation.gone,
            age,
        };
        let rules = self.rules().of(&name.provider, &name.kind);
        intake::observed(rules, name, report).map_err(wrong)
    }
}

#[tonic::async_trait]
impl ResourceService for DriftEdge {
    async fn record_resource(
        &self,
        request: Request<api::RecordResourceRequest>,
    ) -> Result<Response<api::RecordResourceResponse>, Status> {
        let record = self.record(request.into_inner())?;
        let name = record.name.clone();
        let recorded = self.store.record_resource(record).await.map_err(refused)?;
        let changed = match recorded {
            Recorded::Done { changed, .. } => changed,
            Recorded::Changed { version } => {
                return Err(status::resource_changed(&name.to_string())
                    .with("version", version)
                    .into_status());
            }
        };
        self.wakeups.kick();
        let row = self.known(&name).await?;
        Ok(Response::new(api::RecordResourceResponse {
            resource: Some(message::resource(&row, self.rules())),
            changed,
        }))
    }

    async fn begin_inventory(
        &self,
        request: Request<api::BeginInventoryRequest>,
    ) -> Result<Response<api::BeginInventoryResponse>, Status> {
        let request = request.into_inner();
        let (provider, types) = request::scope(request.scope)?;
        field::check_optional_text("source", &request.source)?;
        let begun = self
            .store
            .begin_inventory(&provider, &types, &request.source)
            .await
            .map_err(refused)?;
        Ok(Response::new(api::BeginInventoryResponse {
            inventory: Some(message::inventory(&begun)),
        }))
    }

    async fn report_resources(
        &self,
        request: Request<api::ReportResourcesRequest>,
    ) -> Result<Response<api::ReportResourcesResponse>, Status> {
        let request = request.into_inner();
        let count = request.observations.len();
        if count == 0 || count > MAX_OBSERVATIONS {
            let message = format!("{count} observations; 1 to {MAX_OBSERVATIONS}");
            return Err(status::invalid_argument("observations", message));
        }
        field::check_optional_text("inventory_id", &request.inventory_id)?;
        let inventory = Some(request.inventory_id.clone()).filter(|id| !id.is_empty());
        let mut observed = Vec::with_capacity(count);
        let mut results: Vec<Option<ReportResult>> = Vec::with_capacity(count);
        for observation in &request.observations {
            results.push(match self.observed(observation, inventory.is_none()) {
                Ok(one) => {
                    observed.push(one);
                    None
                }
                Err(problem) => Some(ReportResult::Error(problem.into_item())),
            });
        }
        if !observed.is_empty() {
            let reports = NewReports {
                inventory,
                observed,
            };
            let reported = self
                .store
                .report_resources(reports)
                .await
                .map_err(refused)?;
            let outcomes = match reported {
                Reported::Done(outcomes) => outcomes,
                Reported::UnknownInventory => {
                    return Err(inventory_not_found(&request.inventory_id).into_status());
                }
                Reported::InventoryEnded => {
                    return Err(inventory_ended(&request.inventory_id).into_status());
                }
            };
            self.wakeups.kick();
            let open = results.iter_mut().filter(|result| result.is_none());
            for (result, outcome) in open.zip(outcomes) {
                *result = Some(match message::report_outcome(outcome) {
                    Some(outcome) => ReportResult::Outcome(outcome.into()),
                    None => ReportResult::Error(out_of_scope().into_item()),
                });
            }
        }
        let results = results
            .into_iter()
            .map(|result| api::report_resources_response::Result { result });
        Ok(Response::new(api::ReportResourcesResponse {
            results: results.collect(),
        }))
    }

    async fn end_inventory(
        &self,
        request: Request<api::EndInventoryRequest>,
    ) -> Result<Response<api::EndInventoryResponse>, Status> {
        let request = request.into_inner();
        field::check_text("id", &request.id)?;
        if !request.error.is_empty() {
            field::check("error", &request.error, MAX_ERROR_BYTES)?;
        }
        if request.complete && !request.error.is_empty() {
            let message = "a complete inventory has none; with an error it is not complete";
            return Err(status::invalid_argument("error", message));
        }
        let end = InventoryEnd {
            complete: request.complete,
            error: request.error,
        };
        let ended = self.store.end_inventory(&request.id, &end).await;
        let row = match ended.map_err(refused)? {
            InventoryEnded::Now(row) => {
                self.wakeups.kick();
                inventories::compare(&self.sweeper, &row.id).await;
                row
            }
            InventoryEnded::Before(row) if row.ended_complete() == Some(end.complete) => row,
            InventoryEnded::Before(_) => return Err(inventory_ended(&request.id).into_status()),
            InventoryEnded::Unknown => {
                return Err(inventory_not_found(&request.id).into_status());
            }
        };
        Ok(Response::new(api::EndInventoryResponse {
            inventory: Some(message::inventory(&row)),
        }))
    }

    async fn run_inventory(
        &self,
        request: Request<api::RunInventoryRequest>,
    ) -> Result<Response<api::RunInventoryResponse>, Status> {
        Ok(Response::new(self.run(&request.into_inner().source).await?))
    }

    async fn get_inventory(
        &self,
        request: Request<api::GetInventoryRequest>,
    ) -> Result<Response<api::GetInventoryResponse>, Status> {
        let id = request.into_inner().id;
        field::check_text("id", &id)?;
        let row = self.store.inventory(&id).await.map_err(refused)?;
        let row = row.ok_or_else(|| inventory_not_found(&id))?;
        Ok(Response::new(api::GetInventoryResponse {
            inventory: Some(message::inventory(&row)),
        }))
    }

    async fn list_inventories(
        &self,
        request: Request<api::ListInventoriesRequest>,
    ) -> Result<Response<api::ListInventoriesResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, MAX_PAGE)?;
        field::check_optional_text("provider", &request.provider)?;
        let filter = InventoryFilter {
            provider: request.provider,
            states: request::inventory_states(&request.states)?,
        };
        let bound = format!("{filter:?}");
        let before = field::page_token(&request.page_token, &[&bound])?;
        let before = before.map_or_else(String::new, |token| token.after);
        let found = self
            .store
            .inventories(&filter, &before, i64::from(limit) + 1)
            .await
            .map_err(refused)?;
        let (inventories, next_page_token) =
            field::page_of(&found, limit, &[&bound], message::inventory, |row| {
                row.id.clone()
            });
        Ok(Response::new(api::ListInventoriesResponse {
            inventories,
            next_page_token,
        }))
    }

    async fn get_resource(
        &self,
        request: Request<api::GetResourceRequest>,
    ) -> Result<Response<api::GetResourceResponse>, Status> {
        let name = request::key(request.into_inner().key.as_ref())?;
        let row = self.known(&name).await?;
        Ok(Response::new(api::GetResourceResponse {
            resource: Some(message::resource(&row, self.rules())),
        }))
    }

    async fn list_resources(
        &self,
        request: Request<api::ListResourcesRequest>,
    ) -> Result<Response<api::ListResourcesResponse>, Status> {
        let request = request.into_inner();
        let limit = field::page_size(request.page_size, MAX_PAGE)?;
        let filter = request::resource_filter(&request)?;
        let bound = format!("{filter:?}");
        let after = field::page_token(&request.page_token, &[&bound])?;
        let after = after.map(|token| read_name(&token.after)).transpose()?;
        let found = self
            .store
            .resources(&filter, after.as_ref(), i64::from(limit) + 1)
            .await
            .map_err(refused)?;
        let place = |row: &ResourceRow| write_name(&row.name());
        let (resources, mut next_page_token) =
            field::page_of(&found.rows, limit, &[&bound], message::summary, place);
        // It is short because the filters keep few: the next one goes on behind what it looked at.
        if let Some(looked_at) = found.looked_at.filter(|_| next_page_token.is_empty()) {
            next_page_token = PageToken::new(write_name(&looked_at)).encode(&[&bound]);
        }
        Ok(Response::new(api::ListResourcesResponse {
            resources,
            next_page_token,
        }))
    }

    async fn delete_resource(
        &self,
        request: Request<api::DeleteResourceRequest>,
    ) -> Result<Response<api::DeleteResourceResponse>, Status> {
        let request = request.into_inner();
        let name = request::key(request.key.as_ref())?;
        field::check_optional_text("etag", &request.etag)?;
        field::decision(&request.actor, &request.reason)?;
        let may = |row: Option<&ResourceRow>| match row {
            None => Err(resource_not_found(&name)),
            Some(row) if !request.etag.is_empty() && row.etag() != request.etag => {
                Err(status::resource_changed(&name.to_string()))
            }
            Some(_) => Ok(()),
        };
        let deleted = self
            .store
            .delete_resource(&name, &request.actor, &request.reason, may)
            .await
            .map_err(refused)?;
        deleted?;
        self.wakeups.kick();
        Ok(Response::new(api::DeleteResourceResponse {}))
    }

    async fn list_resource_events(
        &self,
        request: Request<api::ListResourceEventsRequest>,
    ) -> Result<Response<api::ListResourceEventsResponse>, Status> {
        let request = request.into_inner();
        let name = request::key(request.key.as_ref())?;
        let limit = field::page_size(request.page_size, MAX_PAGE)?;
        let first = request.after_seq.to_string();
        let text = name.to_string();
        let bound = [text.as_str(), first.as_str()];
        let after = match field::page_token(&request.page_token, &bound)? {
            None => field::after_seq(request.after_seq)?,
            Some(token) => token
                .after
                .parse()
                .map_err(|_| status::invalid_page_token())?,
        };
        let key = self.store.resource_key(&name).await.map_err(refused)?;
        let key = key.ok_or_else(|| resource_not_found(&name))?;
        let found = self
            .store
            .resource_events(key, after, i64::from(limit) + 1)
            .await
            .map_err(refused)?;
        let rules = self.rules().of(&name.provider, &name.kind);
        let event = |row: &DriftEventRow| message::event(row, rules);
        let (events, next_page_token) =
            field::page_of(&found, limit, &bound, event, |row| row.seq.to_string());
        Ok(Response::new(api::ListResourceEventsResponse {
            events,
            next_page_token,
        }))
    }
}

fn write_name(name: &ResourceName) -> String {
    let ResourceName { provider, kind, id } = name;
    format!("{provider}{SEPARATOR}{kind}{SEPARATOR}{id}")
}

fn read_name(text: &str) -> Result<ResourceName, Status> {
    let parts: Vec<&str> = text.split(SEPARATOR).collect();
    match parts.as_slice() {
        [provider, kind, id] => Ok(ResourceName {
            provider: (*provider).to_owned(),
            kind: (*kind).to_owned(),
            id: (*id).to_owned(),
        }),
        _ => Err(status::invalid_page_token()),
    }
}

fn inventory_not_found(id: &str) -> Problem {
    not_found("INVENTORY_NOT_FOUND", "inventory", id)
}

fn inventory_ended(id: &str) -> Problem {
    Problem::new(
        Code::FailedPrecondition,
        "INVENTORY_ENDED",
        "the inventory has ended: begin another one",
    )
    .with("id", id)
}

fn out_of_scope() -> Problem {
    let message = "the inventory does not cover this provider and type";
    status::invalid("key", message).with("out_of_scope", true)
}
