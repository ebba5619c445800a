//! Clients that come back to a store whose history may be another one by now: each is told, or misses nothing.

use steadfast_client::{Code, Cursor, Error, api::watch::v1::ResetReason};
use steadfast_testkit::{
    Server,
    history::{Committed, Event, StartAt, WatcherLog, check},
};
use steadfast_types::StoreId;
use tokio::time::timeout;

use super::fleet::{Caller, eventually};
use crate::history::{
    publishing::{Acknowledged, change, publish, publish_all},
    recording::{PATIENCE, Recorder},
};

/// What was published before a copy was made, and after it.
pub(super) struct Past {
    pub(super) kept: Vec<Acknowledged>,
    pub(super) lost: Vec<Acknowledged>,
}

/// A client that resumes: where from, and whether it wants an error instead of a reset.
#[derive(Debug, Clone, Copy)]
struct Client {
    name: &'static str,
    cursor: Cursor,
    /// Its cursor is still a place in the restored history.
    legitimate: bool,
}

pub(super) async fn publish_when_back(caller: &Caller, key: &str) -> Acknowledged {
    eventually("the database can be written to", async || {
        let answer = publish(&caller.0, vec![change("app/a", key)], "").await;
        match answer {
            Ok((acknowledged, _)) => Some(acknowledged),
            Err(error) => {
                assert_eq!(error.code, Code::Unavailable, "{error}");
                None
            }
        }
    })
    .await
}

pub(super) fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}-{number}"))
}

// === impl Past ===

impl Past {
    fn clients(&self) -> [Client; 5] {
        let client = |name, acknowledged: &Acknowledged, legitimate| Client {
            name,
            cursor: acknowledged.cursor,
            legitimate,
        };
        let (kept, lost) = (&self.kept, &self.lost);
        [
            client("far below the copy", &kept[5], true),
            client("at the copy", &kept[kept.len() - 1], true),
            client("just above the copy", &lost[0], false),
            client("above the copy", &lost[20], false),
            client("at the lost head", &lost[lost.len() - 1], false),
        ]
    }

    /// Writes beyond every cursor of the lost history.
    pub(super) async fn publish_past(&self, caller: &Caller) -> Acknowledged {
        publish_when_back(caller, "new-first").await;
        let highest = self.lost.last().expect("some").cursor.revision;
        let new = publish_all(&caller.0, names("new", 80)).await;
        let last = new.last().expect("some").clone();
        assert!(last.cursor.revision > highest, "{last:?}");
        last
    }

    /// Every client resumes, in both ways: it is told, or it misses nothing.
    pub(super) async fn assert_nobody_skips(&self, server: &Server, committed: &[Committed]) {
        let endpoint = server.grpc_endpoint();
        let last = committed.last().expect("some").revision;
        let caller = Caller::to(server).await;
        let head = caller.head().await.expect("is there").head.expect("is set");
        let store_id: StoreId = head.store_id.parse().expect("a UUID");
        for client in self.clients() {
            let mut recorder = Recorder::new(client.name, StartAt::After(client.cursor));
            if !client.legitimate {
                let told = timeout(PATIENCE, async {
                    recorder.open(&endpoint).await?.until_reset().await
                });
                let reason = told.await.expect("in time").expect("a reset is no error");
                assert_eq!(reason, ResetReason::StoreChanged, "{client:?}");
            }
            recorder
                .catch_up(&endpoint, last)
                .await
                .expect("a reset is no error");
            assert_sound(recorder, store_id, committed);

            let mut strict = Recorder::new(client.name, StartAt::After(client.cursor)).or_fail();
            let outcome = timeout(PATIENCE, async {
                let mut stream = strict.open(&endpoint).await?;
                if client.legitimate {
                    return stream.until(last).await;
                }
                loop {
                    stream.next().await?;
                }
            });
            match outcome.await.expect("in time") {
                Err(error) => assert_changed(&error),
                Ok(()) => assert_sound(strict, store_id, committed),
            }
        }
    }
}

pub(super) fn assert_changed(error: &Error) {
    let named = (error.code, error.reason.as_str());
    assert_eq!(
        named,
        (Code::FailedPrecondition, "STORE_CHANGED"),
        "{error}"
    );
}

/// Judges what came after the last reset, before which nothing of the new history may have come, or everything if there was
/// none.
pub(super) fn assert_sound(recorder: Recorder, store_id: StoreId, committed: &[Committed]) {
    let reasons = recorder.resets().to_vec();
    let mut log = recorder.into_log(true);
    if !reasons.is_empty() {
        assert!(
            reasons
                .iter()
                .all(|reason| *reason == ResetReason::StoreChanged),
            "{reasons:?}"
        );
        log = after_reset(log);
    }
    check(store_id, committed, &[log]).expect("nothing is skipped or repeated");
}

/// The same watcher, as if it had begun where its last reset put it.
fn after_reset(log: WatcherLog) -> WatcherLog {
    let is_reset = |event: &Event| matches!(event, Event::Reset { .. });
    let at = log
        .segments
        .iter()
        .rposition(|segment| segment.events.iter().any(is_reset));
    let mut segments = log.segments[at.expect("there was a reset")..].to_vec();
    let events = &mut segments[0].events;
    let last = events.iter().rposition(is_reset).expect("it is here");
    let Event::Reset { head } = events[last] else {
        unreachable!("it was found as one");
    };
    events.drain(..last);
    events[0] = Event::Opened { head };
    segments[0].start = StartAt::After(head);
    WatcherLog { segments, ..log }
}
