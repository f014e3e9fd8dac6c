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

/// What each operation writes into the log; or why it writes nothing.
const VERBS: &[(&str, Result<&str, &str>)] = &[
    ("attach", Ok("attach")),
    ("audit", Err("reads the log itself")),
    ("build_template", Ok("template-build")),
    ("collect_garbage", Ok("gc")),
    ("connect_port", Ok("connect")),
    ("create_checkpoint", Ok("checkpoint")),
    ("create_key", Ok("key-create")),
    ("create_sandbox", Ok("create")),
    ("doctor", Err("looks at the host, and at no sandbox")),
    ("events", Err("tells what others did")),
    ("exec", Ok("exec")),
    ("exec_stream", Ok("exec")),
    ("export_checkpoint", Ok("export")),
    ("expose_port", Ok("expose")),
    ("extend_sandbox", Ok("expire")),
    ("fork", Ok("fork")),
    ("import_checkpoint", Ok("import")),
    ("import_image", Ok("image-import")),
    ("import_kernel", Ok("kernel-import")),
    ("inspect_checkpoint", Err(LEDGER)),
    ("inspect_process", Err(USAGE)),
    ("inspect_provider", Err("looks at the host, and at no sandbox")),
    ("inspect_sandbox", Err(LEDGER)),
    ("list_checkpoints", Err(LEDGER)),
    ("list_folder", Ok("list")),
    ("list_images", Err(LEDGER)),
    ("list_kernels", Err(LEDGER)),
    ("list_keys", Err(LEDGER)),
    ("list_processes", Err(USAGE)),
    ("list_sandboxes", Err(LEDGER)),
    ("list_templates", Err(LEDGER)),
    ("make_folder", Ok("mkdir")),
    ("make_link", Ok("link")),
    ("metrics", Err(USAGE)),
    ("network_log", Err("tells what was decided, and nothing that is in a sandbox")),
    ("pause_sandbox", Ok("pause")),
    ("pull_image", Ok("image-pull")),
    ("read_file", Ok("read")),
    ("read_tree", Ok("pack")),
    ("remove_checkpoint", Ok("discard")),
    ("remove_image", Ok("image-remove")),
    ("remove_kernel", Ok("kernel-remove")),
    ("remove_key", Ok("key-remove")),
    ("remove_path", Ok("remove")),
    ("remove_sandbox", Ok("destroy")),
    ("remove_template", Ok("template-remove")),
    ("rename_path", Ok("rename")),
    ("restore_sandbox", Ok("restore")),
    ("resume_sandbox", Ok("resume")),
    ("sandbox_stats", Err(USAGE)),
    ("self_test", Ok("create")),
    ("set_network", Ok("network")),
    ("signal_process", Ok("signal")),
    ("start_process", Ok("exec")),
    ("start_sandbox", Ok("start")),
    ("stat_path", Ok("stat")),
    ("stop_sandbox", Ok("stop")),
    ("unexpose_port", Ok("unexpose")),
    ("watch_path", Ok("watch")),
    ("watch_ports", Err("tells numbers of ports, and nothing that is said there")),
    ("write_file", Ok("write")),
    ("write_tree", Ok("unpack")),
];
const LEDGER: &str = "tells what the state folder has written down, and reaches into no sandbox";
const USAGE: &str = "tells numbers of processes and what they use, and changes nothing";

/// A body with which an operation is tried: it need not succeed, since failures are told too.
fn body(operation: &str) -> Option<Value> {
    Some(match operation {
        "create_sandbox" | "build_template" => json!({ "provider": "dangerous-host" }),
        "exec" | "start_process" => json!({ "argv": ["true"] }),
        "expose_port" => json!({ "port": 80 }),
        "extend_sandbox" => json!({ "ttl_ms": 1_000_000 }),
        "fork" => json!({ "from": "web" }),
        "make_folder" => json!({ "path": "/tmp/sandbar-audit" }),
        "make_link" => json!({ "path": "/no/such", "target": "x" }),
        "pull_image" => json!({ "reference": "127.0.0.1:9/none" }),
        "rename_path" => json!({ "from": "/no/such", "to": "/no/other" }),
        "restore_sandbox" => json!({ "checkpoint": "none" }),
        "set_network" => json!({ "network": "none" }),
        "signal_process" => json!({ "signal": "TERM" }),
        "create_key" => json!({ "name": "made" }),
        "create_checkpoint" => json!({}),
        _ => return None,
    })
}

#[tokio::test]
async fn each_operation_writes_what_the_table_says_or_nothing() {
    let server = Server::new();
    let id = server.create_by(&server.key(&["walk", "--scope", "admin"]), json!({ "provider": "container", "name": "web" })).await;
    let document: Value = server.stranger(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((operation["operationId"].as_str().unwrap().to_owned(), method.to_uppercase(), path.clone()));
        }
    }
    let mut names: Vec<&str> = operations.iter().map(|(name, ..)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, VERBS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "the table and the document");
    // What ends it comes last; what lasts, and what takes a whole life with each wall, is tried elsewhere.
    let last = |name: &str| ["stop_sandbox", "remove_sandbox"].iter().position(|ending| *ending == name).map_or(0, |place| place + 1);
    operations.retain(|(name, ..)| !["events", "self_test"].contains(&name.as_str()));
    operations.sort_by_key(|(name, ..)| last(name));
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
    for (name, method, path) in operations {
        let path = path.replace("{id}", if path.contains("templates") { "none" } else { &id });
        let path = ["{pid}", "{port}"].iter().fold(path, |path, part| path.replace(part, "1"));
        let path = ["{checkpoint}", "{reference}", "{name}"].iter().fold(path, |path, part| path.replace(part, "none"));
        let query = match name.as_str() {
            "read_file" => "?path=/etc/passwd",
            "read_tree" | "list_folder" | "stat_path" | "watch_path" | "write_file" | "write_tree" => "?path=/tmp/none",
            "remove_path" => "?path=/tmp/none&missing_ok=true",
            "remove_sandbox" => "?force=true",
            _ => "",
        };
        let mut request = server.request(method.parse().unwrap(), &format!("{path}{query}"));
        if let Some(body) = body(&name) {
            request = request.json(&body);
        }
        if ["exec_stream", "attach", "watch_path", "watch_ports", "connect_port"].contains(&name.as_str()) {
            request = request.header("connection", "upgrade").header("upgrade", "websocket");
            request = request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        if name == "exec_stream" {
            let mut socket = server.socket(&path).await;
            socket.say(&json!({ "argv": ["true"] })).await;
            socket.listen().await;
        } else {
            drop(request.send().await.unwrap());
        }
        let expected = VERBS.iter().find(|(known, _)| *known == name).unwrap().1;
        let found = written().await;
        match expected {
            Ok(verb) => assert!(found.iter().any(|found| found == verb), "{name}: {found:?}"),
            // That there is nothing of that name may be told.
            Err(reason) => assert!(found.iter().all(|verb| verb == "find" || verb == "exit"), "{name} {reason}, and wrote {found:?}"),
        }
    }
}
