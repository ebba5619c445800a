//! WatchService: streams, publishing, the head.

use std::{sync::Arc, time::Duration};

use futures::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use steadfast_api::{
    common::v1 as common,
    watch::v1::{self as api, watch_service_server as generated},
};
use steadfast_catalog::Catalog;
use steadfast_store::{Publish, Store, Wakeups};
use steadfast_types::{Cursor, Mark, Revision};
use steadfast_watch::{
    Filters, Hub, NewStream, NodeStream, Nodes, OnLost, Pace, PublishLimits, Start,
    SubscribeOptions, Subscription, Values, check_publish,
};
use tonic::{Request, Response, Status, body::Body};

use super::{nodes::opened_by, status};

/// Callers have no identity yet.
const ANONYMOUS: &str = "";

/// What the service needs.
#[derive(Debug, Clone)]
pub(crate) struct WatchEdge {
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) catalog: Catalog,
    pub(crate) nodes: Nodes,
    pub(crate) wakeups: Wakeups,
    pub(crate) limits: PublishLimits,
    pub(crate) progress_interval: Duration,
    pub(crate) drain_jitter: Duration,
}

/// An open stream, and the node whose own it is.
struct Open {
    subscription: Subscription,
    node: Option<NodeStream>,
}

/// How a stream ends that was open.
fn trailers(end: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    end.add_header(&mut trailers)?;
    Ok(trailers)
}

/// The shortest and longest pause between two progress messages that a watcher may ask for.
const PROGRESS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(600);

// === impl WatchEdge ===

impl WatchEdge {
    /// Opens a stream.
    pub(crate) async fn watch(self: Arc<Self>, request: api::WatchRequest) -> Result<Body, Status> {
        let node = opened_by(request.node.as_ref().unwrap_or(&api::Node::default()))?;
        let options = self.options(request)?;
        let subscription = self
            .hub
            .subscribe(options)
            .await
            .map_err(|error| status::of_watch(&error, self.jitter()))?;
        let node = match node {
            None => None,
            Some((name, labels)) => {
                let stream = NewStream {
                    name,
                    labels,
                    cursor: subscription.cursor(),
                };
                // Boxed, as streams without a node would carry it along.
                let opened = Box::pin(self.nodes.open(stream)).await;
                Some(opened.map_err(|error| status::of_nodes(&error, "node"))?)
            }
        };
        let edge = self;
        let open = Open { subscription, node };
        // The frames themselves, with bytes that other streams share: tonic would copy each into a buffer of this stream's own, and
        // a thousand that come back together each hold a batch.
        let frames = stream::unfold(Some(open), move |open| {
            let edge = Arc::clone(&edge);
            async move {
                let mut open = open?;
                Some(match open.subscription.next().await {
                    Ok(event) => {
                        if let Some(node) = &open.node {
                            node.sent(open.subscription.cursor());
                        }
                        (Ok(Frame::data(event.frame())), Some(open))
                    }
                    Err(end) => {
                        let end = status::of_end(end, edge.jitter());
                        (trailers(&end).map(Frame::trailers), None)
                    }
                })
            }
        });
        Ok(Body::new(StreamBody::new(frames)))
    }

    fn options(&self, request: api::WatchRequest) -> Result<SubscribeOptions, Status> {
        let filters = request
            .filters
            .iter()
            .map(|filter| (filter.topic.as_str(), filter.key_prefix.as_str()));
        let filters =
            Filters::parse(filters).map_err(|error| status::of_watch(&error, Duration::ZERO))?;
        let node = request.node.unwrap_or_default();
        if request.suppress_own && request.include_values {
            return Err(status::invalid_argument(
                "suppress_own",
                "not together with include_values: the values of what is left out would be missed",
            ));
        }
        if request.suppress_own && node.incarnation.is_empty() {
            return Err(status::invalid_argument(
                "suppress_own",
                "needs node.incarnation, which says what is the watcher's own",
            ));
        }
        let on_lost = match api::OnCompacted::try_from(request.on_compacted) {
            Ok(api::OnCompacted::Unspecified | api::OnCompacted::Reset) => OnLost::Reset,
            Ok(api::OnCompacted::Fail) => OnLost::Fail,
            Err(_) => {
                return Err(status::invalid_argument(
                    "on_compacted",
                    "not one of its values",
                ));
            }
        };
        let interval = match request.progress_interval {
            None => self.progress_interval,
            Some(interval) => Duration::try_from(interval)
                .ok()
                .filter(|interval| PROGRESS.contains(interval))
                .ok_or_else(|| {
                    status::invalid_argument("progress_interval", "it must be 1 s to 600 s")
                })?,
        };
        Ok(SubscribeOptions {
            filters,
            start: start(request.start)?,
            on_lost,
            pace: Pace::Every(interval),
            incarnation: node.incarnation,
            suppress_own: request.suppress_own,
            values: request
                .include_values
                .then(|| Arc::new(self.catalog.clone()) as Arc<dyn Values>),
        })
    }

    /// Somewhere within the configured time, so that the clients of a stopping replica do not come back all at once.
    fn jitter(&self) -> Duration {
        self.drain_jitter.mul_f64(rand::random())
    }
}

#[tonic::async_trait]
impl generated::WatchService for WatchEdge {
    type WatchStream = stream::Pending<Result<api::WatchResponse, Status>>;

    /// Never called: the raw route answers before the generated service is asked.
    async fn watch(
        &self,
        _: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(status::internal())
    }

    async fn publish(
        &self,
        request: Request<api::PublishRequest>,
    ) -> Result<Response<api::PublishResponse>, Status> {
        let request = request.into_inner();
        let changes = check_publish(&request, self.limits).map_err(|violations| {
            let first = violations.first().map_or_else(String::new, |violation| {
                format!("{}: {}", violation.field, violation.description)
            });
            let problem =
                status::Problem::new(tonic::Code::InvalidArgument, "INVALID_ARGUMENT", first);
            violations
                .into_iter()
                .fold(problem, |problem, violation| {
                    problem.field(violation.field, violation.description)
                })
                .into_status()
        })?;
        let published = self
            .store
            .publish(Publish {
                changes,
                origin: request.origin,
                request: (!request.request_id.is_empty())
                    .then(|| (ANONYMOUS.to_owned(), request.request_id)),
            })
            .await
            .map_err(|error| status::of_store(&error).into_status())?;
        self.wakeups.kick_others();
        Ok(Response::new(api::PublishResponse {
            cursor: Some(cursor_message(Cursor {
                store_id: self.hub.store_id(),
                revision: published.revision,
                mark: published.mark,
            })),
            replayed: published.replayed,
        }))
    }

    async fn get_head(
        &self,
        _: Request<api::GetHeadRequest>,
    ) -> Result<Response<api::GetHeadResponse>, Status> {
        let head = self
            .store
            .head()
            .await
            .map_err(|error| status::of_store(&error).into_status())?;
        Ok(Response::new(api::GetHeadResponse {
            head: Some(cursor_message(head.cursor)),
            compacted: Some(cursor_message(head.compacted)),
            applied_revision: self.hub.position().borrow().applied.revision.0,
        }))
    }
}

fn start(start: Option<api::Start>) -> Result<Start, Status> {
    Ok(match start.and_then(|start| start.position) {
        None | Some(api::start::Position::Now(())) => Start::Now,
        Some(api::start::Position::Earliest(())) => Start::Earliest,
        Some(api::start::Position::After(cursor)) => {
            Start::After(cursor_value(&cursor).ok_or_else(|| {
                status::invalid_argument(
                    "start.after",
                    "not a cursor of this API: use one from Batch, Progress or GetHead unchanged",
                )
            })?)
        }
    })
}

/// The message of a cursor.
pub(crate) fn cursor_message(cursor: Cursor) -> common::Cursor {
    common::Cursor {
        store_id: cursor.store_id.to_string(),
        revision: cursor.revision.0,
        mark: cursor.mark.0,
    }
}

/// The cursor of a message, if it is one.
pub(crate) fn cursor_value(message: &common::Cursor) -> Option<Cursor> {
    if message.revision < 0 {
        return None;
    }
    Some(Cursor {
        store_id: message.store_id.parse().ok()?,
        revision: Revision(message.revision),
        mark: Mark(message.mark),
    })
}
