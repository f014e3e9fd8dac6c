use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use sandbar_core::{
    CheckpointOptions, Connection, Context, DirEntry, Error, ErrorKind, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecStream,
    ExitStatus, ExposedPort, FileStat, LimitReport, OutputKind, ProcessInfo, Program, ProvisionRequest, PtySize, PutOptions, RemoveOptions,
    RestoreRequest, Result, SandboxHandle, SandboxId, SandboxStats, SandboxStatus, SavedCheckpoint, Signal, State, WatchStream,
};
use serde_json::json;
use tokio::{io::AsyncRead, net::TcpStream};

use super::fake::{Fake, Place, remove};

pub(super) struct FakeHandle {
    fake: Fake,
    request: ProvisionRequest,
    generation: AtomicU64,
    place: Mutex<Place>,
}

impl FakeHandle {
    pub(super) fn new(fake: Fake, request: ProvisionRequest, generation: Option<u64>, place: Place) -> Self {
        Self { fake, request, generation: AtomicU64::new(generation.unwrap_or(1)), place: Mutex::new(place) }
    }

    fn place(&self) -> Place {
        self.place.lock().unwrap().clone()
    }

    fn agent(&self) -> Result<String> {
        fs::read_to_string(self.place().agent()).map_err(|_| Error::new(ErrorKind::Unavailable, "fake", "the agent is gone"))
    }

    fn set_agent(&self, text: &str, state: State) -> Result<()> {
        self.agent()?;
        fs::write(self.place().agent(), text).context("fake", || "cannot write".into())?;
        self.commit(state)
    }

    fn commit(&self, state: State) -> Result<()> {
        self.request.journal.commit(&json!({ "generation": self.generation.load(Ordering::SeqCst) }), state)
    }

    fn step(&self, name: &'static str) {
        self.request.journal.step(name);
    }

    fn find(&self, name: &str) -> Option<String> {
        let place = self.place();
        let layers = [place.layer()].into_iter().chain(place.saved_layers.iter().rev().cloned());
        layers.map(|layer| layer.join(name)).find_map(|path| fs::read_to_string(path).ok())
    }
}

fn none<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "fake", "the fake does not have this"))
}

struct Said(Vec<ExecEvent>);

#[async_trait]
impl ExecOutput for Said {
    async fn next(&mut self) -> Result<Option<ExecEvent>> {
        Ok(self.0.pop())
    }
}

struct Deaf;

#[async_trait]
impl ExecInput for Deaf {
    async fn write(&mut self, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }

    async fn signal(&mut self, _: Signal) -> Result<()> {
        Ok(())
    }

    async fn resize(&mut self, _: PtySize) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl SandboxHandle for FakeHandle {
    fn id(&self) -> &SandboxId {
        &self.request.id
    }

    async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream> {
        self.agent()?;
        let Program::Argv(words) = request.program else { return none() };
        let words: Vec<String> = words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (said, code) = match words[..] {
            ["write", name, text] => {
                fs::write(self.place().layer().join(name), text).context("fake", || "cannot write".into())?;
                (String::new(), 0)
            }
            ["read", name] => match self.find(name) {
                Some(text) => (text, 0),
                None => (String::new(), 1),
            },
            _ => (words.join(" "), 0),
        };
        let mut events = vec![ExecEvent::Exited(ExitStatus::exited(code))];
        if !said.is_empty() {
            events.push(ExecEvent::Output { kind: OutputKind::Stdout, offset: 0, data: said.into() });
        }
        Ok(ExecStream { pid: 2, input: Box::new(Deaf), output: Box::new(Said(events)) })
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        Ok(Vec::new())
    }

    async fn reattach(&self, _: u32, _: Option<u64>) -> Result<ExecStream> {
        none()
    }

    async fn signal(&self, _: u32, _: Signal) -> Result<()> {
        none()
    }

    async fn put_file(&self, _: &str, _: PutOptions, _: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        none()
    }

    async fn get_file(&self, _: &str, _: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        none()
    }

    async fn put_dir(&self, _: &str, _: PutOptions, _: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        none()
    }

    async fn get_dir(&self, _: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        none()
    }

    async fn read_dir(&self, _: &str) -> Result<Vec<DirEntry>> {
        none()
    }

    async fn stat(&self, _: &str, _: bool) -> Result<FileStat> {
        none()
    }

    async fn make_dir(&self, _: &str, _: bool, _: Option<u32>) -> Result<()> {
        none()
    }

    async fn rename(&self, _: &str, _: &str, _: bool) -> Result<()> {
        none()
    }

    async fn symlink(&self, _: &str, _: &str) -> Result<()> {
        none()
    }

    async fn remove_path(&self, _: &str, _: RemoveOptions) -> Result<()> {
        none()
    }

    async fn watch(&self, _: &str, _: bool) -> Result<Box<dyn WatchStream>> {
        none()
    }

    /// Inside is the host's own loopback.
    async fn connect_port(&self, port: u16) -> Result<Connection> {
        self.agent()?;
        let stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await;
        Ok(Box::new(stream.map_err(|error| Error::new(ErrorKind::Unavailable, "fake", "nothing listens there").with_source(error))?))
    }

    async fn expose_port(&self, _: u16, _: SocketAddr) -> Result<ExposedPort> {
        none()
    }

    async fn unexpose_port(&self, _: u16) -> Result<()> {
        none()
    }

    async fn checkpoint(&self, options: CheckpointOptions) -> Result<SavedCheckpoint> {
        let place = self.place();
        if self.agent().is_ok() {
            fs::write(place.agent(), "paused").context("fake", || "cannot freeze".into())?;
        }
        self.step("fake.frozen");
        let layer = options.into.join("layer");
        fs::create_dir(&layer).context("fake", || "cannot make the layer".into())?;
        let mut files = 0;
        for entry in fs::read_dir(place.layer()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), layer.join(entry.file_name())).unwrap();
            files += 1;
        }
        self.step("fake.copied");
        if self.agent().is_ok() {
            fs::write(place.agent(), "running").context("fake", || "cannot thaw".into())?;
        }
        self.fake.check("checkpoint")?;
        Ok(SavedCheckpoint { kind: options.kind, bytes: files, files, record: json!({}) })
    }

    async fn restore(&self, from: RestoreRequest) -> Result<()> {
        let old = self.place();
        let generation = self.generation.load(Ordering::SeqCst) + 1;
        let folder: PathBuf = self.request.folder.join(format!("g{generation}"));
        let new = Place { folder, saved_layers: from.root.saved_layers };
        new.make(self.request.journal.as_ref())?;
        new.boot(self.request.journal.as_ref())?;
        if let Err(error) = self.fake.check("restore") {
            new.halt(self.request.journal.as_ref(), true)?;
            return Err(error);
        }
        self.generation.store(generation, Ordering::SeqCst);
        self.commit(State::Running)?;
        self.step("fake.restored");
        *self.place.lock().unwrap() = new;
        old.halt(self.request.journal.as_ref(), true)
    }

    async fn pause(&self) -> Result<()> {
        self.set_agent("paused", State::Paused)
    }

    async fn resume(&self) -> Result<()> {
        self.set_agent("running", State::Running)
    }

    async fn stop(&self) -> Result<()> {
        self.fake.check("stop")?;
        self.step("fake.stopping");
        self.place().halt(self.request.journal.as_ref(), false)?;
        self.step("fake.stopped");
        self.commit(State::Stopped)
    }

    async fn start(&self) -> Result<()> {
        self.fake.check("start")?;
        self.place().boot(self.request.journal.as_ref())?;
        self.commit(State::Running)?;
        self.step("fake.started");
        Ok(())
    }

    async fn stats(&self) -> Result<SandboxStats> {
        Ok(SandboxStats::default())
    }

    fn limits(&self) -> Vec<LimitReport> {
        vec![LimitReport { limit: "memory".into(), value: None, enforced_by: "nothing".into() }]
    }

    async fn status(&self) -> SandboxStatus {
        if self.fake.says_nothing() {
            return SandboxStatus { state: State::Crashed, reason: Some("the agent does not answer".to_owned()), certain: false };
        }
        let (state, reason) = match self.agent().as_deref() {
            Ok("paused") => (State::Paused, None),
            Ok(_) => (State::Running, None),
            Err(_) => (State::Crashed, Some("the agent's file is gone".to_owned())),
        };
        SandboxStatus { state, reason, certain: true }
    }

    async fn destroy(&self) -> Result<()> {
        self.fake.check("destroy")?;
        self.step("fake.destroying");
        self.place().halt(self.request.journal.as_ref(), true)?;
        self.step("fake.destroyed");
        for entry in fs::read_dir(&self.request.folder).into_iter().flatten().flatten() {
            remove(&entry.path())?;
        }
        Ok(())
    }
}
