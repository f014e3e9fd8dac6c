use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    operations::SCOPES,
    server::{Server, expect, problem},
};

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
async fn every_operation_is_for_the_scope_that_the_table_says_and_for_those_above_it() {
    let server = Server::new();
    let keys = ["read", "use", "manage"].map(|scope| (scope, server.key(&[scope, "--scope", scope])));
    let rank = |scope: &str| SCOPES.iter().position(|known| *known == scope).unwrap();
    for operation in server.operations().await {
        for (scope, key) in &keys {
            let request = operation.request(&server, key, "none");
            if rank(scope) < rank(operation.scope) {
                let told = problem(request, 403).await["detail"].as_str().unwrap().to_owned();
                assert!(told.ends_with(&format!("and this needs {}", operation.scope)), "{}: {told}", operation.name);
            } else {
                // There is no such thing, or it is there to be seen: one of them has no end.
                let status = request.send().await.unwrap().status();
                assert!(![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status), "{} with {scope}: {status}", operation.name);
            }
        }
    }
}

#[tokio::test]
async fn what_reaches_around_the_walls_is_not_to_be_had_by_making_sandboxes() {
    let server = Server::new();
    let (manage, admin) = (server.key(&["m"]), server.key(&["a", "--scope", "admin"]));
    let create = |key: &str, body: Value| server.by(key, Method::POST, "/v1/sandboxes").json(&body);
    assert_eq!(problem(create(&manage, json!({ "provider": "dangerous-host" })), 403).await["kind"], "permission_denied");
    problem(create(&manage, json!({ "volumes": [{ "source": "/", "target": "/host" }] })), 403).await;
    server.create_by(&admin, json!({ "provider": "dangerous-host" })).await;
    expect(server.by(&admin, Method::POST, "/v1/gc"), StatusCode::OK).await;
}

#[tokio::test]
async fn a_key_has_no_more_sandboxes_than_it_may_however_many_are_asked_for_at_once() {
    let server = Server::new();
    let key = server.key(&["ci", "--max-sandboxes", "3"]);
    let post = |path: &str, body: Value| server.by(&key, Method::POST, path).json(&body);
    let there = async |path: &str| expect(server.by(&key, Method::GET, path), StatusCode::OK).await;
    let count = async || there("/v1/sandboxes").await["items"].as_array().unwrap().len();

    let asked = (0..8).map(|_| post("/v1/sandboxes", json!({})).send());
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        let answer = answer.unwrap();
        let answers = if answer.status() == StatusCode::CREATED { &mut made } else { &mut refused };
        answers.push(answer.json::<Value>().await.unwrap());
    }
    assert_eq!((made.len(), count().await), (3, 3), "{refused:?}");
    let told = problem(post("/v1/sandboxes", json!({})), 507).await;
    assert_eq!((&told["kind"], refused), (&json!("resource_exhausted"), vec![told.clone(); 5]));

    // Forks are made all, or none.
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    for one in &made[1..] {
        expect(server.by(&key, Method::DELETE, &format!("/v1/sandboxes/{}?force=true", id(one))), StatusCode::NO_CONTENT).await;
    }
    let fork = |count: u32| post("/v1/forks", json!({ "from": id(&made[0]), "count": count }));
    assert_eq!(problem(fork(5), 507).await["kind"], "resource_exhausted");
    assert_eq!((count().await, there("/v1/checkpoints").await), (1, json!([])));
    expect(fork(2), StatusCode::CREATED).await;
    assert_eq!(count().await, 3);
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
