//! Work on files that belong to the sandbox's users, for a plain user: in a process of its own, with the sandbox's ids.
#![expect(unsafe_code, reason = "fork, and what its child does until it ends")]

use std::{
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
};

use sandbar_core::{Context, Error, ErrorKind, Result};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    ids::Ids,
    syscall::{reap_child, syscall},
};

const OPERATION: &str = "sandbox files";
/// The child's descriptor of the channel. Everything above it is closed.
const CHANNEL: i32 = 3;
/// First answers: the namespace is made, or not.
const READY: u8 = b'r';
/// What is sent when the maps are written.
const GO: u8 = b'g';

/// Does work as the sandbox's root, where `ids` map the ids. The work must open what it needs by path.
///
/// The child is a copy of this process with one thread. It may allocate (`fork` of the C library sees to that), but must not use
/// anything that another thread may have locked.
///
/// # Errors
/// What the work says, or `Unavailable` when there is no such namespace to be had.
pub(crate) fn as_sandbox_root<T: Serialize + DeserializeOwned>(ids: &Ids, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
    let (mut ours, theirs) = UnixStream::pair().context(OPERATION, || "cannot make a channel to a helper".to_owned())?;
    // SAFETY: the child does the work and ends by `_exit`, without returning.
    let pid = match unsafe { libc::fork() } {
        0 => child(&theirs, ids.groups_may_change(), work),
        pid => u32::try_from(pid).map_err(|_| Error::io(OPERATION, "cannot make a helper", io::Error::last_os_error()))?,
    };
    drop(theirs);
    let outcome = converse(&mut ours, ids, pid);
    // Without a partner it ends.
    drop(ours);
    reap_child(pid);
    let answer = outcome?;
    let answer: Result<T, (Option<i32>, String)> = serde_json::from_slice(&answer)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the helper ended without an answer").with_source(error))?;
    answer.map_err(|(number, text)| {
        let kind = number.map_or(io::ErrorKind::Other, |number| io::Error::from_raw_os_error(number).kind());
        Error::io(OPERATION, "a helper in the sandbox's user namespace failed", io::Error::new(kind, text))
    })
}

fn converse(channel: &mut UnixStream, ids: &Ids, pid: u32) -> Result<Vec<u8>> {
    let mut first = [0];
    channel.read_exact(&mut first).context(OPERATION, || "the helper cannot make a user namespace".to_owned())?;
    ids.write_maps(pid)?;
    let mut answer = Vec::new();
    let heard = channel.write_all(&[GO]).and_then(|()| channel.read_to_end(&mut answer));
    heard.context(OPERATION, || "the helper ended early".to_owned())?;
    Ok(answer)
}

fn child<T: Serialize>(channel: &UnixStream, groups: bool, work: impl FnOnce() -> io::Result<T>) -> ! {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let mut channel = enter(channel, groups)?;
        let done = work().map_err(|error| (error.raw_os_error(), error.to_string()));
        channel.write_all(&serde_json::to_vec(&done)?)
    }));
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

fn enter(channel: &UnixStream, groups: bool) -> io::Result<UnixStream> {
    let call = |number, arguments: [usize; 3]| {
        // SAFETY: all arguments are numbers.
        unsafe { syscall(number, arguments) }
    };
    call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0])?;
    #[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
    let from = channel.as_raw_fd() as usize;
    if from != CHANNEL as usize {
        call(libc::SYS_dup3, [from, CHANNEL as usize, libc::O_CLOEXEC as usize])?;
    }
    // A copy of another sandbox's channel would hold that one up.
    call(libc::SYS_close_range, [CHANNEL as usize + 1, u32::MAX as usize, 0])?;
    // SAFETY: just made, and nobody else's.
    let mut channel = UnixStream::from(unsafe { super::syscall::own(CHANNEL) });
    call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0])?;
    channel.write_all(&[READY])?;
    channel.read_exact(&mut [0])?;
    if groups {
        call(libc::SYS_setgroups, [0, 0, 0])?;
    }
    call(libc::SYS_setresgid, [0, 0, 0])?;
    call(libc::SYS_setresuid, [0, 0, 0])?;
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_and_an_error_come_back() {
        if super::super::ids::is_root() {
            return;
        }
        let ids = Ids::of_sandbox(None).unwrap();
        assert_eq!(as_sandbox_root(&ids, || Ok(rustix::process::getuid().as_raw())).unwrap(), 0);
        let failed = as_sandbox_root(&ids, || Err::<(), _>(io::Error::from_raw_os_error(libc::ENOSPC))).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::ResourceExhausted);
        assert!(as_sandbox_root(&ids, || -> io::Result<()> { panic!("a test's panic") }).is_err());
    }
}
