//! What stands between containerd and a container, and may be left by both.
//!
//! An engine that is killed while a container with a kernel in user space is paused cannot end it when it is back: the runtime refuses the signal ("cannot signal container in state
//! paused"). It ends the processes by itself then, but the shim takes the container for paused, cannot be told otherwise, and so the container can never be started again (seen
//! with Docker 20.10, containerd 1.6 and runsc 20240729). When the shim ends, containerd clears up behind it,
//! and the engine hears that the container has ended: so one that never tells of the end of what it holds is ended as well.

use std::fs;

use bollard::errors::Error as Said;
use sandbar_core::{Context, Result};

use super::{error::OPERATION, object::PATIENCE};
use crate::machine::process::HostProcess;

/// How the programs are called, whatever their version.
const PROGRAM: &str = "containerd-shim";

/// Whether an engine that cannot start a container says that one of an earlier start is left.
pub(super) fn is_left(error: &Said) -> bool {
    let Said::DockerResponseServerError { message, .. } = error else { return false };
    // The container, or, when that has been cleared up, what ran in it.
    message.contains("id already in use") || (message.contains("task ") && message.ends_with(": already exists"))
}

/// Ends the shim of the container with this id, of which nothing runs.
///
/// # Errors
/// Of the kernel: without root it is another user's.
pub(super) fn end(container: &str) -> Result<()> {
    if container.is_empty() {
        return Ok(());
    }
    let entries = fs::read_dir("/proc").context(OPERATION, || "cannot read /proc".to_owned())?;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // Whose id it is must be known before what it is.
        let Ok(process) = HostProcess::of(pid) else { continue };
        if fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_of(&line, container)) {
            process.kill(PATIENCE).context(OPERATION, || format!("cannot end what the engine left of the container (process {pid})"))?;
        }
    }
    Ok(())
}

/// Whether this is the command line of the shim of a container.
fn is_of(line: &[u8], container: &str) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().and_then(|program| program.rsplit(|byte| *byte == b'/').next()).unwrap_or_default();
    program.starts_with(PROGRAM.as_bytes()) && words.any(|word| word == container.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_program_and_its_container() {
        let line =
            |program: &str, id: &str| format!("{program}\0-namespace\0moby\0-id\0{id}\0-address\0/run/containerd.sock\0").into_bytes();
        assert!(is_of(&line("/usr/bin/containerd-shim-runc-v2", "0123abcd"), "0123abcd"));
        assert!(!is_of(&line("/usr/bin/containerd-shim-runc-v2", "0123abcdef"), "0123abcd"));
        assert!(!is_of(&line("/usr/bin/vi", "0123abcd"), "0123abcd"));
        assert!(!is_of(b"", "0123abcd"));
    }
}
