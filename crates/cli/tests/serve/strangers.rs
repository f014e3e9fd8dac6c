use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

use crate::server::{Server, problem};

/// What the server answers to these bytes.
async fn raw(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    // It may have refused before everything was written.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn without_the_token_nothing_is_told_but_that_it_is_there() {
    let server = Server::new();
    assert_eq!(server.stranger(Method::GET, "/healthz").send().await.unwrap().text().await.unwrap(), "ok\n");
    let document: Value = server.stranger(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{id}", "x").replace("{pid}", "1").replace("{port}", "1").replace("{checkpoint}", "x");
            let method: Method = method.to_uppercase().parse().unwrap();
            for token in [None, Some(""), Some("x"), Some(&server.token[1..])] {
                let mut request = server.stranger(method.clone(), &path);
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
    }
    assert_eq!(problem(server.stranger(Method::GET, "/v1/sandboxes"), 401).await["kind"], "permission_denied");
}

#[tokio::test]
async fn a_page_describes_everything_to_whoever_asks_and_executes_nothing() {
    let server = Server::new();
    let answer = server.stranger(Method::GET, "/docs").send().await.unwrap();
    assert_eq!((answer.status(), answer.headers()["content-type"].to_str().unwrap()), (StatusCode::OK, "text/html; charset=utf-8"));
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe") && !policy.contains("script"), "{policy}");
    let page = answer.text().await.unwrap();
    let document: Value = server.stranger(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let head = format!("<h3 id=\"{id}\">{} {path}</h3>", method.to_uppercase());
            assert!(page.contains(&head), "{head}");
        }
    }
    assert!(!page.contains("<script"), "{page}");
    // What is said over a WebSocket no type tells.
    for word in ["close_stdin", "signal", "resize", "started", "lost", "exited", "error"] {
        assert!(page.contains(&format!("<li><code>{{&quot;type&quot;:&quot;{word}&quot;")), "{word}");
    }
    problem(server.stranger(Method::GET, "/docs").header("host", "evil.example"), 421).await;
}

#[tokio::test]
async fn pages_of_other_origins_and_names_that_point_here_are_refused() {
    let server = Server::new();
    let list = || server.request(Method::GET, "/v1/sandboxes");
    assert_eq!(list().header("origin", server.url("")).send().await.unwrap().status(), StatusCode::OK);
    problem(list().header("origin", "http://evil.example"), 421).await;
    problem(list().header("origin", "null"), 421).await;
    problem(list().header("host", "evil.example"), 421).await;
    problem(server.stranger(Method::GET, "/healthz").header("host", "evil.example"), 421).await;
    // No page is ever told that it may.
    let asked = server.stranger(Method::OPTIONS, "/v1/sandboxes").header("origin", server.url(""));
    let asked = asked.header("access-control-request-method", "POST").send().await.unwrap();
    assert!(!asked.headers().keys().any(|name| name.as_str().starts_with("access-control-")), "{asked:?}");

    let id = server.create_unwalled().await;
    let mut request = format!("ws://{}/v1/sandboxes/{id}/exec", server.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", server.token).parse().unwrap());
    request.headers_mut().insert("origin", "http://evil.example".parse().unwrap());
    match tokio_tungstenite::connect_async(request).await {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 421),
        other => panic!("{other:?}"),
    }
    // Headers cannot be set by a page's WebSocket, and there is no other way in.
    let request = format!("ws://{}/v1/sandboxes/{id}/exec?token={}", server.address, server.token);
    match tokio_tungstenite::connect_async(request).await {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 401),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_a_problem_and_no_defect() {
    let server = Server::new();
    let create = || server.request(Method::POST, "/v1/sandboxes");
    for body in [
        "",
        "{",
        "[]",
        "null",
        "7",
        r#"{"nmae":"x"}"#,
        r#"{"name":7}"#,
        r#"{"name":"a/b"}"#,
        r#"{"limits":{"memory":-1}}"#,
        r#"{"limits":{"memory":1}}"#,
        r#"{"isolation":"best"}"#,
        r#"{"network":"all"}"#,
        r#"{"user":"a:b"}"#,
        r#"{"volumes":[{"source":"x","target":"/y"}]}"#,
        r#"{"image":"../x"}"#,
        r#"{"ttl_ms":1e300}"#,
    ] {
        let answer = create().header("content-type", "application/json").body(body).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{body}: {answer:?}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{body}");
    }
    problem(create().json(&json!({ "provider": "nope" })), 404).await;
    problem(create().body("{}"), 415).await;
    problem(create().header("content-type", "application/json").body(format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20))), 413).await;
    problem(server.request(Method::GET, "/v1/nothing"), 404).await;
    problem(server.request(Method::PATCH, "/v1/sandboxes"), 405).await;
    problem(server.request(Method::GET, "/v1/sandboxes/x/exec"), 400).await;
    for id in ["%00", "..", "%2e%2e%2f", "a%20b", &"x".repeat(5000), "%ff"] {
        let answer = server.request(Method::GET, &format!("/v1/sandboxes/{id}")).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{id}: {answer:?}");
    }
    assert!(server.get("/v1/sandboxes").await["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn numbers_that_the_ledger_has_no_room_for_are_no_defect() {
    let server = Server::new();
    for most in [i64::MAX as u64, 1 << 63, u64::MAX] {
        let id = server.create(json!({ "provider": "dangerous-host", "ttl_ms": most })).await;
        server.post(&format!("/v1/sandboxes/{id}/expiry"), json!({ "ttl_ms": most }), StatusCode::NO_CONTENT).await;
        for path in
            [format!("/v1/sandboxes?cursor={most}.sb-x"), format!("/v1/audit?since_ms={most}"), format!("/v1/audit?cursor={most}.{most}")]
        {
            assert!(server.get(&path).await["items"].as_array().unwrap().is_empty(), "{path}");
        }
    }
}

#[tokio::test]
async fn malformed_requests_end_their_own_connection_and_nothing_else() {
    let server = Server::new();
    for request in [
        "\r\n\r\n\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\0\x01\x02\x03 / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n".to_owned(),
    ] {
        let answer = raw(&server, &request).await;
        assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    // A head that is longer than is taken, in one field or in many: the answer may be lost with the connection.
    for fields in [format!("X: {}\r\n", "x".repeat(2 << 20)), "X: y\r\n".repeat(5000), format!("{}: y\r\n", "x".repeat(128 << 10))] {
        let answer = raw(&server, &format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
        let is_refused = ["HTTP/1.1 400 ", "HTTP/1.1 431 "].iter().any(|refusal| answer.starts_with(refusal));
        assert!(answer.is_empty() || is_refused, "{answer}");
    }
    assert_eq!(server.stranger(Method::GET, "/healthz").send().await.unwrap().status(), StatusCode::OK);
}
