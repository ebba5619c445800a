use steadfast_types::Mark;
use uuid::Uuid;

use super::*;

const STORE: StoreId = StoreId(Uuid::from_u128(7));

fn cursor(revision: i64) -> Cursor {
    Cursor {
        store_id: STORE,
        revision: Revision(revision),
        mark: Mark(if revision == 0 {
            0
        } else {
            revision.cast_unsigned() * 1000
        }),
    }
}

/// Five revisions; the third has three keys.
fn committed() -> Vec<Committed> {
    (1..=5)
        .map(|revision| Committed {
            revision: Revision(revision),
            mark: cursor(revision).mark,
            keys: match revision {
                3 => vec![key("a/1"), key("b/1"), key("a/2")],
                _ => vec![key(&format!("a/{revision}"))],
            },
        })
        .collect()
}

fn opened() -> Event {
    Event::Opened { head: cursor(5) }
}

fn batch(changes: &[(i64, &str)], to: i64) -> Event {
    Event::Batch {
        changes: changes
            .iter()
            .map(|(revision, name)| (Revision(*revision), key(name)))
            .collect(),
        cursor: cursor(to),
        more: false,
    }
}

fn split(changes: &[(i64, &str)], to: i64) -> Event {
    let Event::Batch {
        changes, cursor, ..
    } = batch(changes, to)
    else {
        unreachable!("batch makes a batch");
    };
    Event::Batch {
        changes,
        cursor,
        more: true,
    }
}

fn progress(to: i64) -> Event {
    Event::Progress { cursor: cursor(to) }
}

fn segment(start: StartAt, events: Vec<Event>) -> Segment {
    Segment { start, events }
}

fn watcher(segments: Vec<Segment>) -> WatcherLog {
    WatcherLog {
        name: "w".to_owned(),
        segments,
        finished: true,
        ..WatcherLog::default()
    }
}

fn defects(segments: Vec<Segment>) -> Vec<Defect> {
    let found = check(STORE, &committed(), &[watcher(segments)]);
    found
        .unwrap_err()
        .into_iter()
        .map(|finding| finding.defect)
        .collect()
}

fn from_zero(events: Vec<Event>) -> Vec<Segment> {
    let mut all = vec![opened()];
    all.extend(events);
    vec![segment(StartAt::After(cursor(0)), all)]
}

const THIRD: [(i64, &str); 3] = [(3, "a/1"), (3, "b/1"), (3, "a/2")];

#[test]
fn a_sound_history_passes_with_splits_filters_resumptions_and_resets() {
    let whole = watcher(vec![
        segment(
            StartAt::Earliest,
            vec![
                opened(),
                batch(&[(1, "a/1"), (2, "a/2")], 2),
                // Dies in the middle of a split revision, which then comes again from its beginning.
                split(&[(3, "a/1")], 2),
            ],
        ),
        segment(
            StartAt::After(cursor(2)),
            vec![
                opened(),
                split(&THIRD[..2], 2),
                batch(&[THIRD[2], (4, "a/4")], 4),
                batch(&[(5, "a/5")], 5),
            ],
        ),
    ]);
    let filtered = WatcherLog {
        prefixes: vec!["b/".to_owned()],
        ..watcher(from_zero(vec![
            progress(2),
            batch(&[(3, "b/1")], 4),
            progress(5),
        ]))
    };
    let late = watcher(vec![segment(
        StartAt::Now,
        vec![Event::Opened { head: cursor(4) }, batch(&[(5, "a/5")], 5)],
    )]);
    let reset = watcher(from_zero(vec![
        Event::Reset { head: cursor(4) },
        batch(&[(5, "a/5")], 5),
    ]));
    let summary = check(STORE, &committed(), &[whole, filtered, late, reset]).unwrap();
    assert_eq!(
        summary,
        Summary {
            revisions: 5,
            delivered: 11,
            resumptions: 1,
            resets: 1,
        }
    );
}

#[test]
fn a_missing_revision_is_found() {
    let found = defects(from_zero(vec![
        batch(&[(1, "a/1")], 1),
        progress(2),
        batch(&THIRD, 3),
        batch(&[(4, "a/4"), (5, "a/5")], 5),
    ]));
    assert_eq!(
        found,
        [Defect::Missing {
            revision: Revision(2),
            key: key("a/2")
        }]
    );
}

#[test]
fn half_a_revision_is_found() {
    let found = defects(from_zero(vec![
        batch(&[(1, "a/1"), (2, "a/2"), THIRD[0], THIRD[2]], 3),
        batch(&[(4, "a/4"), (5, "a/5")], 5),
    ]));
    assert_eq!(
        found,
        [Defect::Missing {
            revision: Revision(3),
            key: key("b/1")
        }]
    );
}

#[test]
fn a_doubled_revision_is_found_within_a_batch_and_after_the_cursor() {
    let doubled = Defect::Doubled {
        revision: Revision(1),
        key: key("a/1"),
    };
    let rest = [
        (2, "a/2"),
        THIRD[0],
        THIRD[1],
        THIRD[2],
        (4, "a/4"),
        (5, "a/5"),
    ];
    let within = defects(from_zero(vec![
        batch(&[(1, "a/1"), (1, "a/1")], 1),
        batch(&rest, 5),
    ]));
    assert_eq!(within, std::slice::from_ref(&doubled));
    let after = defects(from_zero(vec![
        batch(&[(1, "a/1")], 1),
        batch(&[(1, "a/1")], 1),
        batch(&rest, 5),
    ]));
    assert_eq!(after, [doubled]);
}

#[test]
fn wrong_order_is_found_between_and_within_revisions() {
    let found = defects(from_zero(vec![
        batch(&[(2, "a/2"), (1, "a/1")], 2),
        batch(&[THIRD[1], THIRD[0], THIRD[2], (4, "a/4"), (5, "a/5")], 5),
    ]));
    assert!(found.contains(&Defect::OutOfOrder {
        revision: Revision(1),
        key: key("a/1")
    }));
    assert!(found.contains(&Defect::OutOfOrder {
        revision: Revision(3),
        key: key("a/1")
    }));
}

#[test]
fn a_gap_across_a_resumption_is_found() {
    let first = segment(
        StartAt::After(cursor(0)),
        vec![opened(), batch(&[(1, "a/1")], 1)],
    );
    let skipping = segment(
        StartAt::After(cursor(1)),
        vec![
            opened(),
            batch(&[THIRD[0], THIRD[1], THIRD[2], (4, "a/4"), (5, "a/5")], 5),
        ],
    );
    let found = defects(vec![first.clone(), skipping]);
    assert_eq!(
        found,
        [Defect::Missing {
            revision: Revision(2),
            key: key("a/2")
        }]
    );
    let elsewhere = segment(
        StartAt::After(cursor(2)),
        vec![opened(), batch(&[(4, "a/4")], 4)],
    );
    assert!(matches!(
        defects(vec![first, elsewhere])[0],
        Defect::ResumedElsewhere { .. }
    ));
}

#[test]
fn false_cursors_are_found() {
    let mut wrong_mark = cursor(5);
    wrong_mark.mark = Mark(1);
    let mut wrong_store = cursor(5);
    wrong_store.store_id = StoreId(Uuid::from_u128(8));
    for false_cursor in [wrong_mark, wrong_store, cursor(6)] {
        let found = defects(from_zero(vec![Event::Reset { head: false_cursor }]));
        assert!(
            found.contains(&Defect::UnknownCursor {
                cursor: false_cursor
            }),
            "{false_cursor}"
        );
    }
    let back = defects(from_zero(vec![
        Event::Reset { head: cursor(5) },
        progress(4),
    ]));
    assert_eq!(
        back,
        [Defect::Backwards {
            from: cursor(5),
            to: cursor(4)
        }]
    );
    let beyond = defects(from_zero(vec![batch(&[(1, "a/1"), (2, "a/2")], 1)]));
    assert!(beyond.contains(&Defect::BeyondCursor {
        revision: Revision(2)
    }));
}

#[test]
fn strangers_late_starters_and_quitters_are_found() {
    let unasked = Defect::Unasked {
        revision: Revision(1),
        key: key("x"),
    };
    assert!(defects(from_zero(vec![batch(&[(1, "a/1"), (1, "x")], 1)])).contains(&unasked));
    assert!(
        defects(from_zero(vec![progress(0)])).contains(&Defect::Unfinished {
            stood: Some(cursor(0)),
            last: Revision(5)
        })
    );
    let unopened = segment(
        StartAt::After(cursor(0)),
        vec![Event::Reset { head: cursor(5) }],
    );
    assert_eq!(defects(vec![unopened]), [Defect::NotOpened]);

    let mut holed = committed();
    holed.remove(1);
    let found = check(STORE, &holed, &[]).unwrap_err();
    assert!(matches!(found[0].defect, Defect::Hole { .. }));
}

#[test]
fn a_change_that_progress_has_passed_is_found() {
    let found = defects(from_zero(vec![
        progress(1),
        batch(&[(1, "a/1"), (2, "a/2"), THIRD[0], THIRD[1], THIRD[2]], 3),
        batch(&[(4, "a/4"), (5, "a/5")], 5),
    ]));
    let (revision, key) = (Revision(1), key("a/1"));
    let missing = Defect::Missing {
        revision,
        key: Arc::clone(&key),
    };
    assert_eq!(found, [missing, Defect::Doubled { revision, key }]);
}

/// As if the store were restored after revision 3 of the first history, and had gone on to 4.
fn two_histories() -> [History; 2] {
    let mut second = committed();
    second.truncate(4);
    second[3].mark = Mark(1);
    second[3].keys = vec![key("a/new")];
    let other = StoreId(Uuid::from_u128(8));
    [(STORE, committed()), (other, second)].map(|(store_id, committed)| History {
        store_id,
        committed,
    })
}

#[test]
fn another_identity_comes_by_a_reset_or_is_found() {
    let histories = two_histories();
    let at = |revision: usize| Cursor {
        store_id: histories[1].store_id,
        revision: histories[1].committed[revision - 1].revision,
        mark: histories[1].committed[revision - 1].mark,
    };
    let new = Event::Batch {
        changes: vec![(Revision(4), key("a/new"))],
        cursor: at(4),
        more: false,
    };
    let seen = batch(&[(1, "a/1"), (2, "a/2"), THIRD[0], THIRD[1], THIRD[2]], 3);
    let told = from_zero(vec![
        seen.clone(),
        Event::Reset { head: at(3) },
        new.clone(),
    ]);
    let sound = check_histories(&histories, &[watcher(told)]).unwrap();
    assert_eq!((sound.revisions, sound.resets), (9, 1));

    let untold = from_zero(vec![seen, new]);
    let found = check_histories(&histories, &[watcher(untold)]).unwrap_err();
    let other = Defect::OtherStore {
        from: cursor(3),
        to: at(4),
    };
    assert_eq!(found[0].defect, other);
    // Who never heard of the new one has not seen everything.
    let left = watcher(from_zero(vec![Event::Reset { head: cursor(5) }]));
    let found = check_histories(&histories, &[left]).unwrap_err();
    assert!(matches!(found[0].defect, Defect::Unfinished { .. }));
}
