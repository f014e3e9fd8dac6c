use std::{
    io::Cursor,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sandbar_core::{
    AttachRequest, ErrorKind, ExecRequest, ExecResult, ExecStream, ProcessInfo, ProvisionRequest, PutOptions, Resource, Resource::Process,
    Result, SandboxHandle, SandboxStatus, Signal, State,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task_local,
    time::{Instant, sleep, timeout},
};

use crate::{Failure, Recorder, failure::ensure, guest, host};

/// How often something is asked again that cannot be waited for.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long what must come is waited for: far longer than it takes on a busy machine, for it says only when a case gives up. How soon something
/// comes, it does not say: that is [`SECONDS`].
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// What "within seconds" means to a call that is to fail at once: a call that waits for an agent in vain ends after 15 seconds or more.
const SECONDS: Duration = Duration::from_secs(10);

task_local! {
    /// How many times as long the case's subject may take: see [`Subject::patience`](crate::Subject::patience).
    pub(crate) static PATIENCE: u32;
}

/// How many times as long it is for the case that runs.
pub(crate) fn slowness() -> u32 {
    PATIENCE.try_get().unwrap_or(1)
}

/// [`SOON`] for the case that runs.
pub(crate) fn patience() -> Duration {
    SOON * slowness()
}

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    let patience = patience();
    timeout(patience, future).await.map_err(|_| Failure::new(format!("{what} did not end within {} s", patience.as_secs())))
}

/// Waits for something that must come within seconds.
pub(crate) async fn within_seconds<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(SECONDS, future).await.map_err(|_| Failure::new(format!("{what} did not end within {} s", SECONDS.as_secs())))
}

/// A sandbox of one case, with what the cases say most often. Everything else is the handle's.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    handle: Box<dyn SandboxHandle>,
    request: ProvisionRequest,
    journal: Arc<Recorder>,
    destroyed: AtomicBool,
    /// How long something may take that has yet to be done in it.
    patience: Duration,
}

impl Deref for Sandbox {
    type Target = dyn SandboxHandle;

    fn deref(&self) -> &Self::Target {
        &*self.0.handle
    }
}

impl Sandbox {
    pub(crate) fn new(handle: Box<dyn SandboxHandle>, request: ProvisionRequest, journal: Arc<Recorder>, patience: u32) -> Self {
        Self(Arc::new(Inner { handle, request, journal, destroyed: AtomicBool::new(false), patience: SOON * patience }))
    }

    /// What it was made from.
    pub fn request(&self) -> &ProvisionRequest {
        &self.0.request
    }

    /// Its journal.
    pub fn journal(&self) -> &Recorder {
        &self.0.journal
    }

    /// What another process would attach with.
    pub(crate) fn attach_request(&self) -> Result<AttachRequest, Failure> {
        let record = self.0.journal.record().ok_or_else(|| Failure::new("provision committed no record"))?;
        Ok(AttachRequest { provision: self.0.request.clone(), record })
    }

    /// Says that the case has released it by another way than `destroy`.
    pub(crate) fn released(&self) {
        self.0.destroyed.store(true, Ordering::SeqCst);
    }

    /// Whether the case has released it.
    pub(crate) fn is_released(&self) -> bool {
        self.0.destroyed.load(Ordering::SeqCst)
    }

    /// What is true of it. An agent on a busy machine may be silent for longer than a status waits: one that is in doubt is asked again.
    pub async fn status(&self) -> SandboxStatus {
        let given_up = Instant::now() + self.0.patience;
        loop {
            let status = self.0.handle.status().await;
            if status.certain || status.state != State::Crashed || Instant::now() > given_up {
                return status;
            }
            sleep(POLL).await;
        }
    }

    /// Runs a line of shell to its end, whatever its status.
    pub async fn shell(&self, line: &str) -> Result<ExecResult, Failure> {
        self.exec(ExecRequest::shell(line)).await.map_err(|error| Failure::from(error).during(format!("`{line}`")))
    }

    /// Runs a line of shell that must succeed, and gives its output without the last line's end.
    pub async fn text(&self, line: &str) -> Result<String, Failure> {
        let result = self.shell(line).await?;
        ensure!(result.status.success(), "`{line}` ended with {}: {}{}", result.status, result.stdout_text(), result.stderr_text());
        Ok(result.stdout_text().trim_end_matches('\n').to_owned())
    }

    /// Starts a line of shell.
    pub async fn start_shell(&self, line: &str) -> Result<ExecStream, Failure> {
        self.exec_stream(ExecRequest::shell(line).with_stdin()).await.map_err(|error| Failure::from(error).during(format!("`{line}`")))
    }

    /// Writes a file.
    pub async fn put(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(path, PutOptions::default(), content).await
    }

    /// Writes a file with options.
    pub async fn put_with(&self, path: &str, options: PutOptions, content: impl AsRef<[u8]>) -> Result<()> {
        let mut reader = Cursor::new(content.as_ref().to_vec());
        self.put_file(path, options, &mut reader).await
    }

    /// Reads a file.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        self.get_from(path, 0).await
    }

    /// Reads a file from an offset.
    pub async fn get_from(&self, path: &str, offset: u64) -> Result<Vec<u8>> {
        let (_, mut reader) = self.get_file(path, offset).await?;
        let mut content = Vec::new();
        reader.read_to_end(&mut content).await.map_err(|error| sandbar_core::Error::io("get", "cannot read the stream", error))?;
        Ok(content)
    }

    /// Whether a path exists, links not followed.
    pub async fn has(&self, path: &str) -> Result<bool, Failure> {
        match self.stat(path, false).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What the agent says of one process.
    pub async fn process(&self, pid: u32) -> Result<ProcessInfo, Failure> {
        let all = self.processes().await?;
        all.into_iter().find(|process| process.pid == pid).ok_or_else(|| Failure::new(format!("process {pid} is not listed")))
    }

    /// Waits until a process has ended.
    pub async fn ended(&self, pid: u32) -> Result<ProcessInfo, Failure> {
        let wait = async {
            loop {
                let process = self.process(pid).await?;
                if process.status.is_some() {
                    return Ok(process);
                }
                sleep(POLL).await;
            }
        };
        timeout(self.0.patience, wait).await.map_err(|_| Failure::new(format!("process {pid} still runs")))?
    }

    /// Waits until a line of shell succeeds.
    pub async fn until(&self, line: &str) -> Result<(), Failure> {
        let wait = async {
            while !self.shell(line).await?.status.success() {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(self.0.patience, wait).await.map_err(|_| Failure::new(format!("`{line}` never succeeded")))?
    }

    /// Ends a process and waits for that.
    pub async fn kill(&self, pid: u32) -> Result<(), Failure> {
        match self.signal(pid, Signal::KILL).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
        self.ended(pid).await.map(|_| ())
    }

    /// Puts the guest program at `./guest`.
    pub async fn put_guest(&self) -> Result<(), Failure> {
        let options = PutOptions { mode: Some(0o755), ..PutOptions::default() };
        self.put_with(guest::NAME, options, guest::PROGRAM).await?;
        Ok(())
    }

    /// Starts the guest program and waits until it says that it is ready. Put it first.
    pub async fn start_guest(&self, arguments: &[&str]) -> Result<ExecStream, Failure> {
        let argv = std::iter::once(guest::COMMAND).chain(arguments.iter().copied());
        let mut stream = self.exec_stream(ExecRequest::argv(argv).with_stdin()).await?;
        crate::stream::read_until(&mut stream, "ready\n").await.map_err(|failure| failure.during(format!("guest {arguments:?}")))?;
        Ok(stream)
    }

    /// Runs the guest program to its end.
    pub async fn guest(&self, arguments: &[&str]) -> Result<ExecResult, Failure> {
        let argv = std::iter::once(guest::COMMAND).chain(arguments.iter().copied());
        Ok(self.exec(ExecRequest::argv(argv)).await?)
    }

    /// Connects to a port and expects what is sent to come back.
    pub async fn echoes(&self, port: u16, message: &[u8]) -> Result<(), Failure> {
        let mut connection = self.connect_port(port).await?;
        connection.write_all(message).await?;
        connection.shutdown().await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        ensure!(answer == message, "{} bytes were sent, {} other bytes came back", message.len(), answer.len());
        Ok(())
    }

    /// The host's process of the agent, as the journal was told.
    pub(crate) fn agent_pid(&self) -> Result<u32, Failure> {
        let mut agents = self.0.journal.held().into_iter().rev().filter_map(|resource| match resource {
            Process { pid, role, .. } if role == "agent" => Some(pid),
            _ => None,
        });
        agents.next().ok_or_else(|| Failure::Ignored("the journal knows no process `agent`".to_owned()))
    }

    /// Waits until a resource is gone.
    pub(crate) async fn gone(&self, resource: &Resource) -> Result<(), Failure> {
        let wait = async {
            while host::exists(resource) {
                sleep(POLL).await;
            }
        };
        timeout(self.0.patience, wait).await.map_err(|_| Failure::new(format!("still there: {resource:?}")))
    }
}

/// Bytes that look like nothing in particular and that two sides can make alike.
pub(crate) fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}
