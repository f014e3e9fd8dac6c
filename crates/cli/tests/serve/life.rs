use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use tokio_tungstenite::tungstenite::Message;

use crate::server::{PATIENCE, Server, expect, problem};

#[tokio::test]
async fn a_container_is_made_told_paused_stopped_and_removed() {
    let server = Server::new();
    let limits = json!({ "pids": 100 });
    let made = server.request(Method::POST, "/v1/sandboxes").json(&json!({ "name": "web", "limits": limits, "env": { "A": "b" } }));
    let made = made.send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let place = made.headers()["location"].to_str().unwrap().to_owned();
    let made = server.beyond_doubt(made.json().await.unwrap()).await;
    assert_eq!((&made["name"], &made["state"], &made["provider"]), (&"web".into(), &"running".into(), &"container".into()), "{made}");
    let told = server.get(&place).await;
    assert_eq!((&told["id"], &told["spec"]["limits"]["pids"]), (&made["id"], &100.into()), "{told}");
    assert_eq!(server.shell("web", "echo $A").await["stdout"], "b\n");
    assert!(server.get("/v1/sandboxes/web/stats").await["pids"].as_u64().is_some());

    let path = |verb: &str| format!("/v1/sandboxes/web/{verb}");
    assert_eq!(server.post(&path("pause"), json!(null), StatusCode::OK).await["state"], "paused");
    assert_eq!(problem(server.request(Method::POST, &path("exec")).json(&json!({ "shell": "true" })), 409).await["kind"], "conflict");
    let told = server.post(&path("resume"), json!(null), StatusCode::OK).await;
    assert_eq!(server.beyond_doubt(told).await["state"], "running");
    assert_eq!(server.post(&path("stop"), json!(null), StatusCode::OK).await["state"], "stopped");
    let told = server.post(&path("start"), json!(null), StatusCode::OK).await;
    assert_eq!(server.beyond_doubt(told).await["state"], "running");
    assert_eq!(problem(server.request(Method::DELETE, "/v1/sandboxes/web"), 409).await["kind"], "conflict");
    expect(server.request(Method::DELETE, "/v1/sandboxes/web?force=true"), StatusCode::NO_CONTENT).await;
    assert_eq!(problem(server.request(Method::GET, "/v1/sandboxes/web"), 404).await["kind"], "not_found");
}

#[tokio::test]
async fn what_is_saved_is_put_back_and_forked() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    server.shell(&id, "echo before > /tmp/note").await;
    let saved = server.post(&format!("/v1/sandboxes/{id}/checkpoints"), json!({ "name": "clean" }), StatusCode::CREATED).await;
    assert_eq!((&saved["name"], &saved["kind"]), (&"clean".into(), &"disk".into()));
    server.shell(&id, "echo after > /tmp/note").await;
    server.post(&format!("/v1/sandboxes/{id}/restore"), json!({ "checkpoint": "clean" }), StatusCode::OK).await;
    assert_eq!(server.shell(&id, "cat /tmp/note").await["stdout"], "before\n");
    let forks = server.post("/v1/forks", json!({ "from": "clean", "count": 2, "name": "f" }), StatusCode::CREATED).await;
    assert_eq!((&forks[0]["name"], &forks[1]["name"]), (&"f-1".into(), &"f-2".into()), "{forks}");
    assert_eq!(server.shell("f-2", "cat /tmp/note").await["stdout"], "before\n");
    assert_eq!(server.get("/v1/checkpoints").await[0]["id"], saved["id"]);
    assert_eq!(server.get("/v1/checkpoints/clean").await["sandbox"], id);
    assert_eq!(problem(server.request(Method::DELETE, "/v1/checkpoints/none"), 404).await["kind"], "not_found");
}

#[tokio::test]
async fn the_same_key_is_the_same_sandbox_however_often_it_is_asked_for() {
    let server = Server::new();
    let ask = |key: &str, body: Value| server.request(Method::POST, "/v1/sandboxes").header("idempotency-key", key).json(&body);
    let body = json!({ "provider": "dangerous-host" });
    let at_once = (0..8).map(|_| expect(ask("k", body.clone()), StatusCode::CREATED));
    let made = futures_util::future::join_all(at_once).await;
    assert!(made.iter().all(|other| other["id"] == made[0]["id"]), "{made:?}");
    assert_eq!(server.get("/v1/sandboxes").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(problem(ask("k", json!({})), 422).await["kind"], "conflict");
    assert_eq!(problem(ask("", body), 400).await["kind"], "invalid_input");
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let server = Server::new();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(Value::String(server.create_unwalled().await));
    }
    let mut listed = Vec::new();
    let mut path = "/v1/sandboxes?limit=2".to_owned();
    loop {
        let page = server.get(&path).await;
        let items = page["items"].as_array().unwrap();
        listed.extend(items.iter().map(|item| item["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => {
                assert_eq!(items.len(), 2);
                path = format!("/v1/sandboxes?limit=2&cursor={cursor}");
            }
            None => break,
        }
    }
    assert_eq!(listed, made);
    for query in ["limit=0", "limit=1001", "limit=x", "cursor=x", "sort=name"] {
        problem(server.request(Method::GET, &format!("/v1/sandboxes?{query}")), 400).await;
    }
}

#[tokio::test]
async fn a_port_inside_is_reached_and_closed_again() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    let listen =
        "import socket; s=socket.create_server(('127.0.0.1', 8080)); print('up', flush=True)\nwhile True: s.accept()[0].sendall(b'hello')";
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "argv": ["python3", "-c", listen] })).await;
    socket.started().await;
    socket.wait_for("up").await;
    let exposed = server.post(&format!("/v1/sandboxes/{id}/ports"), json!({ "port": 8080 }), StatusCode::CREATED).await;
    let mut client = TcpStream::connect(exposed["listen"].as_str().unwrap()).await.unwrap();
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello");
    expect(server.request(Method::DELETE, &format!("/v1/sandboxes/{id}/ports/8080")), StatusCode::NO_CONTENT).await;
    let refused = match TcpStream::connect(exposed["listen"].as_str().unwrap()).await {
        Err(_) => true,
        // Somebody else may have the port by now: it does not greet.
        Ok(mut other) => other.write_all(b"x").await.is_err() || !matches!(other.read(&mut greeting).await, Ok(5)),
    };
    assert!(refused, "the port still greets");
}

#[tokio::test]
async fn the_host_and_its_images_are_told() {
    let server = Server::new();
    let found = server.get("/v1/doctor").await;
    assert!(found["providers"].as_array().unwrap().iter().any(|provider| provider["name"] == "container"), "{found}");
    assert_eq!(server.get("/v1/images").await, json!([]));
    assert_eq!(server.post("/v1/gc", json!(null), StatusCode::OK).await["failed"], json!([]));
    let pulled = server.request(Method::POST, "/v1/images/pull").json(&json!({ "reference": "not a name" }));
    assert_eq!(problem(pulled, 400).await["kind"], "invalid_input");
}

#[tokio::test]
async fn a_port_inside_is_reached_through_the_server_itself() {
    let server = Server::new();
    let id = server.create(json!({})).await;
    // Says what it heard once its client has no more to say.
    let serve = "import socket; s=socket.create_server(('127.0.0.1', 8080)); print('up', flush=True); c=s.accept()[0]\nheard=b''\n\
                 while (d:=c.recv(65536)): heard+=d\nc.sendall(heard[::-1]); c.close()";
    let mut command = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    command.say(&json!({ "argv": ["python3", "-c", serve] })).await;
    command.started().await;
    command.wait_for("up").await;
    let mut tunnel = server.socket(&format!("/v1/sandboxes/{id}/ports/8080/connect")).await;
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    for piece in sent.chunks(50_000) {
        tunnel.write(piece).await;
    }
    tunnel.say(&json!({ "type": "shutdown" })).await;
    let mut heard = Vec::new();
    while let Some(message) = tunnel.next().await {
        match message {
            Message::Binary(bytes) => heard.extend_from_slice(&bytes),
            Message::Text(text) => assert_eq!(text, r#"{"type":"shutdown"}"#),
            other => panic!("{other:?}"),
        }
    }
    heard.reverse();
    assert!(heard == sent, "{} of {} bytes came back", heard.len(), sent.len());
}

#[tokio::test]
async fn a_checkpoint_goes_to_another_server_as_one_file() {
    let (here, there) = (Server::new(), Server::new());
    let tree = here.home.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", tree.join("bin/sh")).unwrap();
    let imported = here.sandbar(&["image", "import", tree.to_str().unwrap(), "small"]);
    assert!(imported.status.success(), "{imported:?}");
    let id = here.create(json!({ "image": "small" })).await;
    here.shell(&id, "echo moved > /note").await;
    here.post(&format!("/v1/sandboxes/{id}/checkpoints"), json!({ "name": "go" }), StatusCode::CREATED).await;
    let file = here.request(Method::GET, "/v1/checkpoints/go/export").send().await.unwrap().bytes().await.unwrap();
    let taken = expect(there.request(Method::POST, "/v1/checkpoints/import").body(file.clone()), StatusCode::CREATED).await;
    assert_eq!((&taken["name"], &taken["image_was_here"]), (&"go".into(), &false.into()), "{taken}");
    let forks = there.post("/v1/forks", json!({ "from": "go" }), StatusCode::CREATED).await;
    assert_eq!(there.shell(forks[0]["id"].as_str().unwrap(), "read x < /note; echo $x").await["stdout"], "moved\n");
    let again = there.request(Method::POST, "/v1/checkpoints/import?name=go").body(file.clone());
    assert_eq!(problem(again, 409).await["kind"], "already_exists");
    let cut = there.request(Method::POST, "/v1/checkpoints/import?name=cut").body(file.slice(..file.len() / 2));
    assert_eq!(problem(cut, 422).await["kind"], "corrupt");
    assert_eq!(problem(here.request(Method::GET, "/v1/checkpoints/none/export"), 404).await["kind"], "not_found");
    let id = here.create(json!({})).await;
    here.post(&format!("/v1/sandboxes/{id}/checkpoints"), json!({ "name": "bound" }), StatusCode::CREATED).await;
    assert_eq!(problem(here.request(Method::GET, "/v1/checkpoints/bound/export"), 422).await["kind"], "unsupported");
}

#[tokio::test]
async fn a_file_that_nobody_waits_for_any_more_is_not_packed_any_further() {
    let server = Server::new();
    let tree = server.home.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", tree.join("bin/sh")).unwrap();
    assert!(server.sandbar(&["image", "import", tree.to_str().unwrap(), "small"]).status.success());
    let id = server.create(json!({ "image": "small" })).await;
    let saved = server.post(&format!("/v1/sandboxes/{id}/checkpoints"), json!({ "name": "vast" }), StatusCode::CREATED).await;
    // It takes no room, and hours to pack.
    let layer = server.home.path().join("checkpoints").join(saved["id"].as_str().unwrap()).join("layer");
    std::fs::File::create(layer.join("vast")).unwrap().set_len(1 << 40).unwrap();
    let staged = || std::fs::read_dir(server.home.path().join("images/temporary")).map_or(0, Iterator::count);
    let client = tokio::spawn(server.request(Method::GET, "/v1/checkpoints/vast/export").send());
    let until = Instant::now() + PATIENCE;
    while staged() == 0 {
        assert!(!client.is_finished() && Instant::now() < until, "nothing is packed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.abort();
    let outcome = loop {
        let told = server.get("/v1/audit?limit=1000").await;
        if let Some(line) = told["items"].as_array().unwrap().iter().find(|line| line["verb"] == "export") {
            break line["outcome"].clone();
        }
        assert!(Instant::now() < until, "it is packed on and on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // It was called off, and has not failed otherwise.
    assert_eq!((outcome, staged()), (json!("conflict"), 0));
    // Nobody copies that.
    std::fs::remove_file(layer.join("vast")).unwrap();
}

#[tokio::test]
async fn checkpoints_are_listed_in_pages_where_that_is_asked_for() {
    let server = Server::new();
    let id = server.create(json!({ "provider": "container" })).await;
    let mut saved = Vec::new();
    for _ in 0..5 {
        saved.push(server.post(&format!("/v1/sandboxes/{id}/checkpoints"), json!({}), StatusCode::CREATED).await["id"].clone());
    }
    let ids = |list: &Value| list.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&server.get("/v1/checkpoints").await), saved, "a list, where nothing is asked for");
    let (mut cursor, mut paged, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = server.get(&format!("/v1/checkpoints?limit=2&sandbox={id}{cursor}")).await;
        paged.extend(ids(&page["items"]));
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((paged, pages), (saved, 3));
    for query in ["?limit=0", "?limit=1001", "?cursor=x"] {
        problem(server.request(Method::GET, &format!("/v1/checkpoints{query}")), 400).await;
    }
}
