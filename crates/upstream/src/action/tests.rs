//! Requests to a server of the test on loopback that says, or fails to say, anything.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Answers every connection with the same bytes, then closes it; or keeps silent.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::start(Some(answer.into())).await
    }

    async fn start(answer: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 64 * 1024];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                seen.lock().expect("not poisoned").push(text);
                match &answer {
                    Some(answer) => drop(stream.write_all(answer).await),
                    None => kept.push(stream),
                }
            }
        });
        Self { address, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

fn action() -> HttpAction {
    HttpAction::new(HttpActionOptions {
        allow_local: true,
        body_max_bytes: 64,
        ..HttpActionOptions::default()
    })
    .expect("options that work")
}

fn call(method: &str, url: String) -> HttpCall {
    HttpCall {
        method: method.to_owned(),
        url,
        headers: BTreeMap::new(),
        body: Value::Null,
        timeout: Duration::from_secs(20),
        key: "saga/step/forward".to_owned(),
        attempt: 1,
    }
}

/// What a status means: `done`, `again`, `failed` or `unknown`.
fn kind(outcome: &HttpOutcome) -> &'static str {
    match outcome {
        HttpOutcome::Done { .. } => "done",
        HttpOutcome::Failed {
            retryable: true, ..
        } => "again",
        HttpOutcome::Failed { .. } => "failed",
        HttpOutcome::Unknown { .. } => "unknown",
    }
}

fn code(outcome: &HttpOutcome) -> &str {
    match outcome {
        HttpOutcome::Failed { code, .. } => code,
        HttpOutcome::Done { .. } | HttpOutcome::Unknown { .. } => "",
    }
}

#[tokio::test]
async fn a_request_carries_its_key_and_attempt_and_returns_json() {
    let head =
        "content-type: application/vnd.x+json; charset=utf-8\r\netag: \"7\"\r\nx-other: no\r\n";
    let server = Server::answering(answer("201 Created", head, r#"{"id":7,"n":"a\u0000b"}"#)).await;
    let mut call = call("POST", server.url("/things?x=1"));
    call.headers
        .insert("X-Token".to_owned(), "s3cr3t".to_owned());
    call.body = json!({ "size": 1 });
    call.attempt = 3;
    assert!(!format!("{call:?}").contains("s3cr3t"));
    let outcome = action().send(call).await;
    assert_eq!(
        outcome,
        HttpOutcome::Done {
            status: 201,
            headers: BTreeMap::from([
                (
                    "content-type",
                    "application/vnd.x+json; charset=utf-8".to_owned()
                ),
                ("etag", "\"7\"".to_owned()),
            ]),
            body: json!({ "id": 7, "n": "a\u{fffd}b" }),
            body_left_out: false,
        }
    );
    let request = server.seen().remove(0);
    for part in [
        "POST /things?x=1 HTTP/1.1\r\n",
        "idempotency-key: saga/step/forward\r\n",
        "steadfast-attempt: 3\r\n",
        "x-token: s3cr3t\r\n",
        "content-type: application/json\r\n",
        "\r\n\r\n{\"size\":1}",
    ] {
        assert!(request.contains(part), "{part:?} is not in {request}");
    }
}

#[tokio::test]
async fn each_status_means_what_it_proves() {
    for (method, status, attempt, expected) in [
        ("PUT", "200 OK", 1, "done"),
        ("PUT", "204 No Content", 1, "done"),
        ("POST", "303 See Other", 1, "done"),
        ("DELETE", "404 Not Found", 1, "done"),
        ("DELETE", "410 Gone", 1, "done"),
        ("PUT", "404 Not Found", 1, "failed"),
        ("PUT", "400 Bad Request", 1, "failed"),
        ("PUT", "401 Unauthorized", 1, "failed"),
        ("PUT", "409 Conflict", 1, "failed"),
        ("PUT", "409 Conflict", 2, "unknown"),
        ("PUT", "408 Request Timeout", 1, "again"),
        ("PUT", "425 Too Early", 1, "again"),
        ("PUT", "429 Too Many Requests", 1, "again"),
        ("PUT", "503 Service Unavailable", 1, "again"),
        ("PUT", "500 Internal Server Error", 1, "unknown"),
        ("PUT", "502 Bad Gateway", 1, "unknown"),
        ("PUT", "504 Gateway Timeout", 1, "unknown"),
        ("PUT", "501 Not Implemented", 1, "failed"),
        ("POST", "302 Found", 1, "unknown"),
        ("POST", "307 Temporary Redirect", 1, "failed"),
        ("GET", "500 Internal Server Error", 1, "again"),
        ("GET", "404 Not Found", 1, "failed"),
    ] {
        let body = if status.starts_with("204") { "" } else { "why" };
        let server = Server::answering(answer(status, "location: /elsewhere\r\n", body)).await;
        let mut call = call(method, server.url("/"));
        call.attempt = attempt;
        let outcome = action().send(call).await;
        assert_eq!(kind(&outcome), expected, "{method} {status}: {outcome:?}");
        assert_eq!(server.seen().len(), 1, "{method} {status} is sent once");
        if let HttpOutcome::Failed { code, message, .. } = outcome {
            assert_eq!(code, format!("HTTP_{}", &status[..3]));
            assert!(message.contains("why"), "{message}");
        }
    }
}

#[tokio::test]
async fn no_connection_is_certainly_not_done() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = closed.local_addr().expect("bound");
    drop(closed);
    let outcome = action()
        .send(call("POST", format!("http://{address}/")))
        .await;
    assert_eq!((kind(&outcome), code(&outcome)), ("again", "NOT_CONNECTED"));
}

#[tokio::test]
async fn silence_and_a_lost_connection_leave_it_unknown() {
    let silent = Server::start(None).await;
    let mut post = call("POST", silent.url("/"));
    post.timeout = Duration::from_millis(200);
    assert_eq!(kind(&action().send(post.clone()).await), "unknown");
    post.method = "GET".to_owned();
    let outcome = action().send(post).await;
    assert_eq!((kind(&outcome), code(&outcome)), ("again", "TIMEOUT"));

    let closing = Server::answering("").await;
    assert_eq!(
        kind(&action().send(call("POST", closing.url("/"))).await),
        "unknown"
    );
    let outcome = action().send(call("GET", closing.url("/"))).await;
    assert_eq!(
        (kind(&outcome), code(&outcome)),
        ("again", "CONNECTION_LOST")
    );

    let cut = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
    assert_eq!(
        kind(&action().send(call("POST", cut.url("/"))).await),
        "unknown"
    );
}

#[tokio::test]
async fn bodies_are_kept_up_to_the_limit() {
    let body_of = async |answer: String| {
        let server = Server::answering(answer).await;
        match action().send(call("PUT", server.url("/"))).await {
            HttpOutcome::Done {
                body,
                body_left_out,
                ..
            } => (body, body_left_out),
            other => panic!("{other:?}"),
        }
    };
    let whole = "x".repeat(64);
    assert_eq!(
        body_of(answer("200 OK", "", &whole)).await,
        (json!(whole), false)
    );
    let announced = answer("200 OK", "", &"x".repeat(65));
    assert_eq!(body_of(announced).await, (Value::Null, true));
    let unannounced = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        "x".repeat(65)
    );
    assert_eq!(body_of(unannounced).await, (Value::Null, true));
    let json_type = "content-type: application/json\r\n";
    assert_eq!(
        body_of(answer("200 OK", json_type, "{oops")).await,
        (json!("{oops"), false)
    );
    assert_eq!(
        body_of(answer("200 OK", json_type, "")).await,
        (Value::Null, false)
    );
}

#[tokio::test]
async fn redirects_are_followed_by_get_only_without_the_steps_headers_elsewhere() {
    let end = Server::answering(answer("200 OK", "", "end")).await;
    let first = Server::answering(answer(
        "302 Found",
        &format!("location: {}\r\n", end.url("/b")),
        "",
    ))
    .await;
    let mut get = call("GET", first.url("/a"));
    get.headers
        .insert("authorization".to_owned(), "Bearer s3cr3t".to_owned());
    assert_eq!(kind(&action().send(get).await), "done");
    assert!(first.seen()[0].contains("s3cr3t"));
    let second = end.seen().remove(0);
    assert!(
        second.starts_with("GET /b ") && !second.contains("s3cr3t"),
        "{second}"
    );
    assert!(second.contains("idempotency-key"));

    let circle = Server::answering(answer("307 Temporary Redirect", "location: /\r\n", "")).await;
    let outcome = action().send(call("GET", circle.url("/"))).await;
    assert_eq!(
        (kind(&outcome), code(&outcome)),
        ("failed", "REDIRECT_REFUSED")
    );
    assert_eq!(circle.seen().len(), 6);
}

#[tokio::test]
async fn this_machine_is_not_reached_unless_that_is_configured() {
    let server = Server::answering(answer("200 OK", "", "")).await;
    let strict = HttpAction::new(HttpActionOptions::default()).expect("the defaults");
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "2130706433"] {
        let outcome = strict
            .send(call("GET", format!("http://{host}:{port}/")))
            .await;
        assert_eq!(
            (kind(&outcome), code(&outcome)),
            ("failed", "TARGET_REFUSED"),
            "{host}"
        );
    }
    assert_eq!(server.seen(), Vec::<String>::new());
    let named = action()
        .send(call("GET", format!("http://localhost:{port}/")))
        .await;
    assert_eq!(kind(&named), "done");
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_without_its_secrets() {
    let refused = async |change: &dyn Fn(&mut HttpCall)| {
        let mut call = call("GET", "http://h/?token=s3cr3t".to_owned());
        change(&mut call);
        match action().send(call).await {
            HttpOutcome::Failed {
                code,
                message,
                retryable: false,
            } => {
                assert_eq!(code, "INVALID_REQUEST");
                assert!(!message.contains("s3cr3t"), "{message}");
                message
            }
            other => panic!("{other:?}"),
        }
    };
    let message = refused(&|call| call.url = "ftp://h/".to_owned()).await;
    assert!(message.contains("only http and https"), "{message}");
    refused(&|call| call.url = "s3cr3t".to_owned()).await;
    refused(&|call| call.method = "G ET".to_owned()).await;
    let message = refused(&|call| {
        call.headers.insert("x-y".to_owned(), "s3cr3t\n".to_owned());
    })
    .await;
    assert!(message.contains("x-y"), "{message}");
}
