use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::server::{PATIENCE, Server, expect, problem};

/// The samples by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
        assert!(name.starts_with("sandbar_"), "{line}");
        assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} is there twice");
    }
    samples
}

async fn scrape(request: reqwest::RequestBuilder) -> BTreeMap<String, f64> {
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::OK, &"text/plain; version=0.0.4; charset=utf-8".parse().unwrap())
    );
    samples(&response.text().await.unwrap())
}

/// What is told as soon as every sandbox answers in time, which an agent on a busy machine may not.
async fn answered(request: reqwest::RequestBuilder) -> BTreeMap<String, f64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = scrape(request.try_clone().unwrap()).await;
        if found["sandbar_sandboxes_unanswered"] == 0.0 {
            return found;
        }
        assert!(Instant::now() < until, "{found:#?}");
    }
}

#[tokio::test]
async fn requests_sandboxes_and_what_they_use_are_measured() {
    let server = Server::new();
    let id = server.create(json!({ "provider": "container" })).await;
    let stopped = server.create_unwalled().await;
    server.post(&format!("/v1/sandboxes/{stopped}/stop"), json!({}), StatusCode::OK).await;
    for _ in 0..3 {
        server.get("/v1/sandboxes").await;
    }
    problem(server.request(Method::GET, "/v1/sandboxes/nothing"), 404).await;
    problem(server.request(Method::GET, "/made/up"), 404).await;
    problem(server.stranger("ODD".parse().unwrap(), "/v1/sandboxes"), 405).await;
    let mut socket = server.socket(&format!("/v1/sandboxes/{id}/exec")).await;
    socket.say(&json!({ "shell": "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo up; read y", "stdin": true })).await;
    socket.started().await;
    socket.wait_for("up").await;
    // Nothing that a file system makes smaller.
    let mut written = vec![0; 8 << 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut written).unwrap();
    let path = format!("/v1/sandboxes/{id}/files?path=/tmp/written");
    expect(server.request(Method::PUT, &path).body(written.clone()), StatusCode::NO_CONTENT).await;

    let found = answered(server.request(Method::GET, "/metrics")).await;
    for (sample, value) in [
        (r#"sandbar_http_requests_total{method="GET",route="/v1/sandboxes",status="200"}"#, 3.0),
        (r#"sandbar_http_requests_total{method="GET",route="/v1/sandboxes/{id}",status="404"}"#, 1.0),
        (r#"sandbar_http_requests_total{method="GET",route="none",status="404"}"#, 1.0),
        (r#"sandbar_http_requests_total{method="other",route="/v1/sandboxes",status="405"}"#, 1.0),
        (r#"sandbar_http_request_duration_seconds_count{method="POST",route="/v1/sandboxes"}"#, 2.0),
        (r#"sandbar_http_request_duration_seconds_bucket{method="POST",route="/v1/sandboxes",le="+Inf"}"#, 2.0),
        (r#"sandbar_sandboxes{provider="container",state="running"}"#, 1.0),
        (r#"sandbar_sandboxes{provider="dangerous-host",state="stopped"}"#, 1.0),
        ("sandbar_commands_attended", 1.0),
    ] {
        assert_eq!(found.get(sample), Some(&value), "{sample}: {found:#?}");
    }
    let of = |name: &str| found.get(&format!("sandbar_sandbox_{name}{{sandbox=\"{id}\"}}")).copied().unwrap_or_default();
    assert!(of("memory_bytes") > 20e6 && of("cpu_seconds_total") > 0.0 && of("processes") >= 1.0, "{found:#?}");
    assert!(of("disk_bytes") >= written.len() as f64, "{found:#?}");
    socket.write(b"\n").await;
    socket.listen().await;
    let brief = answered(server.request(Method::GET, "/metrics?sandboxes=false")).await;
    assert!(!brief.keys().any(|name| name.contains(&id)), "{brief:#?}");
    assert_eq!((brief["sandbar_commands_attended"], brief[r#"sandbar_sandboxes{provider="container",state="running"}"#]), (0.0, 1.0));
}

#[tokio::test]
async fn what_leaves_is_counted() {
    let server = Server::new();
    let quiet = server.create(json!({ "provider": "container" })).await;
    let id = server.create(json!({ "provider": "container", "network": "allow=allowed.test" })).await;
    server.shell(&id, "getent hosts allowed.test; for n in 1 2 3; do getent hosts refused.test; done").await;
    let sample = |name: &str, decision: &str| format!("sandbar_sandbox_network_{name}{{sandbox=\"{id}\"{decision}}}");
    let decisions = |decision: &str| sample("decisions_total", &format!(",decision=\"{decision}\""));
    // What is decided is in the log before it is answered.
    let log = server.get(&format!("/v1/sandboxes/{id}/network/log")).await;
    let logged = |event: &str| log.as_array().unwrap().iter().filter(|record| record["event"] == event).count() as f64;
    assert!(logged("refused") >= 3.0 && logged("allowed") >= 1.0, "{log}");
    let until = Instant::now() + PATIENCE;
    // Whoever decides writes down once a second what it has counted.
    let found = loop {
        let found = answered(server.request(Method::GET, "/metrics")).await;
        let counted = |event: &str| found.get(&decisions(event)).copied();
        if counted("refused") >= Some(logged("refused")) && counted("allowed") >= Some(logged("allowed")) {
            break found;
        }
        assert!(Instant::now() < until, "{found:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((found[&decisions("refused")], found[&decisions("allowed")]), (logged("refused"), logged("allowed")), "{log}");
    assert_eq!((found[&sample("sent_bytes_total", "")], found[&sample("received_bytes_total", "")]), (0.0, 0.0), "{found:#?}");
    assert!(!found.keys().any(|name| name.contains("network") && name.contains(&quiet)), "{found:#?}");
    let stats = server.get(&format!("/v1/sandboxes/{id}/stats")).await;
    assert_eq!((stats["network_refused"].as_f64(), stats["network_sent_bytes"].as_u64()), (Some(found[&decisions("refused")]), Some(0)));
    // Counting goes on where it was, with another keeper.
    server.post(&format!("/v1/sandboxes/{id}/stop"), json!({}), StatusCode::OK).await;
    server.post(&format!("/v1/sandboxes/{id}/start"), json!({}), StatusCode::OK).await;
    let again = server.get(&format!("/v1/sandboxes/{id}/stats")).await;
    assert!(again["network_refused"].as_f64() >= stats["network_refused"].as_f64(), "{stats} {again}");
}

#[tokio::test]
async fn what_passes_is_counted_by_its_bytes() {
    let Some(own) = own_address() else { return eprintln!("this host has no address but loopback: nothing passes") };
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let server = Server::new();
    let id = server.create(json!({ "provider": "container", "network": format!("allow={target}") })).await;
    let line = format!("exec 3<>/dev/tcp/{}/{}; echo hello >&3; cat <&3", target.ip(), target.port());
    let path = format!("/v1/sandboxes/{id}/exec");
    let said = server.post(&path, json!({ "argv": ["bash", "-c", line] }), StatusCode::OK);
    let answer = async {
        let mut connection = listener.accept().await.unwrap().0;
        let mut heard = [0; 6];
        connection.read_exact(&mut heard).await.unwrap();
        connection.write_all(b"and hello to you\n").await.unwrap();
        heard
    };
    let (said, heard) = tokio::time::timeout(PATIENCE, futures_util::future::join(said, answer)).await.expect("nobody connects");
    assert_eq!((&heard, &said["stdout"]), (b"hello\n", &json!("and hello to you\n")), "{said}");
    let until = Instant::now() + PATIENCE;
    loop {
        let found = answered(server.request(Method::GET, "/metrics")).await;
        let of = |name: &str| found.get(&format!("sandbar_sandbox_network_{name}_bytes_total{{sandbox=\"{id}\"}}")).copied();
        if of("sent") >= Some(6.0) && of("received") >= Some(17.0) {
            return;
        }
        assert!(Instant::now() < until, "{found:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An address of this host that a sandbox does not take for its own.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[tokio::test]
async fn a_keys_holder_is_told_of_its_own_sandboxes_alone() {
    let server = Server::new();
    problem(server.stranger(Method::GET, "/metrics"), 401).await;
    problem(server.request(Method::GET, "/metrics?sandboxes=maybe"), 400).await;
    server.create_unwalled().await;
    let key = server.key(&["ci"]);
    let id = server.create_by(&key, json!({ "provider": "container" })).await;
    let found = answered(server.by(&key, Method::GET, "/metrics")).await;
    assert_eq!(
        found.keys().filter(|name| name.starts_with("sandbar_sandboxes{")).collect::<Vec<_>>(),
        [r#"sandbar_sandboxes{provider="container",state="running"}"#]
    );
    assert!(!found.keys().any(|name| name.contains("http") || name.contains("commands")), "{found:#?}");
    assert!(found.keys().filter(|name| name.contains("sandbox=")).all(|name| name.contains(&id)), "{found:#?}");
    expect(server.by(&key, Method::DELETE, &format!("/v1/sandboxes/{id}?force=true")), StatusCode::NO_CONTENT).await;
}
