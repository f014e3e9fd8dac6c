use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt;
use http::{Method, Response, header};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use sandbar_core::{
    CheckpointKind, CheckpointOptions, Connection, DirEntry, ErrorKind, ExecRequest, ExecStream, ExposedPort, FileStat, Journal,
    LimitReport, Network, PortStream, ProcessInfo, Program, PutOptions, RemoveOptions, Renewal, Resource, RestoreRequest, Result,
    SandboxHandle, SandboxId, SandboxStats, SandboxStatus, SavedCheckpoint, Signal, State, User, WatchStream,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::{
    client::{Ask, Client},
    lease::Lease,
    marker::Marker,
    open_ports::OpenPorts,
    record::{Record, Seen},
    session::Whereabouts,
    tunnel::Tunnel,
    watch::Watch,
};
use crate::expose::ExposedPorts;

/// A sandbox on another host.
pub(super) struct Handle {
    pub(super) id: SandboxId,
    pub(super) client: Arc<Client>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) record: Mutex<Record>,
    pub(super) ports: ExposedPorts,
    /// Of one that ends with its client.
    pub(super) lease: Mutex<Option<Arc<Lease>>>,
}

/// What the ledger is told of a sandbox on another host, before it is there.
pub(super) fn resource(client: &Client, id: &SandboxId) -> Resource {
    Resource::Engine { engine: client.address.origin().to_string(), object: "sandbox".to_owned(), name: id.to_string() }
}

/// A user as the server reads it.
pub(super) fn user_text(user: &User) -> String {
    match user {
        User::Name(name) => name.clone(),
        User::Id { uid, gid: None } => uid.to_string(),
        User::Id { uid, gid: Some(gid) } => format!("{uid}:{gid}"),
    }
}

/// Removes a sandbox there. One that is gone is no error.
pub(super) async fn remove(client: &Client, id: &SandboxId) -> Result<()> {
    let ask = Ask::new(Method::DELETE, format!("/v1/sandboxes/{id}")).with("force", "true").slow();
    match client.tell(ask).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn reader(answer: Response<Incoming>) -> Box<dyn AsyncRead + Send + Unpin> {
    Box::new(StreamReader::new(BodyDataStream::new(answer.into_body()).map_err(std::io::Error::other)))
}

fn yes(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl Handle {
    fn path(&self, of: &str) -> String {
        format!("/v1/sandboxes/{}{of}", self.id)
    }

    fn place(&self) -> Whereabouts {
        Whereabouts { client: Arc::clone(&self.client), sandbox: self.path("") }
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn seen(&self) -> Result<Seen> {
        self.client.ask(Ask::get(self.path(""))).await
    }

    fn put(&self, of: &str, path: &str, options: &PutOptions) -> Ask {
        let ask = Ask::new(Method::PUT, self.path(of)).with("path", path);
        let ask = ask.with("parents", yes(options.make_parents)).with("no_replace", yes(options.no_replace));
        let ask = match options.mode {
            Some(mode) => ask.with("mode", format!("{mode:o}")),
            None => ask,
        };
        match options.owner {
            Some((uid, gid)) => ask.with("owner", format!("{uid}:{gid}")),
            None => ask,
        }
    }

    /// Changes the state there, and tells the ledger. That it is so already is no error: who asks goes by what this ledger says.
    async fn turn(&self, verb: &str, body: &Value, next: State) -> Result<()> {
        match self.client.tell(Ask::post(self.path(verb), body).slow()).await {
            Err(error) if error.kind() == ErrorKind::Conflict && self.seen().await?.state == next => {}
            turned => turned?,
        }
        self.committed(next)
    }

    fn committed(&self, state: State) -> Result<()> {
        let record = {
            let mut record = self.record();
            record.state = state;
            record.to_value()
        };
        self.journal.commit(&record, state)
    }
}

#[async_trait]
impl SandboxHandle for Handle {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream> {
        let mut command = json!({
            "env": request.env,
            "workdir": request.workdir,
            "user": request.user.as_ref().map(user_text),
            "pty": request.pty,
            "stdin": request.stdin,
            "timeout_ms": request.timeout.map(|timeout| timeout.as_millis() as u64),
            "grace_ms": request.grace.as_millis() as u64,
            "kill_on_disconnect": request.kill_on_disconnect,
        });
        match &request.program {
            Program::Argv(argv) => {
                command["argv_base64"] = argv.iter().map(|argument| STANDARD.encode(argument)).collect::<Vec<_>>().into();
            }
            Program::Shell(line) => command["shell"] = line.as_str().into(),
        }
        self.place().exec(&command, request.pty.is_some()).await
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        self.client.ask(Ask::get(self.path("/processes"))).await
    }

    async fn reattach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        self.place().attach(pid, from).await
    }

    async fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        let body = json!({ "signal": signal.0.to_string() });
        self.client.tell(Ask::post(self.path(&format!("/processes/{pid}/signal")), &body)).await
    }

    async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.client.upload(self.put("/files", path, &options), "application/octet-stream", content).await
    }

    async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        let stat = self.stat(path, true).await?;
        if offset > 0 && offset >= stat.size {
            return Ok((stat, Box::new(tokio::io::empty())));
        }
        let ask = Ask::get(self.path("/files")).with("path", path);
        let ask = if offset == 0 { ask } else { ask.header(header::RANGE, format!("bytes={offset}-")) };
        Ok((stat, reader(self.client.open(ask).await?)))
    }

    async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.client.upload(self.put("/tree", path, &options), "application/x-tar", tar).await
    }

    async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.client.open(Ask::get(self.path("/tree")).with("path", path)).await.map(reader)
    }

    async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>> {
        self.client.ask(Ask::get(self.path("/files/list")).with("path", path)).await
    }

    async fn stat(&self, path: &str, follow: bool) -> Result<FileStat> {
        self.client.ask(Ask::get(self.path("/files/stat")).with("path", path).with("follow", yes(follow))).await
    }

    async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        let body = json!({ "path": path, "parents": parents, "mode": mode.map(|mode| format!("{mode:o}")) });
        self.client.tell(Ask::post(self.path("/files/mkdir"), &body)).await
    }

    async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        let body = json!({ "from": from, "to": to, "no_replace": no_replace });
        self.client.tell(Ask::post(self.path("/files/rename"), &body)).await
    }

    async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.client.tell(Ask::post(self.path("/files/symlink"), &json!({ "target": target, "path": path }))).await
    }

    async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()> {
        let ask = Ask::new(Method::DELETE, self.path("/files")).with("path", path);
        let ask = ask.with("recursive", yes(options.recursive)).with("missing_ok", yes(options.missing_ok));
        self.client.tell(ask.slow()).await
    }

    async fn watch(&self, path: &str, recursive: bool) -> Result<Box<dyn WatchStream>> {
        let ask = Ask::get(self.path("/files/watch")).with("path", path).with("recursive", yes(recursive));
        Ok(Box::new(Watch(self.client.socket(ask).await?)))
    }

    async fn connect_port(&self, port: u16) -> Result<Connection> {
        connect(&self.client, &self.id, port).await
    }

    async fn watch_ports(&self) -> Result<Box<dyn PortStream>> {
        Ok(Box::new(OpenPorts(self.client.socket(Ask::get(self.path("/ports/watch"))).await?)))
    }

    async fn expose_port(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        let (client, id) = (Arc::clone(&self.client), self.id.clone());
        let dial = move || {
            let (client, id) = (Arc::clone(&client), id.clone());
            async move { connect(&client, &id, port).await }
        };
        self.ports.open(port, listen, dial).await
    }

    async fn unexpose_port(&self, port: u16) -> Result<()> {
        self.ports.close(port).await
    }

    async fn set_network(&self, network: &Network) -> Result<()> {
        self.client.tell(Ask::put(self.path("/network"), &json!({ "network": network }))).await
    }

    async fn network_log(&self, since_ms: u64) -> Result<Vec<Value>> {
        self.client.ask(Ask::get(self.path("/network/log")).with("since_ms", since_ms.to_string())).await
    }

    async fn checkpoint(&self, options: CheckpointOptions) -> Result<SavedCheckpoint> {
        /// What of a checkpoint is of use here.
        #[derive(Deserialize)]
        struct Saved {
            kind: CheckpointKind,
            bytes: u64,
            files: u64,
        }
        let marker = Marker::new(&self.client.address)?;
        marker.write(&options.into)?;
        let body = json!({ "id": marker.checkpoint, "kind": options.kind });
        let saved: Saved = self.client.ask(Ask::post(self.path("/checkpoints"), &body).slow()).await?;
        Ok(SavedCheckpoint { kind: saved.kind, bytes: saved.bytes, files: saved.files, record: Value::Null })
    }

    async fn restore(&self, from: RestoreRequest) -> Result<()> {
        let marker = Marker::of_root(&from.root, &self.client.address)?;
        let body = json!({ "checkpoint": marker.checkpoint, "without_memory": from.memory.is_none() });
        self.client.tell(Ask::post(self.path("/restore"), &body).slow()).await?;
        self.journal.intend(&resource(&self.client, &self.id))?;
        *self.record() = Record::new(self.seen().await?);
        self.committed(State::Running)
    }

    async fn pause(&self) -> Result<()> {
        self.turn("/pause", &Value::Null, State::Paused).await
    }

    async fn resume(&self) -> Result<()> {
        self.turn("/resume", &Value::Null, State::Running).await
    }

    async fn stop(&self) -> Result<()> {
        self.turn("/stop", &Value::Null, State::Stopped).await
    }

    async fn start(&self) -> Result<()> {
        self.turn("/start", &Value::Null, State::Running).await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        self.client.ask(Ask::get(self.path("/stats"))).await
    }

    fn limits(&self) -> Vec<LimitReport> {
        self.record().limits.clone()
    }

    fn renewal(&self) -> Option<Renewal> {
        self.record().renewal.clone()
    }

    async fn status(&self) -> SandboxStatus {
        let known = self.record().state;
        let (state, reason, certain) = match self.seen().await {
            Ok(Seen { state: state @ (State::Running | State::Paused), reason, in_doubt, .. }) => (state, reason, !in_doubt),
            Ok(Seen { state: State::Stopped, .. }) if known == State::Stopped => (known, None, true),
            Ok(Seen { state, reason, in_doubt, .. }) => {
                (State::Crashed, Some(reason.unwrap_or_else(|| format!("on the other host it is {state}"))), !in_doubt)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (State::Crashed, Some("the other host has no such sandbox any more".to_owned()), true)
            }
            Err(error) => (known, Some(format!("not verified: {}", error.chain())), false),
        };
        SandboxStatus { state, reason, certain }
    }

    async fn destroy(&self) -> Result<()> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.ports.close_all().await;
        remove(&self.client, &self.id).await?;
        self.journal.forget(&resource(&self.client, &self.id))
    }
}

async fn connect(client: &Client, id: &SandboxId, port: u16) -> Result<Connection> {
    let socket = client.socket(Ask::get(format!("/v1/sandboxes/{id}/ports/{port}/connect"))).await?;
    Ok(Box::new(Tunnel::new(socket)))
}
