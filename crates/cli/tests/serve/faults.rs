use std::{path::PathBuf, process::Command, time::Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{PATIENCE, Server, expect};

#[tokio::test]
async fn a_server_that_is_stopped_leaves_sandboxes_running_and_another_finds_them() {
    let mut server = Server::new();
    let id = server.create(json!({ "name": "stays" })).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "echo up; sleep 1000" })).await;
    socket.started().await;
    socket.wait_for("up").await;
    assert!(server.stop().success());
    let until = Instant::now() + PATIENCE;
    // An agent on a busy machine may be silent for longer than a status waits.
    let listed = loop {
        let listed: Value = serde_json::from_slice(&server.sandbar(&["ls", "--json"]).stdout).unwrap();
        if listed[0]["in_doubt"] != true || Instant::now() >= until {
            break listed;
        }
    };
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&json!(id), &json!("running")), "{listed}");
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
        let listed = server.listed("").await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{step}: {listed}");
        assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["state"]), (&made["id"], &json!("running")), "{step}: {listed}");
    }
}

/// One of several that work on the same state folder: makes three sandboxes, uses them, and leaves one of them.
fn work(home: PathBuf, number: usize) -> String {
    let sandbar = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sandbar")).env("SANDBAR_HOME", &home).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mut kept = String::new();
    for turn in 0..3 {
        let id = sandbar(&["create", "--on", "dangerous-host", "--name", &format!("by-command-{number}-{turn}")]);
        assert_eq!(sandbar(&["exec", &id, "--", "echo", "here"]), "here");
        if turn == 1 {
            kept = id;
        } else {
            sandbar(&["rm", "-f", &id]);
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_and_eight_commands_at_once_agree_at_the_end() {
    let server = Server::new();
    let other = server.beside();
    let commands: Vec<_> = (0..8)
        .map(|number| {
            let home = server.home.path().to_owned();
            tokio::task::spawn_blocking(move || work(home, number))
        })
        .collect();
    let mut left = Vec::new();
    for turn in 0..6 {
        // What one has made, the other uses and removes.
        let address = [&server.address, &other.address][turn % 2].clone();
        let create = |number: usize| {
            let request = server.request_at(&address, Method::POST, "/v1/sandboxes");
            expect(
                request.json(&json!({ "provider": "dangerous-host", "name": format!("by-server-{turn}-{number}") })),
                StatusCode::CREATED,
            )
        };
        let made = join_all([create(0), create(1)]).await;
        let [kept, removed] = [0, 1].map(|index: usize| made[index]["id"].as_str().unwrap().to_owned());
        let elsewhere = [&other.address, &server.address][turn % 2];
        let said =
            server.request_at(elsewhere, Method::POST, &format!("/v1/sandboxes/{removed}/exec")).json(&json!({ "shell": "echo here" }));
        assert_eq!(expect(said, StatusCode::OK).await["stdout"], "here\n");
        let gone = server.request_at(elsewhere, Method::DELETE, &format!("/v1/sandboxes/{removed}?force=true"));
        expect(gone, StatusCode::NO_CONTENT).await;
        left.push(kept);
    }
    for command in commands {
        left.push(command.await.unwrap());
    }
    left.sort();
    let of = |listed: &Value| {
        let items = listed["items"].as_array().unwrap();
        let mut ids: Vec<String> = items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
        assert!(items.iter().all(|item| item["state"] == "running"), "{listed}");
        ids.sort();
        ids
    };
    for address in [&server.address, &other.address] {
        assert_eq!(of(&server.listed_at(address, "").await), left);
    }
    let listed = server.sandbar(&["ls", "-q"]).stdout;
    let mut listed: Vec<&str> = std::str::from_utf8(&listed).unwrap().lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, left);
}

#[tokio::test]
async fn the_same_key_at_two_servers_at_once_is_one_sandbox() {
    let server = Server::new();
    let other = server.beside();
    for key in ["a", "b", "c", "d"] {
        let ask = |address: &str| {
            let request = server.request_at(address, Method::POST, "/v1/sandboxes").header("idempotency-key", key);
            request.json(&json!({ "provider": "container" })).send()
        };
        let answers = join_all((0..8).map(|turn| ask([&server.address, &other.address][turn % 2]))).await;
        let mut ids = Vec::new();
        for answer in answers {
            let answer = answer.unwrap();
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            match status {
                StatusCode::CREATED => ids.push(body["id"].clone()),
                // Another process is about it; who asks again is told.
                _ => assert_eq!((status, &body["kind"]), (StatusCode::CONFLICT, &json!("conflict")), "{body}"),
            }
        }
        for address in [&server.address, &other.address] {
            let again: Value = ask(address).await.unwrap().json().await.unwrap();
            assert!(!ids.is_empty() && ids.iter().all(|id| *id == again["id"]), "{ids:?} {again}");
        }
        expect(server.request(Method::DELETE, &format!("/v1/sandboxes/{}?force=true", ids[0].as_str().unwrap())), StatusCode::NO_CONTENT)
            .await;
    }
    assert!(server.get("/v1/sandboxes").await["items"].as_array().unwrap().is_empty());
}
