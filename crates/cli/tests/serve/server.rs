use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest},
};

/// Long enough for a loaded machine, on which hundreds of commands may want all processors at once: a server is one among them. Nothing waits for it that
/// works.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Where a server listens otherwise.
const LOOPBACK: &str = "127.0.0.1:0";

/// A server in a state folder of its own.
pub struct Server {
    pub home: TempDir,
    pub address: String,
    pub token: String,
    client: reqwest::Client,
    process: Child,
}

/// Another server beside one, on its state folder.
pub struct Beside {
    pub address: String,
    process: Child,
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A WebSocket's two ends.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What a command said over a WebSocket.
#[derive(Debug, Default)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The last message.
    pub end: Value,
}

fn sandbar(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    command.env("SANDBAR_HOME", home);
    command
}

fn start(home: &Path, listen: &str, options: &[&str], log: Stdio, variables: &[(&str, &str)]) -> (Child, String) {
    let mut command = sandbar(home);
    let mut process = command
        .args(["serve", "--listen", listen])
        .args(options)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (process, line.trim().strip_prefix("http://").unwrap_or_else(|| panic!("{line:?} is no address")).to_owned())
}

impl Server {
    pub fn new() -> Self {
        Self::serving(&[], |_| Stdio::inherit())
    }

    /// One with these options, whose standard error goes where `log` says, by the state folder.
    pub fn serving(options: &[&str], log: impl FnOnce(&Path) -> Stdio) -> Self {
        Self::start(LOOPBACK, options, log)
    }

    /// One that listens there.
    pub fn listening(listen: &str, options: &[&str]) -> Self {
        Self::start(listen, options, |_| Stdio::inherit())
    }

    fn start(listen: &str, options: &[&str], log: impl FnOnce(&Path) -> Stdio) -> Self {
        Self::start_with(listen, options, log, &[])
    }

    fn start_with(listen: &str, options: &[&str], log: impl FnOnce(&Path) -> Stdio, variables: &[(&str, &str)]) -> Self {
        let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let home = tempfile::Builder::new().prefix("sandbar-serve-").tempdir_in(parent).unwrap();
        let (process, address) = start(home.path(), listen, options, log(home.path()), variables);
        let token = std::fs::read_to_string(home.path().join("server-token")).unwrap().trim().to_owned();
        Self { home, address, token, client: reqwest::Client::new(), process }
    }

    /// One that kills itself at a step.
    pub fn dying_at(step: &str) -> Self {
        Self::start_with(LOOPBACK, &[], |_| Stdio::inherit(), &[("SANDBAR_FAULT", step)])
    }

    /// The command line, on the same state folder.
    pub fn sandbar(&self, arguments: &[&str]) -> Output {
        sandbar(self.home.path()).args(arguments).output().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.process.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            match self.process.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < until, "the server does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Another one, in the place of one that has ended.
    pub fn again(&mut self) {
        (self.process, self.address) = start(self.home.path(), LOOPBACK, &[], Stdio::inherit(), &[]);
    }

    /// Another one, beside this.
    pub fn beside(&self) -> Beside {
        let (process, address) = start(self.home.path(), LOOPBACK, &[], Stdio::inherit(), &[]);
        Beside { address, process }
    }

    /// A request to the server at this address.
    pub fn request_at(&self, address: &str, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{address}{path}")).bearer_auth(&self.token)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request without anything that opens a door.
    pub fn stranger(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.stranger(method, path).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Value {
        expect(self.request(Method::GET, path), StatusCode::OK).await
    }

    pub async fn post(&self, path: &str, body: Value, status: StatusCode) -> Value {
        expect(self.request(Method::POST, path).json(&body), status).await
    }

    /// What is true of a sandbox of which an answer tells. Its agent on a busy machine may be silent for longer than a status waits: one that is in doubt
    /// is asked again.
    pub async fn beyond_doubt(&self, mut told: Value) -> Value {
        let until = Instant::now() + PATIENCE;
        while told["in_doubt"] == true && Instant::now() < until {
            told = self.get(&format!("/v1/sandboxes/{}", told["id"].as_str().unwrap())).await;
        }
        told
    }

    /// A page of what the server at this address lists, each sandbox beyond doubt.
    pub async fn listed_at(&self, address: &str, query: &str) -> Value {
        let mut listed = expect(self.request_at(address, Method::GET, &format!("/v1/sandboxes{query}")), StatusCode::OK).await;
        for item in listed["items"].as_array_mut().unwrap() {
            *item = self.beyond_doubt(item.take()).await;
        }
        listed
    }

    pub async fn listed(&self, query: &str) -> Value {
        self.listed_at(&self.address, query).await
    }

    /// A new sandbox's id.
    pub async fn create(&self, body: Value) -> String {
        self.post("/v1/sandboxes", body, StatusCode::CREATED).await["id"].as_str().unwrap().to_owned()
    }

    /// One that costs little, where the wall does not matter.
    pub async fn create_unwalled(&self) -> String {
        self.create(json!({ "provider": "dangerous-host" })).await
    }

    pub async fn shell(&self, id: &str, line: &str) -> Value {
        self.post(&format!("/v1/sandboxes/{id}/exec"), json!({ "shell": line }), StatusCode::OK).await
    }

    pub async fn socket(&self, path: &str) -> Socket {
        self.socket_at(&self.address, path).await
    }

    /// By this address of the server.
    pub async fn socket_at(&self, address: &str, path: &str) -> Socket {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        Socket(tokio_tungstenite::connect_async(request).await.unwrap().0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let ids = self.sandbar(&["ls", "-q"]).stdout;
        let ids: Vec<&str> = std::str::from_utf8(&ids).unwrap_or_default().lines().collect();
        if !ids.is_empty() {
            self.sandbar(&[&["rm", "-f"], ids.as_slice()].concat());
        }
    }
}

impl Socket {
    pub async fn say(&mut self, words: &Value) {
        self.0.send(Message::Text(words.to_string().into())).await.unwrap();
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    /// What is below it.
    pub fn stream(&mut self) -> &mut MaybeTlsStream<TcpStream> {
        self.0.get_mut()
    }

    /// Waits until the server has closed, and reads nothing.
    pub async fn closed_unread(&mut self) {
        let MaybeTlsStream::Plain(stream) = self.0.get_mut() else { panic!("it speaks TLS") };
        let mut waiting = [0; 4096];
        let closed = async {
            loop {
                let length = stream.peek(&mut waiting).await.unwrap();
                // A frame without a payload, RFC 6455, section 5.5.1.
                if waiting[..length].ends_with(&[0x88, 0]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("the server does not close");
    }

    /// The next message, or what cut the connection.
    pub async fn try_next(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("the server says nothing")
    }

    /// The next message that is no ping.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            match self.try_next().await {
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(Message::Close(_))) | None => return None,
                Some(message) => return Some(message.unwrap()),
            }
        }
    }

    pub async fn words(&mut self) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} is no text"),
        }
    }

    /// The process id that the first message tells.
    pub async fn started(&mut self) -> u64 {
        let words = self.words().await;
        assert_eq!(words["type"], "started", "{words}");
        words["pid"].as_u64().unwrap()
    }

    /// Everything until the end. Offsets must be those of what came before.
    pub async fn listen(&mut self) -> Said {
        let mut said = Said::default();
        let mut place = None;
        while let Some(message) = self.next().await {
            match message {
                Message::Text(text) => said.end = serde_json::from_str(&text).unwrap(),
                Message::Binary(bytes) => {
                    let (head, data) = bytes.split_at(9);
                    let offset = u64::from_be_bytes(head[1..].try_into().unwrap());
                    assert_eq!(*place.get_or_insert(offset), offset, "output is missing");
                    place = Some(offset + data.len() as u64);
                    let sink = if head[0] == 1 { &mut said.stdout } else { &mut said.stderr };
                    sink.extend_from_slice(data);
                }
                other => panic!("{other:?} is not of this conversation"),
            }
        }
        said
    }

    /// Reads until the output so far has this in it.
    pub async fn wait_for(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            match self.next().await {
                Some(Message::Binary(bytes)) => seen.extend_from_slice(&bytes[9..]),
                other => panic!("{other:?} came instead of {text:?}"),
            }
        }
    }
}

/// The answer's body, as JSON where it is some.
pub async fn expect(request: RequestBuilder, status: StatusCode) -> Value {
    let response = request.send().await.unwrap();
    let (found, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// The kinds and statuses of the tables of errors in the documentation.
fn documented() -> impl Iterator<Item = (&'static str, u16)> {
    let rows = include_str!("../../../../docs/architecture.md").lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (kind, rest) = row.split_once("` | ")?;
        Some((kind, rest.split(' ').next()?.parse().ok()?))
    })
}

/// The problem that an answer tells.
pub async fn problem(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let kind = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let found = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!((found, kind.as_deref()), (status, Some("application/problem+json")), "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status, "{problem}");
    let row = (problem["kind"].as_str().unwrap(), status);
    assert!(documented().any(|documented| documented == row), "docs/architecture.md has no row for {row:?}");
    problem
}
