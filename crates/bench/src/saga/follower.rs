//! Who learns when sagas move: one stream over the topic `saga`, as a service follows many sagas of its own.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use steadfast_api::watch::v1::{
    Filter, WatchRequest, watch_response::Event, watch_service_client::WatchServiceClient,
};
use tokio::{sync::Notify, task::JoinHandle};
use tonic::{Streaming, transport::Channel};

use crate::error::Error;

#[derive(Debug, Default)]
struct Told {
    moved: HashSet<String>,
    ended: usize,
    failure: Option<String>,
}

/// Follows all sagas of a server.
#[derive(Debug)]
pub(super) struct Follower {
    told: Arc<Mutex<Told>>,
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

// === impl Follower ===

impl Follower {
    /// Opens the stream; everything that is committed after this returns is seen.
    pub(super) async fn open(channel: Channel) -> Result<Self, Error> {
        let mut stream = WatchServiceClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .watch(WatchRequest {
                filters: vec![Filter {
                    topic: "saga".to_owned(),
                    ..Filter::default()
                }],
                ..WatchRequest::default()
            })
            .await?
            .into_inner();
        let opened = stream.message().await?.and_then(|message| message.event);
        if !matches!(opened, Some(Event::Opened(_))) {
            return Err(Error::Unexpected(format!("a stream began with {opened:?}")));
        }
        let (told, news) = (
            Arc::new(Mutex::new(Told::default())),
            Arc::new(Notify::new()),
        );
        let task = tokio::spawn(follow(stream, Arc::clone(&told), Arc::clone(&news)));
        Ok(Self { told, news, task })
    }

    /// Waits until so many sagas have ended since the stream was opened.
    pub(super) async fn ended_count(&self, count: usize) -> Result<(), Error> {
        self.until(|told| (told.ended >= count).then_some(())).await
    }

    /// Waits until each of these has moved since the stream was opened.
    pub(super) async fn moved(&self, ids: &[String]) -> Result<(), Error> {
        self.until(|told| {
            let enough = told.moved.len() >= ids.len();
            (enough && ids.iter().all(|id| told.moved.contains(id))).then_some(())
        })
        .await
    }

    async fn until<T>(&self, mut found: impl FnMut(&Told) -> Option<T>) -> Result<T, Error> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let told = self.lock();
                if let Some(found) = found(&told) {
                    return Ok(found);
                }
                if let Some(failure) = &told.failure {
                    return Err(Error::Unexpected(failure.clone()));
                }
            }
            news.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    mut stream: Streaming<steadfast_api::watch::v1::WatchResponse>,
    told: Arc<Mutex<Told>>,
    news: Arc<Notify>,
) {
    let failure = loop {
        let batch = match stream.message().await {
            Ok(Some(message)) => match message.event {
                Some(Event::Batch(batch)) => batch,
                Some(Event::Progress(_)) => continue,
                other => break format!("the stream of sagas said {other:?}"),
            },
            Ok(None) => break "the stream of sagas ended".to_owned(),
            Err(status) => break format!("the stream of sagas failed: {status}"),
        };
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        for change in batch.changes {
            if change.etag.starts_with("completed/") {
                told.ended += 1;
            } else if change.etag.starts_with("stuck/") || change.etag.starts_with("comp") {
                told.failure = Some(format!("a saga went wrong: {}", change.etag));
            }
            told.moved.insert(change.key);
        }
        drop(told);
        news.notify_waiters();
    };
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    told.failure.get_or_insert(failure);
    drop(told);
    news.notify_waiters();
}
