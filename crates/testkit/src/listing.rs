//! A list of resources on loopback, as a provider or an operator's own program serves it: `GET /resources?page=N`, from 1, answers
//! with `{"resources": […], "next": "?page=N+1"}`. It fails, and waits, as a test says.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// A server of one list, which runs as long as this value lives.
#[derive(Debug)]
pub struct ListingServer {
    url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A request for a page, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingRequest {
    /// Which page.
    pub page: usize,
    /// The header `Authorization`; empty if there was none.
    pub authorization: String,
}

/// How a page is answered instead of with the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListingAnswer {
    /// With a status and nothing else.
    Status(u16),
    /// With 200 and this body.
    Body(String),
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The page from which on requests wait.
    held: watch::Sender<usize>,
    /// How many wait.
    waiting: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    resources: Vec<Value>,
    page_size: usize,
    requests: Vec<ListingRequest>,
    answers: BTreeMap<usize, VecDeque<ListingAnswer>>,
}

// === impl ListingServer ===

impl ListingServer {
    /// Lists nothing yet; so many resources on a page.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn start(page_size: usize) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                resources: Vec::new(),
                page_size,
                requests: Vec::new(),
                answers: BTreeMap::new(),
            }),
            held: watch::Sender::new(usize::MAX),
            waiting: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            url: format!("http://{address}/resources"),
            shared,
            accepting,
        }
    }

    /// Where the first page is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lists these from now on.
    pub fn put(&self, resources: Vec<Value>) {
        self.shared.state().resources = resources;
    }

    /// Answers a page so, once for each, before it is answered as it should be.
    pub fn answer(&self, page: usize, answers: impl IntoIterator<Item = ListingAnswer>) {
        let mut state = self.shared.state();
        state.answers.entry(page).or_default().extend(answers);
    }

    /// Lets requests for this page, and for all later ones, wait.
    pub fn hold_from(&self, page: usize) {
        self.shared.held.send_replace(page);
    }

    /// Lets those that wait go on.
    pub fn release(&self) {
        self.shared.held.send_replace(usize::MAX);
    }

    /// Returns once a request waits.
    ///
    /// # Panics
    ///
    /// When none does within a minute.
    pub async fn held(&self) {
        let mut waiting = self.shared.waiting.subscribe();
        let any = waiting.wait_for(|waiting| *waiting > 0);
        let waited = tokio::time::timeout(Duration::from_secs(60), any).await;
        assert!(waited.is_ok(), "nobody asks for the page that is held");
    }

    /// What was asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<ListingRequest> {
        self.shared.state().requests.clone()
    }
}

impl Drop for ListingServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl Shared ===

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(&self, page: usize) {
        let mut held = self.held.subscribe();
        if page < *held.borrow() {
            return;
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        // The sender lives as long as this.
        let _ = held.wait_for(|from| page < *from).await;
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }

    async fn answer(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        let page = request.uri().query().and_then(|query| {
            let page = query.strip_prefix("page=")?;
            page.parse().ok()
        });
        let page: usize = page.unwrap_or(1);
        let authorization = request.headers().get(header::AUTHORIZATION);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        self.state().requests.push(ListingRequest {
            page,
            authorization: authorization.unwrap_or_default().to_owned(),
        });
        self.wait(page).await;
        let mut state = self.state();
        let instead = state.answers.get_mut(&page).and_then(VecDeque::pop_front);
        match instead {
            Some(ListingAnswer::Body(body)) => (StatusCode::OK, body),
            Some(ListingAnswer::Status(status)) => {
                let status = StatusCode::from_u16(status).expect("a status");
                (status, String::new())
            }
            None => (StatusCode::OK, state.page(page)),
        }
    }
}

// === impl State ===

impl State {
    fn page(&self, page: usize) -> String {
        let begin = (page - 1) * self.page_size;
        let end = (begin + self.page_size).min(self.resources.len());
        let mut body = json!({ "resources": self.resources.get(begin..end).unwrap_or_default() });
        if end < self.resources.len() {
            body["next"] = json!(format!("?page={}", page + 1));
        }
        body.to_string()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    let (status, body) = shared.answer(&request).await;
                    let response = Response::builder()
                        .status(status)
                        .header(header::CONTENT_TYPE, "application/json")
                        .body(Full::new(Bytes::from(body)));
                    Ok::<_, Infallible>(response.expect("a well-formed answer"))
                }
            });
            // A client that goes away is none of its business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
