//! The client's manners.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use futures::future::join_all;
use steadfast_upstream::{Answer, Credential, Error, Get, HttpClient, HttpOptions, Url};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::server::{Reply, Server};

const LIMIT: usize = 64 * 1024;

/// Short waits, and limits on time that only the tests about them come near.
pub(crate) fn options() -> HttpOptions {
    HttpOptions {
        backoff_initial: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        system_proxy: false,
        ..HttpOptions::default()
    }
}

pub(crate) fn client(options: HttpOptions) -> HttpClient {
    HttpClient::new(options).expect("a client")
}

fn get(url: Url) -> Get {
    Get::new(url, "application/json", LIMIT)
}

async fn fetch(server: &Server) -> Result<Answer, Error> {
    client(options()).get(get(server.url("x"))).await
}

async fn failure(server: &Server) -> Error {
    fetch(server).await.expect_err("a failure")
}

fn body(answer: Result<Answer, Error>) -> Vec<u8> {
    match answer.expect("an answer") {
        Answer::Found { body, .. } => body.to_vec(),
        Answer::NotModified => panic!("no body"),
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("writes to memory");
    encoder.finish().expect("writes to memory")
}

#[tokio::test]
async fn rule_5_a_throttled_request_waits_as_long_as_it_was_asked_to() {
    let server = Server::start(|number, _| match number {
        0 => Reply::new(429, "slow down").header("retry-after", "1"),
        _ => Reply::ok("{}"),
    })
    .await;
    let started = Instant::now();
    assert_eq!(body(fetch(&server).await), b"{}");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_wait_beyond_the_cap_is_an_error_that_carries_it() {
    for (status, reason) in [(429, "RATE_LIMITED"), (503, "UPSTREAM_UNAVAILABLE")] {
        let reply = Reply::new(status, "").header("retry-after", "3600");
        let server = Server::always(reply).await;
        let error = failure(&server).await;
        assert_eq!(error.reason(), reason);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
        assert_eq!(server.count(), 1);
    }
}

/// The cap alone decides: there would be time enough to wait and to ask again.
#[tokio::test]
async fn rule_5_a_wait_just_beyond_the_cap_is_not_waited() {
    let server = Server::start(|number, _| match number {
        0 => Reply::new(429, "slow down").header("retry-after", "2"),
        _ => Reply::ok("{}"),
    })
    .await;
    let capped = HttpOptions {
        retry_after_max: Duration::from_secs(1),
        total_timeout: Duration::from_secs(60),
        ..options()
    };
    let refused = client(capped).get(get(server.url("x"))).await;
    let error = refused.expect_err("is not waited for");
    assert_eq!(error.reason(), "RATE_LIMITED");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn rule_5_a_broken_upstream_is_tried_again_and_then_reported() {
    let server = Server::start(|number, _| match number {
        0..3 => Reply::new(500, "oops"),
        _ => Reply::ok("{}"),
    })
    .await;
    assert_eq!(body(fetch(&server).await), b"{}");
    assert_eq!(server.count(), 4);

    let server = Server::always(Reply::new(502, "oops")).await;
    let error = failure(&server).await;
    assert_eq!(error.reason(), "UPSTREAM_UNAVAILABLE");
    assert!(error.to_string().contains("status 502"), "{error}");
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn what_will_not_pass_is_asked_once() {
    for (status, reason) in [
        (404, "UPSTREAM_NOT_FOUND"),
        (401, "UPSTREAM_FORBIDDEN"),
        (403, "UPSTREAM_FORBIDDEN"),
        (451, "UPSTREAM_REJECTED"),
        (204, "MALFORMED_ANSWER"),
        (304, "MALFORMED_ANSWER"),
    ] {
        let server = Server::always(Reply::new(status, "")).await;
        let error = failure(&server).await;
        assert_eq!(error.reason(), reason, "{status}");
        assert_eq!(error.is_absence(), status == 404);
        assert_eq!(server.count(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_error_shows_host_and_path_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its number");
    drop(listener);
    let url = format!("http://ann:s3cret@{address}/path?token=s3cret");
    let error = client(options())
        .get(get(url.parse().expect("a URL")))
        .await
        .expect_err("nobody listens");
    assert_eq!(error.reason(), "UPSTREAM_UNAVAILABLE");
    let shown = format!("{error} {error:?}");
    assert!(shown.contains(&format!("{address}/path")), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn rule_5_answers_that_never_end_are_ended() {
    let quick = || HttpOptions {
        idle_timeout: Duration::from_millis(100),
        attempt_timeout: Duration::from_millis(300),
        retries_max: 1,
        ..options()
    };
    let drip = Duration::from_millis(10);
    for (reply, reason, attempts) in [
        (Reply::ok("{").falling_silent(), "UPSTREAM_TIMEOUT", 2),
        (Reply::ok("{").never_ending(drip), "UPSTREAM_TIMEOUT", 2),
        (
            Reply::ok(vec![b' '; 16_384]).never_ending(Duration::ZERO),
            "BODY_TOO_LARGE",
            1,
        ),
        (
            Reply::new(404, vec![b' '; 16_384]).never_ending(Duration::ZERO),
            "UPSTREAM_NOT_FOUND",
            1,
        ),
    ] {
        let server = Server::always(reply).await;
        let outcome = client(quick()).get(get(server.url("x"))).await;
        assert_eq!(outcome.expect_err("ended").reason(), reason);
        assert_eq!(server.count(), attempts, "{reason}");
    }
}

#[tokio::test]
async fn all_attempts_together_have_a_deadline() {
    let server = Server::always(Reply::ok("{").falling_silent()).await;
    let options = HttpOptions {
        attempt_timeout: Duration::from_millis(80),
        total_timeout: Duration::from_millis(200),
        retries_max: 1_000,
        ..options()
    };
    let error = client(options)
        .get(get(server.url("x")))
        .await
        .expect_err("ended");
    assert_eq!(error.reason(), "UPSTREAM_TIMEOUT");
    assert!((1..=3).contains(&server.count()), "{}", server.count());
}

/// The last attempt may take no longer than what is left.
#[tokio::test]
async fn rule_5_an_attempt_takes_only_what_the_ones_before_have_left() {
    let server = Server::always(Reply::ok("{").falling_silent()).await;
    let options = HttpOptions {
        attempt_timeout: Duration::from_millis(1_500),
        total_timeout: Duration::from_millis(2_500),
        ..options()
    };
    let ended = client(options).get(get(server.url("x"))).await;
    assert_eq!(server.count(), 2);
    match ended.expect_err("ended") {
        Error::Timeout { limit, .. } => assert!(limit <= Duration::from_secs(1), "{limit:?}"),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn answers_cut_short_are_tried_again_and_never_taken_for_whole() {
    let zipped = gzip(&[b'x'; 1000]);
    let cut = zipped[..zipped.len() - 4].to_vec();
    for reply in [
        Reply::ok("{}").cut_short(),
        Reply::ok(cut).header("content-encoding", "gzip"),
    ] {
        let server = Server::always(reply.clone()).await;
        assert_eq!(failure(&server).await.reason(), "TRUNCATED_ANSWER");
        assert_eq!(server.count(), 4);

        let server = Server::start(move |number, _| match number {
            0 => reply.clone(),
            _ => Reply::ok("whole"),
        })
        .await;
        assert_eq!(body(fetch(&server).await), b"whole");
    }
}

#[tokio::test]
async fn rule_5_oversized_bodies_are_refused_however_they_come() {
    let large = vec![b' '; LIMIT + 1];
    let bomb = gzip(&vec![0; 20 * 1024 * 1024]);
    assert!(bomb.len() < LIMIT);
    for reply in [
        Reply::ok(large.clone()),
        Reply::ok(large).chunked(),
        Reply::ok(bomb.clone()).header("content-encoding", "gzip"),
        Reply::ok(bomb).header("content-encoding", "gzip").chunked(),
    ] {
        let server = Server::always(reply).await;
        assert_eq!(failure(&server).await.reason(), "BODY_TOO_LARGE");
        assert_eq!(server.count(), 1);
    }
    let server = Server::always(Reply::ok(vec![b' '; LIMIT])).await;
    assert_eq!(body(fetch(&server).await).len(), LIMIT);
}

#[tokio::test]
async fn requests_introduce_themselves_and_compression_is_undone() {
    let reply = Reply::ok(gzip(b"hello"))
        .header("content-encoding", "gzip")
        .header("etag", "\"1\"")
        .header("content-type", "text/plain");
    let server = Server::always(reply).await;
    let answer = fetch(&server).await.expect("an answer");
    let expected = Answer::Found {
        body: "hello".into(),
        etag: Some("\"1\"".to_owned()),
        content_type: Some("text/plain".to_owned()),
    };
    assert_eq!(answer, expected);
    let headers = &server.seen()[0].headers;
    let agent = concat!("steadfast/", env!("CARGO_PKG_VERSION"));
    assert_eq!(headers["user-agent"], agent);
    assert_eq!(headers["accept"], "application/json");
    assert_eq!(headers["accept-encoding"], "gzip");
    assert!(!headers.contains_key("authorization"));
}

#[tokio::test]
async fn what_the_caller_has_is_not_sent_again() {
    let server = Server::start(|_, seen| match seen.headers.get("if-none-match") {
        Some(tag) if tag == "\"1\"" => Reply::new(304, ""),
        _ => Reply::ok("{}").header("etag", "\"1\""),
    })
    .await;
    let request = get(server.url("x")).if_none_match(Some("\"1\""));
    let answer = client(options()).get(request).await;
    assert_eq!(answer.expect("an answer"), Answer::NotModified);
}

#[tokio::test]
async fn rule_5_equal_requests_that_overlap_are_one_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let server = Server::start(move |_, _| Reply::ok("{}").behind(&held)).await;
    let client = client(options());
    let same = (0..20).map(|_| client.get(get(server.url("same"))));
    let other = client.get(get(server.url("same")).if_none_match(Some("\"1\"")));
    let release = async {
        server.reaches(2).await;
        gate.add_permits(2);
    };
    let (same, other, ()) = tokio::join!(join_all(same), other, release);
    for answer in same.into_iter().chain([other]) {
        assert_eq!(body(answer), b"{}");
    }
    assert_eq!(server.count(), 2);

    gate.add_permits(1);
    assert_eq!(body(client.get(get(server.url("same"))).await), b"{}");
    assert_eq!(server.count(), 3, "a flight that has landed is not a cache");
}

#[tokio::test]
async fn rule_5_a_host_sees_no_more_requests_at_once_than_its_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let server = Server::start(move |_, _| Reply::ok("{}").behind(&held)).await;
    let other = Server::always(Reply::ok("other")).await;
    let client = client(HttpOptions {
        host_concurrency: 3,
        ..options()
    });
    let many = (0..12).map(|n| client.get(get(server.url(&n.to_string()))));
    let release = async {
        server.reaches(3).await;
        // Another host is not behind this one's queue.
        assert_eq!(body(client.get(get(other.url("x"))).await), b"other");
        gate.add_permits(12);
    };
    let (answers, ()) = tokio::join!(join_all(many), release);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.count(), 12);
    assert_eq!(server.most_in_flight(), 3);
}

#[tokio::test]
async fn a_redirect_to_another_origin_travels_without_the_credential() {
    let other = Server::always(Reply::ok("there")).await;
    let there = other.url("there").to_string();
    let server = Server::start(move |_, seen| match seen.target.as_str() {
        "/x" => Reply::new(302, "").header("location", "/same"),
        _ => Reply::new(302, "").header("location", there.clone()),
    })
    .await;
    let request = get(server.url("x")).credential(Some(Credential::bearer("t")));
    assert_eq!(body(client(options()).get(request).await), b"there");
    let seen = server.seen();
    assert_eq!(seen[0].headers["authorization"], "Bearer t");
    assert_eq!(seen[1].headers["authorization"], "Bearer t");
    assert!(!other.seen()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn redirects_in_circles_and_out_of_the_web_are_refused() {
    for (to, part, requests) in [
        ("/again", "more than 5 redirects", 6),
        ("ftp://h/x", "other than http", 1),
    ] {
        let server = Server::always(Reply::new(302, "").header("location", to)).await;
        let error = failure(&server).await;
        assert_eq!(error.reason(), "ADDRESS_REFUSED", "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(server.count(), requests);
    }
}

#[tokio::test]
async fn rule_5_a_broken_host_is_left_alone_and_the_error_says_until_when() {
    let server = Server::start(|number, _| match number {
        0..5 => Reply::new(503, ""),
        _ => Reply::ok("{}"),
    })
    .await;
    let other = Server::always(Reply::ok("{}")).await;
    let client = client(HttpOptions {
        breaker_failures: 5,
        breaker_pause: Duration::from_millis(400),
        retries_max: 3,
        ..options()
    });
    let ask = async |server: &Server, path: &str| client.get(get(server.url(path))).await;
    // The first request fails four times; the second opens the circuit, and is told what it met itself.
    for path in ["a", "b"] {
        let error = ask(&server, path).await.expect_err("a failure");
        assert_eq!(error.reason(), "UPSTREAM_UNAVAILABLE");
    }
    assert_eq!(server.count(), 5);
    let error = ask(&server, "c").await.expect_err("left alone");
    assert_eq!(error.reason(), "UPSTREAM_CIRCUIT_OPEN");
    assert_eq!(server.count(), 5, "nothing was sent");
    let url = server.url("");
    let host = format!("127.0.0.1:{} failed 5 times", url.port().expect("a port"));
    let text = error.to_string();
    assert!(text.contains(&host), "{text}");
    assert!(text.contains("tried again at 20"), "{text}");
    assert!(text.contains("status 503"), "{text}");
    let pause = error.retry_after().expect("says how long");
    assert!(
        pause > Duration::ZERO && pause <= Duration::from_millis(400),
        "{pause:?}"
    );
    body(ask(&other, "a").await);
    tokio::time::sleep(pause).await;
    // One decides, and those that come meanwhile wait for it.
    for answer in join_all(["c", "d", "e"].map(|path| ask(&server, path))).await {
        body(answer);
    }
    assert_eq!(server.count(), 8);
}

#[tokio::test]
async fn rule_5_what_is_not_there_says_nothing_against_its_host() {
    let server = Server::always(Reply::new(404, "")).await;
    let client = client(HttpOptions {
        breaker_failures: 2,
        ..options()
    });
    for number in 0..10 {
        let path = format!("p{number}");
        let error = client
            .get(get(server.url(&path)))
            .await
            .expect_err("absent");
        assert_eq!(error.reason(), "UPSTREAM_NOT_FOUND");
    }
    assert_eq!(server.count(), 10);
}
