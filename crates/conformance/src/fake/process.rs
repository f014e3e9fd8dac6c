use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use sandbar_core::{
    Error, ErrorKind, ExecEvent, ExecInput, ExecOutput, ExecStream, ExitStatus, OutputKind, ProcessInfo, PtySize, Result, Signal,
};
use tokio::sync::{Notify, mpsc, watch};

/// Bytes of output kept of a process that nobody is attached to.
const RING: u64 = 1 << 20;

/// A process of a fake sandbox: a task that interprets builtin commands.
pub(super) struct Process {
    pub(super) pid: u32,
    command: String,
    started_ms: u64,
    log: Mutex<Log>,
    changed: Notify,
    /// The first signal that ends it.
    pub(super) ended_by: watch::Sender<Option<i32>>,
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
}

#[derive(Default)]
struct Log {
    chunks: Vec<(OutputKind, u64, Bytes)>,
    start: u64,
    end: u64,
    attached: u32,
    status: Option<(ExitStatus, u64)>,
    /// Why nobody will ever hear of its end.
    lost: Option<String>,
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

impl Process {
    pub(super) fn new(pid: u32, command: String, stdin: Option<mpsc::Sender<Bytes>>) -> Arc<Self> {
        Arc::new(Self {
            pid,
            command,
            started_ms: now_ms(),
            log: Mutex::default(),
            changed: Notify::new(),
            ended_by: watch::Sender::new(None),
            stdin: Mutex::new(stdin),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, kind: OutputKind, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let mut log = self.log();
        let (offset, length) = (log.end, data.len() as u64);
        log.chunks.push((kind, offset, data));
        log.end += length;
        while log.attached == 0 && log.end - log.start > RING {
            let (_, _, dropped) = log.chunks.remove(0);
            log.start += dropped.len() as u64;
        }
        drop(log);
        self.changed.notify_waiters();
    }

    pub(super) fn end(&self, status: ExitStatus) {
        self.log().status.get_or_insert((status, now_ms()));
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.changed.notify_waiters();
    }

    /// It is gone, and so is the agent that would have told its end.
    pub(super) fn lose(&self, reason: &str) {
        self.log().lost.get_or_insert_with(|| reason.to_owned());
        self.end(ExitStatus::signaled(Signal::KILL.0));
    }

    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.log().status.map(|(status, _)| status)
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        if self.status().is_some() {
            return Err(Error::new(ErrorKind::Conflict, "signal", "the process has ended").with("pid", self.pid));
        }
        // Those that end nothing unless they are handled: CHLD, CONT, STOP, URG, WINCH.
        if !matches!(signal.0, 17 | 18 | 19 | 23 | 28) {
            self.ended_by.send_if_modified(|ended_by| ended_by.replace(signal.0).is_none());
        }
        Ok(())
    }

    pub(super) fn info(&self) -> ProcessInfo {
        let log = self.log();
        ProcessInfo {
            pid: self.pid,
            command: self.command.clone(),
            started_ms: self.started_ms,
            ended_ms: log.status.map(|(_, ended)| ended),
            status: log.status.map(|(status, _)| status),
            pty: false,
            attached: log.attached,
            output_start: log.start,
            output_end: log.end,
            epoch: 0,
        }
    }

    pub(super) fn attach(self: &Arc<Self>, from: u64, kill_on_disconnect: bool) -> ExecStream {
        self.log().attached += 1;
        let client = Arc::new(Client { process: Arc::clone(self), kill_on_disconnect, over: AtomicBool::new(false) });
        ExecStream { pid: self.pid, input: Box::new(Input(Arc::clone(&client))), output: Box::new(Output { client, position: from }) }
    }
}

struct Client {
    process: Arc<Process>,
    kill_on_disconnect: bool,
    over: AtomicBool,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.log().attached -= 1;
        if self.kill_on_disconnect && !self.over.load(Ordering::SeqCst) {
            let _ = self.process.signal(Signal::KILL);
        }
    }
}

struct Input(Arc<Client>);

#[async_trait]
impl ExecInput for Input {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let closed = || Error::new(ErrorKind::Unavailable, "stdin", "the process does not read any more");
        let sender = self.0.process.stdin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sender.ok_or_else(closed)?.send(data).await.map_err(|_| closed())
    }

    async fn close(&mut self) -> Result<()> {
        self.0.process.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }

    async fn signal(&mut self, signal: Signal) -> Result<()> {
        self.0.process.signal(signal)
    }

    async fn resize(&mut self, _: PtySize) -> Result<()> {
        Err(Error::new(ErrorKind::InvalidInput, "resize", "the process has no terminal"))
    }
}

struct Output {
    client: Arc<Client>,
    position: u64,
}

impl Output {
    fn ready(&mut self) -> Option<Result<Option<ExecEvent>>> {
        let log = self.client.process.log();
        if self.position < log.start {
            let bytes = log.start - self.position;
            self.position = log.start;
            return Some(Ok(Some(ExecEvent::Lost { bytes })));
        }
        let chunk = log.chunks.partition_point(|(_, offset, data)| offset + data.len() as u64 <= self.position);
        if let Some((kind, offset, data)) = log.chunks.get(chunk) {
            let data = data.slice((self.position - offset) as usize..);
            let event = ExecEvent::Output { kind: *kind, offset: self.position, data };
            self.position = offset + (log.chunks[chunk].2.len() as u64);
            return Some(Ok(Some(event)));
        }
        if let Some(reason) = &log.lost {
            return Some(Err(Error::new(ErrorKind::Unavailable, "exec", reason.as_str())));
        }
        let (status, _) = log.status?;
        let told = self.client.over.swap(true, Ordering::SeqCst);
        Some(Ok((!told).then_some(ExecEvent::Exited(status))))
    }
}

#[async_trait]
impl ExecOutput for Output {
    async fn next(&mut self) -> Result<Option<ExecEvent>> {
        let process = Arc::clone(&self.client.process);
        loop {
            let mut changed = std::pin::pin!(process.changed.notified());
            changed.as_mut().enable();
            if let Some(event) = self.ready() {
                return event;
            }
            changed.await;
        }
    }
}
