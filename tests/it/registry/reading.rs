//! Read-your-writes: lookups that ask for a revision.

use steadfast_client::{
    Code, Error,
    api::{
        common::v1::Cursor,
        registry::v1::{GetPackageRequest, GetPackageResponse},
        watch::v1::{Op, PublishRequest, publish_request::Change},
    },
};

use steadfast_testkit::{NpmServer, PackageSpec, VersionSpec};

use crate::scene::{Engine, Scene, configuration, eventually};

#[tokio::test]
async fn a_lookup_reflects_at_least_the_revision_it_asks_for() {
    for engine in Engine::BOTH {
        let scene = Scene::filled(engine).await;
        let connection = scene.connect().await;
        let get = async |min_revision: Option<Cursor>| -> Result<GetPackageResponse, Error> {
            let request = GetPackageRequest {
                name: "left-pad".to_owned(),
                min_revision,
                ..GetPackageRequest::default()
            };
            connection
                .call(connection.registry().get_package(request))
                .await
        };
        for number in 0..20 {
            let request = PublishRequest {
                changes: vec![Change {
                    topic: "app/own".to_owned(),
                    key: number.to_string(),
                    op: Op::Upsert.into(),
                    ..Change::default()
                }],
                ..PublishRequest::default()
            };
            let published = connection
                .call(connection.watches().publish(request))
                .await
                .expect("it is published");
            let own = published.cursor.expect("a cursor");
            let state = get(Some(own.clone())).await.expect("the own write");
            let state = state.read_state.expect("a state");
            assert!(state.revision >= own.revision, "{state:?} {own:?}");
        }

        let head = scene.head().await;
        let future = Cursor {
            revision: head.revision + 1_000,
            ..head.clone()
        };
        let error = get(Some(future)).await.expect_err("it is not there yet");
        let future = (error.code, error.reason.as_str());
        // Whether it is yet to come or of another history, only the database can tell.
        assert!(
            future == (Code::FailedPrecondition, "STORE_CHANGED")
                || (future == (Code::Unavailable, "REVISION_NOT_REACHED")
                    && error.retry_after.is_some()),
            "{error:?}"
        );
        for forged in [
            Cursor {
                mark: head.mark ^ 1,
                ..head.clone()
            },
            Cursor {
                store_id: "01900000-0000-7000-8000-000000000000".to_owned(),
                ..head.clone()
            },
        ] {
            let error = get(Some(forged)).await.expect_err("another history");
            assert_eq!(
                (error.code, error.reason.as_str()),
                (Code::FailedPrecondition, "STORE_CHANGED")
            );
        }
        for malformed in [
            Cursor::default(),
            Cursor {
                revision: -1,
                ..head
            },
        ] {
            let error = get(Some(malformed)).await.expect_err("malformed");
            assert_eq!(error.code, Code::InvalidArgument, "{error:?}");
            assert_eq!(error.field_violations[0].field, "min_revision");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_with_its_size_and_the_remedy() {
    let npm = NpmServer::start().await;
    let mut large = PackageSpec::new("large");
    for patch in 0..400 {
        let version = VersionSpec::new(format!("1.0.{patch}"));
        large = large.version(version.deprecated(&"words ".repeat(40)));
    }
    npm.put(large);
    let configured = |npm: &NpmServer| {
        let sources = configuration(npm, &["large"]);
        format!("[limits]\nmax_message_bytes = 65536\ndocument_max_bytes = 32768\n{sources}")
    };
    let scene = Scene::over(Engine::Sqlite, npm, &configured, |builder| builder).await;
    let connection = scene.connect().await;
    let request = GetPackageRequest {
        name: "large".to_owned(),
        ..GetPackageRequest::default()
    };
    let error = eventually("the package lands", async || {
        let mut client = connection.registry();
        let asked = connection.call(client.get_package(request.clone())).await;
        let error = asked.expect_err("it is too large");
        (error.reason != "PACKAGE_NOT_FOUND").then_some(error)
    })
    .await;
    assert_eq!(
        (error.code, error.reason.as_str()),
        (Code::ResourceExhausted, "ANSWER_TOO_LARGE")
    );
    assert_eq!(error.metadata["limit"], "65536");
    let shown = scene.server.cli(&["package", "get", "large"]).await;
    let told = shown.failure(4);
    assert!(told.contains("limits.max_message_bytes"), "{told}");
}
