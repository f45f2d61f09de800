//! Which backend connections carry another request: request sent whole, answer after it and read
//! whole, nothing since (RFC 9112 §9.3).

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::wire::Wire;

/// One thread, so that every request finds what the others left; `manual`: each connection to the
/// backend is in the test's hand.
async fn start() -> (Sidegate, Backend) {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").threads(1);
    (sidegate.run().await, backend)
}

/// Sends `head` (`|` means CRLF) as 127.0.0.2, and returns both ends once the backend has it.
async fn send(sidegate: &Sidegate, backend: &Backend, head: &str) -> (Wire, Wire) {
    let mut client = client::new(sidegate).from("127.0.0.2").connect().await;
    client.send(head.replace('|', "\r\n")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    (client, at_backend)
}

/// Asserts that a request of another client comes on this connection, and is answered.
async fn expect_used_again(sidegate: &Sidegate, at_backend: &mut Wire) {
    let mut other = client::new(sidegate).from("127.0.0.3").connect().await;
    other.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(at_backend.head().await.target(), "/other");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    other.answer().await.expect(200);
}

/// Asserts that a request of another client comes on a connection of its own, with nothing before
/// it.
async fn expect_dialled_anew(sidegate: &Sidegate, backend: &Backend) {
    let mut other = client::new(sidegate).from("127.0.0.3").connect().await;
    other.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut anew = backend.accepted().await;
    assert_eq!(anew.head().await.target(), "/other");
    anew.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    other.answer().await.expect(200);
}

const UPLOAD: &str = "POST / HTTP/1.1|Host: a|Content-Length: 10||x";
const CHUNKED_UPLOAD: &str = "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||1|x|";

#[tokio::test]
async fn connection_is_closed_when_answered_before_the_upload_ends() {
    let answers = [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n",
    ];
    for head in [UPLOAD, CHUNKED_UPLOAD] {
        for answer in answers {
            let (sidegate, backend) = start().await;
            let (mut client, mut at_backend) = send(&sidegate, &backend, head).await;
            at_backend.send(answer).await;
            client.head().await;
            at_backend.rest().await;
            client.send("GET /smuggled HTTP/1.1\r\n").await;
            expect_dialled_anew(&sidegate, &backend).await;
        }
    }
}

#[tokio::test]
async fn connection_is_closed_when_the_answer_began_during_the_upload() {
    let (sidegate, backend) = start().await;
    let (mut client, mut at_backend) = send(&sidegate, &backend, UPLOAD).await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
    // Whether the upload will be whole is not known by then.
    assert_eq!(client.head().await.header("connection"), Some("close"));
    client.send("123456789").await;
    assert_eq!(at_backend.bytes(10).await, b"x123456789");
    at_backend.send("lf").await;
    assert_eq!(client.bytes(4).await, b"half");
    client.expect_end().await;
    // Not even by the same client.
    let mut again = client::new(&sidegate).from("127.0.0.2").connect().await;
    again.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(backend.accepted().await.head().await.target(), "/again");
    at_backend.expect_end().await;
}

#[tokio::test]
async fn connection_is_closed_when_a_side_breaks_off() {
    let (sidegate, backend) = start().await;
    let (client, mut at_backend) = send(&sidegate, &backend, UPLOAD).await;
    drop(client); // an aborted upload
    at_backend.rest().await;
    let (mut client, mut at_backend) = send(&sidegate, &backend, "GET / HTTP/1.1|Host: a||").await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
    client.head().await;
    drop(client); // an aborted download
    at_backend.send("l").await;
    at_backend.rest().await;
    expect_dialled_anew(&sidegate, &backend).await;
}

#[tokio::test]
async fn connection_is_closed_when_bytes_follow_the_answer() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    for more in ["!", "\r\n", interim, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] {
        // With the answer, and after it.
        for first in [format!("{answer}{more}"), answer.to_owned()] {
            let (sidegate, backend) = start().await;
            let (mut client, mut at_backend) =
                send(&sidegate, &backend, "GET / HTTP/1.1|Host: a||").await;
            at_backend.send(&first).await;
            client.answer().await.expect(200);
            if first == answer {
                at_backend.send(more).await;
            }
            at_backend.rest().await;
            expect_dialled_anew(&sidegate, &backend).await;
        }
    }
}

#[tokio::test]
async fn connection_is_closed_when_a_bodiless_answer_has_a_body() {
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let length = format!("Content-Length: {}", smuggled.len());
    for (method, first, fields) in [
        ("HEAD", "200 OK", &*length),
        ("HEAD", "200 OK", "Transfer-Encoding: chunked"),
        ("GET", "204 No Content", &length),
        ("GET", "204 No Content", "Transfer-Encoding: chunked"),
        ("GET", "304 Not Modified", &length),
        ("GET", "205 Reset Content", "Content-Length: 0"),
    ] {
        for at_once in [true, false] {
            let (sidegate, backend) = start().await;
            let head = format!("{method} / HTTP/1.1|Host: a||");
            let (mut client, mut at_backend) = send(&sidegate, &backend, &head).await;
            let answer = format!("HTTP/1.1 {first}\r\n{fields}\r\n\r\n");
            at_backend.send(format!("{answer}{}", if at_once { smuggled } else { "" })).await;
            client.answer_to(method).await;
            if !at_once {
                at_backend.send(smuggled).await;
            }
            at_backend.rest().await;
            expect_dialled_anew(&sidegate, &backend).await;
            client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut third = backend.accepted().await;
            assert_eq!(third.head().await.target(), "/again");
            third.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine").await;
            assert_eq!(client.answer().await.text(), "mine", "{method} {first} {fields}");
        }
    }
}

#[tokio::test]
async fn connection_is_reused_after_answers_without_a_body() {
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
    ] {
        let (sidegate, backend) = start().await;
        let head = format!("{method} / HTTP/1.1|Host: a||");
        let (mut client, mut at_backend) = send(&sidegate, &backend, &head).await;
        at_backend.send(answer).await;
        client.answer_to(method).await;
        expect_used_again(&sidegate, &mut at_backend).await;
    }
}

#[tokio::test]
async fn connection_that_carried_a_body_serves_its_client_only() {
    let (sidegate, backend) = start().await;
    let upload = "POST / HTTP/1.1|Host: a|Content-Length: 1||x";
    let (mut client, mut at_backend) = send(&sidegate, &backend, upload).await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    client.answer().await.expect(200);
    expect_dialled_anew(&sidegate, &backend).await;
    client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(at_backend.bytes(1).await, b"x");
    assert_eq!(at_backend.head().await.target(), "/again");
}
