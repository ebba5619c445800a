//! Starts that wait for their saga: the answer is what anybody would read, whoever carried it and however it ended.

use std::{sync::Arc, time::Duration};

use steadfast_saga::{SagaFilter, SagaView, State, Verb};
use steadfast_types::Timestamp;
use tokio::sync::Notify;

use crate::scene::{Fixture, Replica, effect, start};

const LONG: Duration = Duration::from_secs(30);

async fn read(replica: &Replica, answered: &SagaView) {
    let read = replica.engine.get(&answered.id).await.unwrap();
    assert_eq!(*answered, read);
}

/// The id of the one saga that there is, as soon as there is one.
async fn only_saga(replica: &Replica) -> String {
    loop {
        let all = replica.engine.list(SagaFilter::default(), None, 2);
        if let [one] = &all.await.unwrap()[..] {
            return one.id.clone();
        }
    }
}

#[tokio::test]
async fn a_start_that_waits_answers_as_the_saga_is_read() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let ends = [
            (None, "", State::Completed),
            (None, "fail", State::Compensated),
            (None, "flaky", State::Completed),
            (Some("key"), "", State::Completed),
        ];
        for (key, what, state) in ends {
            let mut wanted = start(vec![effect("a", ""), effect("b", what)]);
            wanted.concurrency_key = key.map(str::to_owned);
            let waited = replica.engine.start_and_wait(wanted, None, LONG);
            let (answered, replayed) = waited.await.unwrap();
            assert_eq!((answered.saga.state, replayed), (state, false));
            let [created, ended] = [Some(answered.create_time), answered.end_time];
            assert!(created <= answered.start_time && answered.start_time <= ended);
            assert!(ended > Some(Timestamp(0)), "{answered:?}");
            read(&replica, &answered).await;
        }
    }
}

/// What the start had seen of it is not all that there is to say.
#[tokio::test]
async fn a_start_whose_saga_is_steered_answers_as_it_is_read() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        let gate = Arc::new(Notify::new());
        let held = ("held".to_owned(), Arc::clone(&gate));
        fixture.world.hold.lock().unwrap().extend([held]);
        let wanted = start(vec![effect("held", ""), effect("b", "")]);
        let waited = replica.engine.start_and_wait(wanted, None, LONG);
        let steered = async {
            let id = only_saga(&replica).await;
            while fixture.log().is_empty() {
                tokio::task::yield_now().await;
            }
            let steered = replica.engine.steer(&id, Verb::Cancel, "me", "enough");
            assert!(steered.await.unwrap().saga.cancel_requested);
            // Its undo is not held.
            fixture.world.hold.lock().unwrap().clear();
            gate.notify_one();
        };
        let (answered, ()) = tokio::join!(waited, steered);
        let (answered, _) = answered.unwrap();
        assert_eq!(answered.saga.state, State::Compensated);
        read(&replica, &answered).await;
    }
}

/// A start that no longer waits hears where the saga is, and nothing of it is forgotten.
#[tokio::test]
async fn a_start_that_waits_too_short_answers_with_a_saga_under_way() {
    for fixture in Fixture::both().await {
        let replica = fixture.replica().await;
        // It has its lease once it has carried one.
        let first = start(vec![effect("first", "")]);
        let first = replica.engine.start_and_wait(first, None, LONG).await;
        assert_eq!(first.unwrap().0.saga.state, State::Completed);
        let held = ("held".to_owned(), Arc::new(Notify::new()));
        fixture.world.hold.lock().unwrap().extend([held]);
        let wanted = start(vec![effect("held", "")]);
        let short = Duration::from_millis(50);
        let waited = replica.engine.start_and_wait(wanted, None, short);
        let (answered, _) = waited.await.unwrap();
        assert_eq!(answered.saga.state, State::Running);
        assert_eq!(answered.end_time, None);
        read(&replica, &answered).await;
    }
}
