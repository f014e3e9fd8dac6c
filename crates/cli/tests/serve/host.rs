use std::{fs, process::Command};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, expect, problem};

/// A tar with one file, as gzip.
fn archive() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::write(folder.path().join("etc/motd"), "from afar\n").unwrap();
    let packed = Command::new("tar").arg("-czC").arg(folder.path()).arg(".").output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().filter_map(|image| image["names"][0].as_str()).collect()
}

#[tokio::test]
async fn an_image_comes_in_as_it_is_sent_is_listed_and_removed() {
    let server = Server::new();
    let import = |query: &str, body: Vec<u8>| server.request(Method::POST, &format!("/v1/images/import{query}")).body(body);
    // In pieces, as from a pipe.
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = archive().chunks(100).map(|piece| Ok(piece.to_vec())).collect();
    let sent =
        server.request(Method::POST, "/v1/images/import?name=afar").body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces)));
    let made = expect(sent, StatusCode::CREATED).await;
    assert_eq!((&made["names"], &made["origin"]), (&json!(["afar:latest"]), &json!("a client")), "{made}");
    assert_eq!(names(&server.get("/v1/images").await), ["afar:latest"]);
    // Equal content is one image.
    assert_eq!(
        expect(import("?name=again", archive()), StatusCode::CREATED).await["id"].as_str().map(str::len),
        made["id"].as_str().map(str::len)
    );
    assert_eq!(problem(import("", b"no archive".to_vec()), 422).await["kind"], "corrupt");
    problem(import("?name=..%2F..", archive()), 400).await;
    problem(import("?tag=other", archive()), 400).await;
    for (name, status) in [("afar", StatusCode::OK), ("again", StatusCode::OK)] {
        let removed = expect(server.request(Method::DELETE, &format!("/v1/images/{name}")), status).await;
        assert_eq!(removed["in_use"], false, "{removed}");
    }
    problem(server.request(Method::DELETE, "/v1/images/afar"), 404).await;
    problem(server.request(Method::DELETE, "/v1/images/host"), 400).await;
    assert_eq!(server.get("/v1/images").await, json!([]));
    // Nothing of what was refused is left.
    let left = server.sandbar(&["gc", "--json"]);
    assert!(left.status.success(), "{left:?}");
}

#[tokio::test]
async fn a_server_answers_for_its_own_host_alone() {
    let server = Server::new();
    // Nobody listens there: whoever asks it fails otherwise.
    let added = server.sandbar(&["context", "add", "afar", "http://127.0.0.1:9/container"]);
    let added = if added.status.success() { added } else { server.sandbar(&["context", "add", "afar", "https://127.0.0.1:9/container"]) };
    assert!(added.status.success(), "{added:?}");
    for provider in ["afar", "afar/docker", "https://127.0.0.1:9", "ssh://127.0.0.1:9/container"] {
        let escaped = provider.replace('/', "%2F");
        let told = problem(server.request(Method::GET, &format!("/v1/providers/{escaped}?probe=true")), 400).await;
        assert!(told["detail"].as_str().unwrap().contains("its own host"), "{told}");
        for path in ["/v1/sandboxes", "/v1/templates"] {
            problem(server.request(Method::POST, path).json(&json!({ "provider": provider })), 400).await;
        }
        problem(server.request(Method::POST, "/v1/forks").json(&json!({ "from": "x", "provider": provider })), 400).await;
    }
    problem(server.request(Method::GET, "/v1/providers/nowhere"), 404).await;
}

#[tokio::test]
async fn everybody_who_asks_at_once_has_the_same_diagnosis() {
    let server = Server::new();
    let first = server.get("/v1/doctor").await;
    for name in ["disk", "cgroups"] {
        let check = first["host"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap();
        assert!(!check["finding"].as_str().unwrap().contains("File exists"), "{check}");
    }
    // The sentences tell what is there now, such as how much room is left.
    let found = |diagnosis: &Value| {
        let of = |list: &str, word: &str| {
            let all = diagnosis[list].as_array().unwrap().iter().map(|one| (one["name"].clone(), one[word].clone()));
            all.collect::<Vec<_>>()
        };
        (diagnosis["healthy"].clone(), of("providers", "usable"), of("host", "health"))
    };
    let asked = (0..20).map(|_| server.get("/v1/doctor"));
    for diagnosis in futures_util::future::join_all(asked).await {
        assert_eq!(found(&diagnosis), found(&first), "{diagnosis} {first}");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Server::new();
    let half = archive()[..50].to_vec();
    let pieces = futures_util::stream::iter([Ok(half), Err(std::io::Error::other("gone"))]);
    let sent = server.request(Method::POST, "/v1/images/import?name=half").body(reqwest::Body::wrap_stream(pieces)).send().await;
    assert!(sent.is_err(), "{sent:?}");
    assert_eq!(server.get("/v1/images").await, json!([]));
}

#[tokio::test]
async fn kernels_and_templates_are_listed_and_removed() {
    let server = Server::new();
    assert_eq!((server.get("/v1/kernels").await, server.get("/v1/templates").await), (json!([]), json!([])));
    let sent = server.request(Method::POST, "/v1/kernels/import?name=odd").body(b"no kernel".to_vec());
    let refused = sent.send().await.unwrap();
    assert!(refused.status().is_client_error(), "{refused:?}");
    problem(server.request(Method::DELETE, "/v1/kernels/odd"), 404).await;
    problem(server.request(Method::DELETE, "/v1/templates/odd"), 404).await;
    // A wall that is no machine begins from none; the sandbox by which that is found out is gone.
    expect(server.request(Method::POST, "/v1/templates").json(&json!({ "provider": "container" })), StatusCode::NO_CONTENT).await;
    assert_eq!((server.get("/v1/templates").await, server.get("/v1/sandboxes").await["items"].clone()), (json!([]), json!([])));
}

#[tokio::test]
async fn what_a_sandbox_may_reach_is_changed_and_every_decision_told() {
    let server = Server::new();
    let id = server.create(json!({ "provider": "container", "network": "allow=one.test" })).await;
    let log = async || server.get(&format!("/v1/sandboxes/{id}/network/log")).await;
    let ask = async |name: &str| drop(server.shell(&id, &format!("getent hosts {name}")).await);
    ask("two.test").await;
    let first = log().await[0].clone();
    assert_eq!((&first["event"], &first["name"]), (&json!("refused"), &json!("two.test")), "{first}");
    let set = server.request(Method::PUT, &format!("/v1/sandboxes/{id}/network")).json(&json!({ "network": "allow=two.test" }));
    expect(set, StatusCode::NO_CONTENT).await;
    ask("two.test").await;
    let told = log().await;
    let last = told.as_array().unwrap().last().unwrap();
    assert_eq!((&last["event"], &last["name"]), (&json!("allowed"), &json!("two.test")), "{told}");
    // In pages of one the same, in the same order.
    let (mut cursor, mut paged) = (String::new(), Vec::new());
    loop {
        let page = server.get(&format!("/v1/sandboxes/{id}/network/log?limit=1{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() == 1, "{page}");
        paged.extend_from_slice(items);
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(json!(paged), told);
    for query in ["?limit=0", "?limit=1001", "?cursor=x", "?cursor=1.x"] {
        problem(server.request(Method::GET, &format!("/v1/sandboxes/{id}/network/log{query}")), 400).await;
    }
    let later = last["time_ms"].as_u64().unwrap() + 1;
    assert_eq!(server.get(&format!("/v1/sandboxes/{id}/network/log?since_ms={later}")).await, json!([]));
    let without = server.create(json!({ "provider": "container" })).await;
    let set = server.request(Method::PUT, &format!("/v1/sandboxes/{without}/network")).json(&json!({ "network": "open" }));
    problem(set, 409).await;
}

#[tokio::test]
async fn keys_are_made_listed_and_removed_by_who_may_do_everything() {
    let server = Server::new();
    let make = |body: Value| server.request(Method::POST, "/v1/keys").json(&body);
    let made = expect(make(json!({ "name": "ci", "scope": "read", "max_sandboxes": 3 })), StatusCode::CREATED).await;
    let secret = made["secret"].as_str().unwrap();
    expect(server.by(secret, Method::GET, "/v1/sandboxes"), StatusCode::OK).await;
    problem(server.by(secret, Method::GET, "/v1/keys"), 403).await;
    problem(server.by(secret, Method::POST, "/v1/keys").json(&json!({ "name": "more", "scope": "admin" })), 403).await;
    let keys = server.get("/v1/keys").await;
    assert_eq!((&keys[0]["name"], &keys[0]["scope"], &keys[0]["max_sandboxes"]), (&json!("ci"), &json!("read"), &json!(3)), "{keys}");
    assert!(!keys.to_string().contains(secret));
    problem(make(json!({ "name": "ci" })), 409).await;
    expect(server.request(Method::DELETE, "/v1/keys/ci"), StatusCode::NO_CONTENT).await;
    problem(server.by(secret, Method::GET, "/v1/sandboxes"), 401).await;
    problem(server.request(Method::DELETE, "/v1/keys/ci"), 404).await;
}
