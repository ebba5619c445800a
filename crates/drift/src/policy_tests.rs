//! What policies decide.

use std::collections::BTreeMap;

use proptest::prelude::*;
use steadfast_types::Timestamp;

use crate::policy::{
    Decision, DriftKind, Handling, Hidden, HiddenBy, Policies, Policy, Severity, Subject, Window,
};

/// 2026-11-22, a Sunday, 12:00 UTC.
const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

fn hours(count: i64) -> Timestamp {
    Timestamp(NOON.0 + count * 3_600_000_000)
}

fn policy(name: &str) -> Policy {
    Policy {
        name: name.to_owned(),
        reason: "a test".to_owned(),
        expires: Some(hours(24)),
        ..Policy::default()
    }
}

fn labels() -> BTreeMap<String, String> {
    [("env", "prod"), ("team", "web")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn decide_about(policies: &[Policy], path: &str, drift: DriftKind, now: Timestamp) -> Decision {
    let labels = labels();
    let subject = Subject {
        provider: "do",
        kind: "droplet",
        labels: &labels,
        path,
        drift,
        secret: false,
        flapping: false,
    };
    Policies::new(policies.to_vec()).at(now).decide(&subject)
}

fn decide(policies: &[Policy]) -> Decision {
    decide_about(policies, "/network/ip", DriftKind::Changed, NOON)
}

/// Each is more specific than the one before.
fn ladder() -> Vec<Policy> {
    let env = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let provider = Policy {
        provider: "do".to_owned(),
        ..policy("provider")
    };
    let kind = Policy {
        kind: "droplet".to_owned(),
        ..provider.clone()
    };
    let at = |path: &str| Policy {
        path: path.to_owned(),
        ..policy(path)
    };
    vec![
        policy("any"),
        provider,
        Policy {
            name: "type".to_owned(),
            ..kind.clone()
        },
        Policy {
            name: "label".to_owned(),
            labels: env,
            ..policy("label")
        },
        Policy {
            name: "labels".to_owned(),
            labels: labels(),
            ..policy("labels")
        },
        at("/network"),
        Policy {
            name: "path and type".to_owned(),
            path: "/network".to_owned(),
            ..kind
        },
        at("/network/ip"),
    ]
}

proptest! {
    /// Whatever they say and in whatever order they come, the most specific decides.
    #[test]
    fn the_most_specific_policy_wins(seed in any::<prop::sample::Index>(), says in prop::collection::vec((0_usize..4, 0_usize..3), 8), order in Just((0..8).collect::<Vec<usize>>()).prop_shuffle()) {
        let handlings = [Handling::Ignore, Handling::Manual, Handling::Accept, Handling::Revert];
        let severities = [Severity::Info, Severity::Warning, Severity::Critical];
        let ladder = ladder();
        let count = seed.index(ladder.len()) + 1;
        let policies: Vec<Policy> = order.into_iter().filter(|at| *at < count).map(|at| Policy {
            handling: Some(handlings[says[at].0]),
            severity: Some(severities[says[at].1]),
            ..ladder[at].clone()
        }).collect();
        let decision = decide(&policies);
        prop_assert_eq!(decision.handling, handlings[says[count - 1].0]);
        prop_assert_eq!(decision.severity, severities[says[count - 1].1]);
        prop_assert_eq!(&decision.policy, &ladder[count - 1].name);
        prop_assert_eq!(decision.hidden.is_some(), decision.handling == Handling::Ignore);
    }
}

#[test]
fn on_a_tie_the_more_careful_wins() {
    let of = |name: &str, handling, severity| Policy {
        handling: Some(handling),
        severity: Some(severity),
        ..policy(name)
    };
    let order = [
        Handling::Ignore,
        Handling::Manual,
        Handling::Accept,
        Handling::Revert,
    ];
    for (at, careful) in order.iter().enumerate() {
        for other in &order[at..] {
            for names in [["a", "b"], ["b", "a"]] {
                let tied = [
                    of(names[0], *careful, Severity::Info),
                    of(names[1], *other, Severity::Critical),
                ];
                let decision = decide(&tied);
                assert_eq!(decision.handling, *careful);
                assert_eq!(decision.severity, Severity::Critical);
            }
        }
    }
}

#[test]
fn a_policy_applies_where_it_says() {
    let accept = |policy: Policy| Policy {
        handling: Some(Handling::Accept),
        ..policy
    };
    let handled = |policy: Policy, path: &str| {
        decide_about(&[accept(policy)], path, DriftKind::Changed, NOON).handling
    };
    for mut other in ladder() {
        assert_eq!(handled(other.clone(), "/network/ip"), Handling::Accept);
        other.provider = "aws".to_owned();
        assert_eq!(handled(other, "/network/ip"), Handling::Manual);
    }
    let at = |path: &str| Policy {
        path: path.to_owned(),
        ..policy("path")
    };
    assert_eq!(handled(at("/net"), "/network"), Handling::Manual);
    assert_eq!(handled(at("/network"), "/network"), Handling::Accept);
    assert_eq!(handled(at("/network/ip"), "/network"), Handling::Manual);
    // The whole resource is at no path.
    assert_eq!(handled(at("/network"), ""), Handling::Manual);
    assert_eq!(handled(policy("any"), ""), Handling::Accept);
    let labelled = Policy {
        labels: [("env".to_owned(), "test".to_owned())].into(),
        ..policy("label")
    };
    assert_eq!(handled(labelled, "/a"), Handling::Manual);
}

#[test]
fn nothing_said_is_a_person_s_to_decide() {
    for (kind, severity) in [
        (DriftKind::Changed, Severity::Warning),
        (DriftKind::Missing, Severity::Warning),
        (DriftKind::Gone, Severity::Critical),
        (DriftKind::Unmanaged, Severity::Info),
    ] {
        let decision = decide_about(&[], "", kind, NOON);
        assert_eq!(
            decision,
            Decision {
                handling: Handling::Manual,
                policy: String::new(),
                severity,
                hidden: None,
                next: None,
            }
        );
    }
}

#[test]
fn what_flaps_or_is_secret_is_not_accepted_by_itself() {
    let policies = Policies::new(vec![Policy {
        handling: Some(Handling::Accept),
        ..policy("accept")
    }]);
    let labels = labels();
    let handled = |secret, flapping| {
        let subject = Subject {
            provider: "do",
            kind: "droplet",
            labels: &labels,
            path: "/a",
            drift: DriftKind::Changed,
            secret,
            flapping,
        };
        policies.at(NOON).decide(&subject).handling
    };
    assert_eq!(handled(false, false), Handling::Accept);
    assert_eq!(handled(true, false), Handling::Manual);
    assert_eq!(handled(false, true), Handling::Manual);
}

#[test]
fn ignoring_ends_with_the_policy() {
    let ignore = Policy {
        handling: Some(Handling::Ignore),
        ..policy("ignore")
    };
    let at = |now| decide_about(std::slice::from_ref(&ignore), "/a", DriftKind::Changed, now);
    let hidden = Hidden {
        by: HiddenBy::Policy("ignore".to_owned()),
        until: hours(24),
    };
    assert_eq!(at(NOON).hidden, Some(hidden));
    assert_eq!(at(NOON).next, Some(hours(24)));
    assert_eq!((at(hours(24)).hidden, at(hours(24)).next), (None, None));
}

#[test]
fn a_window_hides_while_it_is_open() {
    // Sundays at 13:30 in Vienna, which is 12:30 UTC in November, for two hours.
    let window = Policy {
        windows: vec![Window {
            cron: "30 13 * * 0".to_owned(),
            time_zone: "Europe/Vienna".to_owned(),
            duration_s: 7_200,
        }],
        expires: None,
        ..policy("window")
    };
    let at = |minutes: i64| {
        let now = Timestamp(NOON.0 + minutes * 60_000_000);
        decide_about(std::slice::from_ref(&window), "/a", DriftKind::Changed, now)
    };
    let minutes = |count: i64| Some(Timestamp(NOON.0 + count * 60_000_000));
    assert_eq!((at(0).hidden, at(0).next), (None, minutes(30)));
    for open in [30, 149] {
        let hidden = at(open).hidden.expect("it is open");
        assert_eq!(hidden.by, HiddenBy::Window("window".to_owned()));
        assert_eq!(Some(hidden.until), minutes(150));
        assert_eq!(at(open).next, minutes(150));
        assert_eq!(at(open).handling, Handling::Manual);
    }
    assert_eq!(at(150).hidden, None);
    assert_eq!(at(150).next, minutes(30 + 7 * 24 * 60));
}

#[test]
fn a_snooze_comes_first_and_ends() {
    let none = decide(&[]);
    let snoozed = Some(Hidden {
        by: HiddenBy::Snooze,
        until: hours(1),
    });
    assert_eq!(none.hidden_with(Some(hours(1)), NOON), snoozed);
    assert_eq!(none.hidden_with(Some(hours(1)), hours(1)), None);
    assert_eq!(none.hidden_with(None, NOON), None);
    let ignored = decide(&[Policy {
        handling: Some(Handling::Ignore),
        ..policy("ignore")
    }]);
    assert_eq!(ignored.hidden_with(Some(hours(1)), NOON), snoozed);
    assert_eq!(
        ignored.hidden_with(Some(hours(1)), hours(1)),
        ignored.hidden
    );
}

#[test]
fn every_problem_of_a_policy_is_told() {
    let window = |cron: &str, time_zone: &str, duration_s| Window {
        cron: cron.to_owned(),
        time_zone: time_zone.to_owned(),
        duration_s,
    };
    let wrong = Policy {
        kind: "droplet".to_owned(),
        path: "network".to_owned(),
        handling: Some(Handling::Ignore),
        windows: vec![
            window("* * *", "", 60),
            window("0 3 * * *", "Vienna", 60),
            window("0 3 * * *", "", 59),
            window("0 3 * * *", "", 60),
        ],
        max_reverts: 11,
        ..Policy::default()
    };
    let fields: Vec<_> = wrong.problems().into_iter().map(|one| one.field).collect();
    assert_eq!(
        fields,
        [
            "provider",
            "path",
            "reason",
            "expire_time",
            "max_reverts",
            "windows[0].cron",
            "windows[1].time_zone",
            "windows[2].duration"
        ]
    );
    let silent = policy("silent").problems();
    assert_eq!(silent.len(), 1);
    assert_eq!(silent[0].field, "handling");
    for one in ladder() {
        let says = Policy {
            handling: Some(Handling::Ignore),
            ..one
        };
        assert_eq!(says.problems(), vec![]);
    }
}

#[test]
fn a_policy_survives_being_written_down() {
    for one in ladder() {
        let text = serde_json::to_string(&one).expect("it is plain");
        assert_eq!(
            serde_json::from_str::<Policy>(&text).expect("it is a policy"),
            one
        );
    }
}
