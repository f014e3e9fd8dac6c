use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::server::{PATIENCE, Server};

/// Clients of each kind.
const MANY: usize = 40;
/// A head has fifteen seconds; a loaded machine may take some more.
const CUT_OFF: Duration = Duration::from_secs(60);

/// Reads until the server has ended the connection.
async fn ended(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    // A connection may be reset as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection stays");
    answer
}

#[tokio::test]
async fn what_is_half_said_is_cut_off_and_nothing_is_kept_of_it() {
    let server = Server::new();
    server.get("/v1/sandboxes").await;
    let before = server.descriptors();
    let words = [
        "",
        "G",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
        // What another version begins with.
        "PRI * HTTP/2.0\r\n",
    ];
    let mut halves = Vec::new();
    for word in words {
        for _ in 0..MANY {
            let mut stream = TcpStream::connect(&server.address).await.unwrap();
            stream.write_all(word.as_bytes()).await.unwrap();
            halves.push(stream);
        }
    }
    // A body that was announced, of whoever may not send one.
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let head = "PUT /v1/sandboxes/x/files?path=/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhalf";
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = ended(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(server.stranger(Method::GET, "/healthz").send().await.unwrap().status(), StatusCode::OK);
    let all_ended = async {
        for mut stream in halves {
            ended(&mut stream).await;
        }
    };
    timeout(CUT_OFF, all_ended).await.expect("what is half said is waited for");
    server.lets_go(before).await;
}

/// A frame as a client sends it, masked with zeros.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[head, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

#[tokio::test]
async fn malformed_frames_end_their_own_socket_and_nothing_else() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let mut witness = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    witness.say(&json!({ "shell": "read x; echo $x", "stdin": true })).await;
    witness.started().await;
    let before = server.descriptors();
    // RFC 6455, sections 5.1 to 5.5.
    for (what, bytes) in [
        ("not masked", b"\x82\x01a".to_vec()),
        ("a reserved bit", frame(0xc2, b"a")),
        ("a reserved opcode", frame(0x83, b"a")),
        ("a reserved control opcode", frame(0x8b, b"")),
        ("a fragmented ping", frame(0x09, b"")),
        ("a ping that is too long", [&b"\x89\xfe\x01\x00\0\0\0\0"[..], &[0; 256]].concat()),
        ("a continuation of nothing", frame(0x80, b"a")),
        ("text that is none", frame(0x81, b"\xff")),
        ("longer than memory", b"\x82\xff\x3f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec()),
        ("longer than a number", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec()),
        ("longer than is taken", [&b"\x82\xff\0\0\0\0\0\x10\0\x01\0\0\0\0"[..], &[0; 1000]].concat()),
        ("in pieces longer than is taken", [&b"\x02\xff\0\0\0\0\0\x0f\xff\xff\0\0\0\0"[..], &[0; 0xfffff], &frame(0x80, b"aa")].concat()),
    ] {
        let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
        socket.say(&json!({ "argv": ["sleep", "1000"], "stdin": true, "kill_on_disconnect": true })).await;
        let pid = socket.started().await;
        // It may have been refused before everything was written.
        let _ = socket.stream().write_all(&bytes).await;
        ended(socket.stream()).await;
        let mut again = server.socket(&format!("/v1/sandboxes/{id}/processes/{pid}/attach")).await;
        assert_eq!(again.started().await, pid);
        assert_eq!(again.listen().await.end["exit_code"], 137, "{what}");
    }
    server.lets_go(before).await;
    witness.write(b"well\n").await;
    assert_eq!(witness.listen().await.stdout, b"well\n");
}
