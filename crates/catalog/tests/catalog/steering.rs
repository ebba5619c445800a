//! Refreshes that are tried, forced, cancelled and watched.

use std::time::Duration;

use steadfast_api::registry::v1::{
    CancelRefreshRequest, RefreshItem, RefreshOutcome, RefreshState, StartRefreshRequest,
    WatchRefreshRequest,
};
use steadfast_catalog::{Error, RefreshWatch};
use tokio::time::timeout;

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, Replica, counts, options, organization, registry, state, version,
};

const ALL: &[&str] = &[HTTP, FHIR, DOTTED];
const DEADLINE: Duration = Duration::from_secs(10);

fn dry() -> StartRefreshRequest {
    StartRefreshRequest {
        dry_run: true,
        ..Default::default()
    }
}

async fn watch(replica: &Replica, id: &str, skip_items: i32) -> Result<RefreshWatch, Error> {
    let request = WatchRefreshRequest {
        id: id.to_owned(),
        skip_items,
    };
    replica.catalog.progress().watch(&request).await
}

/// The rest of what a watch tells.
async fn to_the_end(watch: &mut RefreshWatch) -> (RefreshState, Vec<RefreshItem>) {
    let (mut items, mut last) = (Vec::new(), RefreshState::Unspecified);
    while let Some(told) = timeout(DEADLINE, watch.next())
        .await
        .expect("in time")
        .expect("tells")
    {
        items.extend(told.items);
        last = told.refresh.expect("has one").state();
    }
    (last, items)
}

#[tokio::test]
async fn rule_6_a_dry_run_says_what_would_change_and_stores_nothing() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(organization(&npm)).await;
        replica.filled().await;
        npm.add_version(HTTP, version("7.3.0", "three").label("HTTP"));
        npm.change(FHIR, |package| package.unlisted = true);
        let head = replica.head().await;
        let told = replica.store.source_names().await.expect("reads");
        let checked = replica.store.sources_checked().await.expect("reads");
        let id = replica.start(dry()).await;
        let found = replica.ended(&id).await;
        let refresh = found.refresh.clone().expect("has one");
        assert_eq!(
            (refresh.state(), refresh.dry_run),
            (RefreshState::Succeeded, true)
        );
        assert_eq!(counts(&found), [[2, 2, 0, 0], [3, 1, 2, 0]]);
        let mut said: Vec<_> = found
            .items
            .iter()
            .map(|item| {
                (
                    item.package.as_str(),
                    item.version.as_str(),
                    item.message.as_str(),
                )
            })
            .collect();
        said.sort_unstable();
        let expected = [
            ("", "", "1 no longer listed"),
            (FHIR, "", "no longer listed"),
            (HTTP, "", "7.3.0 published; latest from 7.2.0 to 7.3.0"),
            (HTTP, "7.3.0", ""),
        ];
        assert_eq!(said, expected);
        assert!(found.items.iter().all(|item| item.revision == 0));
        assert_eq!(replica.head().await, head);
        assert_eq!(replica.store.source_names().await.expect("reads"), told);
        assert_eq!(
            replica.store.sources_checked().await.expect("reads"),
            checked
        );
        // It was no lie.
        let real = replica.refresh().await;
        assert_eq!(counts(&real), counts(&found));
        assert_eq!(replica.head().await, head + 2);
    }
}

#[tokio::test]
async fn rule_6_a_dry_run_neither_joins_nor_is_joined() {
    let database = Database::sqlite().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    let gate = npm.hold("/@s/*");
    let running = replica.start(Default::default()).await;
    gate.arrived(1).await;
    let queued = replica.start(Default::default()).await;
    let dry_run = replica.start(dry()).await;
    let second = replica.start(dry()).await;
    let mut ids = vec![&running, &queued, &dry_run, &second];
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    assert_eq!(replica.start(Default::default()).await, queued);
    gate.release();
    for id in [&running, &queued, &dry_run, &second] {
        assert_eq!(state(&replica.ended(id).await), RefreshState::Succeeded);
    }
}

#[tokio::test]
async fn rule_6_force_reads_everything_and_stores_only_what_differs() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        replica.filled().await;
        let head = replica.head().await;
        npm.reset_requests();
        let forced = StartRefreshRequest {
            force: true,
            ..Default::default()
        };
        let found = replica.ended(&replica.start(forced).await).await;
        assert_eq!(counts(&found), [[3, 0, 3, 0], [4, 0, 4, 0]]);
        assert_eq!(replica.head().await, head);
        let requests = npm.requests();
        assert_eq!(requests.count("/*/-/*"), 4);
        assert_eq!(requests.total(), 7);
        let conditional =
            |request: &&steadfast_testkit::npm::Request| request.header("if-none-match").is_some();
        assert_eq!(requests.0.iter().filter(conditional).count(), 0);
    }
}

#[tokio::test]
async fn rule_6_a_cancelled_refresh_stores_nothing_more_whoever_runs_it() {
    for database in Database::both().await {
        let npm = registry().await;
        let replica = database.replica(options(&npm, ALL)).await;
        let filled = replica.filled().await.refresh.expect("has one").id;
        // On PostgreSQL through another replica than the one that runs it.
        let other = match database.postgres {
            Some(_) => Some(database.replica(options(&npm, ALL)).await),
            None => None,
        };
        let asked = other.as_ref().unwrap_or(&replica);
        for name in [HTTP, FHIR] {
            npm.add_version(name, version("9.0.0", "never"));
        }
        let head = replica.head().await;
        let gate = npm.hold("/@s/*");
        let running = replica.start(Default::default()).await;
        gate.arrived(1).await;
        let queued = replica.start(Default::default()).await;
        let cancel = async |id: &str| {
            let request = CancelRefreshRequest { id: id.to_owned() };
            let cancelled = asked.catalog.refreshes().cancel(&request, "ann").await;
            cancelled.map(|answer| answer.refresh.expect("has one"))
        };
        let mut seen = watch(asked, &running, 0).await.expect("watches");
        for id in [&queued, &running] {
            let refresh = cancel(id).await.expect("is cancelled");
            assert_eq!(refresh.state(), RefreshState::Cancelled);
            assert_eq!(refresh.error, "cancelled by ann");
            assert!(refresh.end_time.is_some());
        }
        // What it had begun is let go of: the gate is still closed.
        assert_eq!(to_the_end(&mut seen).await.0, RefreshState::Cancelled);
        gate.release();
        npm.clear_faults();
        let again = cancel(&running).await.expect("is cancelled already");
        assert_eq!(again.state(), RefreshState::Cancelled);
        match cancel(&filled).await {
            Err(Error::RefreshEnded { state, .. }) => assert_eq!(state, "succeeded"),
            other => panic!("{other:?}"),
        }
        let unknown = cancel("nonsense").await;
        assert!(
            matches!(unknown, Err(Error::RefreshNotFound { .. })),
            "{unknown:?}"
        );
        assert_eq!(replica.head().await, head);
        let found = replica.refresh().await;
        assert_eq!(counts(&found)[0], [3, 2, 1, 0]);
        assert_eq!(state(&replica.get(&running).await), RefreshState::Cancelled);
    }
}

#[tokio::test]
async fn rule_9_progress_is_told_by_any_replica_and_goes_on_where_it_was() {
    for database in Database::both().await {
        let npm = registry().await;
        let gate = npm.hold(&format!("/{DOTTED}*"));
        let replica = database.replica(options(&npm, ALL)).await;
        gate.arrived(1).await;
        let list = replica.catalog.refreshes().list(&Default::default()).await;
        let id = list.expect("lists").refreshes[0].id.clone();
        let other = match database.postgres {
            Some(_) => Some(database.replica(options(&npm, ALL)).await),
            None => None,
        };
        let asked = other.as_ref().unwrap_or(&replica);
        let mut first = watch(asked, &id, 0).await.expect("watches");
        let mut items = Vec::new();
        while items.len() < 5 {
            let told = timeout(DEADLINE, first.next()).await.expect("in time");
            let told = told.expect("tells").expect("goes on");
            assert_eq!(
                told.refresh.expect("has one").state(),
                RefreshState::Running
            );
            items.extend(told.items);
        }
        assert_eq!(items.len(), 5, "the sixth is at the gate");
        // Another one begins where this one is, and both hear of the rest.
        let mut second = watch(asked, &id, 5).await.expect("watches");
        drop(timeout(DEADLINE, second.next()).await.expect("in time"));
        gate.release();
        let (state, rest) = to_the_end(&mut first).await;
        assert_eq!(state, RefreshState::Succeeded);
        assert_eq!(rest.len(), 2);
        assert!(rest.iter().all(|item| item.package == DOTTED));
        assert!(
            rest.iter()
                .all(|item| item.outcome() == RefreshOutcome::Changed)
        );
        assert_eq!(
            to_the_end(&mut second).await,
            (RefreshState::Succeeded, rest.clone())
        );
        items.extend(rest);
        // Of one that has ended everything is told at once.
        let mut late = watch(asked, &id, 0).await.expect("watches");
        assert_eq!(
            to_the_end(&mut late).await,
            (RefreshState::Succeeded, items)
        );
        let mut late = watch(asked, &id, 7).await.expect("watches");
        assert_eq!(
            to_the_end(&mut late).await,
            (RefreshState::Succeeded, Vec::new())
        );
        let unknown = watch(asked, "nonsense", 0).await;
        assert!(matches!(unknown, Err(Error::RefreshNotFound { .. })));
        let negative = watch(asked, &id, -1).await;
        assert!(matches!(
            negative,
            Err(Error::InvalidArgument {
                field: "skip_items",
                ..
            })
        ));
    }
}

#[tokio::test]
async fn rule_9_what_moves_no_revision_is_told_too() {
    let database = Database::postgres().await;
    let npm = registry().await;
    let replica = database.replica(options(&npm, ALL)).await;
    let other = database.replica(options(&npm, ALL)).await;
    replica.filled().await;
    let gate = npm.hold(&format!("/{HTTP}"));
    let id = replica.start(Default::default()).await;
    gate.arrived(1).await;
    let mut watched = watch(&other, &id, 0).await.expect("watches");
    loop {
        let told = timeout(DEADLINE, watched.next()).await.expect("in time");
        let counts = told.expect("tells").expect("goes on").refresh;
        let counts = counts.expect("has one").counts[0];
        if counts.unchanged == 2 {
            assert_eq!(counts.listed, 3);
            break;
        }
    }
    gate.release();
    assert_eq!(to_the_end(&mut watched).await.0, RefreshState::Succeeded);
}
