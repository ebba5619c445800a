//! Icons: prefetched, asked about again with their tags, fetched once for the fleet when somebody asks first, and never stale.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use steadfast_api::registry::v1::{
    GetIconRequest, GetIconResponse, IconFormat, IconShape, RefreshKind, RefreshState,
    StartRefreshRequest,
};
use steadfast_catalog::{Error, Options};
use steadfast_store::{Change, Entry, Op, Read};
use steadfast_testkit::{Fault, NpmServer, Times};
use steadfast_upstream::{HttpClient, HttpOptions, IconTemplate, IconUpstream};

use crate::fixture::{
    DOTTED, Database, FHIR, HTTP, Replica, counts, eventually, failures, npm_of, options, registry,
    state,
};

pub(crate) const ALL: &[&str] = &[HTTP, FHIR, DOTTED];

/// A PNG of its own for each text.
pub(crate) fn png(text: &str) -> Vec<u8> {
    let mut bytes =
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89"
            .to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(crate) fn svg(text: &str) -> Vec<u8> {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><desc>{text}</desc></svg>").into_bytes()
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the registry's machine has an icon.
pub(crate) fn place(package: &str, file: &str) -> String {
    let short = package.rsplit('/').next().expect("a name");
    format!("/-icons/{short}/{file}")
}

pub(crate) fn with_icons(mut options: Options, npm: &NpmServer) -> Options {
    let template = format!("{}/-icons/{{short}}/{{shape}}.{{ext}}", npm.url());
    let template = IconTemplate::parse(&template, "").expect("a template");
    let client = HttpClient::new(HttpOptions {
        attempt_timeout: Duration::from_secs(10),
        retries_max: 0,
        system_proxy: false,
        ..HttpOptions::default()
    })
    .expect("a client");
    npm_of(&mut options).icons = Some(IconUpstream::new(client, template, 64 << 10));
    options
}

pub(crate) fn wanted(package: &str, shape: IconShape, format: IconFormat) -> GetIconRequest {
    GetIconRequest {
        package: package.to_owned(),
        shape: shape.into(),
        format: format.into(),
        ..Default::default()
    }
}

pub(crate) async fn get(
    replica: &Replica,
    request: &GetIconRequest,
) -> Result<GetIconResponse, Error> {
    let answer = replica.catalog.lookup_icon(request).await?;
    Ok(answer.decode().expect("decodes"))
}

pub(crate) async fn square(replica: &Replica, package: &str) -> Result<GetIconResponse, Error> {
    let request = wanted(package, IconShape::Square, IconFormat::Unspecified);
    get(replica, &request).await
}

/// The changes of icons after a revision.
pub(crate) async fn icon_changes(replica: &Replica, after: i64) -> Vec<(String, Op, String)> {
    let store_id = replica.hub.store_id();
    let after = steadfast_types::Revision(after);
    let read = replica.store.read_log_from(store_id, after, 1_000).await;
    let Read::Page(page) = read.expect("reads") else {
        panic!("the log is whole");
    };
    let changes = page
        .entries
        .into_iter()
        .flat_map(|entry: Entry| entry.changes);
    changes
        .filter(|change: &Change| change.topic == "icon")
        .map(|change| (change.key, change.op, change.etag))
        .collect()
}

#[tokio::test]
async fn rule_3_a_refresh_prefetches_icons_and_asks_again_with_their_tags() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put_file(&place(HTTP, "square.png"), &png("http"));
        npm.put_file(&place(HTTP, "rectangle.svg"), &svg("http"));
        npm.put_file(&place(FHIR, "square.png"), &png("fhir"));
        let replica = database.replica(with_icons(options(&npm, ALL), &npm)).await;
        let filled = replica.filled().await;
        assert_eq!(state(&filled), RefreshState::Succeeded);
        assert_eq!(counts(&filled)[2], [3, 3, 0, 0]);
        // Two shapes in two formats of three packages.
        assert_eq!(npm.requests().count("/-icons/*"), 12);
        npm.set_down(true);
        let found = square(&replica, HTTP).await.expect("is there");
        assert_eq!(found.data, png("http"));
        let icon = found.icon.expect("has one");
        assert_eq!(icon.etag, hash(&png("http")));
        assert_eq!(
            icon.path,
            format!("/icons/{HTTP}/square-{}.png", &icon.etag[..8])
        );
        let request = wanted(HTTP, IconShape::Rectangle, IconFormat::Unspecified);
        let found = get(&replica, &request).await.expect("is there");
        let icon = found.icon.expect("has one");
        assert_eq!(
            (icon.format(), icon.media_type.as_str()),
            (IconFormat::Svg, "image/svg+xml")
        );
        assert_eq!(found.data, svg("http"));
        npm.set_down(false);

        // Nothing new: three questions with a tag, none about what was not there a moment ago.
        npm.reset_requests();
        let head = replica.head().await;
        let again = replica.refresh().await;
        assert_eq!(counts(&again)[2], [3, 0, 3, 0]);
        let asked = npm.requests();
        assert_eq!(asked.count("/-icons/*"), 3, "{:?}", asked.per_path());
        let tagged = asked
            .matching("/-icons/*")
            .filter(|request| request.header("if-none-match").is_some());
        assert_eq!(tagged.count(), 3);
        assert_eq!(
            replica.head().await,
            head,
            "what is unchanged moves nothing"
        );

        npm.put_file(&place(HTTP, "square.png"), &png("http, anew"));
        npm.remove_file(&place(FHIR, "square.png"));
        let only = StartRefreshRequest {
            kinds: vec![RefreshKind::Icons.into()],
            ..Default::default()
        };
        let id = replica.start(only).await;
        let ended = replica.ended(&id).await;
        assert_eq!(state(&ended), RefreshState::Succeeded);
        assert_eq!(counts(&ended), [[3, 2, 1, 0]]);
        let found = square(&replica, HTTP).await.expect("is there");
        assert_eq!(found.data, png("http, anew"));
        let gone = square(&replica, FHIR).await;
        assert!(matches!(gone, Err(Error::IconNotFound { .. })), "{gone:?}");
        let mut changes = icon_changes(&replica, head).await;
        changes.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        assert_eq!(
            changes,
            [
                (format!("{FHIR}/square.png"), Op::Delete, String::new()),
                (
                    format!("{HTTP}/square.png"),
                    Op::Upsert,
                    hash(&png("http, anew"))
                ),
            ]
        );
        let mut former = [hash(&png("http")), hash(&png("fhir"))];
        former.sort();
        let loose = replica.store.loose_icon_blobs(10).await.expect("reads");
        assert_eq!(loose, former, "bytes that nobody refers to can be pruned");
    }
}

#[tokio::test]
async fn rule_3_a_failed_re_check_keeps_the_old_icon() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put_file(&place(HTTP, "square.png"), &png("http"));
        let replica = database.replica(with_icons(options(&npm, ALL), &npm)).await;
        replica.filled().await;
        let head = replica.head().await;
        let pattern = place(HTTP, "square.png");
        let large = String::from_utf8_lossy(&vec![b'x'; 65 << 10]).into_owned();
        for (fault, reason) in [
            (Fault::status(500), "UPSTREAM_UNAVAILABLE"),
            (Fault::status(403), "UPSTREAM_FORBIDDEN"),
            (
                Fault::Body("<html>not found</html>".into()),
                "MALFORMED_ANSWER",
            ),
            (
                Fault::Body(String::from_utf8_lossy(&svg("x")).into()),
                "MALFORMED_ANSWER",
            ),
            (Fault::Body(large), "BODY_TOO_LARGE"),
            (Fault::Truncated, "TRUNCATED_ANSWER"),
            (Fault::Disconnect, "UPSTREAM_UNAVAILABLE"),
        ] {
            npm.put_file(&pattern, &png("never"));
            npm.fault(&pattern, fault.clone(), Times::Forever);
            let found = replica.refresh().await;
            assert_eq!(state(&found), RefreshState::Partial, "{fault:?}");
            let expected = (HTTP.to_owned(), "square.png".to_owned(), reason.to_owned());
            assert_eq!(failures(&found), [expected], "{fault:?}");
            assert_eq!(replica.head().await, head, "{fault:?}");
            let kept = square(&replica, HTTP).await.expect("stays");
            assert_eq!(kept.data, png("http"), "{fault:?}");
            npm.clear_faults();
        }
        assert_eq!(state(&replica.refresh().await), RefreshState::Succeeded);
        let found = square(&replica, HTTP).await.expect("is there");
        assert_eq!(found.data, png("never"));
    }
}

/// Replicas that know the packages, and have asked about no icon.
async fn without_icons(database: &Database, npm: &NpmServer, count: usize) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        let options = with_icons(options(npm, ALL), npm);
        let no_refresh = Options {
            refresh_on_empty: false,
            ..options
        };
        replicas.push(database.replica(no_refresh).await);
    }
    let without = StartRefreshRequest {
        kinds: vec![RefreshKind::Packages.into()],
        ..Default::default()
    };
    let id = replicas[0].start(without).await;
    for replica in &replicas {
        replica.ended(&id).await;
    }
    npm.reset_requests();
    replicas
}

#[tokio::test]
async fn rule_3_one_fetch_for_the_whole_fleet_serves_everybody_who_asks_first() {
    let database = Database::postgres().await;
    let npm = registry().await;
    npm.put_file(&place(HTTP, "square.png"), &png("http"));
    let replicas = without_icons(&database, &npm, 2).await;
    let gate = npm.hold(&place(HTTP, "square.png"));
    for replica in replicas.iter().cycle().take(20) {
        let early = square(replica, HTTP).await;
        assert!(
            matches!(early, Err(Error::IconNotFetched { .. })),
            "{early:?}"
        );
    }
    gate.arrived(1).await;
    for replica in replicas.iter().cycle().take(20) {
        let early = square(replica, HTTP).await;
        assert!(
            matches!(early, Err(Error::IconNotFetched { .. })),
            "{early:?}"
        );
    }
    gate.release();
    for replica in &replicas {
        let found = eventually("the icon is there", async || {
            square(replica, HTTP).await.ok()
        });
        assert_eq!(found.await.data, png("http"));
    }
    let asked = npm.requests().per_path();
    assert_eq!(asked.get(&place(HTTP, "square.png")), Some(&1), "{asked:?}");
    assert_eq!(
        npm.requests().total(),
        2,
        "the other format was asked for once: {asked:?}"
    );
    // The other shape is another question, and the answer that there is none is one too.
    let request = wanted(HTTP, IconShape::Rectangle, IconFormat::Unspecified);
    for replica in &replicas {
        let none = eventually("it is known that there is none", async || {
            match get(replica, &request).await {
                Err(Error::IconNotFetched { .. }) => None,
                other => Some(other),
            }
        });
        let none = none.await;
        assert!(matches!(none, Err(Error::IconNotFound { .. })), "{none:?}");
    }
    assert_eq!(npm.requests().total(), 4, "{:?}", npm.requests().per_path());
}

#[tokio::test]
async fn rule_3_a_failed_fetch_is_not_repeated_for_everyone_who_asks() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put_file(&place(HTTP, "square.png"), &png("http"));
        npm.fault("/-icons/*", Fault::status(500), Times::Forever);
        let replicas = without_icons(&database, &npm, 1).await;
        let replica = &replicas[0];
        for _ in 0..10 {
            let early = square(replica, HTTP).await;
            assert!(
                matches!(early, Err(Error::IconNotFetched { .. })),
                "{early:?}"
            );
            npm.wait_for_requests("/-icons/*", 1).await;
        }
        // The pause has begun once the claim can no longer be had for the reason that somebody has it.
        let claim = replica
            .store
            .claim_icon(HTTP, "square", Duration::from_secs(1))
            .await;
        assert_eq!(claim.expect("asks"), None);
        assert_eq!(npm.requests().count("/-icons/*"), 1);
    }
}

#[tokio::test]
async fn rule_3_only_names_in_the_catalogue_are_asked_about() {
    for database in Database::both().await {
        let npm = registry().await;
        let replicas = without_icons(&database, &npm, 1).await;
        let replica = &replicas[0];
        for name in ["@s/language-nope", "left-pad", "@s/language-absent"] {
            let none = square(replica, name).await;
            assert!(
                matches!(none, Err(Error::PackageNotFound { .. })),
                "{none:?}"
            );
        }
        for name in [
            "../x",
            "@s/..",
            "@s%2Flanguage-http",
            "@s/language-http/../x",
            "é",
        ] {
            let none = square(replica, name).await;
            assert!(
                matches!(none, Err(Error::InvalidSpecifier { .. })),
                "{none:?}"
            );
        }
        // Its word was left last, so that it would have been answered last.
        let _ = square(replica, DOTTED).await;
        npm.wait_for_requests(&place(DOTTED, "*"), 2).await;
        let asked = npm.requests();
        assert_eq!(asked.total(), 2, "{:?}", asked.per_path());
    }
}

#[tokio::test]
async fn rule_3_a_replica_that_was_away_stores_nothing_over_what_came_after_it() {
    use steadfast_store::{IconBlob, IconContent, IconWrite};
    for database in Database::both().await {
        let npm = registry().await;
        let replicas = without_icons(&database, &npm, 1).await;
        let replica = &replicas[0];
        let write = |text: &str| IconWrite {
            shape: "square".into(),
            ext: "png".into(),
            content: IconContent::Found {
                blob: IconBlob {
                    hash: hash(&png(text)),
                    bytes: png(text),
                },
                upstream_etag: String::new(),
            },
        };
        let claim = async |duration| {
            let claim = replica.store.claim_icon(HTTP, "square", duration).await;
            claim.expect("asks")
        };
        let late = claim(Duration::ZERO).await.expect("is free");
        let fresh = claim(Duration::from_secs(60)).await.expect("has run out");
        assert_eq!(claim(Duration::ZERO).await, None, "somebody does it");
        let save = async |claim, text| {
            let saved = replica
                .store
                .save_fetched_icons(claim, &[write(text)])
                .await;
            saved.expect("answers").landed.is_some()
        };
        assert!(!save(&late, "late").await);
        assert!(save(&fresh, "fresh").await);
        assert!(!save(&fresh, "twice").await);
        replica.level().await;
        let found = square(replica, HTTP).await.expect("is there");
        assert_eq!(found.data, png("fresh"));
    }
}

#[tokio::test]
async fn icons_that_do_not_fit_into_memory_are_read_through() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put_file(&place(HTTP, "square.png"), &png("http"));
        let tight = Options {
            icon_memory_bytes: 0,
            ..with_icons(options(&npm, ALL), &npm)
        };
        let replica = database.replica(tight).await;
        replica.filled().await;
        let found = square(&replica, HTTP).await.expect("is there");
        assert_eq!(found.data, png("http"));
        let mut request = wanted(HTTP, IconShape::Square, IconFormat::Png);
        request.if_none_match = found.icon.expect("has one").etag;
        let unmodified = get(&replica, &request).await.expect("answers");
        assert!(unmodified.not_modified && unmodified.data.is_empty());
    }
}

/// The race that the design names: a fill begins, the icon changes, the fill lands. Each reader of a hundred takes what it was told
/// and compares it with its own name; what is read after the change was seen is never what was before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fill_that_began_before_a_change_never_repopulates_after_it() {
    for database in Database::both().await {
        let npm = registry().await;
        npm.put_file(&place(HTTP, "square.png"), &png("0"));
        // Room for one: each change evicts, so that reads and fills go on all the time.
        let tight = Options {
            icon_memory_bytes: 48,
            ..with_icons(options(&npm, ALL), &npm)
        };
        let replica = Arc::new(database.replica(tight).await);
        replica.filled().await;
        let stop = tokio_util::sync::CancellationToken::new();
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (replica, stop) = (Arc::clone(&replica), stop.clone());
                tokio::spawn(async move {
                    let mut reads = 0_u32;
                    while !stop.is_cancelled() {
                        // What is in memory is read without a pause, and others want to get on.
                        tokio::task::yield_now().await;
                        match square(&replica, HTTP).await {
                            Ok(found) => {
                                let icon = found.icon.expect("has one");
                                assert_eq!(
                                    icon.etag,
                                    hash(&found.data),
                                    "bytes are what they are named"
                                );
                                reads += 1;
                            }
                            // It changed under three looks.
                            Err(Error::IconNotFetched { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    reads
                })
            })
            .collect();
        for round in 1..=10 {
            let text = round.to_string();
            npm.put_file(&place(HTTP, "square.png"), &png(&text));
            let only = StartRefreshRequest {
                kinds: vec![RefreshKind::Icons.into()],
                ..Default::default()
            };
            let id = replica.start(only).await;
            replica.ended(&id).await;
            let found = square(&replica, HTTP).await.expect("is there");
            assert_eq!(found.data, png(&text), "memory is level with the change");
        }
        stop.cancel();
        for reader in readers {
            assert!(reader.await.expect("reads to the end") > 10);
        }
    }
}
