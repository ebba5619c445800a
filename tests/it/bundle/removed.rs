//! Watchers of a server hear what an import did to its catalogue: all of that, and nothing else.

use steadfast_testkit::Server;

use super::{
    HTTP,
    catalogue::standing,
    export, import,
    pair::{self, Pair, REMOVED, Told, assert_told, heard, opened},
};
use crate::{
    local::monorepo::name,
    scene::{Engine, NoRegistry, PRESENT, connection},
};

async fn heard_later(server: &Server, after: steadfast_client::Cursor) -> Told {
    let mut watcher = pair::watcher(&connection(server).await, after);
    heard(&mut watcher, standing(server).await).await
}

#[tokio::test]
async fn rule_15_each_removed_and_each_changed_name_is_told_to_watchers_and_to_those_who_were_away()
{
    let pair = Pair::exported().await;
    for engine in Engine::BOTH {
        let target = NoRegistry::start(engine).await;
        let server = &target.server;
        import(server, &pair.before, &["--replace"]).await;
        let before = standing(server).await;
        let mut watcher = pair::watcher(&connection(server).await, before);
        opened(&mut watcher).await;

        let replaced = import(server, &pair.after, &["--replace"]).await;
        let removed = REMOVED.map(|number| name(&format!("adaptor-{number:03}")));
        assert_eq!(replaced["removed_packages"], serde_json::json!(removed));
        let between = standing(server).await;
        let told = heard(&mut watcher, between).await;
        assert_told(&told, &pair.forth, "the one who watched");
        assert_told(
            &heard_later(server, before).await,
            &pair.forth,
            "the one who was away",
        );

        // The way back: what was removed comes, and what came is removed.
        import(server, &pair.before, &["--replace"]).await;
        let after = standing(server).await;
        assert_told(
            &heard(&mut watcher, after).await,
            &pair.back,
            "on the way back",
        );
        assert_told(
            &heard_later(server, between).await,
            &pair.back,
            "away on the way back",
        );
        // To merge removes no package, and takes from the packages of both what the bundle does not have of them.
        import(server, &pair.after, &["--merge"]).await;
        let mut merged = pair.forth.clone();
        merged.retain(|told| !removed.iter().any(|name| told.contains(name.as_str())));
        let end = standing(server).await;
        assert_told(&heard(&mut watcher, end).await, &merged, "merged");
    }
}

#[tokio::test]
async fn rule_15_a_schema_that_stays_is_not_told_although_its_tarball_is_another_one() {
    let source = super::source(Engine::Sqlite, &PRESENT).await;
    let first = export(&source.server, "first.bundle").await;
    source.npm.change(HTTP, |package| {
        let newest = package
            .versions
            .iter_mut()
            .find(|one| one.version == "7.2.0");
        let file = ("README.md".to_owned(), "more".into());
        newest.expect("is there").files.push(file);
    });
    let _ = source.refresh(0).await;
    let second = export(&source.server, "second.bundle").await;
    let target = NoRegistry::start(Engine::Sqlite).await;
    import(&target.server, &first, &[]).await;
    let before = standing(&target.server).await;
    import(&target.server, &second, &[]).await;
    let told = heard_later(&target.server, before).await;
    assert_told(
        &told,
        &[format!("upsert registry {HTTP}")].into(),
        "another tarball",
    );
}
