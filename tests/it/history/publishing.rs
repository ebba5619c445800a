//! Writers, each of which publishes one call after the other and remembers how each was answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use steadfast_client::{
    Connection, Cursor, Error,
    api::watch::v1::{Op, PublishRequest, publish_request::Change},
    connect, cursor_from_api,
};
use steadfast_testkit::history::{Answer, Call, Key, key};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::watching::Endpoints;

/// How long a call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The topics that writers use.
pub(crate) const TOPICS: [&str; 3] = ["app/a", "app/b/c", "app/d"];

/// A publish that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    /// What the answer said.
    pub(crate) cursor: Cursor,
    /// What was published, each as `topic:key`.
    pub(crate) keys: Vec<Key>,
}

/// What became of all calls of all writers.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) calls: Vec<Call>,
}

/// How writers go about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// How long a call may take.
    pub(crate) deadline: Duration,
    /// The longest pause between two calls.
    pub(crate) pause: Duration,
    /// Makes a call with a request id again, until it is answered.
    pub(crate) insists: bool,
}

impl Manners {
    /// One call after the other, and on to the next when one fails.
    pub(crate) const PLAIN: Self = Self {
        deadline: DEADLINE,
        pause: Duration::ZERO,
        insists: false,
    };
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Written>>,
}

/// A change of a key, without anything attached.
pub(crate) fn change(topic: &str, key: impl Into<String>) -> Change {
    Change {
        topic: topic.to_owned(),
        key: key.into(),
        op: Op::Upsert.into(),
        ..Change::default()
    }
}

/// One call. Also says whether it had been made before.
pub(crate) async fn publish(
    connection: &Connection,
    changes: Vec<Change>,
    request_id: &str,
) -> Result<(Acknowledged, bool), Error> {
    let keys = keys_of(&changes);
    let request = PublishRequest {
        changes,
        request_id: request_id.to_owned(),
        ..PublishRequest::default()
    };
    let answer = connection
        .call(connection.watches().publish(request))
        .await?;
    let cursor = cursor_from_api(answer.cursor)?;
    Ok((Acknowledged { cursor, keys }, answer.replayed))
}

fn keys_of(changes: &[Change]) -> Vec<Key> {
    let name = |change: &Change| key(&format!("{}:{}", change.topic, change.key));
    changes.iter().map(name).collect()
}

/// Publishes single keys one after the other, all of which must be acknowledged.
pub(crate) async fn publish_all(
    connection: &Connection,
    keys: impl IntoIterator<Item = String>,
) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for key in keys {
        let (ack, _) = publish(connection, vec![change("app/a", key)], "")
            .await
            .expect("nothing is wrong with the database");
        acknowledged.push(ack);
    }
    acknowledged
}

/// Publishes a key with a request id, again and again until a server answers, whichever it is by then.
pub(crate) async fn publish_stubbornly(endpoints: &Endpoints, key: String) -> Acknowledged {
    let mut random = StdRng::from_os_rng();
    let request_id = Uuid::new_v4().to_string();
    loop {
        if let Ok(connection) = connect(&endpoints.any(&mut random), DEADLINE).await {
            let changes = vec![change("app/a", key.clone())];
            match publish(&connection, changes, &request_id).await {
                Ok((acknowledged, _)) => return acknowledged,
                Err(error) => assert!(error.is_transient(), "nothing is wrong with it: {error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// === impl Acknowledged ===

impl Acknowledged {
    /// For the judge, when nothing else is known of the call.
    pub(crate) fn call(&self) -> Call {
        Call {
            keys: self.keys.clone(),
            request_id: None,
            answer: Answer::Acknowledged {
                cursor: self.cursor,
                replayed: false,
            },
        }
    }
}

// === impl Written ===

impl Written {
    /// Calls that were acknowledged, and that were not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let acknowledged = |call: &&Call| matches!(call.answer, Answer::Acknowledged { .. });
        let acknowledged = self.calls.iter().filter(acknowledged).count();
        (acknowledged, self.calls.len() - acknowledged)
    }
}

// === impl Writers ===

impl Writers {
    /// Starts so many writers, spread over the servers. No two writers of different seeds use the same keys.
    pub(crate) fn start(count: usize, seed: u64, endpoints: &Endpoints) -> Self {
        Self::start_with(count, seed, endpoints, Manners::PLAIN)
    }

    /// The same with other manners.
    pub(crate) fn start_with(
        count: usize,
        seed: u64,
        endpoints: &Endpoints,
        manners: Manners,
    ) -> Self {
        let mut writers = Self {
            stop: Arc::default(),
            count: Arc::default(),
            tasks: Vec::new(),
        };
        for number in 0..count {
            let writer = Writer {
                name: format!("{seed:x}.{number}"),
                random: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                endpoints: endpoints.clone(),
                manners,
                stop: Arc::clone(&writers.stop),
                count: Arc::clone(&writers.count),
                connection: None,
                written: Written::default(),
            };
            writers.tasks.push(tokio::spawn(writer.write()));
        }
        writers
    }

    /// Acknowledged calls so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Lets each finish its call.
    pub(crate) async fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for task in self.tasks {
            let written = task.await.expect("a writer does not panic");
            all.calls.extend(written.calls);
        }
        all
    }
}

struct Writer {
    name: String,
    random: StdRng,
    endpoints: Endpoints,
    manners: Manners,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    connection: Option<Connection>,
    written: Written,
}

// === impl Writer ===

impl Writer {
    async fn write(mut self) -> Written {
        let mut call = 0_u32;
        while !self.is_stopped() {
            call += 1;
            let changes = changes(&self.name, call, &mut self.random);
            let request_id = match call % 2 {
                0 => String::new(),
                _ => Uuid::new_v4().to_string(),
            };
            let insists = self.manners.insists && !request_id.is_empty();
            while !self.publish(&changes, &request_id).await && insists && !self.is_stopped() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let pause = self.manners.pause.mul_f64(self.random.random());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        self.written
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Makes a call on the connection there is, or else on a new one, and notes what came of it. True if it was acknowledged.
    async fn publish(&mut self, changes: &[Change], request_id: &str) -> bool {
        let connection = loop {
            if let Some(connection) = &self.connection {
                break connection;
            }
            let endpoint = self.endpoints.any(&mut self.random);
            self.connection = connect(&endpoint, self.manners.deadline).await.ok();
            if self.connection.is_none() {
                if self.is_stopped() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answer = match publish(connection, changes.to_vec(), request_id).await {
            Ok((Acknowledged { cursor, .. }, replayed)) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                Answer::Acknowledged { cursor, replayed }
            }
            Err(error) => {
                assert!(error.is_transient(), "nothing is wrong with it: {error}");
                self.connection = None;
                match error.metadata.get("outcome").map(String::as_str) {
                    Some("not_written") => Answer::Refused,
                    _ => Answer::Unknown,
                }
            }
        };
        self.written.calls.push(Call {
            keys: keys_of(changes),
            request_id: (!request_id.is_empty()).then(|| request_id.to_owned()),
            answer,
        });
        matches!(answer, Answer::Acknowledged { .. })
    }
}

/// Mostly a few changes; now and then a revision that is larger than one message of the stream.
fn changes(writer: &str, call: u32, random: &mut StdRng) -> Vec<Change> {
    let (count, payload) = if call % 400 == 200 {
        (120, 4_096)
    } else {
        (random.random_range(1..=4), random.random_range(0..64))
    };
    (0..count)
        .map(|index| {
            let topic = TOPICS[random.random_range(0..TOPICS.len())];
            let letter = ["k", "l", "m"][random.random_range(0..3)];
            Change {
                payload: vec![7; payload].into(),
                ..change(topic, format!("{letter}-{writer}-{call}-{index}"))
            }
        })
        .collect()
}
