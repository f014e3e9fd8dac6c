use std::{fs::File, path::Path, process::Stdio};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, expect, problem};

/// In the state folder.
const LOG: &str = "server.log";

fn to_file(home: &Path) -> Stdio {
    File::create(home.join(LOG)).unwrap().into()
}

/// The lines about requests.
fn answered(server: &Server) -> Vec<Value> {
    let text = std::fs::read_to_string(server.home.path().join(LOG)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.filter(|line| line["message"] == "answered").collect()
}

#[tokio::test]
async fn each_request_is_a_line_of_json_with_its_route_its_outcome_and_who_asked() {
    let server = Server::serving(&["--log-format", "json"], to_file);
    let key = server.key(&["ci"]);
    let made = server
        .by(&key, Method::POST, "/v1/sandboxes")
        .json(&json!({ "name": "hunter2" }))
        .header("x-request-id", "mine-1")
        .send()
        .await
        .unwrap();
    assert_eq!((made.status(), &made.headers()["x-request-id"]), (StatusCode::CREATED, &"mine-1".parse().unwrap()));
    problem(server.request(Method::GET, "/v1/sandboxes/hunter3?x=hunter4"), 404).await;
    problem(server.stranger(Method::GET, "/v1/sandboxes").header("x-request-id", "not to be\tkept"), 401).await;
    problem(server.request(Method::GET, "/v1/nothing"), 404).await;
    expect(server.stranger(Method::GET, "/healthz"), StatusCode::OK).await;
    let mut socket = server.socket("/v1/sandboxes/hunter2/exec").await;
    socket.say(&json!({ "argv": ["true", "hunter5"] })).await;
    socket.started().await;
    socket.listen().await;

    let lines = answered(&server);
    let told = lines.iter().map(|line| {
        let span = &line["span"];
        (span["method"].as_str().unwrap(), span["route"].as_str().unwrap(), line["status"].as_u64().unwrap(), line["caller"].as_str())
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("POST", "/v1/sandboxes", 201, Some("key ci")),
            ("GET", "/v1/sandboxes/{id}", 404, Some("token")),
            ("GET", "/v1/sandboxes", 401, None),
            ("GET", "none", 404, None),
            ("GET", "/healthz", 200, None),
            ("GET", "/v1/sandboxes/{id}/exec", 101, Some("token")),
        ]
    );
    assert_eq!(lines[0]["span"]["id"], "mine-1");
    let ids: std::collections::HashSet<_> = lines.iter().map(|line| line["span"]["id"].as_str().unwrap()).collect();
    assert!(ids.len() == lines.len() && !ids.contains("not to be\tkept"), "{ids:?}");
    for line in &lines {
        assert!(line["duration_ms"].as_f64() > Some(0.0) && line["level"] == "INFO" && line["timestamp"].is_string(), "{line}");
    }
    let text = std::fs::read_to_string(server.home.path().join(LOG)).unwrap();
    for secret in ["hunter", &key, &server.token] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_request_has_an_id_whether_or_not_anybody_logs() {
    let server = Server::new();
    let answer = server.stranger(Method::GET, "/healthz").send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"].len(), 16);
}
