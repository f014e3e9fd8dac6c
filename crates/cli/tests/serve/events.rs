use std::process::Command;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::server::{PATIENCE, Server, expect, problem};

/// Somebody who is told what happens.
struct Listener {
    response: Response,
    read: Vec<u8>,
}

/// One message.
#[derive(Debug, Default)]
struct Told {
    id: Option<u64>,
    kind: String,
    data: Value,
}

impl Listener {
    /// One that listens: what happens from now on is told.
    async fn new(request: reqwest::RequestBuilder) -> (Self, u64) {
        let response = request.send().await.unwrap();
        assert_eq!((response.status(), &response.headers()["content-type"]), (StatusCode::OK, &"text/event-stream".parse().unwrap()));
        let mut listener = Self { response, read: Vec::new() };
        let first = listener.next().await.unwrap();
        assert_eq!(first.kind, "open");
        (listener, first.id.unwrap())
    }

    /// The next message that is no comment; `None` at the end.
    async fn next(&mut self) -> Option<Told> {
        loop {
            let told = self.next_of_all().await?;
            if !told.kind.is_empty() {
                return Some(told);
            }
        }
    }

    /// Waits until it is said, which is after a silence, that everything up to this number was looked at.
    async fn reaches(&mut self, number: u64) {
        loop {
            let told = self.next_of_all().await.unwrap();
            assert!(told.kind.is_empty(), "{told:?}");
            if told.id >= Some(number) {
                return;
            }
        }
    }

    async fn next_of_all(&mut self) -> Option<Told> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let message: Vec<u8> = self.read.drain(..end + 2).collect();
                let mut told = Told::default();
                for line in std::str::from_utf8(&message).unwrap().lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => told.id = Some(id.parse().unwrap()),
                        Some(("event", kind)) => told.kind = kind.to_owned(),
                        Some(("data", data)) => told.data = serde_json::from_str(data).unwrap(),
                        // A comment.
                        _ => {}
                    }
                }
                return Some(told);
            }
            let piece = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("nothing is told");
            self.read.extend_from_slice(&piece.unwrap()?);
        }
    }

    async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        while kinds.len() < count {
            kinds.push(self.next().await.unwrap().kind);
        }
        kinds
    }
}

impl Server {
    async fn listener(&self, query: &str) -> Listener {
        Listener::new(self.request(Method::GET, &format!("/v1/events{query}"))).await.0
    }

    /// Writes events into the ledger, as many processes in a long time would.
    fn happen(&self, count: u32) {
        let program = "import sqlite3, sys\n\
            ledger = sqlite3.connect(sys.argv[1], timeout=60)\n\
            with ledger:\n    \
                for number in range(int(sys.argv[2])): ledger.execute(\"INSERT INTO events (time_ms, kind, sandbox) VALUES (?, 'paused', 'sb-bbbbbbbbbbbb')\", (number,))";
        let ledger = self.home.path().join("ledger.db");
        let done = Command::new("python3").args(["-c", program]).arg(ledger).arg(count.to_string()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

#[tokio::test]
async fn what_happens_is_told_in_order_whoever_makes_it_happen() {
    let server = Server::new();
    let mut listener = server.listener("").await;
    let id = server.create(json!({ "name": "web", "provider": "container" })).await;
    let command = |arguments: &[&str]| {
        let output = server.sandbar(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    command(&["pause", "web"]);
    server.post("/v1/sandboxes/web/resume", json!({}), StatusCode::OK).await;
    let saved = command(&["checkpoint", "web"]);
    command(&["restore", "web", &saved]);
    server.post("/v1/sandboxes/web/stop", json!({}), StatusCode::OK).await;
    command(&["start", "web"]);
    command(&["rm", "-f", "web"]);
    let mut last = 0;
    for (kind, detail) in [
        ("created", json!("container")),
        ("paused", Value::Null),
        ("resumed", Value::Null),
        ("checkpointed", json!(saved)),
        ("restored", json!(saved)),
        ("stopped", Value::Null),
        ("started", Value::Null),
        ("destroyed", Value::Null),
    ] {
        let told = listener.next().await.unwrap();
        assert_eq!((told.kind.as_str(), &told.data["kind"], &told.data["detail"]), (kind, &json!(kind), &detail), "{told:?}");
        assert_eq!((&told.data["sandbox"], &told.data["name"]), (&json!(id), &json!("web")), "{told:?}");
        assert!(
            told.id > Some(last) && told.data["id"] == json!(told.id) && told.data["time_ms"].as_u64() > Some(1_700_000_000_000),
            "{told:?}"
        );
        last = told.id.unwrap();
    }
}

#[tokio::test]
async fn who_has_few_events_misses_none_among_many_of_others() {
    let server = Server::new();
    let key = server.key(&["ann"]);
    let mut listener = Listener::new(server.by(&key, Method::GET, "/v1/events")).await.0;
    server.happen(6_000);
    listener.reaches(6_000).await;
    // What was looked at is not missed when it is not kept any more.
    server.happen(6_000);
    server.create_by(&key, json!({})).await;
    assert_eq!(listener.kinds(1).await, ["created"]);
}

#[tokio::test]
async fn a_crash_is_told_though_nobody_looks() {
    let server = Server::new();
    let mut listener = server.listener("").await;
    let id = server.create_unwalled().await;
    // The agent is the command's parent there, and a process of this host.
    let agent = server.shell(&id, "echo $PPID").await["stdout"].as_str().unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(agent).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(listener.kinds(2).await, ["created", "crashed"]);
}

#[tokio::test]
async fn who_comes_again_is_told_what_happened_meanwhile() {
    let mut server = Server::new();
    let (mut listener, _) = Listener::new(server.request(Method::GET, "/v1/events")).await;
    let id = server.create_unwalled().await;
    let last = listener.next().await.unwrap().id.unwrap();
    drop(listener);
    server.sandbar(&["stop", &id]);
    server.kill();
    server.sandbar(&["start", &id]);
    server.again();
    let again = server.request(Method::GET, "/v1/events").header("last-event-id", last.to_string());
    let (mut listener, open) = Listener::new(again).await;
    assert_eq!((open, listener.kinds(2).await), (last, vec!["stopped".to_owned(), "started".to_owned()]));
    let mut from_the_beginning = server.listener(&format!("?after=0&sandbox={id}")).await;
    assert_eq!(from_the_beginning.kinds(3).await, ["created", "stopped", "started"]);
    for query in ["?after=x", "?after=-1", "?since=1"] {
        problem(server.request(Method::GET, &format!("/v1/events{query}")), 400).await;
    }
    problem(server.request(Method::GET, "/v1/events").header("last-event-id", "x"), 400).await;
    problem(server.request(Method::GET, "/v1/events?sandbox=nothing"), 404).await;
}

#[tokio::test]
async fn a_keys_holder_is_told_of_what_was_made_with_the_key_alone() {
    let server = Server::new();
    let (ann, ben) = (server.key(&["ann"]), server.key(&["ben", "--scope", "read"]));
    let listen = async |key: &str| Listener::new(server.by(key, Method::GET, "/v1/events")).await.0;
    let (mut anns, mut bens) = (listen(&ann).await, listen(&ben).await);
    server.create_unwalled().await;
    let made = json!({ "provider": "container", "network": "allow=nowhere.test" });
    let id = server.create_by(&ann, made).await;
    let looked_up =
        server.by(&ann, Method::POST, &format!("/v1/sandboxes/{id}/exec")).json(&json!({ "argv": ["getent", "hosts", "refused.test"] }));
    expect(looked_up, StatusCode::OK).await;
    let told = anns.next().await.unwrap();
    assert_eq!((told.kind.as_str(), &told.data["sandbox"]), ("created", &json!(id)), "{told:?}");
    let told = anns.next().await.unwrap();
    assert_eq!((told.kind.as_str(), told.id, &told.data["sandbox"]), ("network", None, &json!(id)), "{told:?}");
    let verdict = &told.data["verdict"];
    assert_eq!((&verdict["event"], &verdict["name"]), (&json!("refused"), &json!("refused.test")), "{told:?}");
    expect(server.by(&ann, Method::DELETE, &format!("/v1/sandboxes/{id}?force=true")), StatusCode::NO_CONTENT).await;
    while anns.next().await.unwrap().kind != "destroyed" {}
    // Nothing has come before the end.
    assert!(server.sandbar(&["key", "rm", "ben"]).status.success());
    let mut server = server;
    assert!(server.stop().success());
    assert!(bens.next().await.is_none());
}

#[tokio::test]
async fn who_does_not_listen_for_long_loses_what_is_not_kept_and_is_told_so() {
    let server = Server::new();
    let mut slow = server.listener("").await;
    let id = server.create_unwalled().await;
    let last = slow.next().await.unwrap().id.unwrap();
    server.happen(9000);
    // Nothing of it was in the way, nor is anything missing.
    server.shell(&id, "true").await;
    for number in 1..=9000 {
        assert_eq!(slow.next().await.unwrap().id, Some(last + number));
    }
    server.happen(9000);
    let late = server.request(Method::GET, "/v1/events").header("last-event-id", last.to_string());
    let (mut late, _) = Listener::new(late).await;
    let told = late.next().await.unwrap();
    assert_eq!((told.kind.as_str(), told.data), ("lost", json!({ "what": "events", "count": 8000 })));
    assert_eq!(late.next().await.unwrap().id, Some(last + 8001));
}

/// Listens on this port until its input ends.
const LISTEN: &str =
    "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('up', flush=True); sys.stdin.read()";

#[tokio::test]
async fn ports_are_told_as_they_open_and_close_inside() {
    let server = Server::new();
    let listen = async |id: &str, port: &str| {
        let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
        socket.say(&json!({ "argv": ["python3", "-c", LISTEN, port], "stdin": true })).await;
        socket.started().await;
        socket.wait_for("up").await;
        socket
    };
    let id = server.create(json!({ "provider": "container", "name": "web" })).await;
    let before = listen(&id, "8001").await;
    let mut listener = server.listener("").await;
    let told = async |listener: &mut Listener| {
        let told = listener.next().await.unwrap();
        (told.kind, told.id, told.data)
    };
    let of = |kind: &str, id: &str, name: &Value, port: u16| (kind.to_owned(), None, json!({ "sandbox": id, "name": name, "port": port }));
    // It was open already: that is not told, but its end.
    let mut watched = server.socket(&format!("/v1/sandboxes/{id}/ports/watch")).await;
    assert_eq!(watched.words().await, json!({ "ports": [8001] }));
    let mut later = listen(&id, "8002").await;
    assert_eq!(told(&mut listener).await, of("port-opened", &id, &json!("web"), 8002));
    assert_eq!(watched.words().await, json!({ "ports": [8001, 8002] }));
    later.say(&json!({ "type": "close_stdin" })).await;
    assert_eq!(told(&mut listener).await, of("port-closed", &id, &json!("web"), 8002));
    // One that is made meanwhile: everything.
    let other = server.create(json!({ "provider": "container" })).await;
    assert_eq!(listener.next().await.unwrap().kind, "created");
    let _open = listen(&other, "8001").await;
    assert_eq!(told(&mut listener).await, of("port-opened", &other, &Value::Null, 8001));
    // The end of the sandbox is the end of its ports. The ledger tells of the one, whoever listens to the agent of the other: neither waits for the other.
    server.post(&format!("/v1/sandboxes/{id}/stop"), json!({}), StatusCode::OK).await;
    let mut ends = [told(&mut listener).await, told(&mut listener).await];
    ends.sort_by(|one, other| one.0.cmp(&other.0));
    let [closed, stopped] = ends;
    assert_eq!(closed, of("port-closed", &id, &json!("web"), 8001));
    assert_eq!((stopped.0.as_str(), &stopped.2["sandbox"]), ("stopped", &json!(id)));
    drop(before);
}

#[tokio::test]
async fn a_server_that_stops_lets_go_of_who_listens() {
    let mut server = Server::new();
    let mut listeners = Vec::new();
    for _ in 0..20 {
        listeners.push(server.listener("").await);
    }
    assert!(server.stop().success());
    for mut listener in listeners {
        // Cut off, this would be an error.
        assert!(listener.next().await.is_none());
    }
}
