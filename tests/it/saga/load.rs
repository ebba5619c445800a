//! Many sagas of five steps, each of which has its fate; and the replicas that carry them out.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use steadfast_client::{
    Connection, Error,
    api::saga::v1::{
        CreateSagaDefinitionRequest, DefinitionRef, GetSagaRequest, ListSagaEventsRequest,
        ListSagaStepsRequest, ListSagasRequest, Saga, SagaEvent, SagaState, SagaStep,
        StartSagaRequest, start_saga_request::Plan,
    },
    connect,
};
use steadfast_testkit::{
    EffectServer, Server,
    effects::{Answer, Call, Way},
    process::ServerBuilder,
};
use tokio::time::{Instant, sleep};

use crate::history::{publishing::DEADLINE, watching::Endpoints};

/// The steps of every saga.
pub(crate) const STEPS: [&str; 5] = ["network", "droplet", "volume", "name", "certificate"];

/// How long one attempt may take.
pub(crate) const RUNNING: Duration = Duration::from_millis(1_000);

/// Attempts of each direction.
const ATTEMPTS: u32 = 12;

/// Calls that read results at a time.
const READERS: usize = 8;

/// How a saga has to end, whatever happens to those who carry it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Every step can be done.
    Completes,
    /// This step is never done.
    RefusedAt(usize),
    /// Whether this step is done is never answered.
    SilentAt(usize),
    /// The same, and its only effect comes after the deadline of its last attempt.
    LateAt(usize),
}

/// Everything that can be read about one saga.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) number: u64,
    pub(crate) saga: Saga,
    pub(crate) steps: Vec<SagaStep>,
    pub(crate) events: Vec<SagaEvent>,
}

/// Replicas on one database, or a single one on a database of its own.
#[derive(Debug)]
pub(crate) struct Replicas {
    builder: ServerBuilder,
    pub(crate) servers: Vec<Server>,
    pub(crate) endpoints: Endpoints,
}

/// What the fate of one saga is.
pub(crate) fn fate(seed: u64, number: u64) -> Fate {
    let mut random = random_of(&(seed, number));
    let at = random.random_range(0..STEPS.len());
    match number % 10 {
        0..=4 => Fate::Completes,
        5..=7 => Fate::RefusedAt(at),
        8 => Fate::SilentAt(at),
        _ => Fate::LateAt(at),
    }
}

/// Decides as fate has it, with delays and faults which pass between. Some answers come after their attempt's deadline.
pub(crate) fn troubled(seed: u64) -> impl Fn(&Call) -> (Duration, Answer) + Send + Sync + 'static {
    move |call| {
        let number = number_of(&call.body);
        let at = STEPS.iter().position(|step| *step == call.step);
        let mut random = random_of(&(seed, number, at, call.way, call.attempt));
        let delay = match random.random_range(0..1_000) {
            0..15 => RUNNING.mul_f64(random.random_range(1.1..2.0)),
            15..150 => Duration::from_millis(random.random_range(80..400)),
            _ => Duration::from_millis(random.random_range(0..40)),
        };
        let passing = random.random_range(0..100);
        let answer = match fate(seed, number) {
            Fate::RefusedAt(step) if call.way == Way::Do && at == Some(step) => match passing {
                0..10 => Answer::NotNow,
                10..30 => Answer::LostBefore,
                _ => Answer::Never,
            },
            Fate::SilentAt(step) if call.way == Way::Do && at == Some(step) => match passing {
                0..50 => Answer::LostBefore,
                _ => Answer::LostAfter,
            },
            _ => match passing {
                0..5 => Answer::NotNow,
                5..10 => Answer::LostBefore,
                10..15 => Answer::LostAfter,
                _ => Answer::Done,
            },
        };
        if let Fate::LateAt(step) = fate(seed, number)
            && call.way == Way::Do
            && at == Some(step)
        {
            return if call.attempt < ATTEMPTS {
                (delay, Answer::LostBefore)
            } else {
                let late = random.random_range(1.3..2.5);
                (RUNNING.mul_f64(late), Answer::LostAfter)
            };
        }
        (delay, answer)
    }
}

/// The saga's number, as the body of each of its calls says.
fn number_of(body: &Value) -> u64 {
    body["number"].as_u64().expect("each body has the number")
}

fn random_of(what: &impl Hash) -> StdRng {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    StdRng::seed_from_u64(hasher.finish())
}

/// Five steps at a server of effects. Each step's body carries the receipt of the one before, each undo's what its step returned.
pub(crate) fn definition(
    effects: &EffectServer,
    running: Duration,
    undo_blocks_late: bool,
) -> Value {
    let url = effects.url();
    let step = |(at, name): (usize, &&str)| {
        let before = match at {
            0 => Value::Null,
            _ => json!(format!(
                "{{{{ steps.{}.output.body.receipt }}}}",
                STEPS[at - 1]
            )),
        };
        let body = |member: &str, value: Value| json!({ "saga": "{{ saga.id }}", "number": "{{ inputs.number }}", member: value });
        json!({
            "name": name,
            "action": { "http": { "method": "POST", "url": format!("{url}/do/{name}"), "body": body("before", before) } },
            "undo": { "http": { "method": "POST", "url": format!("{url}/undo/{name}"), "body": body("output", json!("{{ output }}")) } },
            "retry": { "attempts": ATTEMPTS, "initial_backoff_ms": 20, "max_backoff_ms": 200 },
            "timeouts": { "running_ms": running.as_millis() },
            "on_unknown": "retry",
            "undo_blocks_late": undo_blocks_late,
        })
    };
    let steps: Vec<_> = STEPS.iter().enumerate().map(step).collect();
    json!({ "name": "five", "version": 1, "steps": steps })
}

/// What every server of these tests is told.
pub(crate) fn server(lease: Duration) -> ServerBuilder {
    Server::builder().configuration(format!(
        "[saga]\nhttp_allow_local = true\n[lease]\nduration_ms = {}\n",
        lease.as_millis()
    ))
}

pub(crate) async fn define(connection: &Connection, definition: &Value) {
    let request = CreateSagaDefinitionRequest {
        definition_json: definition.to_string(),
        validate_only: false,
    };
    let mut sagas = connection.sagas();
    let created = connection.call(sagas.create_saga_definition(request)).await;
    created.expect("the definition has no problem");
}

/// Starts one saga; the same number again is the same saga.
pub(crate) async fn start(connection: &Connection, number: u64) -> Result<Saga, Error> {
    let request = StartSagaRequest {
        plan: Some(Plan::Definition(DefinitionRef {
            name: "five".to_owned(),
            version: 1,
        })),
        inputs_json: json!({ "number": number }).to_string(),
        deployment_id: number.to_string(),
        request_id: format!("saga-{number}"),
        ..StartSagaRequest::default()
    };
    let mut sagas = connection.sagas();
    let answer = connection.call(sagas.start_saga(request)).await?;
    Ok(answer.saga.expect("an answer has the saga"))
}

/// Starts sagas from several tasks with pauses between, each again and again until some server answers. Their ids, by number.
pub(crate) async fn start_all(
    endpoints: &Endpoints,
    seed: u64,
    numbers: Range<u64>,
    tasks: u64,
    pause_ms: Range<u64>,
) -> Vec<String> {
    let mut starters = Vec::new();
    for task in 0..tasks {
        let mine: Vec<u64> = numbers
            .clone()
            .filter(|number| number % tasks == task)
            .collect();
        let (endpoints, pause_ms) = (endpoints.clone(), pause_ms.clone());
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(task));
        starters.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for number in mine {
                sleep(Duration::from_millis(random.random_range(pause_ms.clone()))).await;
                ids.push((
                    number,
                    start_stubbornly(&endpoints, number, &mut random).await,
                ));
            }
            ids
        }));
    }
    let mut ids = Vec::new();
    for starter in starters {
        ids.extend(starter.await.expect("a starter does not panic"));
    }
    ids.sort_unstable();
    ids.into_iter().map(|(_, id)| id).collect()
}

async fn start_stubbornly(endpoints: &Endpoints, number: u64, random: &mut StdRng) -> String {
    loop {
        if let Ok(connection) = connect(&endpoints.any(random), DEADLINE).await {
            match start(&connection, number).await {
                Ok(saga) => return saga.id,
                Err(error) => assert!(error.is_transient(), "nothing is wrong with it: {error}"),
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// All sagas that there are.
pub(crate) async fn list(
    connection: &Connection,
    states: &[SagaState],
) -> Result<Vec<Saga>, Error> {
    let mut request = ListSagasRequest {
        states: states.iter().map(|state| (*state).into()).collect(),
        page_size: 1_000,
        ..ListSagasRequest::default()
    };
    let mut listed = Vec::new();
    loop {
        let mut sagas = connection.sagas();
        let page = connection.call(sagas.list_sagas(request.clone())).await?;
        listed.extend(page.sagas);
        if page.next_page_token.is_empty() {
            return Ok(listed);
        }
        request.page_token = page.next_page_token;
    }
}

/// Waits until nothing goes on by itself any more.
pub(crate) async fn settled(endpoints: &Endpoints, patience: Duration) {
    let moving = [
        SagaState::Pending,
        SagaState::Running,
        SagaState::Compensating,
    ];
    let mut random = StdRng::from_os_rng();
    let began = Instant::now();
    loop {
        let listed = match connect(&endpoints.any(&mut random), DEADLINE).await {
            Ok(connection) => list(&connection, &moving).await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(moving) if moving.is_empty() => return,
            Ok(moving) => assert!(
                began.elapsed() < patience,
                "{} sagas do not end within {patience:?}, among them {:#?}",
                moving.len(),
                &moving[..moving.len().min(3)]
            ),
            Err(error) => assert!(began.elapsed() < patience, "{error}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Reads everything about these sagas, which are all that there are.
pub(crate) async fn tell(connection: &Connection, ids: &[String]) -> Vec<Told> {
    let listed = list(connection, &[]).await.expect("they can be listed");
    let listed: BTreeSet<_> = listed.into_iter().map(|saga| saga.id).collect();
    let started: BTreeSet<_> = ids.iter().cloned().collect();
    assert_eq!(started.len(), ids.len(), "each saga is its own");
    assert_eq!(listed, started, "none is lost, and none was started twice");
    stream::iter(ids)
        .map(|id| tell_one(connection, id))
        .buffered(READERS)
        .try_collect()
        .await
        .expect("each saga can be read")
}

async fn tell_one(connection: &Connection, id: &str) -> Result<Told, Error> {
    let mut sagas = connection.sagas();
    let id = id.to_owned();
    let request = GetSagaRequest { id: id.clone() };
    let saga = connection.call(sagas.get_saga(request)).await?;
    let saga = saga.saga.expect("an answer has the saga");
    let request = ListSagaStepsRequest {
        id: id.clone(),
        ..ListSagaStepsRequest::default()
    };
    let steps = connection.call(sagas.list_saga_steps(request)).await?.steps;
    let mut events = Vec::new();
    let mut request = ListSagaEventsRequest {
        id,
        page_size: 1_000,
        ..ListSagaEventsRequest::default()
    };
    loop {
        let page = connection
            .call(sagas.list_saga_events(request.clone()))
            .await?;
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let number = saga.deployment_id.parse();
    Ok(Told {
        number: number.expect("it was started with its number"),
        saga,
        steps,
        events,
    })
}

// === impl Replicas ===

impl Replicas {
    pub(crate) async fn start(builder: ServerBuilder, count: usize) -> Self {
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(builder.start().await);
        }
        let endpoints = Endpoints::new(servers.iter().map(Server::grpc_endpoint));
        Self {
            builder,
            servers,
            endpoints,
        }
    }

    /// A connection to one of them.
    pub(crate) async fn connect(&self, at: usize) -> Connection {
        connect(&self.servers[at].grpc_endpoint(), DEADLINE)
            .await
            .expect("the server is ready")
    }

    /// Kills some of them at one moment, and starts others in their places.
    pub(crate) async fn kill(&mut self, which: Range<usize>) {
        for at in which.clone() {
            self.servers[at].kill().await;
        }
        for at in which {
            self.servers[at] = self.builder.start().await;
        }
        self.endpoints
            .set(self.servers.iter().map(Server::grpc_endpoint));
    }
}
