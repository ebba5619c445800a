//! Notifications save time and carry no facts: without them everything still arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steadfast_testkit::{
    Server, TestDatabase,
    history::{StartAt, check},
};
use steadfast_types::Revision;
use tokio::time::{sleep, timeout};

use super::fleet::Caller;
use crate::history::{
    publishing::publish_all,
    recording::{PATIENCE, Recorder},
    truth,
};

/// Ends every connection that listens, as soon as it is there.
async fn deafen(database: Arc<TestDatabase>, stop: Arc<AtomicBool>) -> usize {
    let mut ended = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = database
            .psql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query \
                 ILIKE 'LISTEN %'",
            )
            .await;
        ended += count.parse::<usize>().expect("a count is a number");
        sleep(Duration::from_millis(5)).await;
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_listen_still_delivers_everything() {
    let database = Arc::new(TestDatabase::create().await);
    let builder = Server::builder().database_url(database.url());
    let (writer, deaf) = tokio::join!(builder.start(), builder.start());
    let stop = Arc::new(AtomicBool::new(false));
    let deafening = tokio::spawn(deafen(Arc::clone(&database), Arc::clone(&stop)));

    let caller = Caller::to(&writer).await;
    let mut recorder = Recorder::new("on the deaf replica", StartAt::Earliest);
    let mut stream = recorder.open(&deaf.grpc_endpoint()).await.expect("opens");
    // In bursts, so that the last of each burst has to be found without a later one's help.
    for burst in 0..4 {
        let keys = (0..25).map(|number| format!("{burst}-{number}"));
        let last = publish_all(&caller.0, keys).await.pop().expect("some");
        timeout(PATIENCE, stream.until(last.cursor.revision))
            .await
            .expect("found by polling")
            .expect("the stream stays open");
    }
    stop.store(true, Ordering::Relaxed);
    let ended = deafening.await.expect("deafening goes on to the end");
    assert!(ended >= 2, "{ended} connections were ended");
    drop(stream);
    let committed = truth::parse(&database.psql(truth::POSTGRES).await);
    assert_eq!(committed.last().expect("some").revision, Revision(100));
    let store_id = deaf.store_id().parse().expect("a UUID");
    let judged = check(store_id, &committed, &[recorder.into_log(true)]);
    judged.expect("everything arrived in order and once");
}
