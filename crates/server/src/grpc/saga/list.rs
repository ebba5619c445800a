//! Pages of definitions, sagas, steps and events.

use std::collections::BTreeMap;

use serde_json::Value;
use steadfast_api::saga::v1 as api;
use steadfast_types::PageToken;
use tonic::Status;

use super::{
    EVENT_ROWS, SagaEdge, message, refused,
    request::{self, Filter},
};
use crate::grpc::{
    field::{self, Page},
    status,
};

/// Sagas read at a time: with their documents, which a list leaves out, they are up to 128 KiB each.
const LIST_ROWS: u32 = 101;

// === impl SagaEdge ===

impl SagaEdge {
    pub(super) async fn page_of_definitions(
        &self,
        request: api::ListSagaDefinitionsRequest,
    ) -> Result<api::ListSagaDefinitionsResponse, Status> {
        let limit = field::page_size(request.page_size, 1_000)?;
        let token = field::page_token(&request.page_token, &[])?;
        let after = match token {
            None => None,
            Some(token) => Some(
                token
                    .after
                    .rsplit_once('@')
                    .and_then(|(name, version)| Some((name.to_owned(), version.parse().ok()?)))
                    .ok_or_else(status::invalid_page_token)?,
            ),
        };
        let found = self
            .engine
            .definitions(after, limit + 1)
            .await
            .map_err(refused)?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        for stored in found {
            if page.is_full() {
                let last: &api::SagaDefinition = &page.items[page.items.len() - 1];
                next_page_token =
                    PageToken::new(format!("{}@{}", last.name, last.version)).encode(&[]);
                break;
            }
            page.push(message::definition(&stored));
        }
        Ok(api::ListSagaDefinitionsResponse {
            definitions: page.items,
            next_page_token,
        })
    }

    pub(super) async fn page_of_sagas(
        &self,
        request: api::ListSagasRequest,
    ) -> Result<api::ListSagasResponse, Status> {
        let limit = field::page_size(request.page_size, 1_000)?;
        let filter = Filter::read(&request)?;
        let bound = filter.bound();
        let bound: Vec<&str> = bound.iter().map(String::as_str).collect();
        let after = field::page_token(&request.page_token, &bound)?;
        let (sagas, next) = self
            .summaries(&filter, after.map(|token| token.after), limit)
            .await?;
        Ok(api::ListSagasResponse {
            sagas,
            next_page_token: next
                .map_or_else(String::new, |next| PageToken::new(next).encode(&bound)),
        })
    }

    /// One page, and where the next one begins.
    async fn summaries(
        &self,
        filter: &Filter,
        mut after: Option<String>,
        limit: u32,
    ) -> Result<(Vec<api::Saga>, Option<String>), Status> {
        let mut page = Page::new(limit);
        loop {
            // One more than the page takes tells whether another page follows.
            let missing = limit as usize - page.items.len() + 1;
            let rows = u32::try_from(missing).unwrap_or(LIST_ROWS).min(LIST_ROWS);
            let found = self
                .engine
                .list(filter.wanted(), after.clone(), rows)
                .await
                .map_err(refused)?;
            let last = found.len() < rows as usize;
            for view in found {
                if page.is_full() {
                    return Ok((page.items, after));
                }
                after = Some(view.id.clone());
                page.push(message::summary(&view));
            }
            if last {
                return Ok((page.items, None));
            }
        }
    }

    pub(super) async fn page_of_steps(
        &self,
        request: api::ListSagaStepsRequest,
    ) -> Result<api::ListSagaStepsResponse, Status> {
        let limit = field::page_size(request.page_size, 100)?;
        let token = field::page_token(&request.page_token, &[&request.id])?;
        let first: usize = match token {
            None => 0,
            Some(token) => token
                .after
                .parse()
                .map_err(|_| status::invalid_page_token())?,
        };
        let view = self.get(&request.id).await?;
        let mut outputs = self.outputs(&request.id).await?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        for index in first..view.steps.len() {
            if page.is_full() {
                next_page_token = PageToken::new(index.to_string()).encode(&[&request.id]);
                break;
            }
            let output = outputs.remove(&view.steps[index].name);
            page.push(message::step(&view, index, output.as_ref()));
        }
        Ok(api::ListSagaStepsResponse {
            steps: page.items,
            next_page_token,
        })
    }

    /// What each step returned, as its last event says.
    async fn outputs(&self, id: &str) -> Result<BTreeMap<String, Value>, Status> {
        let mut outputs = BTreeMap::new();
        let mut after = 0;
        loop {
            let events = self.events(id, after, EVENT_ROWS).await?;
            let Some(last) = events.last() else {
                return Ok(outputs);
            };
            after = last.seq;
            for mut event in events {
                if let (Some(step), Some(output)) = (event.step, event.detail.get_mut("output")) {
                    outputs.insert(step, output.take());
                }
            }
        }
    }

    pub(super) async fn page_of_events(
        &self,
        request: api::ListSagaEventsRequest,
    ) -> Result<api::ListSagaEventsResponse, Status> {
        request::id(&request.id)?;
        let limit = field::page_size(request.page_size, 1_000)?;
        let first = request.after_seq.to_string();
        let bound = [request.id.as_str(), first.as_str()];
        let after = match field::page_token(&request.page_token, &bound)? {
            None => field::after_seq(request.after_seq)?,
            Some(token) => token
                .after
                .parse()
                .map_err(|_| status::invalid_page_token())?,
        };
        let found = self.events(&request.id, after, limit + 1).await?;
        let mut page = Page::new(limit);
        let mut next_page_token = String::new();
        for event in &found {
            if page.is_full() {
                let last: &api::SagaEvent = &page.items[page.items.len() - 1];
                next_page_token = PageToken::new(last.seq.to_string()).encode(&bound);
                break;
            }
            page.push(message::event(event));
        }
        Ok(api::ListSagaEventsResponse {
            events: page.items,
            next_page_token,
        })
    }
}
