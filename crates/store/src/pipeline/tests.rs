//! What the pipeline makes of answers, lost answers and writers that come together.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::FutureExt as _;
use tokio::sync::Notify;

use super::*;

/// Answers each commit as it was told to, waits for a sign before each, and keeps what it was asked to commit.
#[derive(Default)]
struct Scripted {
    /// How many transactions may be under way; one if zero.
    lanes: usize,
    answers: Mutex<VecDeque<Error>>,
    asked: Mutex<Vec<Vec<usize>>>,
    begun: Notify,
    go: Notify,
    /// Each transaction that was begun, by its writes, and each time that something was told, by its number of transactions.
    course: Mutex<Vec<Course>>,
    /// Transactions that were not told yet.
    untold: AtomicUsize,
    busy_wait: Duration,
    /// Writes that came alone.
    alone: AtomicUsize,
}

#[derive(Debug, Clone, PartialEq)]
enum Course {
    Begun(Vec<usize>),
    Told(usize),
}

impl Kind for Arc<Scripted> {
    type Input = usize;
    type Output = usize;

    const NAME: &'static str = "scripted";

    /// Those from a thousand on share one.
    fn conflict_key(input: &usize) -> Option<String> {
        (*input >= 1_000).then(|| "shared".to_owned())
    }

    fn lanes(&self) -> usize {
        self.lanes.max(1)
    }

    fn size(input: &usize) -> usize {
        *input
    }

    async fn commit(&self, inputs: &[Arc<usize>]) -> Result<Vec<Result<usize, Error>>, Error> {
        let inputs: Vec<usize> = inputs.iter().map(|input| **input).collect();
        self.went(Course::Begun(inputs.clone()));
        self.begun.notify_one();
        self.go.notified().await;
        let lock = |poisoned: PoisonError<_>| poisoned.into_inner();
        self.asked.lock().unwrap_or_else(lock).push(inputs.clone());
        let answer = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        match answer {
            Some(error) => {
                self.go.notify_one();
                Err(error)
            }
            None => {
                self.untold.fetch_add(1, Ordering::Relaxed);
                Ok(inputs.into_iter().map(Ok).collect())
            }
        }
    }

    fn busy_wait(&self) -> Duration {
        self.busy_wait
    }

    fn came_alone(&self) {
        self.alone.fetch_add(1, Ordering::Relaxed);
    }

    fn has_news(&self) -> bool {
        self.untold.load(Ordering::Relaxed) > 0
    }

    fn tell_news(&self) {
        match self.untold.swap(0, Ordering::Relaxed) {
            0 => {}
            count => self.went(Course::Told(count)),
        }
    }
}

impl Scripted {
    fn went(&self, event: Course) {
        let course = self.course.lock();
        course.unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn course(&self) -> Vec<Course> {
        let course = self.course.lock();
        course.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn scripted(answers: impl IntoIterator<Item = Error>) -> Arc<Scripted> {
    Arc::new(Scripted {
        answers: Mutex::new(answers.into_iter().collect()),
        ..Scripted::default()
    })
}

fn source() -> sqlx::Error {
    sqlx::Error::PoolTimedOut
}

fn lost() -> Error {
    Error::Unavailable {
        outcome: Outcome::Unknown,
        statement: "",
        source: source(),
    }
}

#[tokio::test]
async fn after_a_lost_answer_no_refusal_says_that_nothing_was_written() {
    let refusals: [fn() -> Error; 2] = [
        || Error::Contended {
            statement: "",
            source: source(),
        },
        || Error::NotWritable {
            reason: "it is read-only",
            source: source(),
        },
    ];
    for refusal in refusals {
        let kind = scripted(std::iter::once(lost()).chain((0..1_000).map(|_| refusal())));
        kind.go.notify_one();
        let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_millis(100));
        let outcome = pipeline.submit(1).await;
        assert!(
            matches!(
                outcome,
                Err(Error::Unavailable {
                    outcome: Outcome::Unknown,
                    ..
                })
            ),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_write_whose_caller_has_gone_is_not_begun() {
    let kind = scripted([]);
    let pipeline = Arc::new(Pipeline::start(Arc::clone(&kind), Duration::from_secs(5)));
    let mut first = Box::pin(pipeline.submit(1));
    assert!(futures::poll!(&mut first).is_pending());
    kind.begun.notified().await;
    let mut gone = Box::pin(pipeline.submit(2));
    assert!(futures::poll!(&mut gone).is_pending());
    let mut last = Box::pin(pipeline.submit(3));
    assert!(futures::poll!(&mut last).is_pending());
    drop(gone);
    kind.go.notify_one();
    assert!(first.await.is_ok());
    kind.begun.notified().await;
    kind.go.notify_one();
    assert!(last.await.is_ok());
    let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(*asked, [[1], [3]]);
}

/// A pipeline with two lanes, and calls to it that were made one after the other.
async fn submitted(
    kind: &Arc<Scripted>,
    inputs: impl IntoIterator<Item = usize>,
) -> Vec<tokio::task::JoinHandle<Result<usize, Error>>> {
    let pipeline = Arc::new(Pipeline::start(Arc::clone(kind), Duration::from_secs(5)));
    let mut calls = Vec::new();
    for (at, input) in inputs.into_iter().enumerate() {
        let pipeline = Arc::clone(&pipeline);
        calls.push(tokio::spawn(async move { pipeline.submit(input).await }));
        if at == 0 {
            kind.begun.notified().await;
        }
    }
    tokio::task::yield_now().await;
    calls
}

fn two_lanes() -> Arc<Scripted> {
    Arc::new(Scripted {
        lanes: 2,
        ..Scripted::default()
    })
}

/// A call that has asked, and whose answer is still to come: so a test decides what is ready to run, and in which order.
fn submit_now(
    pipeline: &Pipeline<Arc<Scripted>>,
    input: usize,
) -> impl Future<Output = Result<usize, Error>> {
    let mut call = Box::pin(pipeline.submit(input));
    assert!((&mut call).now_or_never().is_none(), "answered at once");
    call
}

#[tokio::test]
async fn a_lone_writer_waits_for_nothing_else_that_is_ready_to_run() {
    let kind = scripted([]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
    for input in [1, 2] {
        kind.go.notify_one();
        let call = submit_now(&pipeline, input);
        let seen = Arc::clone(&kind);
        let other = tokio::spawn(async move { seen.begun.notified().now_or_never().is_some() });
        assert!(other.await.expect("it did not panic"), "it had not begun");
        assert_eq!(call.await.ok(), Some(input));
    }
}

#[tokio::test]
async fn after_writers_that_came_together_the_next_lets_others_come_along() {
    let kind = scripted([]);
    let pipeline = Arc::new(Pipeline::start(Arc::clone(&kind), Duration::from_secs(5)));
    kind.go.notify_one();
    let calls = [1, 2].map(|input| submit_now(&pipeline, input));
    assert!(futures::future::try_join_all(calls).await.is_ok());

    kind.go.notify_one();
    let call = submit_now(&pipeline, 3);
    let other = Arc::clone(&pipeline);
    let other = tokio::spawn(async move { other.submit(4).await });
    assert!(call.await.is_ok() && other.await.expect("it did not panic").is_ok());
    let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(*asked, [vec![1, 2], vec![3, 4]]);
}

#[tokio::test]
async fn a_writer_whose_next_write_follows_at_once_is_not_kept_waiting_by_the_news() {
    let kind = scripted([]);
    let pipeline = Arc::new(Pipeline::start(Arc::clone(&kind), Duration::from_secs(5)));
    let writer = tokio::spawn({
        let pipeline = Arc::clone(&pipeline);
        async move {
            for input in 1..=3 {
                pipeline.submit(input).await?;
            }
            Ok::<(), Error>(())
        }
    });
    for _ in 1..=3 {
        kind.begun.notified().await;
        kind.go.notify_one();
    }
    writer.await.expect("it did not panic").expect("committed");
    // Nothing else is ready now.
    while kind.has_news() {
        tokio::task::yield_now().await;
    }
    let begun = |input| Course::Begun(vec![input]);
    let told = Course::Told(1);
    assert_eq!(
        kind.course(),
        [
            begun(1),
            begun(2),
            told.clone(),
            begun(3),
            told.clone(),
            told
        ]
    );
}

#[tokio::test]
async fn writers_that_come_together_are_told_of_before_others_may_come_along() {
    let kind = scripted([]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
    kind.go.notify_one();
    let calls = [1, 2].map(|input| submit_now(&pipeline, input));
    kind.begun.notified().await;
    let waiting = submit_now(&pipeline, 3);
    assert!(futures::future::try_join_all(calls).await.is_ok());
    kind.go.notify_one();
    assert!(waiting.await.is_ok());
    let course = kind.course();
    assert_eq!(
        course[..3],
        [
            Course::Begun(vec![1, 2]),
            Course::Told(1),
            Course::Begun(vec![3])
        ]
    );
}

#[tokio::test]
async fn the_last_news_is_told_before_the_committer_ends() {
    let kind = scripted([]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
    let call = submit_now(&pipeline, 1);
    kind.begun.notified().await;
    drop(call);
    drop(pipeline);
    kind.go.notify_one();
    let ended = async {
        while Arc::strong_count(&kind) > 1 {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
    assert!(ended.is_ok(), "the committer goes on");
    assert_eq!(kind.course(), [Course::Begun(vec![1]), Course::Told(1)]);
}

/// How often the thread slept while each of these writes was waited for, which come alone and take so long.
fn sleeps(busy_wait: Duration, takes: &[Duration]) -> Vec<usize> {
    let sleeps = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sleeps);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .expect("a runtime");
    let kind = Arc::new(Scripted {
        busy_wait,
        ..Scripted::default()
    });
    runtime.block_on(async {
        let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(60));
        let mut seen = Vec::new();
        for takes in takes.iter().copied() {
            let call = submit_now(&pipeline, 1);
            kind.begun.notified().await;
            let before = sleeps.load(Ordering::Relaxed);
            let answer = Arc::clone(&kind);
            let database = std::thread::spawn(move || {
                std::thread::park_timeout(takes);
                answer.go.notify_one();
            });
            assert!(call.await.is_ok());
            seen.push(sleeps.load(Ordering::Relaxed) - before);
            database.join().expect("it did not panic");
        }
        seen
    })
}

#[test]
fn a_write_that_comes_alone_is_waited_for_without_sleeping_as_long_as_answers_come_soon() {
    let (soon, longest) = (Duration::from_millis(5), Duration::from_secs(1));
    let late = longest + soon;
    assert_eq!(sleeps(longest, &[soon, soon]), [0, 0]);
    let asleep = sleeps(Duration::ZERO, &[soon, soon]);
    assert!(asleep.iter().all(|sleeps| *sleeps > 0), "{asleep:?}");
    // The first is given up; the second shows that answers come soon again.
    let after_late = sleeps(longest, &[late, soon, soon]);
    assert!(
        after_late[..2].iter().all(|sleeps| *sleeps > 0) && after_late[2] == 0,
        "{after_late:?}"
    );
}

#[tokio::test]
async fn only_writes_that_come_alone_count_as_such() {
    let kind = scripted([]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
    let alone = || kind.alone.load(Ordering::Relaxed);
    for write in 1..=3 {
        kind.go.notify_one();
        assert!(submit_now(&pipeline, write).await.is_ok());
        assert_eq!(alone(), write);
    }
    let together = [submit_now(&pipeline, 4), submit_now(&pipeline, 5)];
    kind.go.notify_one();
    for call in together {
        assert!(call.await.is_ok());
    }
    // This one comes after two that came together: others may follow.
    kind.go.notify_one();
    assert!(submit_now(&pipeline, 6).await.is_ok());
    assert_eq!(alone(), 3);
}

#[tokio::test]
async fn a_second_transaction_begins_beside_the_first_when_it_is_worth_it() {
    let kind = two_lanes();
    let calls = submitted(&kind, 0..=LANE).await;
    // The first is still under way.
    kind.begun.notified().await;
    kind.go.notify_one();
    kind.go.notify_one();
    for call in calls {
        assert!(call.await.expect("it did not panic").is_ok());
    }
    let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
    let sizes: Vec<usize> = asked.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, LANE]);
}

#[tokio::test]
async fn a_few_writes_wait_for_the_transaction_under_way() {
    let kind = two_lanes();
    let calls = submitted(&kind, 0..LANE).await;
    let second = tokio::time::timeout(Duration::from_millis(50), kind.begun.notified());
    assert!(second.await.is_err(), "it began");
    for _ in 0..2 {
        kind.go.notify_one();
        tokio::task::yield_now().await;
    }
    for call in calls {
        assert!(call.await.expect("it did not panic").is_ok());
    }
}

#[tokio::test]
async fn writes_with_one_key_are_never_under_way_at_once() {
    let kind = two_lanes();
    let calls = submitted(&kind, [1_000, 1_001].into_iter().chain(0..LANE)).await;
    kind.begun.notified().await;
    for _ in 0..3 {
        kind.go.notify_one();
        kind.begun.notified().now_or_never();
        tokio::task::yield_now().await;
    }
    for call in calls {
        assert!(call.await.expect("it did not panic").is_ok());
    }
    let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(asked[0], [1_000]);
    assert_eq!(asked[1], (0..LANE).collect::<Vec<_>>());
    assert_eq!(asked[2], [1_001]);
}

#[tokio::test]
async fn what_gathers_while_the_database_is_away_fails_with_the_batch() {
    let kind = scripted([Error::Unavailable {
        outcome: Outcome::NotWritten,
        statement: "",
        source: source(),
    }]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
    let mut first = Box::pin(pipeline.submit(1));
    assert!(futures::poll!(&mut first).is_pending());
    kind.begun.notified().await;
    let mut second = Box::pin(pipeline.submit(2));
    assert!(futures::poll!(&mut second).is_pending());
    kind.go.notify_one();
    for outcome in [first.await, second.await] {
        assert!(
            matches!(
                outcome,
                Err(Error::Unavailable {
                    outcome: Outcome::NotWritten,
                    ..
                })
            ),
            "{outcome:?}"
        );
    }
    let asked = kind.asked.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(*asked, [[1]]);
}

#[tokio::test]
async fn a_commit_that_is_never_answered_is_given_up_at_the_deadline() {
    let kind = scripted([]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_millis(50));
    let outcome = pipeline.submit(1).await;
    assert!(
        matches!(
            outcome,
            Err(Error::Unavailable {
                outcome: Outcome::Unknown,
                ..
            })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes() {
    let kind = scripted([]);
    let pipeline = Pipeline::start(Arc::clone(&kind), Duration::from_secs(5));
    let half = QUEUE_BYTES as usize / 2;
    let (first, refused) = tokio::join!(
        biased;
        async { tokio::join!(pipeline.submit(half), pipeline.submit(half)) },
        async {
            let refused = pipeline.submit(1).await;
            // Each of the two is a transaction of its own.
            for _ in 0..2 {
                kind.begun.notified().await;
                kind.go.notify_one();
            }
            refused
        },
    );
    assert!(matches!(refused, Err(Error::Overloaded)), "{refused:?}");
    assert!(first.0.is_ok() && first.1.is_ok());
    kind.go.notify_one();
    assert!(pipeline.submit(1).await.is_ok(), "room was given back");
}
