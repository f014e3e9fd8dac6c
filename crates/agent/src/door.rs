//! Where connections come in: a socket that was inherited, or one that the agent makes itself.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use sandbar_protocol::{AGENT_SOCKET, WAKE_FILE};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use crate::{
    agent::{Agent, MAX_CONNECTIONS},
    readiness, signals,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Between looks for the file that ends the quiet. The folder may be one of another kernel, which tells of no changes.
const LOOK: Duration = Duration::from_millis(2);
/// How long connections that were cut may take to be closed.
const FAREWELL: Duration = Duration::from_secs(5);

/// The listener, and what becomes of it while the agent is quiet.
#[derive(Debug)]
pub(crate) enum Door {
    /// It was inherited and cannot be made anew: connections wait in its queue.
    Inherited(AsyncFd<OwnedFd>),
    /// It is in the way of no save, and stays open.
    Guest(AsyncFd<OwnedFd>),
    /// It is made in this folder, and gone while the agent is quiet: there are kernels that cannot be saved while a socket of the host is open.
    Own {
        /// The folder.
        folder: PathBuf,
        /// The listener.
        listener: AsyncFd<OwnedFd>,
    },
}

impl Door {
    /// Takes an inherited listener.
    ///
    /// # Errors
    /// Of the event loop.
    pub(crate) fn inherited(listener: OwnedFd) -> io::Result<Self> {
        Ok(Self::Inherited(readiness::register(listener, Interest::READABLE)?))
    }

    /// Takes the listener of a guest.
    ///
    /// # Errors
    /// Of the event loop.
    pub(crate) fn guest(listener: OwnedFd) -> io::Result<Self> {
        Ok(Self::Guest(readiness::register(listener, Interest::READABLE)?))
    }

    /// Makes a listener.
    ///
    /// # Errors
    /// Of the kernel.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        let listener = readiness::register(listen(&folder)?, Interest::READABLE)?;
        Ok(Self::Own { folder, listener })
    }

    pub(crate) fn listener(&self) -> &AsyncFd<OwnedFd> {
        match self {
            Self::Inherited(listener) | Self::Guest(listener) | Self::Own { listener, .. } => listener,
        }
    }

    /// Is closed until somebody wakes the agent, or until this time, and opens again.
    ///
    /// Where it is its own, that its socket is gone says that the agent is quiet: nothing of the host is open, the event loop is empty and stands still.
    /// Commands go on meanwhile, until their pipes are full.
    ///
    /// # Errors
    /// When it cannot be opened any more.
    pub(crate) async fn stay_closed(self, agent: &Agent, until: Instant) -> io::Result<Self> {
        match self {
            Self::Guest(listener) => Ok(Self::Guest(listener)),
            Self::Inherited(listener) => {
                tokio::time::sleep_until(until).await;
                Ok(Self::Inherited(listener))
            }
            Self::Own { folder, listener } => {
                drop(listener);
                let wake = folder.join(WAKE_FILE);
                // Of somebody who came too late for the last time.
                remove(&wake)?;
                // A thread may be at work; what it holds was shut down.
                let all = agent.connections.acquire_many(u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX));
                drop(tokio::time::timeout(FAREWELL, all).await);
                agent.egress.close().await;
                agent.roll.leave().await;
                remove(&folder.join(AGENT_SOCKET))?;
                // Where it listens to requests to end, it must be awake to follow one.
                let is_asked_to_end = || !agent.settings().config.init && signals::is_asked_to_end();
                while Instant::now() < until && !wake.exists() && !is_asked_to_end() {
                    std::thread::sleep(LOOK);
                }
                remove(&wake)?;
                agent.roll.enter()?;
                agent.egress.open();
                Self::open(folder)
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a socket that an earlier agent has left.
fn listen(folder: &Path) -> io::Result<OwnedFd> {
    let path = folder.join(AGENT_SOCKET);
    remove(&path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
    // Before anybody can connect: nobody but the agent's own user.
    rustix::fs::chmodat(CWD, &path, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
