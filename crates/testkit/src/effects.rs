//! A system on loopback whose effects a saga brings about and takes back: it keeps a ledger of what really happened, and answers
//! as real systems do: late, wrongly, or not at all.
//!
//! `POST /do/STEP` and `POST /undo/STEP` with a JSON body that names the `saga`. An effect is known by the request's
//! `Idempotency-Key`: the same key again gets the first answer and changes nothing. What becomes of a request goes on when its
//! caller is gone, so that an effect can come later than anybody expects it.
//!
//! With [`EffectServer::blocking_late`] an undo that carries a forward call's key makes that call fail if it still comes: what a
//! step that is declared `undo_blocks_late` promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::sleep};

/// A server of effects, which runs as long as this value lives.
#[derive(Debug)]
pub struct EffectServer {
    url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// Which way a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// It asks for the effect.
    Do,
    /// It asks that there be none.
    Undo,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Which way.
    pub way: Way,
    /// The body's `saga`.
    pub saga: String,
    /// From the path.
    pub step: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// The `Steadfast-Attempt`.
    pub attempt: u32,
    /// All of it.
    pub body: Value,
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// With the effect's receipt.
    Done,
    /// With 503 and without an effect.
    NotNow,
    /// With 422 and without an effect.
    Never,
    /// The connection ends without an effect.
    LostBefore,
    /// The connection ends after the effect.
    LostAfter,
}

/// What is decided about a request: how long it takes, and how it is answered.
pub type Decide = dyn Fn(&Call) -> (Duration, Answer) + Send + Sync;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A request came; nothing has happened yet.
    Arrived,
    /// The effect is there.
    Applied,
    /// The effect, or nothing, was taken back.
    Undone {
        /// Whether there was an effect.
        was_there: bool,
    },
    /// A forward call came after its undo and was turned away.
    Blocked,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What.
    pub what: What,
    /// By which request.
    pub call: Arc<Call>,
    /// What the effect is known by; empty where there is none.
    pub receipt: String,
}

struct Shared {
    decide: Box<Decide>,
    blocks_late: bool,
    ledger: Mutex<Ledger>,
    /// Requests that came and did not end yet.
    under_way: watch::Sender<usize>,
    /// How many wait before a closed gate, and whether it is closed, by step.
    gates: Mutex<BTreeMap<String, Arc<watch::Sender<Gate>>>>,
}

#[derive(Debug, Default)]
struct Ledger {
    entries: Vec<Entry>,
    /// The receipts of effects and undos by key.
    receipts: BTreeMap<String, String>,
    /// Effects that are there, by saga and step.
    there: BTreeSet<(String, String)>,
    /// Forward keys that may not come any more.
    blocked: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    open: bool,
    waiting: usize,
}

/// Forward calls of one step wait until this is told to let them go on.
#[derive(Debug)]
pub struct HeldStep(Arc<watch::Sender<Gate>>);

// === impl EffectServer ===

impl EffectServer {
    /// A server that turns away forward calls which come after their undo.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn blocking_late(
        decide: impl Fn(&Call) -> (Duration, Answer) + Send + Sync + 'static,
    ) -> Self {
        Self::start(Box::new(decide), true).await
    }

    /// A server that does what forward calls say whenever they come.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn taking_late(
        decide: impl Fn(&Call) -> (Duration, Answer) + Send + Sync + 'static,
    ) -> Self {
        Self::start(Box::new(decide), false).await
    }

    async fn start(decide: Box<Decide>, blocks_late: bool) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            decide,
            blocks_late,
            ledger: Mutex::default(),
            under_way: watch::Sender::new(0),
            gates: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            url: format!("http://{address}"),
            shared,
            accepting,
        }
    }

    /// Where it is, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that happened so far, in its order.
    #[must_use]
    pub fn ledger(&self) -> Vec<Entry> {
        self.shared.ledger().entries.clone()
    }

    /// The same, once nothing is under way any more.
    ///
    /// # Panics
    ///
    /// When that takes longer than a minute.
    pub async fn quiet_ledger(&self) -> Vec<Entry> {
        let mut under_way = self.shared.under_way.subscribe();
        let none = under_way.wait_for(|calls| *calls == 0);
        let waited = tokio::time::timeout(Duration::from_secs(60), none).await;
        assert!(waited.is_ok(), "requests that do not end");
        self.ledger()
    }

    /// How many lines the ledger has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.ledger().entries.len()
    }

    /// Whether nobody asked for anything yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets forward calls of a step wait, before their effect, until the answer is dropped or told to let them go on.
    #[must_use]
    pub fn hold(&self, step: &str) -> HeldStep {
        let gate = Arc::new(watch::Sender::new(Gate::default()));
        self.shared
            .gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(step.to_owned(), Arc::clone(&gate));
        HeldStep(gate)
    }
}

impl Drop for EffectServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl HeldStep ===

impl HeldStep {
    /// Returns once so many calls wait.
    ///
    /// # Panics
    ///
    /// When that takes longer than a minute.
    pub async fn arrived(&self, calls: usize) {
        let mut gate = self.0.subscribe();
        let all = gate.wait_for(|gate| gate.waiting >= calls);
        let waited = tokio::time::timeout(Duration::from_secs(60), all).await;
        let waiting = self.0.borrow().waiting;
        assert!(waited.is_ok(), "{waiting} of {calls} calls came");
    }

    /// Lets those that wait, and all later ones, go on.
    pub fn release(&self) {
        self.0.send_modify(|gate| gate.open = true);
    }
}

impl Drop for HeldStep {
    fn drop(&mut self) {
        self.release();
    }
}

// === impl Shared ===

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self, call: &Call) -> Option<Arc<watch::Sender<Gate>>> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .get(&call.step)
            .filter(|_| call.way == Way::Do)
            .cloned()
    }

    /// What a request leads to. Nothing means that the connection ends.
    async fn carry_out(&self, call: Arc<Call>) -> Option<(StatusCode, Value)> {
        self.ledger().note(What::Arrived, &call, "");
        let (delay, answer) = (self.decide)(&call);
        if let Some(gate) = self.gate(&call) {
            gate.send_modify(|gate| gate.waiting += 1);
            // An error would mean that the gate is gone, which keeps nobody.
            let _ = gate.subscribe().wait_for(|gate| gate.open).await;
        }
        sleep(delay).await;
        match answer {
            Answer::NotNow => Some((StatusCode::SERVICE_UNAVAILABLE, Value::Null)),
            Answer::Never => Some((
                StatusCode::UNPROCESSABLE_ENTITY,
                json!("this is never done"),
            )),
            Answer::LostBefore => None,
            Answer::LostAfter => {
                self.ledger().settle(&call, self.blocks_late);
                None
            }
            Answer::Done => Some(match self.ledger().settle(&call, self.blocks_late) {
                Some(receipt) => (StatusCode::OK, json!({ "receipt": receipt })),
                None => (StatusCode::CONFLICT, json!("it was undone before it came")),
            }),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("blocks_late", &self.blocks_late)
            .finish_non_exhaustive()
    }
}

// === impl Ledger ===

impl Ledger {
    fn note(&mut self, what: What, call: &Arc<Call>, receipt: &str) {
        self.entries.push(Entry {
            what,
            call: Arc::clone(call),
            receipt: receipt.to_owned(),
        });
    }

    /// Does what a request says unless that was done before. The receipt, or nothing if it came too late.
    fn settle(&mut self, call: &Arc<Call>, blocks_late: bool) -> Option<String> {
        // An undo may carry the key of what it undoes, and is another effect all the same.
        let known_by = format!("{:?} {}", call.way, call.key);
        if let Some(receipt) = self.receipts.get(&known_by) {
            return Some(receipt.clone());
        }
        let thing = (call.saga.clone(), call.step.clone());
        let receipt = format!("{}-{}", call.step, self.entries.len());
        let what = match call.way {
            Way::Do if self.blocked.contains(&call.key) => {
                self.note(What::Blocked, call, "");
                return None;
            }
            Way::Do => {
                self.there.insert(thing);
                What::Applied
            }
            Way::Undo => {
                if blocks_late {
                    self.blocked.insert(call.key.clone());
                }
                What::Undone {
                    was_there: self.there.remove(&thing),
                }
            }
        };
        self.note(what, call, &receipt);
        self.receipts.insert(known_by, receipt.clone());
        Some(receipt)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // An error here is a caller that left, or an answer that is lost on purpose.
        tokio::spawn(async move { drop(connection.await) });
    }
}

/// Ends the connection.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is lost")
    }
}

impl std::error::Error for Lost {}

impl From<Infallible> for Lost {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Lost> {
    let (status, body) = match read(request).await {
        Ok(call) => {
            shared.under_way.send_modify(|calls| *calls += 1);
            let carried_out = tokio::spawn(async move {
                let answer = shared.carry_out(Arc::new(call)).await;
                shared.under_way.send_modify(|calls| *calls -= 1);
                answer
            })
            .await;
            carried_out.ok().flatten().ok_or(Lost)?
        }
        Err(problem) => (StatusCode::BAD_REQUEST, json!(problem)),
    };
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

async fn read(request: Request<Incoming>) -> Result<Call, String> {
    let text = |name: &str| {
        let value = request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.map(str::to_owned).ok_or(format!("no {name}"))
    };
    let key = text("idempotency-key")?;
    let attempt = text("steadfast-attempt")?;
    let attempt = attempt.parse().map_err(|_| "no number of an attempt")?;
    let path = request.uri().path().to_owned();
    let (way, step) = match path.strip_prefix("/undo/") {
        Some(step) => (Way::Undo, step),
        None => (
            Way::Do,
            path.strip_prefix("/do/")
                .ok_or(format!("nothing at {path}"))?,
        ),
    };
    let bytes = request.into_body().collect().await;
    let bytes = bytes.map_err(|error| error.to_string())?.to_bytes();
    let body: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let saga = body.get("saga").and_then(Value::as_str);
    Ok(Call {
        way,
        saga: saga.ok_or("no saga")?.to_owned(),
        step: step.to_owned(),
        key,
        attempt,
        body,
    })
}
