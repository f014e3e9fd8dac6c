use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointOptions, Connection, DatagramStream, DirEntry, EgressStream, Error, ErrorKind, ExecRequest, ExecStream, ExposedPort,
    FileStat, LimitReport, PortStream, ProcessInfo, PutOptions, RemoveOptions, Renewal, RestoreRequest, Result, SandboxHandle, SandboxId,
    SandboxStats, SandboxStatus, SavedCheckpoint, Signal, WatchStream,
};
use tokio::io::AsyncRead;

use crate::expose::ExposedPorts;

use super::{
    Backend, checkpoint,
    client::Call,
    lifecycle::{self, blocking},
    live::Shared,
    output::Kept,
    provision::detached,
    status,
};

/// One sandbox behind any wall that is a [`Backend`].
pub struct MachineHandle<B: Backend> {
    shared: Arc<Shared<B>>,
    ports: ExposedPorts,
}

impl<B: Backend> MachineHandle<B> {
    pub(super) fn new(shared: Arc<Shared<B>>) -> Self {
        Self { shared, ports: ExposedPorts::default() }
    }

    fn call(&self, verb: &'static str) -> Result<Call<B>> {
        Call::begin(&self.shared, verb)
    }

    fn is_stopped(&self) -> bool {
        self.shared.current().record.place.is_none()
    }

    async fn kept(&self) -> Result<Kept> {
        let sandbox = self.shared.request.folder.clone();
        blocking(move || Kept::open(&sandbox)).await
    }
}

#[async_trait]
impl<B: Backend> SandboxHandle for MachineHandle<B> {
    fn id(&self) -> &SandboxId {
        &self.shared.request.id
    }

    async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream> {
        self.call("exec")?.exec(request).await
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        if self.is_stopped() { Ok(self.kept().await?.processes()) } else { self.call("processes")?.processes().await }
    }

    async fn reattach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        if self.is_stopped() {
            let kept = self.kept().await?;
            return blocking(move || kept.reattach(pid, from)).await;
        }
        self.call("attach")?.attach(pid, from).await
    }

    async fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        if self.is_stopped() {
            let known = self.kept().await?.processes().iter().any(|process| process.pid == pid);
            let (kind, message) = if known {
                (ErrorKind::Conflict, "the process has ended, and the sandbox is stopped")
            } else {
                (ErrorKind::NotFound, "exec started no such process")
            };
            return Err(Error::new(kind, "signal", message).with("pid", pid));
        }
        self.call("signal")?.signal(pid, signal).await
    }

    async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.call("put file")?.put_file(path, options, content).await
    }

    async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        let (stat, content) = self.call("get file")?.get_file(path, offset).await?;
        Ok((stat, Box::new(content)))
    }

    async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.call("put directory")?.put_dir(path, options, tar).await
    }

    async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        Ok(Box::new(self.call("get directory")?.get_dir(path).await?))
    }

    async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>> {
        self.call("read directory")?.read_dir(path).await
    }

    async fn stat(&self, path: &str, follow: bool) -> Result<FileStat> {
        self.call("stat")?.stat(path, follow).await
    }

    async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        self.call("make directory")?.make_dir(path, parents, mode).await
    }

    async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        self.call("rename")?.rename(from, to, no_replace).await
    }

    async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.call("symlink")?.symlink(target, path).await
    }

    async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()> {
        self.call("remove")?.remove_path(path, options).await
    }

    async fn watch(&self, path: &str, recursive: bool) -> Result<Box<dyn WatchStream>> {
        Ok(Box::new(self.call("watch")?.watch(path, recursive).await?))
    }

    async fn connect_port(&self, port: u16) -> Result<Connection> {
        self.call("connect port")?.connect_port(port).await
    }

    async fn watch_ports(&self) -> Result<Box<dyn PortStream>> {
        Ok(Box::new(self.call("watch ports")?.watch_ports().await?))
    }

    async fn expose_port(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        let shared = Arc::clone(&self.shared);
        let dial = move || {
            let call = Call::begin(&shared, "connect port");
            async move { call?.connect_port(port).await }
        };
        self.ports.open(port, listen, dial).await
    }

    async fn unexpose_port(&self, port: u16) -> Result<()> {
        self.ports.close(port).await
    }

    async fn egress(&self) -> Result<Box<dyn EgressStream>> {
        Ok(Box::new(self.call("egress")?.egress().await?))
    }

    async fn leave(&self, question: u64) -> Result<Connection> {
        self.call("leave")?.leave(question).await
    }

    async fn leave_datagrams(&self, question: u64) -> Result<Box<dyn DatagramStream>> {
        Ok(Box::new(self.call("leave")?.leave_datagrams(question).await?))
    }

    async fn checkpoint(&self, options: CheckpointOptions) -> Result<SavedCheckpoint> {
        detached(checkpoint::checkpoint(Arc::clone(&self.shared), options)).await
    }

    async fn restore(&self, from: RestoreRequest) -> Result<()> {
        detached(checkpoint::restore(Arc::clone(&self.shared), from)).await
    }

    async fn pause(&self) -> Result<()> {
        detached(lifecycle::pause(Arc::clone(&self.shared))).await
    }

    async fn resume(&self) -> Result<()> {
        detached(lifecycle::resume(Arc::clone(&self.shared))).await
    }

    async fn stop(&self) -> Result<()> {
        detached(lifecycle::stop(Arc::clone(&self.shared))).await
    }

    async fn start(&self) -> Result<()> {
        detached(lifecycle::start(Arc::clone(&self.shared))).await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        status::stats(self.call("stats")?).await
    }

    fn limits(&self) -> Vec<LimitReport> {
        let current = self.shared.current();
        self.shared.backend.limits(current.record.place.as_ref(), &self.shared.request.spec)
    }

    fn renewal(&self) -> Option<Renewal> {
        self.shared.current().record.renewal.clone()
    }

    fn most_connections(&self) -> Option<u32> {
        self.shared.backend.most_connections()
    }

    fn no_datagrams(&self) -> Option<String> {
        self.shared.current().record.no_datagrams.clone()
    }

    fn only_ports(&self) -> Vec<u16> {
        self.shared.current().record.only_ports.clone()
    }

    async fn status(&self) -> SandboxStatus {
        status::status(&self.shared).await
    }

    async fn destroy(&self) -> Result<()> {
        self.ports.close_all().await;
        detached(lifecycle::destroy(Arc::clone(&self.shared))).await
    }
}
