use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, expect, problem};

/// What no line may have in it.
const SECRET: &str = "hunter2";

/// Who, what, of what, and the outcome.
fn told(record: &Value) -> (String, String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let actor = match &record["actor"]["type"] {
        Value::String(kind) if kind == "key" => format!("key {}", text(&record["actor"]["name"])),
        Value::String(kind) if kind == "user" => format!("uid {}", record["actor"]["uid"]),
        kind => text(kind),
    };
    (actor, text(&record["verb"]), text(&record["target"]), text(&record["outcome"]))
}

fn line(actor: &str, verb: &str, target: &str, outcome: &str) -> (String, String, String, String) {
    (actor.to_owned(), verb.to_owned(), target.to_owned(), outcome.to_owned())
}

async fn read(server: &Server, query: &str) -> Vec<Value> {
    server.get(&format!("/v1/audit{query}")).await["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_verb_is_told_with_who_and_what_became_of_it_and_without_secrets() {
    let server = Server::new();
    let (ann, ben) = (server.key(&["ann"]), server.key(&["ben", "--scope", "use"]));
    let made = json!({ "name": "web", "provider": "container", "env": { "PASSWORD": SECRET } });
    let id = server.create_by(&ann, made).await;
    let path = |rest: &str| format!("/v1/sandboxes/web{rest}");
    let exec = |key: &str, body: Value| server.by(key, Method::POST, &path("/exec")).json(&body);
    expect(exec(&ann, json!({ "argv": ["echo", SECRET], "env": { "TOKEN": SECRET }, "input": SECRET })), StatusCode::OK).await;
    expect(exec(&ann, json!({ "shell": format!("true {SECRET}") })), StatusCode::OK).await;
    problem(exec(&ann, json!({ "argv": ["no-such-command", SECRET] })), 422).await;
    // Not hers to use, and not his to make.
    problem(exec(&ben, json!({ "argv": ["true"] })), 404).await;
    problem(server.by(&ben, Method::POST, "/v1/sandboxes").json(&json!({})), 403).await;
    let put = server.by(&ann, Method::PUT, &path("/files?path=/tmp/file")).body(SECRET);
    expect(put, StatusCode::NO_CONTENT).await;
    expect(server.by(&ann, Method::GET, &path("/files?path=/tmp/file")), StatusCode::OK).await;
    let mut socket = server.socket(&path("/exec")).await;
    socket.say(&json!({ "argv": ["sh", "-c", SECRET] })).await;
    socket.started().await;
    socket.listen().await;
    assert!(server.sandbar(&["exec", "-e", "A=hunter2", "web", "--", "echo", SECRET]).status.success());
    expect(server.by(&ann, Method::POST, &path("/pause")), StatusCode::OK).await;
    problem(server.by(&ann, Method::POST, &path("/pause")), 409).await;
    expect(server.request(Method::DELETE, &path("?force=true")), StatusCode::NO_CONTENT).await;

    let records = read(&server, &format!("?sandbox={id}&limit=1000")).await;
    let told: Vec<_> = records.iter().map(told).collect();
    let user = format!("uid {}", rustix::process::getuid().as_raw());
    assert_eq!(
        told,
        [
            line("key ann", "create", "container", "ok"),
            line("key ann", "exec", "echo", "ok"),
            line("key ann", "exit", "", "ok"),
            line("key ann", "exec", "/bin/sh", "ok"),
            line("key ann", "exit", "", "ok"),
            line("key ann", "exec", "no-such-command", "command_not_found"),
            line("key ann", "write", "/tmp/file", "ok"),
            line("key ann", "stat", "/tmp/file", "ok"),
            line("key ann", "read", "/tmp/file", "ok"),
            line("token", "exec", "sh", "ok"),
            line("token", "exit", "", "ok"),
            line(&user, "exec", "echo", "ok"),
            line(&user, "exit", "", "ok"),
            line("key ann", "pause", "", "ok"),
            line("key ann", "pause", "", "conflict"),
            line("token", "destroy", "", "ok"),
        ],
        "{records:?}"
    );
    // Each end has the process that was started, and its status; of what never started there is neither.
    let of = |verb: &str| records.iter().filter(|record| record["verb"] == verb).collect::<Vec<_>>();
    let started: Vec<_> = of("exec").into_iter().filter(|record| record["outcome"] == "ok").map(|record| &record["pid"]).collect();
    assert_eq!(of("exit").iter().map(|record| &record["pid"]).collect::<Vec<_>>(), started, "{records:?}");
    assert!(started.iter().all(|pid| pid.is_u64()), "{records:?}");
    let codes: Vec<_> = of("exit").iter().map(|record| record["exit_code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [0, 0, 127, 0], "{records:?}");
    for record in &records {
        assert_eq!((&record["sandbox"], &record["name"]), (&json!(id), &json!("web")), "{record}");
        assert!(record["time_ms"].as_u64() > Some(1_700_000_000_000) && record["duration_micros"].as_u64() > Some(0), "{record}");
    }
    let all: Vec<_> = read(&server, "?limit=1000").await.iter().map(self::told).collect();
    for expected in [
        line(&user, "key-create", "ann manage", "ok"),
        line("key ben", "find", "web", "not_found"),
        line("key ben", "request", "POST /v1/sandboxes", "permission_denied"),
    ] {
        assert!(all.contains(&expected), "{expected:?} is not in {all:?}");
    }
    for entry in std::fs::read_dir(server.home.path().join("audit")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(SECRET) && !text.contains(&ann), "{path:?}");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777, 0o600);
    }
}

#[tokio::test]
async fn it_is_read_in_pages_by_admins_alone_and_goes_on_where_it_was() {
    let server = Server::new();
    let id = server.create_unwalled().await;
    for _ in 0..5 {
        server.shell(&id, "true").await;
    }
    let mut cursor = String::new();
    let mut verbs = Vec::new();
    loop {
        let page = server.get(&format!("/v1/audit?limit=2&sandbox={id}{cursor}")).await;
        let items = page["items"].as_array().unwrap().clone();
        cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
        if items.is_empty() {
            break;
        }
        verbs.extend(items.iter().map(|item| item["verb"].as_str().unwrap().to_owned()));
    }
    assert_eq!(verbs, ["create", "exec", "exit", "exec", "exit", "exec", "exit", "exec", "exit", "exec", "exit"]);
    server.sandbar(&["stop", &id]);
    let later = read(&server, &format!("?sandbox={id}{cursor}")).await;
    assert_eq!(later.iter().map(|item| &item["verb"]).collect::<Vec<_>>(), ["stop"]);
    let since = later[0]["time_ms"].as_u64().unwrap();
    assert_eq!(read(&server, &format!("?since_ms={since}")).await.len(), 1);
    for key in [server.key(&["m"]), server.key(&["r", "--scope", "read"])] {
        problem(server.by(&key, Method::GET, "/v1/audit"), 403).await;
    }
    let admin = server.key(&["a", "--scope", "admin"]);
    expect(server.by(&admin, Method::GET, "/v1/audit"), StatusCode::OK).await;
    for query in ["?cursor=x", "?cursor=1", "?cursor=-1.0", "?limit=0", "?since_ms=x", "?since=1"] {
        problem(server.request(Method::GET, &format!("/v1/audit{query}")), 400).await;
    }
    let nowhere = server.get("/v1/audit?cursor=999999.999999").await;
    assert!(nowhere["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn the_command_line_prints_and_follows_it() {
    let server = Server::new();
    let id = server.create_unwalled().await;
    let mut follower = Command::new(env!("CARGO_BIN_EXE_sandbar"))
        .env("SANDBAR_HOME", server.home.path())
        .args(["audit", "--follow", "--json", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["verb"], "create");
    server.shell(&id, "true").await;
    assert_eq!((told(&next()), told(&next())), (line("token", "exec", "/bin/sh", "ok"), line("token", "exit", "", "ok")));
    assert_eq!(told(&read(&server, "?limit=1000").await.pop().unwrap()), line("token", "exit", "", "ok"));
    assert!(server.sandbar(&["rm", "-f", &id]).status.success());
    assert_eq!(told(&next()), line(&format!("uid {}", rustix::process::getuid().as_raw()), "destroy", "", "ok"));
    follower.kill().unwrap();
    follower.wait().unwrap();
    let printed = String::from_utf8(server.sandbar(&["audit", "--since", "1h", &id[..9]]).stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 4, "{printed}");
    assert!(lines[1].contains("  token  exec  ") && lines[1].contains("/bin/sh as "), "{printed}");
    assert!(lines[2].contains("  token  exit  ") && lines[2].contains(" with 0  ok"), "{printed}");
    assert!(server.sandbar(&["audit", "sb-nothing"]).stdout.is_empty());
}

#[tokio::test]
async fn each_operation_writes_what_the_table_says_or_nothing() {
    let server = Server::new();
    let id = server.create_by(&server.key(&["walk", "--scope", "admin"]), json!({ "provider": "container", "name": "web" })).await;
    let mut operations = server.operations().await;
    // What ends it comes last; what lasts, and what takes a whole life with each wall, is tried elsewhere.
    let last = |name: &str| ["stop_sandbox", "remove_sandbox"].iter().position(|ending| *ending == name).map_or(0, |place| place + 1);
    operations.retain(|operation| !["events", "self_test"].contains(&operation.name));
    operations.sort_by_key(|operation| last(operation.name));
    let mut place = String::new();
    let mut written = async || {
        let mut verbs = Vec::new();
        loop {
            let page = server.get(&format!("/v1/audit?limit=1000{place}")).await;
            place = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
            let items = page["items"].as_array().unwrap();
            if items.is_empty() {
                return verbs;
            }
            verbs.extend(items.iter().map(|item| item["verb"].as_str().unwrap().to_owned()));
        }
    };
    written().await;
    for operation in operations {
        if operation.name == "exec_stream" {
            let mut socket = server.socket(&operation.path(&id)).await;
            socket.say(&json!({ "argv": ["true"] })).await;
            socket.listen().await;
        } else {
            drop(operation.request(&server, &server.token, &id).send().await.unwrap());
        }
        let (name, found) = (operation.name, written().await);
        match operation.verb {
            Ok(verb) => assert!(found.iter().any(|found| found == verb), "{name}: {found:?}"),
            // That there is nothing of that name may be told.
            Err(reason) => assert!(found.iter().all(|verb| verb == "find" || verb == "exit"), "{name} {reason}, and wrote {found:?}"),
        }
    }
}
