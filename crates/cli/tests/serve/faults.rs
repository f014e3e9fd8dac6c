use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::server::{Server, expect};

#[tokio::test]
async fn a_server_that_is_stopped_leaves_sandboxes_running_and_another_finds_them() {
    let mut server = Server::new();
    let id = server.create(json!({ "name": "stays" })).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "echo up; sleep 1000" })).await;
    socket.started().await;
    socket.wait_for("up").await;
    assert!(server.stop().success());
    let listed = server.sandbar(&["ls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("running"), "{listed:?}");
    server.again();
    assert_eq!(server.shell("stays", "echo here").await["stdout"], "here\n");
}

#[tokio::test]
async fn a_server_that_is_killed_loses_no_sandbox_no_process_and_no_output() {
    let mut server = Server::new();
    let id = server.create(json!({})).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "echo one; read x; echo two; echo $x", "stdin": true })).await;
    let pid = socket.started().await;
    socket.wait_for("one").await;
    server.kill();
    server.again();
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/processes/{pid}/attach?from=0")).await;
    assert_eq!(socket.started().await, pid);
    socket.write(b"three\n").await;
    assert_eq!(socket.listen().await.stdout, b"one\ntwo\nthree\n");
}

#[tokio::test]
async fn commands_and_two_servers_work_on_one_state_folder_at_once() {
    let server = Server::new();
    let made = server.sandbar(&["create", "--name", "by-command", "--on", "dangerous-host"]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(server.shell("by-command", "echo seen").await["stdout"], "seen\n");
    let id = server.create_unwalled().await;
    let seen = server.sandbar(&["exec", &id, "--", "echo", "seen"]);
    assert_eq!(seen.stdout, b"seen\n", "{seen:?}");
    let second = server.sandbar(&["serve", "--listen", &server.address]);
    assert_eq!(second.status.code(), Some(125), "two servers at one address: {second:?}");
}

#[tokio::test]
async fn the_same_key_is_the_same_sandbox_for_a_server_that_was_killed_meanwhile() {
    let mut server = Server::new();
    let ask = |server: &Server, key: &str, name: &str| {
        let body = json!({ "provider": "container", "name": name });
        server.request(Method::POST, "/v1/sandboxes").header("idempotency-key", key).json(&body)
    };
    let made = expect(ask(&server, "k", "web"), StatusCode::CREATED).await;
    server.kill();
    server.again();
    assert_eq!(expect(ask(&server, "k", "web"), StatusCode::CREATED).await["id"], made["id"]);
    expect(ask(&server, "k", "other"), StatusCode::UNPROCESSABLE_ENTITY).await;
    // One that is gone is not made again.
    expect(server.request(Method::DELETE, "/v1/sandboxes/web?force=true"), StatusCode::NO_CONTENT).await;
    server.kill();
    server.again();
    expect(ask(&server, "k", "web"), StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn a_creation_in_whose_middle_the_server_was_killed_is_done_once() {
    for (number, step) in ["create.row", "create.folder", "create.provisioned", "create.finished"].into_iter().enumerate() {
        let mut server = Server::dying_at(step);
        let body = json!({ "provider": "container", "name": format!("web-{number}") });
        let ask = |server: &Server| server.request(Method::POST, "/v1/sandboxes").header("idempotency-key", "k").json(&body);
        assert!(ask(&server).send().await.is_err(), "{step}: it answers");
        server.kill();
        server.again();
        let made = expect(ask(&server), StatusCode::CREATED).await;
        assert_eq!(expect(ask(&server), StatusCode::CREATED).await["id"], made["id"], "{step}");
        let listed = server.get("/v1/sandboxes").await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{step}: {listed}");
        assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["state"]), (&made["id"], &json!("running")), "{step}: {listed}");
    }
}
