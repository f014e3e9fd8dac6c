use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::server::{PATIENCE, Server, expect, problem};

#[tokio::test]
async fn a_command_runs_to_its_end() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let body = json!({ "shell": "cat; echo error >&2; exit 7", "input": "in", "env": { "X": "1" }, "workdir": "/tmp", "user": "0:0" });
    let ended = server.post(&path, body, StatusCode::OK).await;
    assert_eq!((&ended["stdout"], &ended["stderr"], &ended["exit_code"]), (&"in".into(), &"error\n".into(), &7.into()), "{ended}");
    let ended = server.post(&path, json!({ "argv": ["printf", "\\377"] }), StatusCode::OK).await;
    assert_eq!((&ended["stdout"], &ended["stdout_base64"]), (&"\u{fffd}".into(), &"/w==".into()));
    let ended = server.post(&path, json!({ "argv": ["sleep", "1000"], "timeout_ms": 100 }), StatusCode::OK).await;
    assert_eq!((&ended["exit_code"], &ended["status"]["timed_out"]), (&124.into(), &true.into()));
    let missing = server.request(Method::POST, &path).json(&json!({ "argv": ["no-such-command"] }));
    assert_eq!(problem(missing, 422).await["kind"], "command_not_found");
    // Not read to its end, and more than a pipe holds.
    let ended = server.post(&path, json!({ "argv": ["true"], "input": "x".repeat(1 << 20) }), StatusCode::OK).await;
    assert_eq!(ended["exit_code"], 0);
}

#[tokio::test]
async fn a_command_is_streamed_both_ways() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "tr a-z A-Z; echo done >&2; exit 3", "stdin": true })).await;
    socket.started().await;
    socket.write(b"hello ").await;
    socket.write(b"there").await;
    socket.say(&json!({ "type": "close_stdin" })).await;
    let said = socket.listen().await;
    assert_eq!((said.stdout.as_slice(), said.stderr.as_slice()), (&b"HELLO THERE"[..], &b"done\n"[..]));
    assert_eq!((&said.end["type"], &said.end["exit_code"]), (&"exited".into(), &3.into()));
}

#[tokio::test]
async fn the_end_reaches_a_client_that_is_still_speaking() {
    let server = Server::new();
    let id = server.create_unwalled().await;
    for _ in 0..10 {
        let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
        socket.say(&json!({ "shell": "echo last words; exit 3", "stdin": true })).await;
        socket.closed_unread().await;
        // Nobody takes it any more. A connection that ends with something unread is reset, and what this end has not read would be gone.
        for _ in 0..20 {
            socket.write(&[b'x'; 64 << 10]).await;
        }
        socket.started().await;
        let said = socket.listen().await;
        assert_eq!((said.stdout.as_slice(), &said.end["exit_code"]), (&b"last words\n"[..], &3.into()));
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_and_signals() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    let pty = json!({ "rows": 20, "columns": 70 });
    socket.say(&json!({ "shell": "stty size; read x; stty size; exec sleep 1000", "pty": pty })).await;
    socket.started().await;
    socket.wait_for("20 70").await;
    socket.say(&json!({ "type": "resize", "rows": 30, "columns": 90 })).await;
    socket.write(b"\n").await;
    socket.wait_for("30 90").await;
    socket.say(&json!({ "type": "shout" })).await;
    let words = socket.words().await;
    assert_eq!((&words["type"], &words["problem"]["kind"]), (&"error".into(), &"invalid_input".into()), "{words}");
    socket.say(&json!({ "type": "signal", "signal": "KILL" })).await;
    assert_eq!(socket.listen().await.end["exit_code"], 137);
}

#[tokio::test]
async fn what_cannot_start_is_told_over_the_socket() {
    let server = Server::new();
    let id = server.create_unwalled().await;
    for (command, kind) in [
        (json!({ "argv": ["no-such-command"] }), "command_not_found"),
        (json!({}), "invalid_input"),
        (json!({ "shell": "true", "input": "x" }), "invalid_input"),
        (json!([]), "invalid_input"),
    ] {
        let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
        socket.say(&command).await;
        let words = socket.words().await;
        assert_eq!((&words["type"], &words["problem"]["kind"]), (&"error".into(), &kind.into()), "{words}");
        assert!(socket.next().await.is_none());
    }
}

#[tokio::test]
async fn a_process_outlives_its_client_and_is_attached_to_again() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let started =
        server.post(&format!("/v1/sandboxes/{id}/processes"), json!({ "shell": "echo one; read x; echo two" }), StatusCode::CREATED).await;
    let quick = started["pid"].as_u64().unwrap();
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "echo one; read x; echo $x", "stdin": true })).await;
    let pid = socket.started().await;
    socket.wait_for("one").await;
    drop(socket);
    let mut again = server.socket(&format!("/v1/sandboxes/{id}/processes/{pid}/attach?from=4")).await;
    assert_eq!(again.started().await, pid);
    again.write(b"two\n").await;
    let said = again.listen().await;
    assert_eq!((said.stdout.as_slice(), &said.end["exit_code"]), (&b"two\n"[..], &0.into()));
    // Nobody listened to the other one, whose standard input is at its end.
    let mut late = server.socket(&format!("/v1/sandboxes/{id}/processes/{quick}/attach")).await;
    late.started().await;
    assert_eq!(late.listen().await.stdout, b"one\ntwo\n");
    let listed = server.get(&format!("/v1/sandboxes/{id}/processes")).await;
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(server.get(&format!("/v1/sandboxes/{id}/processes/{pid}")).await["output_end"], 8);
    problem(server.request(Method::GET, &format!("/v1/sandboxes/{id}/processes/99999")), 404).await;
}

#[tokio::test]
async fn a_command_that_belongs_to_its_client_ends_with_it() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "echo up; sleep 1000", "kill_on_disconnect": true })).await;
    let pid = socket.started().await;
    socket.wait_for("up").await;
    drop(socket);
    let until = Instant::now() + PATIENCE;
    while server.get(&format!("/v1/sandboxes/{id}/processes/{pid}")).await["ended_ms"].is_null() {
        assert!(Instant::now() < until, "it runs on");
    }
    let mut other = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    other.say(&json!({ "shell": "sleep 1000" })).await;
    let pid = other.started().await;
    let signal = server.request(Method::POST, &format!("/v1/sandboxes/{id}/processes/{pid}/signal")).json(&json!({ "signal": "SIGTERM" }));
    expect(signal, StatusCode::NO_CONTENT).await;
    assert_eq!(other.listen().await.end["exit_code"], 143);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else_and_loses_nothing() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let mut slow = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    slow.say(&json!({ "shell": "seq 1 3000000" })).await;
    slow.started().await;
    // The buffers between are full long before that is done, 22 MB are on their way.
    for round in 0..20 {
        assert_eq!(server.shell(&id, &format!("echo {round}")).await["stdout"], format!("{round}\n"));
    }
    let said = slow.listen().await;
    assert_eq!(said.stdout.iter().filter(|byte| **byte == b'\n').count(), 3_000_000);
    assert_eq!(said.end["exit_code"], 0);
}
