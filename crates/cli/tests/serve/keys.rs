use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, expect, problem};

impl Server {
    pub fn key(&self, options: &[&str]) -> String {
        let output = self.sandbar(&[&["key", "create"], options].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A request by the holder of a key.
    pub fn by(&self, key: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.stranger(method, path).bearer_auth(key)
    }

    pub async fn create_by(&self, key: &str, body: Value) -> String {
        let made = expect(self.by(key, Method::POST, "/v1/sandboxes").json(&body), StatusCode::CREATED).await;
        made["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_holder_has_what_was_made_with_the_key_and_sees_nothing_else() {
    let server = Server::new();
    let (ann, ben) = (server.key(&["ann"]), server.key(&["ben"]));
    let owners = server.create_unwalled().await;
    let anns = server.create_by(&ann, json!({ "name": "web" })).await;
    let ids = |list: Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let list = async |key: &str| ids(expect(server.by(key, Method::GET, "/v1/sandboxes"), StatusCode::OK).await);
    assert_eq!(list(&ann).await, std::slice::from_ref(&anns));
    assert_eq!(list(&ben).await, [""; 0]);
    assert_eq!(ids(server.get("/v1/sandboxes").await), [owners.clone(), anns.clone()]);

    let saved = expect(server.by(&ann, Method::POST, &format!("/v1/sandboxes/{anns}/checkpoints")).json(&json!({})), StatusCode::CREATED);
    let saved = saved.await["id"].as_str().unwrap().to_owned();
    for reference in [anns.as_str(), "web", &anns[..8]] {
        for (method, path) in [
            (Method::GET, format!("/v1/sandboxes/{reference}")),
            (Method::DELETE, format!("/v1/sandboxes/{reference}?force=true")),
            (Method::GET, format!("/v1/sandboxes/{reference}/stats")),
            (Method::GET, format!("/v1/sandboxes/{reference}/files?path=/etc/passwd")),
            (Method::POST, format!("/v1/sandboxes/{reference}/pause")),
        ] {
            problem(server.by(&ben, method, &path), 404).await;
        }
        problem(server.by(&ben, Method::POST, &format!("/v1/sandboxes/{reference}/exec")).json(&json!({ "argv": ["true"] })), 404).await;
    }
    problem(server.by(&ben, Method::GET, &format!("/v1/checkpoints/{saved}")), 404).await;
    problem(server.by(&ben, Method::DELETE, &format!("/v1/checkpoints/{saved}")), 404).await;
    for from in [&saved, &anns] {
        problem(server.by(&ben, Method::POST, "/v1/forks").json(&json!({ "from": from })), 404).await;
    }
    // What is hers, she has.
    let ran = server.by(&ann, Method::POST, "/v1/sandboxes/web/exec").json(&json!({ "argv": ["echo", "hers"] }));
    assert_eq!(expect(ran, StatusCode::OK).await["stdout"], "hers\n");
    problem(server.by(&ann, Method::GET, &format!("/v1/sandboxes/{owners}")), 404).await;
}

#[tokio::test]
async fn a_scope_ends_where_it_says() {
    let server = Server::new();
    let (read, usage, manage) = (server.key(&["r", "--scope", "read"]), server.key(&["u", "--scope", "use"]), server.key(&["m"]));
    let create = |key: &str, body: Value| server.by(key, Method::POST, "/v1/sandboxes").json(&body);
    expect(server.by(&read, Method::GET, "/v1/sandboxes"), StatusCode::OK).await;
    for key in [&read, &usage] {
        assert_eq!(problem(create(key, json!({})), 403).await["kind"], "permission_denied");
    }
    problem(server.by(&read, Method::POST, "/v1/sandboxes/x/exec").json(&json!({ "argv": ["true"] })), 403).await;
    problem(server.by(&usage, Method::POST, "/v1/sandboxes/x/exec").json(&json!({ "argv": ["true"] })), 404).await;
    problem(server.by(&manage, Method::POST, "/v1/gc"), 403).await;
    problem(server.by(&manage, Method::POST, "/v1/images/pull").json(&json!({ "reference": "127.0.0.1:1/x" })), 403).await;
    // What reaches around the walls is not to be had by making sandboxes.
    problem(create(&manage, json!({ "provider": "dangerous-host" })), 403).await;
    problem(create(&manage, json!({ "volumes": [{ "source": "/", "target": "/host" }] })), 403).await;
    let admin = server.key(&["a", "--scope", "admin"]);
    server.create_by(&admin, json!({ "provider": "dangerous-host" })).await;
    expect(server.by(&admin, Method::POST, "/v1/gc"), StatusCode::OK).await;
}

#[tokio::test]
async fn a_holder_listens_on_loopback_and_has_nothing_fetched() {
    let server = Server::new();
    let (manage, admin) = (server.key(&["m"]), server.key(&["a", "--scope", "admin"]));
    let id = server.create_by(&manage, json!({})).await;
    let expose = |key: &str, port: u16, listen: &str| {
        let body = json!({ "port": port, "listen": listen });
        server.by(key, Method::POST, &format!("/v1/sandboxes/{id}/ports")).json(&body)
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080", "127.0.0.1:1023", "127.0.0.1:80", "[::1]:22"] {
        assert_eq!(problem(expose(&manage, 80, listen), 403).await["kind"], "permission_denied", "{listen}");
    }
    let given = expect(expose(&manage, 80, "127.0.0.1:0"), StatusCode::CREATED).await;
    assert!(given["listen"].as_str().unwrap().starts_with("127.0.0.1:"), "{given}");
    expect(expose(&admin, 81, "0.0.0.0:0"), StatusCode::CREATED).await;

    // An engine would fetch it from where its name says. Nobody answers there.
    let image = json!({ "provider": "docker", "image": "127.0.0.1:9/not-here" });
    let create = |key: &str| server.by(key, Method::POST, "/v1/sandboxes").json(&image);
    let told = problem(create(&manage), 404).await;
    assert!(told["hint"].as_str().unwrap().contains("admin"), "{told}");
    // With or without an engine, it is asked for.
    let asked = create(&admin).send().await.unwrap().text().await.unwrap();
    assert!(!asked.contains("the scope admin"), "{asked}");
}

#[tokio::test]
async fn a_holder_reaches_the_internet_and_nothing_of_the_host() {
    let server = Server::new();
    let (manage, admin) = (server.key(&["m"]), server.key(&["a", "--scope", "admin"]));
    let id = server.create_by(&manage, json!({ "network": "allow=example.com,8.8.8.8:53" })).await;
    let set =
        |key: &str, rules: &str| server.by(key, Method::PUT, &format!("/v1/sandboxes/{id}/network")).json(&json!({ "network": rules }));
    let beyond = [
        "allow=127.0.0.0/8,169.254.169.254",
        "allow=10.0.0.0/8",
        "allow=[::1]:80",
        "deny=10.0.0.1,allow=192.168.0.0/15",
        "allow=0.0.0.0/0",
    ];
    for rules in beyond {
        let create = server.by(&manage, Method::POST, "/v1/sandboxes").json(&json!({ "network": rules }));
        assert_eq!(problem(create, 403).await["kind"], "permission_denied", "{rules}");
        assert_eq!(problem(set(&manage, rules), 403).await["kind"], "permission_denied", "{rules}");
    }
    let now = expect(server.by(&manage, Method::GET, &format!("/v1/sandboxes/{id}")), StatusCode::OK).await;
    assert_eq!(now["spec"]["network"], "allow=example.com,allow=8.8.8.8:53");
    for (key, rules) in [(&manage, "deny=10.0.0.0/8,open"), (&manage, "none"), (&manage, "open"), (&admin, "allow=127.0.0.0/8")] {
        let done = set(key, rules).send().await.unwrap();
        assert_eq!(done.status(), StatusCode::NO_CONTENT, "{rules}");
    }
    // What is his now reaches further than he may have it himself.
    let saved = expect(server.by(&manage, Method::POST, &format!("/v1/sandboxes/{id}/checkpoints")).json(&json!({})), StatusCode::CREATED);
    let saved = saved.await["id"].as_str().unwrap().to_owned();
    problem(server.by(&manage, Method::POST, "/v1/forks").json(&json!({ "from": saved })), 403).await;
}

#[tokio::test]
async fn a_key_opens_until_it_is_removed_or_has_expired_and_its_secret_is_kept_nowhere() {
    let server = Server::new();
    let key = server.key(&["ci", "--max-sandboxes", "1"]);
    let list = || server.by(&key, Method::GET, "/v1/sandboxes");
    let create = || server.by(&key, Method::POST, "/v1/sandboxes").json(&json!({}));
    let id = server.create_by(&key, json!({})).await;
    assert_eq!(problem(create(), 507).await["kind"], "resource_exhausted");
    let listed: Value = serde_json::from_slice(&server.sandbar(&["key", "ls", "--json"]).stdout).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["sandboxes"], &listed[0]["max_sandboxes"]), (&json!("ci"), &json!(1), &json!(1)));
    for entry in std::fs::read_dir(server.home.path()).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file()) {
        let data = std::fs::read(entry.path()).unwrap();
        assert!(!data.windows(key.len()).any(|window| window == key.as_bytes()), "{:?}", entry.path());
    }
    assert!(!server.sandbar(&["key", "create", "ci"]).status.success(), "the name is taken");
    assert!(server.sandbar(&["key", "rm", "ci"]).status.success());
    problem(list(), 401).await;
    assert!(!server.sandbar(&["key", "rm", "ci"]).status.success());
    // Another one of that name has nothing of the first one's.
    let other = server.key(&["ci"]);
    problem(server.by(&other, Method::GET, &format!("/v1/sandboxes/{id}")), 404).await;
    assert_eq!(server.get(&format!("/v1/sandboxes/{id}")).await["id"], json!(id), "it stays");
    let brief = server.key(&["brief", "--ttl", "0.001"]);
    problem(server.by(&brief, Method::GET, "/v1/sandboxes"), 401).await;
}
