//! What each verb does in each state: the table of the API reference, cell by cell.

use std::{collections::BTreeMap, fs};

use steadfast_client::{
    Code,
    api::saga::v1::{Saga, SagaEventKind, SagaState as S, SagaVerb as V},
};

use super::{
    reach::{Place as P, Reached},
    stage::Stage,
};
use crate::scene::Engine;

/// One cell: the verb, the column, what the reference says, and what is expected of sagas that stand there.
struct Cell(V, &'static str, &'static str, &'static [Case]);

/// A saga that stands there, what the verb is answered, and where the saga stands once its gate is open.
type Case = (P, Answer, Option<S>);

#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Accepted: the saga stands there now.
    To(S),
    /// Accepted, recorded, and nothing else has changed.
    Nothing,
    /// Refused with FAILED_PRECONDITION and this reason; nothing has changed at all.
    Refused(&'static str),
}

use Answer::{Nothing, Refused, To};

const STUCK: &str = "SAGA_STUCK";
const ENDED: &str = "SAGA_ENDED";
const NOT_AT_STEP: &str = "NOT_AT_STEP";
const PAST: &str = "PAST_THE_PIVOT";

/// All three ends refuse everything.
const ALL_ENDED: &[Case] = &[
    (P::Completed, Refused(ENDED), None),
    (P::Compensated, Refused(ENDED), None),
    (P::Abandoned, Refused(ENDED), None),
];
const BOTH_STUCK: &[Case] = &[
    (P::StuckForward, Refused(STUCK), None),
    (P::StuckBackward, Refused(STUCK), None),
];
const ALL_PAUSED_NOT_AT_STEP: &[Case] = &[
    (P::PausedForward, Refused(NOT_AT_STEP), None),
    (P::PausedBackward, Refused(NOT_AT_STEP), None),
    (P::PausedNew, Refused(NOT_AT_STEP), None),
];

/// A decision is about a step that waits: in the middle of its call there is none.
const RUNNING_ONLY_WAITING: &[Case] = &[
    (P::RunningWaiting, To(S::Running), Some(S::Completed)),
    (P::RunningBusy, Refused(NOT_AT_STEP), Some(S::Completed)),
];
const COMPENSATING_ONLY_WAITING: &[Case] = &[
    (
        P::CompensatingWaiting,
        To(S::Compensating),
        Some(S::Compensated),
    ),
    (
        P::CompensatingBusy,
        Refused(NOT_AT_STEP),
        Some(S::Compensated),
    ),
];
const BOTH_STUCK_GO_ON: &[Case] = &[
    (P::StuckForward, To(S::Running), Some(S::Completed)),
    (P::StuckBackward, To(S::Compensating), Some(S::Compensated)),
];

const TABLE: &[Cell] = &[
    Cell(
        V::Cancel,
        "PENDING",
        "→ COMPENSATED",
        &[(P::Pending, To(S::Compensated), None)],
    ),
    Cell(
        V::Cancel,
        "RUNNING",
        "→ COMPENSATING at the next safe point; refused past the pivot",
        &[
            (P::RunningBusy, To(S::Running), Some(S::Compensated)),
            (P::RunningWaiting, To(S::Compensating), Some(S::Compensated)),
            (P::RunningPastPivot, Refused(PAST), None),
        ],
    ),
    Cell(
        V::Cancel,
        "PAUSED",
        "forward: → COMPENSATING, refused past the pivot; backward: nothing",
        &[
            (P::PausedForward, To(S::Compensating), Some(S::Compensated)),
            (P::PausedPastPivot, Refused(PAST), None),
            (P::PausedBackward, Nothing, None),
            // There is nothing to undo: it is rolled back in the same moment.
            (P::PausedNew, To(S::Compensated), None),
        ],
    ),
    Cell(
        V::Cancel,
        "COMPENSATING",
        "nothing",
        &[
            (P::CompensatingBusy, Nothing, Some(S::Compensated)),
            (P::CompensatingWaiting, Nothing, None),
        ],
    ),
    Cell(V::Cancel, "STUCK", "refused", BOTH_STUCK),
    Cell(V::Cancel, "ended", "refused", ALL_ENDED),
    Cell(
        V::Pause,
        "PENDING",
        "→ PAUSED",
        &[(P::Pending, To(S::Paused), None)],
    ),
    Cell(
        V::Pause,
        "RUNNING",
        "→ PAUSED at the next safe point",
        &[
            (P::RunningBusy, To(S::Running), Some(S::Paused)),
            (P::RunningWaiting, To(S::Paused), None),
        ],
    ),
    Cell(
        V::Pause,
        "PAUSED",
        "nothing",
        &[
            (P::PausedForward, Nothing, None),
            (P::PausedBackward, Nothing, None),
            (P::PausedNew, Nothing, None),
        ],
    ),
    Cell(
        V::Pause,
        "COMPENSATING",
        "→ PAUSED at the next safe point",
        &[
            (P::CompensatingBusy, To(S::Compensating), Some(S::Paused)),
            (P::CompensatingWaiting, To(S::Paused), None),
        ],
    ),
    Cell(V::Pause, "STUCK", "refused", BOTH_STUCK),
    Cell(V::Pause, "ended", "refused", ALL_ENDED),
    Cell(
        V::Resume,
        "PENDING",
        "nothing",
        &[(P::Pending, Nothing, None)],
    ),
    Cell(
        V::Resume,
        "RUNNING",
        "withdraws a pause",
        &[
            (P::RunningBusyPauseAsked, To(S::Running), Some(S::Completed)),
            (P::RunningBusy, Nothing, Some(S::Completed)),
            (P::RunningWaiting, Nothing, None),
        ],
    ),
    Cell(
        V::Resume,
        "PAUSED",
        "→ RUNNING, COMPENSATING, or PENDING if not begun",
        &[
            (P::PausedForward, To(S::Running), None),
            (P::PausedPastPivot, To(S::Running), None),
            (P::PausedBackward, To(S::Compensating), None),
            (P::PausedNew, To(S::Pending), None),
        ],
    ),
    Cell(
        V::Resume,
        "COMPENSATING",
        "withdraws a pause",
        &[
            (
                P::CompensatingBusyPauseAsked,
                To(S::Compensating),
                Some(S::Compensated),
            ),
            (P::CompensatingBusy, Nothing, Some(S::Compensated)),
            (P::CompensatingWaiting, Nothing, None),
        ],
    ),
    Cell(V::Resume, "STUCK", "refused", BOTH_STUCK),
    Cell(V::Resume, "ended", "refused", ALL_ENDED),
    Cell(
        V::Retry,
        "PENDING",
        "refused",
        &[(P::Pending, Refused(NOT_AT_STEP), None)],
    ),
    Cell(
        V::Retry,
        "RUNNING",
        "a waiting step runs now",
        RUNNING_ONLY_WAITING,
    ),
    Cell(V::Retry, "PAUSED", "refused", ALL_PAUSED_NOT_AT_STEP),
    Cell(
        V::Retry,
        "COMPENSATING",
        "a waiting undo runs now",
        COMPENSATING_ONLY_WAITING,
    ),
    Cell(V::Retry, "STUCK", "goes on: runs again", BOTH_STUCK_GO_ON),
    Cell(V::Retry, "ended", "refused", ALL_ENDED),
    Cell(
        V::Skip,
        "PENDING",
        "refused",
        &[(P::Pending, Refused(NOT_AT_STEP), None)],
    ),
    Cell(
        V::Skip,
        "RUNNING",
        "a waiting step counts as done",
        RUNNING_ONLY_WAITING,
    ),
    Cell(V::Skip, "PAUSED", "refused", ALL_PAUSED_NOT_AT_STEP),
    Cell(
        V::Skip,
        "COMPENSATING",
        "a waiting undo counts as done",
        COMPENSATING_ONLY_WAITING,
    ),
    Cell(V::Skip, "STUCK", "goes on: next step", BOTH_STUCK_GO_ON),
    Cell(V::Skip, "ended", "refused", ALL_ENDED),
    Cell(
        V::Abandon,
        "PENDING",
        "→ ABANDONED",
        &[(P::Pending, To(S::Abandoned), None)],
    ),
    Cell(
        V::Abandon,
        "RUNNING",
        "→ ABANDONED",
        &[
            (P::RunningBusy, To(S::Abandoned), Some(S::Abandoned)),
            (P::RunningWaiting, To(S::Abandoned), None),
            (P::RunningPastPivot, To(S::Abandoned), Some(S::Abandoned)),
        ],
    ),
    Cell(
        V::Abandon,
        "PAUSED",
        "→ ABANDONED",
        &[
            (P::PausedForward, To(S::Abandoned), None),
            (P::PausedBackward, To(S::Abandoned), None),
            (P::PausedNew, To(S::Abandoned), None),
        ],
    ),
    Cell(
        V::Abandon,
        "COMPENSATING",
        "→ ABANDONED",
        &[
            (P::CompensatingBusy, To(S::Abandoned), Some(S::Abandoned)),
            (P::CompensatingWaiting, To(S::Abandoned), None),
        ],
    ),
    Cell(
        V::Abandon,
        "STUCK",
        "→ ABANDONED",
        &[
            (P::StuckForward, To(S::Abandoned), None),
            (P::StuckBackward, To(S::Abandoned), None),
        ],
    ),
    Cell(V::Abandon, "ended", "refused", ALL_ENDED),
];

fn name(verb: V) -> String {
    verb.as_str_name()
        .trim_start_matches("SAGA_VERB_")
        .to_lowercase()
}

/// The cells of the table in the contract, by verb and column.
fn reference() -> BTreeMap<(String, String), String> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proto/steadfast/saga/v1/saga.proto"
    );
    let contract = fs::read_to_string(file).expect("the contract");
    let mut lines = contract
        .lines()
        .filter_map(|line| line.strip_prefix("//   "));
    let head = lines
        .find(|line| line.starts_with("verb "))
        .expect("the table");
    let columns: Vec<_> = head
        .split('|')
        .map(|column| column.trim().to_owned())
        .collect();
    let mut cells: BTreeMap<_, String> = BTreeMap::new();
    let mut verb = String::new();
    for line in lines.skip(1).take_while(|line| line.contains('|')) {
        let mut row = line.split('|').map(str::trim);
        let first = row.next().expect("a column");
        if !first.is_empty() {
            first.clone_into(&mut verb);
        }
        for (column, text) in columns.iter().skip(1).zip(row) {
            let cell = cells.entry((verb.clone(), column.clone())).or_default();
            let together = format!("{cell} {text}");
            together.trim().clone_into(cell);
        }
    }
    cells
}

#[test]
fn the_table_here_is_the_one_in_the_reference() {
    let here: BTreeMap<_, _> = TABLE
        .iter()
        .map(|Cell(verb, column, text, _)| {
            ((name(*verb), (*column).to_owned()), (*text).to_owned())
        })
        .collect();
    assert_eq!(here.len(), TABLE.len(), "a cell is there twice");
    assert_eq!(here, reference());
    assert!(TABLE.iter().all(|Cell(.., cases)| !cases.is_empty()));
}

#[tokio::test]
async fn each_verb_in_each_state_does_what_the_table_says() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let mut tried = 0;
        for Cell(verb, column, _, cases) in TABLE {
            for (place, answer, then) in *cases {
                let what = format!("{engine:?}: {} in {column}, {place:?}", name(*verb));
                let reached = place.reach(&stage).await;
                try_verb(&stage, &what, *verb, &reached, *answer).await;
                stage.gates.open(&reached.gate, 200);
                if let Some(then) = then {
                    let end = stage.until_state(&reached.saga.id, *then).await;
                    assert_eq!(end.state(), *then, "{what}");
                }
                tried += 1;
            }
        }
        println!("{engine:?}: {tried} sagas steered");
    }
}

async fn try_verb(stage: &Stage, what: &str, verb: V, reached: &Reached, answer: Answer) {
    let before = &reached.saga;
    let events_before = stage.events(&before.id).await.len();
    let reason = format!("to see what {} does", name(verb));
    let answered = stage.steer(verb, before, ("ann", &reason)).await;
    match answer {
        Refused(expected) => {
            let error = answered.expect_err(what);
            assert_eq!(
                (error.code, error.reason.as_str()),
                (Code::FailedPrecondition, expected),
                "{what}"
            );
            let after = stage.get(&before.id).await;
            assert_eq!(&after, before, "{what}");
            assert_eq!(
                stage.events(&before.id).await.len(),
                events_before,
                "{what}"
            );
            return;
        }
        Nothing => {
            let after = answered.expect(what);
            let told = |saga: &Saga| Saga {
                control_version: 0,
                transitions: 0,
                etag: String::new(),
                ..saga.clone()
            };
            assert_eq!(told(&after), told(before), "{what}");
            assert_eq!(after.control_version, before.control_version + 1, "{what}");
        }
        To(state) => {
            let after = answered.expect(what);
            assert_eq!(after.state(), state, "{what}");
            assert_eq!(after.control_version, before.control_version + 1, "{what}");
        }
    }
    let events = stage.events(&before.id).await;
    let of_verb: Vec<_> = events[events_before..]
        .iter()
        .filter(|event| event.verb() == verb)
        .collect();
    assert!(!of_verb.is_empty(), "{what}: {events:?}");
    for event in &of_verb {
        assert_eq!(
            (event.actor.as_str(), event.reason.as_str()),
            ("ann", reason.as_str()),
            "{what}"
        );
    }
    let steered = of_verb
        .iter()
        .any(|event| event.kind() == SagaEventKind::Steered);
    assert_eq!(steered, matches!(answer, Nothing), "{what}: {of_verb:?}");
}
