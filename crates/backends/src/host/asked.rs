//! A program of this host that is asked something, and must have answered by a deadline.

use std::{
    io::{self, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandbar_core::{Context, Error, ErrorKind, Result};

use crate::machine::process::wait_for_exit;

/// Bytes of its words that are kept.
const MOST_SAID: u64 = 256 << 10;

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

/// Runs a program to its end. It reads `input`, which must fit into a pipe. `name` is what it is called in errors.
///
/// # Errors
/// `TimedOut` (the program is ended), or of the kernel.
pub(crate) fn ask(name: &'static str, mut command: Command, input: &str, patience: Duration) -> Result<Said> {
    let pipe = || io::pipe().context(name, || "cannot make a pipe".to_owned());
    let program = command.get_program().to_owned();
    let (reader, writer) = pipe()?;
    let again = writer.try_clone().context(name, || "cannot make a pipe".to_owned())?;
    command.stdin(Stdio::null()).stdout(writer).stderr(again);
    if !input.is_empty() {
        let (words, mut mouth) = pipe()?;
        mouth.write_all(input.as_bytes()).context(name, || "cannot write into a pipe".to_owned())?;
        command.stdin(words);
    }
    let spawned = command.spawn().context(name, || format!("cannot run {}", program.display()));
    // Holds the ends for writing, without which the reader would not see the end.
    drop(command);
    let mut child = spawned?;
    let heard = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = reader.take(MOST_SAID).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    // One that was ended may have left others with its streams.
    let status = wait(name, &mut child, patience)?;
    Ok(Said { status, text: heard.join().unwrap_or_default() })
}

fn wait(name: &'static str, child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let begun = Instant::now();
    let waiting = || format!("cannot wait for {name}");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let held = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let ended = held.map_or(Ok(true), |held| wait_for_exit(&held, patience)).context(name, waiting)?;
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().context(name, waiting)?;
    if ended {
        Ok(status)
    } else {
        let message = format!("{name} does not answer");
        Err(Error::new(ErrorKind::TimedOut, name, message).with("after", format!("{:.1?}", begun.elapsed())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn one_that_hangs_is_ended_and_told_also_where_it_leaves_others_with_its_streams() {
        let begun = Instant::now();
        let error = ask("sh", shell("sleep 20 & exec sleep 1000"), "", Duration::from_millis(200)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.chain().contains("sh does not answer"), "{}", error.chain());
    }
}
