//! Two replicas on one PostgreSQL: a refresh is done once, and survives the replica that does it.

use std::{collections::BTreeSet, time::Duration};

use steadfast_client::api::registry::v1::{RefreshKind, RefreshState, StartRefreshResponse};
use steadfast_testkit::{Server, TestDatabase};
use tokio::time::Instant;

use super::fleet::{Caller, Registry, assert_same, assert_same_answers, eventually};

async fn two(registry: &Registry, database: &TestDatabase) -> [Server; 2] {
    let builder = registry.server().database_url(database.url());
    let (one, other) = tokio::join!(builder.start(), builder.start());
    [one, other]
}

async fn callers([one, other]: &[Server; 2]) -> [Caller; 2] {
    [Caller::to(one).await, Caller::to(other).await]
}

fn id_of(answer: &StartRefreshResponse) -> String {
    answer.refresh.clone().expect("an answer names its run").id
}

#[tokio::test]
async fn a_refresh_is_fetched_once_and_both_answer_the_same() {
    let database = TestDatabase::create().await;
    let registry = Registry::start(12).await;
    let servers = two(&registry, &database).await;
    let [a, b] = callers(&servers).await;
    let run = a.start_refresh().await;
    assert!(!run.joined);
    let ended = a.ended(&id_of(&run)).await;
    let refresh = ended.refresh.expect("has one");
    assert_eq!(refresh.state(), RefreshState::Succeeded, "{refresh:?}");
    assert_eq!(refresh.attempts, 1);
    assert_same(&a, &b, &registry.names).await;
    assert_eq!(b.listed().await.len(), 12);
    assert_eq!(registry.packument_requests(), vec![1; 12]);
    assert_eq!(registry.tarball_requests(), 24);
    // One revision for each package, and nothing else.
    assert_eq!(a.read_state().await.revision, 12);
}

#[tokio::test]
async fn concurrent_requests_join_one_run() {
    let database = TestDatabase::create().await;
    let registry = Registry::start(8).await;
    let servers = two(&registry, &database).await;
    let [a, b] = callers(&servers).await;
    // The first run has begun to read, so that it can no longer be joined.
    let gate = registry.upstream.hold("/@acme/*");
    let first = id_of(&a.start_refresh().await);
    gate.arrived(4).await;
    let (on_a, on_b) = tokio::join!(a.start_refresh(), b.start_refresh());
    let follow_up = id_of(&on_a);
    assert_eq!(follow_up, id_of(&on_b), "both mean the same run");
    assert_ne!(follow_up, first);
    assert!(on_a.joined != on_b.joined, "one was first");
    let third = b.start_refresh().await;
    assert_eq!((id_of(&third), third.joined), (follow_up.clone(), true));
    gate.release();
    for id in [&first, &follow_up] {
        for caller in [&a, &b] {
            let ended = caller.ended(id).await.refresh.expect("has one");
            assert_eq!(ended.state(), RefreshState::Succeeded, "{ended:?}");
        }
    }
    assert_same(&a, &b, &registry.names).await;
    // Two runs, of which the second found everything as it was.
    assert_eq!(registry.packument_requests(), vec![2; 8]);
    assert_eq!(registry.tarball_requests(), 16);
    assert_eq!(a.read_state().await.revision, 8);
}

#[tokio::test]
async fn simultaneous_first_requests_never_fetch_twice_for_one_run() {
    let database = TestDatabase::create().await;
    let registry = Registry::start(6).await;
    let servers = two(&registry, &database).await;
    let [a, b] = callers(&servers).await;
    let answers = tokio::join!(
        a.start_refresh(),
        b.start_refresh(),
        a.start_refresh(),
        b.start_refresh()
    );
    let answers = [answers.0, answers.1, answers.2, answers.3];
    let runs: BTreeSet<String> = answers.iter().map(id_of).collect();
    let new = answers.iter().filter(|answer| !answer.joined).count();
    assert_eq!(new, runs.len(), "{answers:?}");
    for id in &runs {
        b.ended(id).await;
    }
    assert_eq!(registry.packument_requests(), vec![runs.len(); 6]);
    assert_eq!(registry.tarball_requests(), 12);
    assert_same(&a, &b, &registry.names).await;
}

#[tokio::test]
async fn a_replica_started_late_answers_without_asking_upstream() {
    let database = TestDatabase::create().await;
    let mut registry = Registry::start(12).await;
    registry.fills = true;
    let first = registry.server().database_url(database.url()).start().await;
    let early = Caller::to(&first).await;
    eventually("the empty catalogue is filled", async || {
        (early.listed().await.len() == 12).then_some(())
    })
    .await;
    registry.upstream.reset_requests();
    registry.upstream.set_down(true);
    let second = registry.server().database_url(database.url()).start().await;
    let late = Caller::to(&second).await;
    // The very first answers, not those after a while.
    let answers = late.catalogue(&registry.names).await;
    let expected = early.catalogue(&registry.names).await;
    assert_same_answers(&registry.names, &answers, &expected);
    assert!(answers.iter().all(Option::is_some));
    assert_eq!(registry.upstream.requests().total(), 0);
}

/// Kills the replica that refreshes half way. The other serves what is there, takes over, and fetches what is missing.
async fn taken_over_within(lease: Duration, margin: Duration) {
    let database = TestDatabase::create().await;
    let mut registry = Registry::start(24).await;
    registry.lease = lease;
    let [mut doomed, heir] = two(&registry, &database).await;
    let (first, caller) = (Caller::to(&doomed).await, Caller::to(&heir).await);
    // Four are read at a time: the last twelve are held, and the twelve before them land.
    let late: Vec<_> = (12..24)
        .map(|index| registry.upstream.hold(&format!("/@acme/part-{index:05}*")))
        .collect();
    let id = id_of(&first.start_refresh().await);
    late[0].arrived(1).await;
    eventually("the first half has landed", async || {
        (caller.listed().await.len() == 12).then_some(())
    })
    .await;
    let before = caller.refresh(&id).await.expect("is there");
    assert_eq!(
        before.refresh.as_ref().expect("has one").owner,
        doomed.replica()
    );
    doomed.kill().await;
    let killed = Instant::now();

    // Half a catalogue, of whole packages; `answers` checks each.
    let present = caller.catalogue(&registry.names).await;
    assert!(present[..12].iter().all(Option::is_some));
    assert!(present[12..].iter().all(Option::is_none));
    registry.upstream.reset_requests();
    for gate in &late {
        gate.release();
    }
    let ended = caller.ended(&id).await;
    let took = killed.elapsed();
    let refresh = ended.refresh.expect("has one");
    assert_eq!(refresh.state(), RefreshState::Succeeded, "{refresh:?}");
    assert_eq!(
        (refresh.attempts, refresh.owner.as_str()),
        (2, heir.replica())
    );
    assert!(took < lease + margin, "{took:?} with a lease of {lease:?}");
    println!("taken over and finished after {took:?} with a lease of {lease:?}");

    // What had landed was kept, and not asked for again.
    assert_eq!(
        ended.items[..before.items.len()],
        before.items[..],
        "items are only added"
    );
    let missing: BTreeSet<String> = registry.names[12..].iter().cloned().collect();
    assert_eq!(registry.asked_about(), missing);
    let once: BTreeSet<_> = ended
        .items
        .iter()
        .map(|item| (item.kind, &item.package, &item.version))
        .collect();
    assert_eq!(once.len(), ended.items.len(), "no item twice");
    let packages = ended
        .items
        .iter()
        .filter(|item| item.kind() == RefreshKind::Packages);
    assert_eq!(packages.count(), 24);
    for counts in &refresh.counts {
        assert_eq!((counts.unchanged, counts.failed), (0, 0), "{counts:?}");
        assert_eq!(counts.changed, counts.listed, "{counts:?}");
    }
    let whole = caller.catalogue(&registry.names).await;
    assert_same_answers(&registry.names[..12], &whole[..12], &present[..12]);
    assert!(whole.iter().all(Option::is_some));
    assert_eq!(
        caller.read_state().await.revision,
        24,
        "one revision for each package"
    );
}

#[tokio::test]
async fn a_killed_replica_is_followed_within_the_lease() {
    taken_over_within(Duration::from_millis(800), Duration::from_secs(4)).await;
}

#[tokio::test]
async fn a_killed_replica_is_followed_within_the_default_lease() {
    taken_over_within(Duration::from_secs(10), Duration::from_secs(4)).await;
}
