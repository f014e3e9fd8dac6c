use std::{fs, io::Cursor, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointOptions, Connection, DirEntry, Error, ErrorKind, ExecRequest, ExecStream, ExposedPort, FileStat, LimitReport, ProcessInfo,
    PutOptions, RemoveOptions, RestoreRequest, Result, SandboxHandle, SandboxId, SandboxStats, SandboxStatus, SavedCheckpoint, Signal,
    State, Verb, WatchStream,
};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    machine::Machine,
    provider::{FakeProvider, LAYER, load},
};

/// One sandbox in memory.
pub(super) struct FakeHandle {
    machine: Arc<Machine>,
    provider: FakeProvider,
}

impl FakeHandle {
    pub(super) fn new(machine: Arc<Machine>, provider: FakeProvider) -> Self {
        Self { machine, provider }
    }

    fn check(&self, verb: Verb) -> Result<State> {
        verb.check(self.machine.state().0)
    }
}

async fn read_all(content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).await.map_err(|error| Error::io("put", "cannot read the content", error))?;
    Ok(bytes)
}

#[async_trait]
impl SandboxHandle for FakeHandle {
    fn id(&self) -> &SandboxId {
        &self.machine.request.id
    }

    async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream> {
        self.machine.exec(request)
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        if self.machine.state().0 != State::Stopped {
            self.machine.running()?;
        }
        Ok(self.machine.processes().iter().map(|process| process.info()).collect())
    }

    async fn reattach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        if self.machine.state().0 != State::Stopped {
            self.machine.running()?;
        }
        let process = self.machine.process(pid)?;
        let from = from.unwrap_or_else(|| process.info().output_start);
        Ok(process.attach(from, false))
    }

    async fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        self.machine.running()?;
        self.machine.process(pid)?.signal(signal)
    }

    async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.machine.running()?;
        let bytes = read_all(content).await?;
        self.machine.tree().write(&self.machine.workdir(), path, &options, bytes)
    }

    async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        self.machine.running()?;
        let (stat, content) = self.machine.tree().read(&self.machine.workdir(), path)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        Ok((stat, Box::new(Cursor::new(content[start..].to_vec()))))
    }

    async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.machine.running()?;
        let bytes = read_all(tar).await?;
        self.machine.tree().unpack(&self.machine.workdir(), path, &options, &bytes)
    }

    async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.machine.running()?;
        let tree = self.machine.tree();
        let at = tree.directory(&self.machine.workdir(), path)?;
        let bytes = tree.pack(&at).map_err(|error| Error::io("get", "cannot pack the tree", error))?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>> {
        self.machine.running()?;
        self.machine.tree().read_dir(&self.machine.workdir(), path)
    }

    async fn stat(&self, path: &str, follow: bool) -> Result<FileStat> {
        self.machine.running()?;
        self.machine.tree().stat(&self.machine.workdir(), path, follow)
    }

    async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        self.machine.running()?;
        self.machine.tree().make_dir(&self.machine.workdir(), path, parents, mode)
    }

    async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        self.machine.running()?;
        self.machine.tree().rename(&self.machine.workdir(), from, to, no_replace)
    }

    async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.machine.running()?;
        self.machine.tree().symlink(&self.machine.workdir(), target, path)
    }

    async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()> {
        self.machine.running()?;
        self.machine.tree().remove(&self.machine.workdir(), path, options)
    }

    async fn watch(&self, _: &str, _: bool) -> Result<Box<dyn WatchStream>> {
        Err(Error::new(ErrorKind::Unsupported, "watch", "the fake does not watch"))
    }

    async fn connect_port(&self, port: u16) -> Result<Connection> {
        self.machine.connect(port)
    }

    async fn expose_port(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        self.machine.running()?;
        self.machine.exposed.add(&self.machine, port, listen).await
    }

    async fn unexpose_port(&self, port: u16) -> Result<()> {
        self.machine.exposed.remove(port).await
    }

    async fn checkpoint(&self, options: CheckpointOptions) -> Result<SavedCheckpoint> {
        self.check(Verb::Checkpoint)?;
        let (bytes, files, tar) = {
            let tree = self.machine.tree();
            (tree.bytes(), tree.nodes.len() as u64, tree.pack("/").map_err(|error| Error::io("checkpoint", "cannot pack", error))?)
        };
        let layer = options.into.join("layer");
        fs::create_dir(&layer)
            .and_then(|()| fs::write(layer.join(LAYER), tar))
            .map_err(|error| Error::io("checkpoint", "cannot write the layer", error))?;
        Ok(SavedCheckpoint { kind: options.kind, bytes, files, record: json!({}) })
    }

    async fn restore(&self, from: RestoreRequest) -> Result<()> {
        let next = self.check(Verb::Restore)?;
        let mut tree = load(&from)?;
        tree.make_dir("/", &self.machine.workdir(), true, None)?;
        self.machine.end_all(Signal::KILL);
        self.machine.forget_processes();
        self.machine.replace_tree(tree);
        self.machine.enter(next)
    }

    async fn pause(&self) -> Result<()> {
        self.machine.enter(self.check(Verb::Pause)?)
    }

    async fn resume(&self) -> Result<()> {
        self.machine.enter(self.check(Verb::Resume)?)
    }

    async fn stop(&self) -> Result<()> {
        let next = self.check(Verb::Stop)?;
        self.machine.end_all(Signal::TERM);
        self.machine.enter(next)
    }

    async fn start(&self) -> Result<()> {
        self.machine.enter(self.check(Verb::Start)?)
    }

    async fn stats(&self) -> Result<SandboxStats> {
        self.machine.running()?;
        let bytes = self.machine.tree().bytes();
        let running = self.machine.processes().iter().filter(|process| process.status().is_none()).count() as u64;
        Ok(SandboxStats { memory_bytes: Some(bytes), pids: Some(running), disk_bytes: Some(bytes), ..SandboxStats::default() })
    }

    fn limits(&self) -> Vec<LimitReport> {
        Vec::new()
    }

    async fn status(&self) -> SandboxStatus {
        let (state, reason) = self.machine.state();
        SandboxStatus { state, reason, certain: true }
    }

    async fn destroy(&self) -> Result<()> {
        self.machine.exposed.end_all().await;
        self.machine.destroy()?;
        self.provider.forget(&self.machine.request.id);
        Ok(())
    }
}
