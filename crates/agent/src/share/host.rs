use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{
    MOST_MESSAGE, domain,
    message::{REQUEST_HEAD, Request},
    server::Server,
};

/// `share FOLDER ro|rw SOURCE`: serves a folder, or a file, to the guest at the other end of standard input, until that is gone. Writes a byte to stdout
/// when it has begun. It works in the generation's folder, and holds the lock of the file that is its standard error: so it is found.
///
/// # Errors
/// Of the kernel; what a guest says is never one.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "share FOLDER ro|rw SOURCE");
    let folder = arguments.next().ok_or_else(malformed)?;
    let read_only = match arguments.next().and_then(|word| word.into_string().ok()).as_deref() {
        Some("ro") => true,
        Some("rw") => false,
        _ => return Err(malformed()),
    };
    let source = arguments.next().ok_or_else(malformed)?;
    std::env::set_current_dir(folder)?;
    rustix::fs::flock(rustix::stdio::stderr(), rustix::fs::FlockOperation::LockExclusive)?;
    // No terminal's signal reaches it, and what is made has the mode that the guest's kernel says.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::empty());
    let root = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let guest = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    guest.set_nonblocking(false)?;
    guest.set_read_timeout(None)?;
    guest.set_write_timeout(None)?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty())?;
    confine(&root)?;
    let _ = io::stdout().write_all(b"1").and_then(|()| io::stdout().flush());
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    serve(&guest, root, read_only)
}

/// Keeps to the volume; as root, with what it takes to act for the guest's users there, and nothing else. A write so takes away what makes a program powerful,
/// as for any user (`CAP_FSETID`).
fn confine(root: &OwnedFd) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    domain::enter(root)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let kept = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    let own = rustix::thread::capabilities(None)?;
    let kept = kept.intersection(own.permitted);
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    Ok(())
}

/// Answers requests, one after another.
pub(super) fn serve(mut guest: &UnixStream, root: OwnedFd, read_only: bool) -> io::Result<()> {
    let mut server = Server::new(root, read_only);
    let mut message = vec![0; MOST_MESSAGE];
    loop {
        match guest.read_exact(&mut message[..4]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => return Ok(()),
            read => read?,
        }
        let length = message.first_chunk().map_or(0, |length| u32::from_ne_bytes(*length)) as usize;
        if !(REQUEST_HEAD..=MOST_MESSAGE).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the guest sends what is no request"));
        }
        guest.read_exact(&mut message[4..length])?;
        if let Some(answer) = Request::read(&message[..length]).and_then(|request| server.serve(request)) {
            guest.write_all(answer)?;
        }
    }
}
