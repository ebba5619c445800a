//! An older copy that is put back as an operator does it: a SQLite file between two runs, a PostgreSQL database by its name under a
//! running server.

use std::{path::Path, process::Command};

use steadfast_client::api::watch::v1::ResetReason;
use steadfast_testkit::{Server, TestDatabase, history::StartAt};
use tokio::time::timeout;

use super::{
    fleet::Caller,
    returning::{Past, assert_changed, assert_sound, names, publish_when_back},
};
use crate::history::{
    publishing::publish_all,
    recording::{PATIENCE, Recorder},
    truth,
};

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn of_a_sqlite_file_between_runs() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let (data, copy) = (
        directory.path().join(".steadfast"),
        directory.path().join("copy"),
    );
    let builder = Server::builder().directory(directory.path());
    let mut server = builder.start().await;
    let kept = publish_all(&Caller::to(&server).await.0, names("kept", 40)).await;
    server.stop().await;
    copy_folder(&data, &copy);
    let mut server = builder.start().await;
    let lost = publish_all(&Caller::to(&server).await.0, names("lost", 41)).await;
    let past = Past { kept, lost };
    server.kill().await;
    std::fs::remove_dir_all(&data).expect("the folder can be removed");
    copy_folder(&copy, &data);

    let server = builder.start().await;
    // Before anything is written the lost cursors are above the head; then they are not.
    let committed = truth::of_sqlite(directory.path()).await;
    assert_eq!(committed.len(), 40);
    past.assert_nobody_skips(&server, &committed).await;
    past.publish_past(&Caller::to(&server).await).await;
    let committed = truth::of_sqlite(directory.path()).await;
    past.assert_nobody_skips(&server, &committed).await;
}

#[tokio::test]
async fn of_a_postgres_database_under_a_running_server() {
    let database = TestDatabase::create().await;
    let server = Server::builder().database_url(database.url());
    let server = server.start().await;
    let caller = Caller::to(&server).await;
    let kept = publish_all(&caller.0, names("kept", 40)).await;
    let copy = database.copy().await;
    let lost = publish_all(&caller.0, names("lost", 41)).await;
    let past = Past { kept, lost };
    let seen = past.lost.last().expect("some").cursor;
    let endpoint = server.grpc_endpoint();
    let mut live = Recorder::new("live", StartAt::Earliest);
    let mut strict = Recorder::new("live and strict", StartAt::After(seen)).or_fail();
    let mut live_stream = live.open(&endpoint).await.expect("opens");
    live_stream.until(seen.revision).await.expect("reads");
    let mut strict_stream = strict.open(&endpoint).await.expect("opens");
    strict_stream.next().await.expect("opens");

    database.replace_with(copy).await;
    publish_when_back(&caller, "first").await;
    let reason = timeout(PATIENCE, live_stream.until_reset()).await;
    let reason = reason.expect("in time").expect("a reset is no error");
    assert_eq!(reason, ResetReason::StoreChanged);
    let ended = timeout(PATIENCE, async {
        loop {
            if let Err(error) = strict_stream.next().await {
                return error;
            }
        }
    });
    assert_changed(&ended.await.expect("in time"));
    let last = past.publish_past(&caller).await;
    let until = live_stream.until(last.cursor.revision);
    timeout(PATIENCE, until)
        .await
        .expect("in time")
        .expect("on");
    drop((live_stream, strict_stream));
    let committed = truth::parse(&database.psql(truth::POSTGRES).await);
    let head = caller.head().await.expect("is there").head.expect("is set");
    let store_id = head.store_id.parse().expect("a UUID");
    assert_ne!(store_id, seen.store_id, "a new identity was drawn");
    assert_sound(live, store_id, &committed);
    past.assert_nobody_skips(&server, &committed).await;
}
