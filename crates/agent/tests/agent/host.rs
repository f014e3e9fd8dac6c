//! The host's side: an agent as a plain process, and blocking connections to it.

use std::{
    fs,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixListener, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use prost::Message;
use sandbar_protocol::{
    AGENT_SOCKET, AgentConfig, Attach, CONFIG_OPTION, Event, Exec, Failure, Frame, FrameKind, Input, PREAMBLE, Ping, Preamble, Reply,
    Request, Started, Status, VERSION, encode_message, event, input, read_frame, reply, request::Operation, write_frame,
};
use tempfile::TempDir;

/// An agent with a workspace of its own; both end with it.
pub struct Host {
    pub agent: Child,
    folder: TempDir,
    socket: &'static str,
}

impl Host {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// As process 1 of a PID namespace; `None` where that is not allowed.
    pub fn as_init() -> Option<Self> {
        let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let works = Command::new(unshare[0]).args(&unshare[1..]).arg("true").stderr(Stdio::null()).status();
        works.is_ok_and(|status| status.success()).then(|| Self::start(&unshare, |config| config.init = true))
    }

    pub fn with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        Self::start(&[], change)
    }

    /// One that makes its socket itself, with the configuration in a file.
    pub fn in_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("workspace").into_os_string().into_encoded_bytes();
        let config = AgentConfig {
            jail: Some(workspace.clone()),
            workdir: Some(workspace),
            owner_pid: std::process::id(),
            listen_folder: Some(folder.path().as_os_str().as_encoded_bytes().to_vec()),
            ..AgentConfig::default()
        };
        fs::create_dir(folder.path().join("workspace")).unwrap();
        fs::write(folder.path().join("config"), config.encode_to_vec()).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_sandbar-agent"))
            .arg(CONFIG_OPTION)
            .arg(folder.path().join("config"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn()
            .unwrap();
        let host = Self { agent, folder, socket: AGENT_SOCKET };
        eventually("it listens", || UnixStream::connect(host.folder.path().join(host.socket)).is_ok());
        host
    }

    /// The folder with its socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn start(within: &[&str], change: impl FnOnce(&mut AgentConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("workspace").into_os_string().into_encoded_bytes();
        fs::create_dir(folder.path().join("workspace")).unwrap();
        let mut config = AgentConfig {
            workdir: Some(workspace.clone()),
            jail: Some(workspace),
            owner_pid: std::process::id(),
            ..AgentConfig::default()
        };
        change(&mut config);
        fs::write(folder.path().join("config"), config.encode_to_vec()).unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let binary = std::env::var("SANDBAR_AGENT_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sandbar-agent").to_owned());
        // The shell puts the descriptors where the agent expects them.
        let agent = Command::new("/bin/sh")
            .args(["-c", r#"config="$1"; shift; exec "$@" 3<"$config" 4<&0 0</dev/null"#, "sh"])
            .arg(folder.path().join("config"))
            .args(within)
            .arg(&binary)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        Self { agent, folder, socket: "socket" }
    }

    pub fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    pub fn pid(&self) -> u32 {
        self.agent.id()
    }

    /// Kilobytes of resident memory.
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join(self.socket)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends a request, and does not wait for the answer.
    pub fn send(&self, operation: Operation) -> UnixStream {
        let mut stream = self.connect();
        let mut bytes = bytes::BytesMut::from(VERSION.encode().as_slice());
        encode_message(&mut bytes, &Request { operation: Some(operation) }).unwrap();
        stream.write_all(&bytes).unwrap();
        stream
    }

    /// Sends a request and reads the first frame of the answer.
    pub fn ask(&self, operation: Operation) -> (UnixStream, reply::Answer) {
        let mut stream = self.send(operation);
        let answer = answer(&mut stream);
        (stream, answer)
    }

    pub fn refusal(&self, operation: Operation) -> Failure {
        match self.ask(operation).1 {
            reply::Answer::Failure(failure) => failure,
            other => panic!("{other:?} is no refusal"),
        }
    }

    pub fn done(&self, operation: Operation) -> UnixStream {
        let (stream, answer) = self.ask(operation);
        assert!(matches!(answer, reply::Answer::Done(_)), "{answer:?}");
        stream
    }

    pub fn ping(&self) -> u32 {
        match self.ask(Operation::Ping(Ping {})).1 {
            reply::Answer::Pong(pong) => pong.epoch,
            other => panic!("{other:?} is no pong"),
        }
    }

    pub fn exec(&self, request: Exec) -> Session {
        self.session(Operation::Exec(request))
    }

    pub fn shell(&self, line: &str) -> Session {
        self.exec(shell(line))
    }

    pub fn attach(&self, pid: u32, from: Option<u64>) -> Session {
        self.session(Operation::Attach(Attach { pid, from, ..Attach::default() }))
    }

    pub fn run(&self, line: &str) -> Output {
        self.shell(line).collect()
    }

    pub fn session(&self, operation: Operation) -> Session {
        let (stream, answer) = self.ask(operation);
        match answer {
            reply::Answer::Started(started) => Session { stream, started },
            other => panic!("{other:?} is no start"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // TERM ends its descendants too.
        let pid = rustix::process::Pid::from_raw(self.agent.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.agent.wait();
    }
}

pub fn shell(line: &str) -> Exec {
    argv(&["/bin/sh", "-c", line])
}

pub fn argv(arguments: &[&str]) -> Exec {
    Exec { argv: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(), grace_ms: 5000, ..Exec::default() }
}

pub fn answer(stream: &mut UnixStream) -> reply::Answer {
    let mut preamble = [0; PREAMBLE];
    stream.read_exact(&mut preamble).unwrap();
    Preamble::decode(preamble).unwrap();
    read_frame(stream).unwrap().expect("an answer").message::<Reply>().unwrap().answer.expect("an answer")
}

/// An attached client.
pub struct Session {
    pub stream: UnixStream,
    pub started: Started,
}

#[derive(Debug, Default, PartialEq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub lost: u64,
    pub input_closed: u32,
    pub status: Status,
}

impl Output {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

impl Session {
    pub fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(64 << 10) {
            write_frame(&mut self.stream, FrameKind::Bytes, chunk).unwrap();
        }
    }

    pub fn end(&mut self) {
        write_frame(&mut self.stream, FrameKind::End, &[]).unwrap();
    }

    pub fn input(&mut self, what: input::What) {
        write_frame(&mut self.stream, FrameKind::Message, &Input { what: Some(what) }.encode_to_vec()).unwrap();
    }

    pub fn frame(&mut self) -> Frame {
        read_frame(&mut self.stream).unwrap().expect("another frame")
    }

    /// Reads stdout until it contains a text.
    pub fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let frame = self.frame();
            assert_eq!(frame.kind, FrameKind::Stdout, "after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&frame.payload));
        }
        seen
    }

    pub fn collect(mut self) -> Output {
        let mut output = Output::default();
        loop {
            let frame = self.frame();
            match frame.kind {
                FrameKind::Stdout => output.stdout.extend_from_slice(&frame.payload),
                FrameKind::Stderr => output.stderr.extend_from_slice(&frame.payload),
                _ => match frame.message::<Event>().unwrap().what.unwrap() {
                    event::What::Lost(lost) => output.lost += lost.bytes,
                    event::What::Exited(exited) => {
                        output.status = exited.status.unwrap();
                        assert!(read_frame(&mut self.stream).unwrap().is_none(), "nothing comes after the end");
                        return output;
                    }
                    event::What::InputClosed(_) => output.input_closed += 1,
                    other => panic!("{other:?}"),
                },
            }
        }
    }
}

pub fn exited(code: i32) -> Status {
    Status { code: Some(code), ..Status::default() }
}

pub fn signaled(signal: i32) -> Status {
    Status { signal: Some(signal), ..Status::default() }
}

/// Looks until something is so.
#[track_caller]
pub fn eventually(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

pub fn is_alive(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => !text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')),
        Err(_) => false,
    }
}

pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path).unwrap()
}
