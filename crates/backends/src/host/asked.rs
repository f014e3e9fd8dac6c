//! A program of this host that is asked something, and must have answered by a deadline.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};
use sandbar_core::{Context, Error, ErrorKind, Result};

/// Bytes of its words that are kept.
const MOST_SAID: u64 = 256 << 10;
/// How long one that was killed may take to go.
const GRACE: Duration = Duration::from_secs(5);

/// What a program said, on both streams, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its words, cut off where they become too many.
    pub(crate) text: String,
}

impl Said {
    /// # Errors
    /// `Internal` with what it says of its failure.
    pub(crate) fn success(self, operation: &'static str, message: &str) -> Result<String> {
        if self.status.success() {
            return Ok(self.text);
        }
        Err(Error::new(ErrorKind::Internal, operation, message)
            .with("status", self.status)
            .with_source(io::Error::other(first_line(&self.text))))
    }
}

/// The first line of what was said: what follows is the trace of a program.
pub(crate) fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
    line.trim_end_matches(':').chars().take(500).collect()
}

/// Runs a program to its end, in a process group of its own. It reads `input`, which must fit into a pipe. `name` is what it is called in errors.
///
/// # Errors
/// `TimedOut` (the program is ended, with its group) where it has not ended, or somebody holds its streams still, when `patience` is over; of the kernel.
pub(crate) fn ask(name: &'static str, mut command: Command, input: &str, patience: Duration) -> Result<Said> {
    let begun = Instant::now();
    let pipe = || io::pipe().context(name, || "cannot make a pipe".to_owned());
    let program = command.get_program().to_owned();
    let (reader, writer) = pipe()?;
    let again = writer.try_clone().context(name, || "cannot make a pipe".to_owned())?;
    command.stdin(Stdio::null()).stdout(writer).stderr(again).process_group(0);
    if !input.is_empty() {
        let (words, mut mouth) = pipe()?;
        mouth.write_all(input.as_bytes()).context(name, || "cannot write into a pipe".to_owned())?;
        command.stdin(words);
    }
    let spawned = command.spawn().context(name, || format!("cannot run {}", program.display()));
    // Holds the ends for writing, without which the reader would not see the end.
    drop(command);
    let mut child = spawned?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::new(ErrorKind::Internal, name, "a process without an id"))?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = reader.take(MOST_SAID).read_to_end(&mut text);
        // It is not reaped here: until then its number, which is its group's, is nobody else's.
        let _ = retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        // Nobody listens any more when the deadline is long over.
        let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
    });
    if let Ok(text) = told.recv_timeout(patience) {
        let status = child.wait().context(name, || format!("cannot wait for {name}"))?;
        return Ok(Said { status, text });
    }
    let _ = kill_process_group(pid, Signal::KILL);
    // One that the kernel holds, and whoever has its streams and has left the group, is left behind, and a thread with it.
    if told.recv_timeout(GRACE).is_ok() {
        let _ = child.wait();
    }
    let message = format!("{name} does not answer");
    Err(Error::new(ErrorKind::TimedOut, name, message).with("after", format!("{:.1?}", begun.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::process::HostProcess;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn both_streams_and_the_end_are_told() {
        let said = ask("sh", shell("read word; echo $word; echo err >&2; exit 3"), "hello\n", Duration::from_secs(30)).unwrap();
        assert_eq!((said.text.as_str(), said.status.code()), ("hello\nerr\n", Some(3)));
        let error = said.success("sh", "it failed").unwrap_err();
        assert!(error.chain().contains("it failed") && error.chain().contains("hello"), "{}", error.chain());
    }

    #[test]
    fn one_that_hangs_is_ended_and_told_with_all_that_it_has_begun() {
        let begun = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let noted = folder.path().join("pid");
        // The word is there when the process is.
        let line = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; exec sleep 1000", noted.display());
        let other = std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask("sh", shell(&line), "", Duration::from_secs(5)).unwrap_err());
            let pid = loop {
                if let Ok(pid) = std::fs::read_to_string(&noted) {
                    break pid.trim().parse().unwrap();
                }
                assert!(!asked.is_finished(), "it was ended before it had begun another");
            };
            let other = HostProcess::of(pid).unwrap();
            let error = asked.join().unwrap();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(error.chain().contains("sh does not answer"), "{}", error.chain());
            other
        });
        while other.is_alive() {
            assert!(begun.elapsed() < Duration::from_secs(30), "what it has begun runs on");
        }
    }

    #[test]
    fn one_that_has_ended_and_left_its_streams_to_another_is_not_waited_for_longer() {
        let begun = Instant::now();
        let error = ask("sh", shell("sleep 1000 & echo done"), "", Duration::from_secs(1)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
