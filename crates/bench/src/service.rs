//! `sandbar serve`, and clients of it.

use std::{fs, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::client::IntoClientRequest};

use crate::Result;

/// A server on a state folder. It ends with this.
pub struct Server {
    /// `http://ADDRESS:PORT`.
    pub url: String,
    token: String,
    process: Child,
    client: Client,
}

impl Server {
    /// Starts `program`.
    pub async fn start(program: &Path, home: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--home").arg(home).args(["serve", "--listen", "127.0.0.1:0"]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line).await?;
        let (url, token) = (line.trim().to_owned(), fs::read_to_string(home.join("server-token"))?.trim().to_owned());
        let client = Client::new(&url, &token);
        Ok(Self { url, token, process, client })
    }

    /// A client with connections of its own.
    pub fn client(&self) -> Client {
        Client::new(&self.url, &self.token)
    }

    /// What it answers.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.client.get(path).await
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.id().ok_or("the server has ended")?)
    }

    /// A WebSocket to it, and what may be read from its connection without looking at messages.
    pub async fn socket(&self, path: &str) -> Result<WebSocketStream<TcpStream>> {
        let place = self.url.trim_start_matches("http://");
        let mut request = format!("ws://{place}{path}").into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse()?);
        Ok(client_async(request, TcpStream::connect(place).await?).await?.0)
    }

    /// Bytes of memory that are its own, and its part of what it shares.
    pub fn memory(&self) -> Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()?))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no set size")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }
}

/// Whoever asks it.
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    fn new(url: &str, token: &str) -> Self {
        Self { http: reqwest::Client::new(), url: url.to_owned(), token: token.to_owned() }
    }

    /// What it answers.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.answer(self.http.get(format!("{}{path}", self.url))).await
    }

    /// What it answers to a body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// Has something removed.
    pub async fn delete(&self, path: &str) -> Result {
        self.http.delete(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await?.error_for_status()?;
        Ok(())
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        Ok(request.bearer_auth(&self.token).send().await?.error_for_status()?.json().await?)
    }
}
