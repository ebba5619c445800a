//! Icons that are known of already: asked about again out of turn, and forgotten with their bytes.

use steadfast_api::registry::v1::{RefreshKind, RefreshState, StartRefreshRequest};
use steadfast_catalog::Error;

use crate::{
    fixture::{Database, FHIR, HTTP, counts, options, registry, state},
    icons::{ALL, place, png, square, with_icons},
};

fn forced() -> StartRefreshRequest {
    StartRefreshRequest {
        kinds: vec![RefreshKind::Icons.into()],
        force: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn rule_6_force_asks_for_missing_icons_before_their_time_and_for_all_without_a_tag() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put_file(&place(HTTP, "square.png"), &png("http"));
        let replica = database.replica(with_icons(options(&npm, ALL), &npm)).await;
        replica.filled().await;
        let head = replica.head().await;
        let known = replica.store.icons_of(FHIR).await.expect("reads");
        assert!(known.iter().all(|row| row.misses == 1 && !row.due));

        // Still none: everything is asked for, nothing is stored, and the next question is no further away.
        npm.reset_requests();
        let again = replica.ended(&replica.start(forced()).await).await;
        assert_eq!(state(&again), RefreshState::Succeeded);
        assert_eq!(counts(&again), [[1, 0, 1, 0]]);
        let asked = npm.requests();
        assert_eq!(asked.count("/-icons/*"), 12, "{:?}", asked.per_path());
        let tagged = asked
            .matching("/-icons/*")
            .filter(|request| request.header("if-none-match").is_some());
        assert_eq!(tagged.count(), 0);
        assert_eq!(replica.head().await, head);
        assert_eq!(replica.store.icons_of(FHIR).await.expect("reads"), known);

        // It has come: a plain refresh does not ask yet, a forced one does.
        npm.put_file(&place(FHIR, "square.png"), &png("fhir"));
        assert_eq!(counts(&replica.refresh().await)[2], [1, 0, 1, 0]);
        let none = square(&replica, FHIR).await;
        assert!(matches!(none, Err(Error::IconNotFound { .. })), "{none:?}");
        let found = replica.ended(&replica.start(forced()).await).await;
        assert_eq!(counts(&found), [[2, 1, 1, 0]]);
        let icon = square(&replica, FHIR).await.expect("is there");
        assert_eq!(icon.data, png("fhir"));
    }
}
