//! Writers, each of which publishes one call after the other and remembers what was acknowledged.

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
    pub(crate) keys: Vec<String>,
}

/// What became of all calls of a writer.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) acknowledged: Vec<Acknowledged>,
    pub(crate) failed: usize,
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
    let keys = changes
        .iter()
        .map(|change| format!("{}:{}", change.topic, change.key))
        .collect();
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

// === impl Writers ===

impl Writers {
    /// Starts so many writers, spread over the servers. After a failed call a writer goes on with its next one. No two writers of
    /// different seeds use the same keys.
    pub(crate) fn start(count: usize, seed: u64, endpoints: &Endpoints) -> Self {
        let mut writers = Self {
            stop: Arc::default(),
            count: Arc::default(),
            tasks: Vec::new(),
        };
        for number in 0..count {
            let writer = write(
                format!("{seed:x}.{number}"),
                StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                endpoints.clone(),
                Arc::clone(&writers.stop),
                Arc::clone(&writers.count),
            );
            writers.tasks.push(tokio::spawn(writer));
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
            all.acknowledged.extend(written.acknowledged);
            all.failed += written.failed;
        }
        all
    }
}

async fn write(
    name: String,
    mut random: StdRng,
    endpoints: Endpoints,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Written {
    let mut written = Written::default();
    let mut connection = None;
    let mut call = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let server = match &connection {
            Some(connection) => connection,
            None => {
                let endpoint = endpoints.any(&mut random);
                match connect(&endpoint, DEADLINE).await {
                    Ok(new) => connection.insert(new),
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                }
            }
        };
        call += 1;
        let changes = changes(&name, call, &mut random);
        let request_id = match call % 2 {
            0 => String::new(),
            _ => Uuid::new_v4().to_string(),
        };
        match publish(server, changes, &request_id).await {
            Ok((acknowledged, _)) => {
                written.acknowledged.push(acknowledged);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(error.is_transient(), "nothing is wrong with it: {error}");
                written.failed += 1;
                connection = None;
            }
        }
    }
    written
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
