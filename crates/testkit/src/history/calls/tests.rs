use steadfast_types::{Mark, StoreId};
use uuid::Uuid;

use super::{super::key, *};

fn cursor(revision: i64) -> Cursor {
    Cursor {
        store_id: StoreId(Uuid::from_u128(7)),
        revision: Revision(revision),
        mark: Mark(revision.cast_unsigned() * 1000),
    }
}

fn entry(revision: i64, keys: &[&str]) -> Committed {
    Committed {
        revision: Revision(revision),
        mark: cursor(revision).mark,
        keys: keys.iter().map(|text| key(text)).collect(),
    }
}

fn committed() -> Vec<Committed> {
    vec![entry(1, &["a"]), entry(2, &["b", "c"]), entry(3, &["d"])]
}

fn call(keys: &[&str], request_id: &str, answer: Answer) -> Call {
    Call {
        keys: keys.iter().map(|text| key(text)).collect(),
        request_id: (!request_id.is_empty()).then(|| request_id.to_owned()),
        answer,
    }
}

fn written(revision: i64, replayed: bool) -> Answer {
    Answer::Acknowledged {
        cursor: cursor(revision),
        replayed,
    }
}

fn defects(calls: &[Call]) -> Vec<CallDefect> {
    check_calls(&committed(), calls).unwrap_err()
}

#[test]
fn sound_answers_pass() {
    let calls = [
        call(&["a"], "", written(1, false)),
        call(&["b", "c"], "r", Answer::Unknown),
        // A server that was too busy said nothing about the call before.
        call(&["b", "c"], "r", Answer::Refused),
        call(&["b", "c"], "r", written(2, true)),
        call(&["b", "c"], "r", written(2, true)),
        call(&["d"], "", Answer::Unknown),
        call(&["e"], "", Answer::Unknown),
        call(&["f"], "", Answer::Refused),
    ];
    let summary = CallSummary {
        acknowledged: 3,
        replayed: 2,
        refused: 2,
        unknown: 3,
        unknown_written: 2,
    };
    assert_eq!(check_calls(&committed(), &calls), Ok(summary));
}

#[test]
fn a_lost_acknowledgement_is_found() {
    let lost = call(&["x"], "", written(4, false));
    let found = [CallDefect::Lost {
        cursor: cursor(4),
        keys: lost.keys.clone(),
    }];
    assert_eq!(defects(&[lost]), found);
}

#[test]
fn another_revision_or_mark_is_found() {
    let mut marked = cursor(1);
    marked.mark = Mark(5);
    for wrong in [cursor(2), marked] {
        let answer = Answer::Acknowledged {
            cursor: wrong,
            replayed: false,
        };
        let found = [CallDefect::Elsewhere {
            cursor: wrong,
            found: Revision(1),
        }];
        assert_eq!(defects(&[call(&["a"], "", answer)]), found);
    }
}

#[test]
fn half_a_call_and_two_calls_in_one_revision_are_found() {
    for keys in [&["b"][..], &["c", "b"], &["b", "c", "x"]] {
        let torn = call(keys, "", written(2, false));
        let found = [CallDefect::Torn {
            revision: Revision(2),
            keys: torn.keys.clone(),
        }];
        assert_eq!(defects(&[torn]), found, "{keys:?}");
    }
}

#[test]
fn what_is_written_twice_is_found_whoever_knows_of_it() {
    let mut twice = committed();
    twice.push(entry(4, &["d"]));
    let unknown = call(&["d"], "", Answer::Unknown);
    let found = [CallDefect::Doubled {
        key: key("d"),
        revisions: [Revision(3), Revision(4)],
    }];
    assert_eq!(check_calls(&twice, &[unknown]).unwrap_err(), found);
    let mut within = committed();
    within[0] = entry(1, &["a", "a"]);
    let found = CallDefect::Doubled {
        key: key("a"),
        revisions: [Revision(1), Revision(1)],
    };
    let unknown = call(&["a"], "", Answer::Unknown);
    assert_eq!(check_calls(&within, &[unknown]).unwrap_err()[0], found);
}

#[test]
fn a_refusal_that_was_written_is_found() {
    let refused = call(&["a"], "", Answer::Refused);
    let found = [CallDefect::WrittenAnyway {
        revision: Revision(1),
        keys: refused.keys.clone(),
    }];
    assert_eq!(defects(&[refused]), found);
}

#[test]
fn answers_to_one_request_that_contradict_each_other_are_found() {
    for other in [written(1, false), written(3, true)] {
        let calls = [
            call(&["a"], "r", written(1, false)),
            call(&["a"], "r", other),
        ];
        let contradiction = CallDefect::Contradiction {
            request_id: "r".to_owned(),
            one: calls[0].answer,
            other,
        };
        assert!(defects(&calls).contains(&contradiction), "{other:?}");
    }
}
