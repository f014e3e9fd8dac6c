use std::{
    ffi::OsStr,
    fmt,
    io::{Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use super::DEADLINE;

/// A running client.
pub struct Client {
    child: Child,
    words: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

/// What a client did.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    pub words: String,
    /// Its status as a shell tells it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Client {
    pub fn start<S: AsRef<OsStr>>(mut command: Command, args: &[S]) -> Self {
        let words = args.iter().map(|arg| arg.as_ref().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().map(collect);
        Self { child, words, stdout: None, stderr }
    }

    /// Starts with a pipe as its standard input.
    pub fn start_with_input<S: AsRef<OsStr>>(mut command: Command, args: &[S]) -> (Self, ChildStdin) {
        command.stdin(Stdio::piped());
        let mut client = Self::start(command, args);
        let input = client.child.stdin.take().unwrap();
        (client, input)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its standard output, for the test to read; it is not collected then.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Waits until its output has this line, reading no further.
    pub fn wait_for_line(&mut self, line: &str) {
        let out = self.child.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(format!("{line}\n").as_bytes()) {
            let mut byte = [0];
            if out.read(&mut byte).unwrap() != 1 {
                let said = self.stderr.take().map(|thread| thread.join().unwrap()).unwrap_or_default();
                let (seen, said) = (String::from_utf8_lossy(&seen), String::from_utf8_lossy(&said));
                panic!("{}: ended before {line:?}: {seen:?}, and said {said:?}", self.words);
            }
            seen.push(byte[0]);
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn finish(self) -> Finished {
        self.finish_within(DEADLINE)
    }

    /// Waits for its end, and of all that holds its output open.
    pub fn finish_within(mut self, deadline: Duration) -> Finished {
        self.stdout = self.child.stdout.take().map(collect);
        let ended = wait(self.pid(), deadline);
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        let stdout = self.stdout.map(|thread| thread.join().unwrap()).unwrap_or_default();
        let stderr = self.stderr.map(|thread| thread.join().unwrap()).unwrap_or_default();
        let code = status.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap());
        let finished = Finished { words: self.words, code, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() };
        assert!(ended, "not within {deadline:?}: {finished}");
        finished
    }
}

fn wait(pid: Pid, deadline: Duration) -> bool {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let timeout = Timespec { tv_sec: deadline.as_secs() as i64, tv_nsec: deadline.subsec_nanos().into() };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        data
    })
}

/// Writes in a thread, so that a client that does not read holds nobody up.
pub fn feed(mut input: ChildStdin, data: Vec<u8>) -> JoinHandle<std::io::Result<()>> {
    thread::spawn(move || input.write_all(&data))
}

impl Finished {
    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(2000)]);
        write!(f, "sandbar {}\nstatus {}\nstdout {:?}\nstderr {}", self.words, self.code, stdout, self.stderr)
    }
}
