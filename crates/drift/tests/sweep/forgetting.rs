//! What nobody asks for any more.

use crate::{
    saga::{hold, release},
    scene::{Scene, name, rules},
};

impl Scene {
    async fn forget(&self, id: &str) {
        let name = name(id);
        let forgot = self
            .store
            .delete_resource(&name, "ann", "a test", |_| Ok::<(), ()>(()));
        forgot.await.unwrap().unwrap();
    }
}

/// The next sweep closes its drifts, whatever the last look was worth and whoever holds it.
#[tokio::test]
async fn what_is_forgotten_differs_from_nothing() {
    let (asked, there, other) = (r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#);
    let cases = ["failed", "running", "held", "resizing"];
    for mut scene in Scene::both().await {
        for unmanaged in [false, true] {
            let kinds: &[&str] = if unmanaged { &["cloud/vm"] } else { &[] };
            scene.redeclare(rules(kinds)).await;
            for id in cases {
                scene.record(id, asked).await;
            }
            scene.inventory(&cases.map(|id| (id, there))).await;
            scene.sweep().await;
            let failed = scene.begin().await;
            let seen = vec![scene.observed("failed", Some(other))];
            scene.report_all(Some(&failed), seen).await;
            scene.end(&failed, false).await;
            let running = scene.begin().await;
            let seen = vec![scene.observed("running", Some(other))];
            scene.report_all(Some(&running), seen).await;
            let saga = hold(&scene, &name("held")).await;
            let mut resizing = scene.observed("resizing", Some(there));
            "resizing".clone_into(&mut resizing.transition);
            scene.report_all(None, vec![resizing]).await;
            scene.sweep().await;
            for id in cases {
                assert_eq!(scene.open(id).await.len(), 1, "{id}");
                scene.forget(id).await;
            }
            scene.sweep().await;
            for id in cases {
                assert_eq!(scene.open(id).await, [], "{id}, unmanaged: {unmanaged}");
                assert_eq!(scene.verdict(id).await, "", "{id}");
            }
            scene.assert_quiet().await;
            // Once it is certain that they are there, that is a drift where it is declared so.
            release(&scene, &saga).await;
            scene.end(&running, true).await;
            scene.inventory(&cases.map(|id| (id, there))).await;
            scene.sweep().await;
            for id in cases {
                assert_eq!(scene.open(id).await.len(), usize::from(unmanaged), "{id}");
            }
            scene.sweep().await;
            assert_eq!(scene.store.due_resources().await.unwrap(), 0);
            scene.assert_quiet().await;
        }
    }
}

/// What is open about all of a resource neither closes nor comes back as another one because somebody is at it.
#[tokio::test]
async fn an_unmanaged_one_stays_as_it_is_while_nothing_is_certain() {
    for mut scene in Scene::both().await {
        scene.redeclare(rules(&["cloud/vm"])).await;
        scene.report("1", Some(r#"{"a":1}"#)).await;
        scene.sweep().await;
        let open = scene.drifts("1", &["open"]).await;
        assert_eq!(open[0].kind, "unmanaged");
        let saga = hold(&scene, &name("1")).await;
        scene.report("1", Some(r#"{"a":2}"#)).await;
        scene.sweep().await;
        assert_eq!(
            scene.all_drifts().await,
            [(open[0].id.clone(), "open".to_owned(), 1)]
        );
        assert_eq!(scene.verdict("1").await, "drifted");
        release(&scene, &saga).await;
        scene.sweep().await;
        let now = scene.drifts("1", &["open"]).await;
        assert_eq!(
            (&now[0].id, now[0].actual.as_deref()),
            (&open[0].id, Some(r#"{"a":2}"#))
        );
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
    }
}
