//! Where the design says that a person is needed, and nowhere else: a step of which nobody knows whether it was done, in a saga
//! that rolls back, whose undo is no proof that it will not be done yet.

use std::time::Duration;

use steadfast_client::api::saga::v1::SagaState::{self, Compensated, Completed, Stuck};
use steadfast_testkit::{
    EffectServer,
    effects::{
        Answer::{self, Done, LostAfter, LostBefore, Never, NotNow},
        Call, Way,
    },
};

use super::{
    judge::judge,
    load::{Fate, RUNNING, Replicas, STEPS, define, definition, server, settled, start_all, tell},
};
use crate::scene::Engine;

/// What the server of effects does to one step, in one direction.
struct Trouble {
    at: usize,
    way: Way,
    /// The answers to its attempts; the last one is repeated.
    answers: &'static [Answer],
}

/// A saga, and what has to become of it.
struct Story {
    about: &'static str,
    troubles: &'static [Trouble],
    fate: Fate,
    /// Without, and with the promise that an undo blocks late calls.
    ends: [SagaState; 2],
}

const fn forward(at: usize, answers: &'static [Answer]) -> Trouble {
    let way = Way::Do;
    Trouble { at, way, answers }
}

const fn backward(at: usize, answers: &'static [Answer]) -> Trouble {
    let way = Way::Undo;
    Trouble { at, way, answers }
}

const STORIES: &[Story] = &[
    Story {
        about: "nothing is wrong",
        troubles: &[],
        fate: Fate::Completes,
        ends: [Completed, Completed],
    },
    Story {
        about: "an answer is lost, the step is done again, and all goes well",
        troubles: &[forward(1, &[LostAfter, Done])],
        fate: Fate::Completes,
        ends: [Completed, Completed],
    },
    Story {
        about: "an answer is lost, the step is known to be done by the next attempt, and a later step fails",
        troubles: &[forward(2, &[LostAfter, Done]), forward(4, &[Never])],
        fate: Fate::RefusedAt(4),
        ends: [Compensated, Compensated],
    },
    Story {
        about: "the step that fails certainly had no effect",
        troubles: &[forward(3, &[NotNow, Never])],
        fate: Fate::RefusedAt(3),
        ends: [Compensated, Compensated],
    },
    Story {
        about: "the step that fails had its effect, by an attempt of which nobody knows",
        troubles: &[forward(3, &[LostAfter, Never])],
        fate: Fate::RefusedAt(3),
        ends: [Stuck, Compensated],
    },
    Story {
        about: "the step that fails had no effect, by an attempt of which nobody knows",
        troubles: &[forward(3, &[LostBefore, Never])],
        fate: Fate::RefusedAt(3),
        ends: [Stuck, Compensated],
    },
    Story {
        about: "no attempt is ever answered, and the effect is there",
        troubles: &[forward(2, &[LostAfter])],
        fate: Fate::SilentAt(2),
        ends: [Stuck, Compensated],
    },
    Story {
        about: "no attempt of the first step is ever answered, and there is no effect",
        troubles: &[forward(0, &[LostBefore])],
        fate: Fate::SilentAt(0),
        ends: [Stuck, Compensated],
    },
    Story {
        about: "the last step's only effect is one of which nobody knows",
        troubles: &[forward(4, &[LostAfter, NotNow, Never])],
        fate: Fate::RefusedAt(4),
        ends: [Stuck, Compensated],
    },
    Story {
        about: "answers to undos of known steps are lost: they are done again, with the same key",
        troubles: &[
            forward(4, &[Never]),
            backward(3, &[LostAfter, Done]),
            backward(0, &[LostBefore, NotNow, Done]),
        ],
        fate: Fate::RefusedAt(4),
        ends: [Compensated, Compensated],
    },
];

/// Answers as the stories say.
fn as_told(call: &Call) -> (Duration, Answer) {
    let number = call.body["number"]
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    let story = &STORIES[number.expect("each body has the number")];
    let trouble = story
        .troubles
        .iter()
        .find(|trouble| STEPS[trouble.at] == call.step && trouble.way == call.way);
    let answer = trouble.map_or(Done, |trouble| {
        let last = trouble.answers.len() - 1;
        trouble.answers[last.min(call.attempt as usize - 1)]
    });
    (Duration::ZERO, answer)
}

async fn told(engine: Engine, undo_blocks_late: bool) {
    let database = engine.database().await;
    let effects = if undo_blocks_late {
        EffectServer::blocking_late(as_told).await
    } else {
        EffectServer::taking_late(as_told).await
    };
    let mut builder = server(Duration::from_secs(10));
    if let Some(database) = &database {
        builder = builder.database_url(database.url());
    }
    let replicas = Replicas::start(builder, 1).await;
    let connection = replicas.connect(0).await;
    define(
        &connection,
        &definition(&effects, RUNNING, undo_blocks_late),
    )
    .await;
    let count = STORIES.len() as u64;
    let ids = start_all(&replicas.endpoints, 0, 0..count, 4, 0..10).await;
    settled(&replicas.endpoints, RUNNING * 20).await;
    let all = tell(&connection, &ids).await;
    for (story, told) in STORIES.iter().zip(&all) {
        let end = story.ends[usize::from(undo_blocks_late)];
        assert_eq!(told.saga.state(), end, "{}: {:#?}", story.about, told);
    }
    let summary = judge(
        &all,
        &effects.quiet_ledger().await,
        undo_blocks_late,
        |number| STORIES[number as usize].fate,
    );
    let stuck = if undo_blocks_late { 0 } else { 5 };
    assert_eq!((summary.stuck, summary.lost), (stuck, 0), "{summary:?}");
    assert_eq!(summary.undone_unknown, 5, "{summary:?}");
}

#[tokio::test]
async fn where_nothing_proves_an_undo_on_sqlite() {
    told(Engine::Sqlite, false).await;
}

#[tokio::test]
async fn where_nothing_proves_an_undo_on_postgres() {
    told(Engine::Postgres, false).await;
}

#[tokio::test]
async fn nowhere_where_undos_block_late_calls_on_sqlite() {
    told(Engine::Sqlite, true).await;
}

#[tokio::test]
async fn nowhere_where_undos_block_late_calls_on_postgres() {
    told(Engine::Postgres, true).await;
}
