use std::net::SocketAddr;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::AsyncRead;

use crate::{
    CheckpointOptions, Connection, DatagramStream, DirEntry, EgressStream, Error, ErrorKind, ExecRequest, ExecResult, ExecStream,
    ExposedPort, FileStat, LimitReport, Network, PortStream, ProcessInfo, PutOptions, RemoveOptions, Renewal, RestoreRequest, Result,
    SandboxId, SandboxStats, SandboxStatus, SavedCheckpoint, Signal, WatchStream,
};

/// One sandbox.
///
/// Paths are the sandbox's own. A relative path is taken from the sandbox's working directory. On `dangerous-host` every path must
/// lie in the workspace.
///
/// # Behavior
/// - calls may run at the same time; those that change the life cycle exclude one another by the runtime's lock.
/// - a call on a sandbox whose agent is gone fails with `Unavailable` and the reason, within seconds.
/// - every reply of the agent is hostile input: bounded and validated.
#[async_trait]
pub trait SandboxHandle: Send + Sync {
    /// Its id.
    fn id(&self) -> &SandboxId;

    /// Starts a command and streams it: the primitive of every other exec.
    ///
    /// # Behavior
    /// - stdout and stderr are apart, in order within each, binary-safe.
    /// - a reader that stops reading holds the process back; nothing is dropped while a client is attached.
    /// - the process outlives this client unless `kill_on_disconnect`.
    /// - a timeout ends in `TERM` to the group, then `KILL` after the grace, and is told in the status.
    ///
    /// # Errors
    /// `CommandNotFound`, `CommandNotExecutable`; `InvalidInput` for an unknown user or a missing working directory;
    /// `ResourceExhausted` when the process limit is reached.
    async fn exec_stream(&self, request: ExecRequest) -> Result<ExecStream>;

    /// Runs a command to its end and collects at most [`ExecResult::DEFAULT_LIMIT`] bytes of each stream.
    ///
    /// # Errors
    /// Those of [`exec_stream`](Self::exec_stream).
    async fn exec(&self, request: ExecRequest) -> Result<ExecResult> {
        self.exec_stream(request).await?.collect(ExecResult::DEFAULT_LIMIT).await
    }

    /// The processes that exec started: all that run, and the last that ended.
    async fn processes(&self) -> Result<Vec<ProcessInfo>>;

    /// Attaches to a process that exec started, from an output offset (`None`: from the oldest byte that is kept).
    ///
    /// # Behavior
    /// - bytes that are not kept any more are told as [`Lost`](crate::ExecEvent::Lost) first.
    /// - of a process that has ended, its kept output and its status are told.
    ///
    /// # Errors
    /// `NotFound` for a process that exec did not start, or that is no longer remembered.
    async fn reattach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream>;

    /// Sends a signal to the process group of a process that exec started.
    ///
    /// # Errors
    /// `NotFound` as for [`reattach`](Self::reattach); `Conflict` when it has ended.
    async fn signal(&self, pid: u32, signal: Signal) -> Result<()>;

    /// Writes a file from a stream, replacing it in one step (a reader sees the old or the new content, never a part).
    ///
    /// # Behavior
    /// - on an error nothing is replaced and no temporary file is left.
    /// - a path that is a symbolic link is replaced through the link.
    async fn put_file(&self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()>;

    /// Opens a regular file for reading from `offset`. The stream fails with an I/O error if the file cannot be read to its end.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for a directory or a device.
    async fn get_file(&self, path: &str, offset: u64) -> Result<(FileStat, Box<dyn AsyncRead + Send + Unpin>)>;

    /// Unpacks a tar stream beneath a directory, which is made if missing. Entries that would lie outside of it are refused.
    async fn put_dir(&self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()>;

    /// Packs a directory as a tar stream (names relative to it; owner, mode, times, xattrs, links).
    async fn get_dir(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>>;

    /// The entries of a directory, sorted by name.
    async fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>>;

    /// What a path is; a symbolic link is followed if `follow`.
    async fn stat(&self, path: &str, follow: bool) -> Result<FileStat>;

    /// Makes a directory; with `parents` an existing one is no error.
    async fn make_dir(&self, path: &str, parents: bool, mode: Option<u32>) -> Result<()>;

    /// Renames, replacing what is there unless `no_replace`.
    async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Result<()>;

    /// Makes a symbolic link at `path` that points to `target` (any text).
    async fn symlink(&self, target: &str, path: &str) -> Result<()>;

    /// Removes a path.
    async fn remove_path(&self, path: &str, options: RemoveOptions) -> Result<()>;

    /// Watches a path, with everything below it if `recursive`.
    async fn watch(&self, path: &str, recursive: bool) -> Result<Box<dyn WatchStream>>;

    /// Connects to a port that something inside listens on (on 127.0.0.1 or `::1`).
    ///
    /// # Errors
    /// `Unavailable` when nothing listens there.
    async fn connect_port(&self, port: u16) -> Result<Connection>;

    /// Watches which TCP ports of loopback something inside listens on.
    ///
    /// # Behavior
    /// - what the sandbox's own agent listens on is not among them, nor is what others on a network that is shared with the host have.
    /// - of more than 1,024 the lowest are told.
    ///
    /// # Errors
    /// `Unsupported` when the agent is older than this.
    async fn watch_ports(&self) -> Result<Box<dyn PortStream>> {
        Err(Error::new(ErrorKind::Unsupported, "watch ports", "this provider does not tell which ports are open"))
    }

    /// Listens on the host and passes each connection to the port inside, as long as this handle (or a clone) lives in this
    /// process. The runtime's keeper makes it last. A port 0 in `listen` takes a free one.
    ///
    /// # Errors
    /// `AlreadyExists` when the port is exposed already or the address is taken.
    async fn expose_port(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort>;

    /// Ends the listener; open connections are closed.
    ///
    /// # Errors
    /// `NotFound` when the port is not exposed.
    async fn unexpose_port(&self, port: u16) -> Result<()>;

    /// Decides, from now on, about everything that would leave; whoever did before is done. What nobody decides about waits for some seconds and is refused.
    ///
    /// # Errors
    /// `Unavailable` when the agent is gone.
    async fn egress(&self) -> Result<Box<dyn EgressStream>> {
        Err(nothing_leaves())
    }

    /// The sandbox's end of a connection that was asked for, and is allowed.
    ///
    /// # Errors
    /// `NotFound` when nobody waits for it any more.
    async fn leave(&self, question: u64) -> Result<Connection> {
        let _ = question;
        Err(nothing_leaves())
    }

    /// The sandbox's end of datagrams that were asked for, and are allowed.
    ///
    /// # Errors
    /// As [`leave`](Self::leave).
    async fn leave_datagrams(&self, question: u64) -> Result<Box<dyn DatagramStream>> {
        let _ = question;
        Err(nothing_leaves())
    }

    /// Changes what it may reach, where [another host](crate::SandboxProvider::is_elsewhere) decides about that.
    ///
    /// # Errors
    /// `Conflict` when it was made without a network; `Unsupported` where this host decides, and the runtime changes it.
    async fn set_network(&self, network: &Network) -> Result<()> {
        let _ = network;
        Err(decided_here())
    }

    /// What another host has decided about its names and connections at this moment (Unix milliseconds) and later, the oldest first, as that host writes it.
    ///
    /// # Errors
    /// `Unsupported` where this host decides, and the runtime keeps a log.
    async fn network_log(&self, since_ms: u64) -> Result<Vec<Value>> {
        let _ = since_ms;
        Err(decided_here())
    }

    /// Saves. Processes are frozen meanwhile and go on afterwards, whether it succeeded or not.
    ///
    /// # Behavior
    /// - for `Memory`, connections to the agent are closed first and made again afterwards. Output is not lost by it: whoever reads it goes on where
    ///   it was.
    ///
    /// # Errors
    /// `Conflict` for `Memory` while paused: who is frozen cannot let go of what cannot be saved.
    async fn checkpoint(&self, options: CheckpointOptions) -> Result<SavedCheckpoint>;

    /// Puts this sandbox back to a checkpoint: the new one is built beside the old and takes its place when its agent answers; if
    /// that fails, the old one runs on.
    async fn restore(&self, from: RestoreRequest) -> Result<()>;

    /// Freezes everything inside.
    async fn pause(&self) -> Result<()>;

    /// Thaws.
    async fn resume(&self) -> Result<()>;

    /// Ends the processes (`TERM`, then `KILL`) and keeps the writable layer. Output rings and statuses go to the sandbox's
    /// folder, so that [`processes`](Self::processes) and [`reattach`](Self::reattach) still answer.
    async fn stop(&self) -> Result<()>;

    /// Runs again on the kept layer. Earlier processes are not started again.
    async fn start(&self) -> Result<()>;

    /// Usage now.
    async fn stats(&self) -> Result<SandboxStats>;

    /// Which limits hold, and by what.
    fn limits(&self) -> Vec<LimitReport>;

    /// What was renewed when it began from saved memory; `None` when it did not.
    fn renewal(&self) -> Option<Renewal> {
        None
    }

    /// Most connections that may leave at a time, where the wall has room for fewer than whoever decides.
    fn most_connections(&self) -> Option<u32> {
        None
    }

    /// Why datagrams cannot leave this sandbox though its provider has that, as its agent says; `None` where they can, where nothing can, and where it does not run.
    fn no_datagrams(&self) -> Option<String> {
        None
    }

    /// The only ports that connections can leave this sandbox to, as its agent says; empty where that is any, or none, and where it does not run.
    fn only_ports(&self) -> Vec<u16> {
        Vec::new()
    }

    /// What state it is in, by the host's facts and the agent's answer, within about two seconds.
    async fn status(&self) -> SandboxStatus;

    /// Ends everything and releases every resource. A sandbox that is gone already is no error.
    async fn destroy(&self) -> Result<()>;
}

fn nothing_leaves() -> Error {
    Error::new(ErrorKind::Unsupported, "egress", "this provider asks nobody about what leaves a sandbox")
}

fn decided_here() -> Error {
    Error::new(ErrorKind::Unsupported, "network", "no other host decides about what leaves this sandbox")
}
