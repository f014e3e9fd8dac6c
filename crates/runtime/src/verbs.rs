//! The verbs of a handle that do not change the life cycle, passed on.

use sandbar_core::{
    Connection, DirEntry, ExecRequest, ExecResult, ExecStream, FileStat, LimitReport, ProcessInfo, PutOptions, RemoveOptions, Result,
    SandboxStats, Signal, State, WatchStream,
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
        let handle = self.usable(RUNNING).await?;
        fault::point("exec.before");
        let stream = handle.exec_stream(request).await;
        fault::point("exec.started");
        stream
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
        self.usable(READABLE).await?.reattach(pid, from).await
    }

    /// Sends a signal to the process group of a process that exec started.
    pub async fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        self.usable(RUNNING).await?.signal(pid, signal).await
    }

    /// Writes a file from a stream.
    pub async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.usable(RUNNING).await?.put_file(path, options, content).await
    }

    /// Opens a regular file for reading.
    pub async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)> {
        self.usable(RUNNING).await?.get_file(path, offset).await
    }

    /// Unpacks a tar stream beneath a directory.
    pub async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.usable(RUNNING).await?.put_dir(path, options, tar).await
    }

    /// Packs a directory as a tar stream.
    pub async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.usable(RUNNING).await?.get_dir(path).await
    }

    /// The entries of a directory.
    pub async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>> {
        self.usable(RUNNING).await?.read_dir(path).await
    }

    /// What a path is.
    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileStat> {
        self.usable(RUNNING).await?.stat(path, follow).await
    }

    /// Makes a directory.
    pub async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        self.usable(RUNNING).await?.make_dir(path, parents, mode).await
    }

    /// Renames a path.
    pub async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        self.usable(RUNNING).await?.rename(from, to, no_replace).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.usable(RUNNING).await?.symlink(target, path).await
    }

    /// Removes a path.
    pub async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()> {
        self.usable(RUNNING).await?.remove_path(path, options).await
    }

    /// Watches a path.
    pub async fn watch(&self, path: &str, recursive: bool) -> Result<Box<dyn WatchStream>> {
        self.usable(RUNNING).await?.watch(path, recursive).await
    }

    /// Connects to a port that something inside listens on.
    pub async fn connect_port(&self, port: u16) -> Result<Connection> {
        self.usable(RUNNING).await?.connect_port(port).await
    }

    /// Usage now.
    pub async fn stats(&self) -> Result<SandboxStats> {
        self.usable(MEASURABLE).await?.stats().await
    }

    /// Which limits hold, and by what.
    pub async fn limits(&self) -> Result<Vec<LimitReport>> {
        Ok(self.usable(MEASURABLE).await?.limits())
    }
}
