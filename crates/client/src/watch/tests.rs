use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use futures::{StreamExt, stream::BoxStream};
use steadfast_api::watch::v1::{
    GetHeadRequest, GetHeadResponse, PublishRequest, PublishResponse,
    watch_response::{Batch, Opened, Progress, Reset},
    watch_service_server::{WatchService, WatchServiceServer},
};
use steadfast_types::{Mark, Revision, StoreId};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::connect;

type Script = Vec<Result<Event, Status>>;

/// Plays one script for each stream, and keeps the requests.
#[derive(Clone, Default)]
struct Player {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    requests: Arc<Mutex<Vec<WatchRequest>>>,
}

#[tonic::async_trait]
impl WatchService for Player {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = self.requests.lock().expect("no panic");
        requests.push(request.into_inner());
        let script = self.scripts.lock().expect("no panic").pop_front();
        let script = script.ok_or_else(|| Status::unimplemented("the play is over"))?;
        let messages = script
            .into_iter()
            .map(|event| event.map(|event| WatchResponse { event: Some(event) }));
        Ok(Response::new(futures::stream::iter(messages).boxed()))
    }

    async fn publish(
        &self,
        _request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        Err(Status::unimplemented("not part of the play"))
    }

    async fn get_head(
        &self,
        _request: Request<GetHeadRequest>,
    ) -> Result<Response<GetHeadResponse>, Status> {
        Err(Status::unimplemented("not part of the play"))
    }
}

fn cursor(revision: i64) -> Cursor {
    Cursor {
        store_id: StoreId::default(),
        revision: Revision(revision),
        mark: Mark(revision.unsigned_abs() + 1),
    }
}

fn opened(head: i64) -> Result<Event, Status> {
    Ok(Event::Opened(Opened {
        head: Some(cursor_to_api(cursor(head))),
        compacted: Some(cursor_to_api(cursor(1))),
    }))
}

/// Changes named `REVISION/INDEX`.
fn batch(changes: &[&str], until: i64, more: bool) -> Result<Event, Status> {
    let changes = changes.iter().map(|key| Change {
        key: (*key).to_owned(),
        revision: key
            .split_once('/')
            .and_then(|(revision, _)| revision.parse().ok())
            .expect("REVISION/INDEX"),
        ..Change::default()
    });
    Ok(Event::Batch(Batch {
        changes: changes.collect(),
        cursor: Some(cursor_to_api(cursor(until))),
        more,
    }))
}

async fn play(scripts: Vec<Script>, start: WatchStart) -> (WatchStream, Player) {
    let player = Player {
        scripts: Arc::new(Mutex::new(scripts.into())),
        ..Player::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(
        Server::builder()
            .add_service(WatchServiceServer::new(player.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let connection = connect(&address.to_string(), Duration::from_secs(5))
        .await
        .expect("the server listens");
    let options = WatchOptions {
        start,
        ..WatchOptions::default()
    };
    (WatchStream::new(&connection, options), player)
}

/// Reads until the play is over, and writes down what came.
async fn read(watch: &mut WatchStream) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        seen.push(match watch.next().await {
            Ok(WatchEvent::Opened { head, .. }) => format!("opened {}", head.revision),
            Ok(WatchEvent::Batch { changes, cursor }) => {
                let keys: Vec<_> = changes.into_iter().map(|change| change.key).collect();
                format!("{} until {}", keys.join(" "), cursor.revision)
            }
            Ok(WatchEvent::Progress { cursor }) => format!("progress {}", cursor.revision),
            Ok(WatchEvent::Reset { reason, head, .. }) => format!("{reason:?} {}", head.revision),
            Ok(WatchEvent::Disconnected { error, .. }) => format!("lost {}", error.message),
            Err(error) => {
                assert_eq!(error.code, Code::Unimplemented, "{error}");
                return seen;
            }
        });
    }
}

fn positions(player: &Player) -> Vec<Option<i64>> {
    let requests = player.requests.lock().expect("no panic");
    let position = |request: &WatchRequest| match request.start.clone()?.position? {
        Position::After(cursor) => Some(cursor.revision),
        Position::Earliest(()) | Position::Now(()) => None,
    };
    requests.iter().map(position).collect()
}

#[tokio::test]
async fn a_lost_stream_goes_on_after_the_last_cursor() {
    let scripts = vec![
        vec![
            opened(5),
            batch(&["6/0", "7/0"], 7, false),
            Err(Status::unavailable("killed")),
        ],
        vec![Err(Status::unavailable("not yet"))],
        vec![
            opened(9),
            batch(&["8/0"], 8, false),
            Ok(Event::Progress(Progress {
                cursor: Some(cursor_to_api(cursor(20))),
            })),
        ],
        vec![opened(20)],
    ];
    let (mut watch, player) = play(scripts, WatchStart::Now).await;
    let ended = "lost the server ended the stream without a reason";
    assert_eq!(
        read(&mut watch).await,
        [
            "opened 5",
            "6/0 7/0 until 7",
            "lost killed",
            "lost not yet",
            "opened 9",
            "8/0 until 8",
            "progress 20",
            ended,
            "opened 20",
            ended,
        ]
    );
    assert_eq!(
        positions(&player),
        [None, Some(7), Some(7), Some(20), Some(20)]
    );
    assert_eq!(watch.cursor(), Some(cursor(20)));
}

#[tokio::test]
async fn now_means_the_first_now() {
    let lost = || Err(Status::unavailable("killed"));
    let scripts = vec![vec![opened(5), lost()], vec![opened(9), lost()]];
    let (mut watch, player) = play(scripts, WatchStart::Now).await;
    read(&mut watch).await;
    assert_eq!(positions(&player), [None, Some(5), Some(5)]);
}

#[tokio::test]
async fn earliest_goes_on_from_the_compacted_revision() {
    let scripts = vec![vec![opened(5), Err(Status::unavailable("killed"))]];
    let (mut watch, player) = play(scripts, WatchStart::Earliest).await;
    read(&mut watch).await;
    assert_eq!(positions(&player), [None, Some(1)]);
}

#[tokio::test]
async fn a_split_revision_is_handed_out_once_and_whole() {
    let scripts = vec![
        vec![
            opened(5),
            batch(&["6/0", "7/0", "7/1"], 6, true),
            Err(Status::unavailable("killed")),
        ],
        vec![
            opened(7),
            batch(&["7/0", "7/1"], 6, true),
            batch(&["7/2"], 6, true),
            batch(&["7/3", "8/0"], 8, false),
        ],
    ];
    let (mut watch, player) = play(scripts, WatchStart::After(cursor(5))).await;
    let seen = read(&mut watch).await;
    assert_eq!(
        seen[..5],
        [
            "opened 5",
            "6/0 until 6",
            "lost killed",
            "opened 7",
            "7/0 7/1 7/2 7/3 8/0 until 8",
        ]
    );
    assert_eq!(positions(&player), [Some(5), Some(6), Some(8)]);
}

#[tokio::test]
async fn a_reset_moves_the_cursor_to_the_head() {
    let reset = Event::Reset(Reset {
        reason: ApiResetReason::StoreChanged.into(),
        head: Some(cursor_to_api(cursor(3))),
        compacted: Some(cursor_to_api(cursor(0))),
    });
    let scripts = vec![vec![
        opened(3),
        Ok(reset),
        Err(Status::unavailable("killed")),
    ]];
    let (mut watch, player) = play(scripts, WatchStart::After(cursor(100))).await;
    assert_eq!(
        read(&mut watch).await,
        ["opened 3", "StoreChanged 3", "lost killed"]
    );
    assert_eq!(positions(&player), [Some(100), Some(3)]);
}

#[tokio::test]
async fn the_wait_that_the_server_asks_for_is_kept() {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(Duration::from_secs(3_600)));
    let status = Status::with_error_details(Code::Unavailable, "draining", details);
    let (mut watch, _player) = play(vec![vec![Err(status)]], WatchStart::Now).await;
    let event = watch.next().await.expect("a loss is no error");
    let WatchEvent::Disconnected { retry_in, .. } = event else {
        panic!("{event:?}");
    };
    assert_eq!(retry_in, Duration::from_secs(3_600));
}

#[test]
fn waits_double_up_to_the_cap_with_full_jitter() {
    assert_eq!(wait(0, 0.0), Duration::ZERO);
    assert_eq!(wait(0, 1.0), FIRST_WAIT_MAX);
    assert_eq!(wait(3, 1.0), FIRST_WAIT_MAX * 8);
    assert_eq!(wait(3, 0.5), FIRST_WAIT_MAX * 4);
    assert_eq!(wait(40, 1.0), WAIT_MAX);
}
