use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbar_core::{
    Connection, Error, ErrorKind, ExecRequest, ExecStream, ExitStatus, FileKind, Journal, Program, ProvisionRequest, Resource, Result,
    Signal, State,
};
use serde_json::json;
use tokio::{
    io::{AsyncWriteExt, copy, duplex, split},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    command::{BUILTINS, Interpreter},
    exposed::Exposed,
    process::Process,
    tree::Tree,
};
use crate::guest;

/// Where commands run unless told otherwise.
const HOME: &str = "/root";
/// Ended processes that are remembered.
const REMEMBERED: usize = 64;

/// Everything that a fake sandbox is.
pub(super) struct Machine {
    pub(super) request: ProvisionRequest,
    state: Mutex<(State, Option<String>)>,
    tree: Mutex<Tree>,
    processes: Mutex<Vec<Arc<Process>>>,
    next_pid: AtomicU32,
    listeners: Mutex<HashMap<u16, u32>>,
    connections: Mutex<JoinSet<()>>,
    pub(super) exposed: Exposed,
    frozen: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets a listener when its process ends.
pub(super) struct Listening<'a>(&'a Machine, u16);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        lock(&self.0.listeners).remove(&self.1);
    }
}

impl Machine {
    pub(super) fn new(request: ProvisionRequest, tree: Tree, state: State) -> Arc<Self> {
        Arc::new(Self {
            request,
            state: Mutex::new((state, None)),
            tree: Mutex::new(tree),
            processes: Mutex::default(),
            next_pid: AtomicU32::new(2),
            listeners: Mutex::default(),
            connections: Mutex::default(),
            exposed: Exposed::default(),
            frozen: watch::Sender::new(false),
        })
    }

    /// The one thing outside of memory: a folder, so that journals have something to hold.
    pub(super) fn folder(&self) -> PathBuf {
        self.request.folder.join("fake")
    }

    fn resource(&self) -> Resource {
        Resource::Folder { path: self.folder() }
    }

    fn journal(&self) -> &dyn Journal {
        &*self.request.journal
    }

    pub(super) fn begin(&self) -> Result<()> {
        self.journal().intend(&self.resource())?;
        self.journal().step("fake folder");
        std::fs::create_dir_all(self.folder()).map_err(|error| Error::io("provision", "cannot make the folder", error))?;
        let workdir = self.workdir();
        self.tree().make_dir("/", &workdir, true, None)?;
        self.enter(State::Running)
    }

    /// Takes a state, in the ledger first.
    pub(super) fn enter(&self, state: State) -> Result<()> {
        self.journal().commit(&json!({ "fake": self.request.id.as_str() }), state)?;
        *lock(&self.state) = (state, None);
        self.frozen.send_replace(state == State::Paused);
        Ok(())
    }

    pub(super) fn crash(&self, reason: &str) {
        self.processes().iter().for_each(|process| process.lose(reason));
        self.end_all(Signal::KILL);
        *lock(&self.state) = (State::Crashed, Some(reason.to_owned()));
    }

    pub(super) fn state(&self) -> (State, Option<String>) {
        lock(&self.state).clone()
    }

    /// Refuses unless the agent would answer.
    pub(super) fn running(&self) -> Result<()> {
        match self.state() {
            (State::Running, _) => Ok(()),
            (state @ (State::Paused | State::Stopped), _) => Err(Error::new(ErrorKind::Conflict, "use", format!("the sandbox is {state}"))),
            (state, reason) => {
                let message = format!("the sandbox is {state}: {}", reason.unwrap_or_else(|| "it is gone".to_owned()));
                Err(Error::new(ErrorKind::Unavailable, "use", message))
            }
        }
    }

    /// Waits while the sandbox is paused.
    pub(super) async fn thawed(&self) {
        let mut frozen = self.frozen.subscribe();
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }

    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }

    pub(super) fn workdir(&self) -> String {
        let asked = self.request.spec.workdir.clone().or_else(|| self.request.root.workdir.clone());
        asked.map_or_else(|| HOME.to_owned(), |path| if path.starts_with('/') { path } else { format!("{HOME}/{path}") })
    }

    fn env(&self, request: &ExecRequest) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([("PATH", "/usr/bin:/bin"), ("HOME", HOME)].map(|(name, value)| (name.to_owned(), value.to_owned())));
        env.extend(self.request.root.env.clone());
        env.extend(self.request.spec.env.clone());
        for (name, value) in &request.env {
            match value {
                Some(value) => env.insert(name.clone(), value.clone()),
                None => env.remove(name),
            };
        }
        env
    }

    /// Refuses a command that does not exist or cannot be executed.
    fn look_up(&self, name: &str, workdir: &str) -> Result<()> {
        let refuse = |kind, message| Err(Error::new(kind, "exec", message).with("command", name));
        if !name.contains('/') {
            return if BUILTINS.contains(&name) { Ok(()) } else { refuse(ErrorKind::CommandNotFound, "no such command") };
        }
        let mode = match self.tree().node(workdir, name, true) {
            Ok((_, node)) if node.kind == FileKind::File => node.mode,
            Ok(_) => 0,
            Err(_) => return refuse(ErrorKind::CommandNotFound, "no such command"),
        };
        if mode & 0o111 != 0 && name == guest::COMMAND {
            return Ok(());
        }
        refuse(ErrorKind::CommandNotExecutable, "cannot be executed")
    }

    pub(super) fn exec(self: &Arc<Self>, request: ExecRequest) -> Result<ExecStream> {
        self.running()?;
        let own = self.workdir();
        let missing = |error: Error| Error::new(ErrorKind::InvalidInput, "exec", "no such working directory").with_source(error);
        let workdir = match &request.workdir {
            Some(path) => self.tree().directory(&own, path).map_err(missing)?,
            None => own,
        };
        let words = match &request.program {
            Program::Argv(argv) => Some(argv.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()),
            Program::Shell(_) => None,
        };
        let command = match (&words, &request.program) {
            (Some(words), _) => {
                self.look_up(words.first().map_or("", String::as_str), &workdir)?;
                words.join(" ")
            }
            (None, Program::Shell(line)) => format!("/bin/sh -c {line}"),
            (None, Program::Argv(_)) => String::new(),
        };
        let (sender, receiver) = mpsc::channel(4);
        let (sender, receiver) = if request.stdin { (Some(sender), Some(receiver)) } else { (None, None) };
        let process = Process::new(self.next_pid.fetch_add(1, Ordering::Relaxed), command, sender);
        self.remember(&process);
        let env = self.env(&request);
        let interpreter = Interpreter { machine: Arc::clone(self), process: Arc::clone(&process), env, workdir, stdin: receiver };
        let stream = process.attach(0, request.kill_on_disconnect);
        tokio::spawn(supervise(interpreter, request.program, words, request.timeout));
        Ok(stream)
    }

    fn remember(&self, process: &Arc<Process>) {
        let mut processes = lock(&self.processes);
        if processes.len() >= REMEMBERED
            && let Some(oldest) = processes.iter().position(|process| process.status().is_some())
        {
            processes.remove(oldest);
        }
        processes.push(Arc::clone(process));
    }

    pub(super) fn processes(&self) -> Vec<Arc<Process>> {
        lock(&self.processes).clone()
    }

    pub(super) fn process(&self, pid: u32) -> Result<Arc<Process>> {
        let found = self.processes().into_iter().find(|process| process.pid == pid);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "process", "exec started no such process").with("pid", pid))
    }

    /// Ends every process now, and every connection.
    pub(super) fn end_all(&self, signal: Signal) {
        for process in self.processes() {
            let _ = process.signal(signal);
            process.end(ExitStatus::signaled(signal.0));
        }
        lock(&self.listeners).clear();
        lock(&self.connections).abort_all();
    }

    pub(super) fn forget_processes(&self) {
        lock(&self.processes).clear();
    }

    pub(super) fn listen(&self, port: u16) -> Listening<'_> {
        lock(&self.listeners).insert(port, 0);
        Listening(self, port)
    }

    /// Connects to the echo server of that port.
    pub(super) fn connect(&self, port: u16) -> Result<Connection> {
        self.running()?;
        if !lock(&self.listeners).contains_key(&port) {
            return Err(Error::new(ErrorKind::Unavailable, "connect", "nothing listens there").with("port", port));
        }
        let (near, far) = duplex(1 << 16);
        lock(&self.connections).spawn(async move {
            let (mut reader, mut writer) = split(far);
            let _ = copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
        Ok(Box::new(near))
    }

    /// Ends everything and removes the folder.
    pub(super) fn destroy(&self) -> Result<()> {
        *lock(&self.state) = (State::Destroying, None);
        self.end_all(Signal::KILL);
        match std::fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("destroy", "cannot remove the folder", error));
            }
            _ => {}
        }
        self.journal().forget(&self.resource())
    }

    pub(super) fn replace_tree(&self, tree: Tree) {
        *self.tree() = tree;
    }
}

/// Runs a process to its end, or to its signal or timeout.
async fn supervise(mut interpreter: Interpreter, program: Program, words: Option<Vec<String>>, timeout: Option<Duration>) {
    let process = Arc::clone(&interpreter.process);
    let mut ended_by = process.ended_by.subscribe();
    let signalled = async {
        let signal = ended_by.wait_for(Option::is_some).await.ok().and_then(|signal| *signal);
        match signal {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    };
    let running = async {
        match (words, program) {
            (Some(words), _) => interpreter.argv(words).await,
            (None, Program::Shell(line)) => interpreter.line(&line).await,
            (None, Program::Argv(_)) => ExitStatus::exited(127),
        }
    };
    let deadline = async {
        match timeout {
            Some(timeout) => sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let status = tokio::select! {
        status = running => status,
        signal = signalled => ExitStatus::signaled(signal),
        () = deadline => ExitStatus { timed_out: true, ..ExitStatus::signaled(Signal::TERM.0) },
    };
    process.end(status);
}
