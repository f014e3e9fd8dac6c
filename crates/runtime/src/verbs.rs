//! The verbs of a handle that do not change the life cycle, passed on.

use sandbar_core::{
    Connection, DirEntry, ExecRequest, ExecResult, ExecStream, FileStat, LimitReport, PortStream, ProcessInfo, PutOptions, RemoveOptions,
    Result, SandboxStats, Signal, State, WatchStream,
};
use tokio::io::AsyncRead;

use crate::{Sandbox, fault};

/// States in which the agent answers.
const RUNNING: &[State] = &[State::Running];
/// States in which what processes have left can be read: from the agent, or from what a stop kept.
const READABLE: &[State] = &[State::Running, State::Stopped, State::Crashed];
/// States in which the host's own facts are worth asking.
const MEASURABLE: &[State] = &[State::Running, State::Paused, State::Stopped, State::Crashed];

/// What a handle does, where the state allows it; each has the behaviour and the errors of the method of the same name of
/// [`SandboxHandle`](sandbar_core::SandboxHandle).
#[expect(clippy::missing_errors_doc, reason = "the contract in core has them")]
impl Sandbox {
    /// Starts a command and streams it.
    pub async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream> {
        let deed = self.deed("exec").running(&request.program);
        let started = async {
            let handle = self.usable(RUNNING).await?;
            fault::point("exec.before");
            let stream = handle.exec_stream(request).await;
            fault::point("exec.started");
            stream
        };
        let stream = deed.started(started.await)?;
        Ok(self.told_of_its_end(stream))
    }

    /// Runs a command to its end and collects its output.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecResult> {
        self.exec_stream(request).await?.collect(ExecResult::DEFAULT_LIMIT).await
    }

    /// The processes that exec started, of a stopped sandbox too.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        self.usable(READABLE).await?.processes().await
    }

    /// Attaches to a process that exec started; of a stopped sandbox, to what it said.
    pub async fn reattach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        let stream = self.deed("attach").at(pid).done(async { self.usable(READABLE).await?.reattach(pid, from).await }).await?;
        Ok(self.told_of_its_end(stream))
    }

    /// Sends a signal to the process group of a process that exec started.
    pub async fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        self.deed("signal").at(format!("{} to {pid}", signal.0)).done(async { self.usable(RUNNING).await?.signal(pid, signal).await }).await
    }

    /// Writes a file from a stream.
    pub async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.deed("write").at(path).done(async { self.usable(RUNNING).await?.put_file(path, options, content).await }).await
    }

    /// Opens a regular file for reading.
    pub async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        self.deed("read").at(path).done(async { self.usable(RUNNING).await?.get_file(path, offset).await }).await
    }

    /// Unpacks a tar stream beneath a directory.
    pub async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.deed("unpack").at(path).done(async { self.usable(RUNNING).await?.put_dir(path, options, tar).await }).await
    }

    /// Packs a directory as a tar stream.
    pub async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.deed("pack").at(path).done(async { self.usable(RUNNING).await?.get_dir(path).await }).await
    }

    /// The entries of a directory.
    pub async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>> {
        self.deed("list").at(path).done(async { self.usable(RUNNING).await?.read_dir(path).await }).await
    }

    /// What a path is.
    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileStat> {
        self.deed("stat").at(path).done(async { self.usable(RUNNING).await?.stat(path, follow).await }).await
    }

    /// Makes a directory.
    pub async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        self.deed("mkdir").at(path).done(async { self.usable(RUNNING).await?.make_dir(path, parents, mode).await }).await
    }

    /// Renames a path.
    pub async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        self.deed("rename")
            .at(format!("{from} to {to}"))
            .done(async { self.usable(RUNNING).await?.rename(from, to, no_replace).await })
            .await
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.deed("link").at(path).done(async { self.usable(RUNNING).await?.symlink(target, path).await }).await
    }

    /// Removes a path.
    pub async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()> {
        self.deed("remove").at(path).done(async { self.usable(RUNNING).await?.remove_path(path, options).await }).await
    }

    /// Watches a path.
    pub async fn watch(&self, path: &str, recursive: bool) -> Result<Box<dyn WatchStream>> {
        self.deed("watch").at(path).done(async { self.usable(RUNNING).await?.watch(path, recursive).await }).await
    }

    /// Connects to a port that something inside listens on.
    pub async fn connect_port(&self, port: u16) -> Result<Connection> {
        self.deed("connect").at(port).done(self.dial_port(port)).await
    }

    /// The same for somebody who came to a port that is exposed, about which the one who exposed it has been told.
    pub(crate) async fn dial_port(&self, port: u16) -> Result<Connection> {
        self.usable(RUNNING).await?.connect_port(port).await
    }

    /// Watches which ports something inside listens on.
    pub async fn watch_ports(&self) -> Result<Box<dyn PortStream>> {
        self.usable(RUNNING).await?.watch_ports().await
    }

    /// Usage now.
    pub async fn stats(&self) -> Result<SandboxStats> {
        let mut stats = self.usable(MEASURABLE).await?.stats().await?;
        self.count_network(&mut stats)?;
        Ok(stats)
    }

    /// Which limits hold, and by what.
    pub async fn limits(&self) -> Result<Vec<LimitReport>> {
        Ok(self.usable(MEASURABLE).await?.limits())
    }
}
