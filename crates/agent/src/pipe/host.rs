//! The host's end: a process of its own for each machine, which ends with the machine.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::fs::FlockOperation;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    frame::{Frame, Heard, Nonce, Parser, Side, padding},
    session::Session,
};
use crate::console::Log;

/// The machine's end of the pipe, of its console, and where connections come in: in the generation's folder.
const WIRE: &str = "wire.sock";
const CONSOLE: &str = "console.sock";
const AGENT: &str = "agent.sock";
/// Who holds this owns the pipe.
const LOCK: &str = "pipe.lock";
/// How long the machine may take to open its sockets.
const OPEN: Duration = Duration::from_secs(10);
/// Between greetings until the guest answers: it may not have booted, or be busy with the rest of a frame.
const AGAIN: Duration = Duration::from_millis(200);
/// So many of them that are not answered: the guest may be in the middle of a frame of another host.
const IN_VAIN: u32 = 10;
/// Between attempts to connect.
const RETRY: Duration = Duration::from_millis(5);
/// Connections that wait while the guest boots.
const WAITING: u32 = 1024;

/// Owns the pipe of the machine whose folder this is, until the machine is gone. Writes a byte to stdout when it listens.
///
/// # Errors
/// Of the kernel, or when another process owns the pipe.
pub(crate) fn run(folder: &Path) -> io::Result<()> {
    // Short names, however long the folder's path is.
    std::env::set_current_dir(folder)?;
    // No terminal's signal reaches it.
    let _ = rustix::process::setsid();
    own(Path::new("."), || {
        // Whoever started this waits for it, and may be gone.
        let _ = io::stdout().write_all(b"1").and_then(|()| io::stdout().flush());
        let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
        Ok(rustix::stdio::dup2_stdout(&null)?)
    })
}

/// The same without saying anything.
#[cfg(test)]
pub(super) fn serve_for_tests(folder: &Path) -> io::Result<()> {
    own(folder, || Ok(()))
}

fn own(folder: &Path, ready: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(folder.join(LOCK))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match fs::remove_file(folder.join(AGENT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let wire = connect(&folder.join(WIRE)).await?;
        let console = connect(&folder.join(CONSOLE)).await?;
        let listener = listen(&folder.join(AGENT))?;
        ready()?;
        tokio::task::spawn_local(log(folder.to_owned(), console));
        serve(wire, &listener).await
    })?;
    drop(lock);
    Ok(())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(socket.as_fd(), &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(socket.as_fd(), WAITING as i32)?;
    UnixListener::from_std(socket.into())
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    let end = Instant::now() + OPEN;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) && Instant::now() < end => {
                sleep(RETRY).await;
            }
            connected => return connected,
        }
    }
}

/// Keeps the newest of what the guest prints, which may be without end.
async fn log(folder: PathBuf, mut console: UnixStream) {
    let Ok(mut log) = Log::open(&folder) else { return };
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = console.read(&mut buffer).await {
        if log.append(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Serves until the machine closes its end.
async fn serve(wire: UnixStream, listener: &UnixListener) -> io::Result<()> {
    let (mut read, mut write) = wire.into_split();
    let (sender, mut heard) = mpsc::channel::<io::Result<Heard>>(64);
    let reading = tokio::task::spawn_local(async move {
        let mut parser = Parser::new(Side::Host);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            parser.push(&buffer[..length]);
            loop {
                let next = match parser.next() {
                    Ok(None) => break,
                    Ok(Some(heard)) => Ok(heard),
                    Err(error) => Err(error),
                };
                if sender.send(next).await.is_err() {
                    return;
                }
            }
        }
    });
    while !reading.is_finished() {
        let Some(nonce) = meet(&mut write, &mut heard).await? else { return Ok(()) };
        if !talk(nonce, &mut write, &mut heard, listener).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Greets until the guest answers, and gives the nonce; `None` when the machine is gone.
async fn meet(write: &mut (impl AsyncWriteExt + Unpin), heard: &mut mpsc::Receiver<io::Result<Heard>>) -> io::Result<Option<Nonce>> {
    let mut nonce = Nonce::default();
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
    for greeting in 1_u32.. {
        let ended = if greeting.is_multiple_of(IN_VAIN) { padding() } else { Bytes::new() };
        if write.write_all(&[ended, Side::Host.greeting(nonce)].concat()).await.is_err() {
            return Ok(None);
        }
        let again = Instant::now() + AGAIN;
        loop {
            match timeout_at(again, heard.recv()).await {
                Ok(Some(Ok(Heard::Greeting(answered)))) if answered == nonce => return Ok(Some(nonce)),
                // Of an earlier meeting.
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(_) => break,
            }
        }
    }
    Ok(None)
}

/// Carries connections; `true` when the ends must meet anew, `false` when the machine is gone.
async fn talk(
    nonce: Nonce,
    write: &mut (impl AsyncWriteExt + Unpin),
    heard: &mut mpsc::Receiver<io::Result<Heard>>,
    listener: &UnixListener,
) -> io::Result<bool> {
    let (session, mut queue) = Session::new(Side::Host);
    let mut bytes = BytesMut::new();
    let (opened, mut to_open) = mpsc::channel::<UnixStream>(1);
    let mut listening = std::pin::pin!(async {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    if opened.send(socket).await.is_err() {
                        return;
                    }
                }
                // Descriptors have run out.
                Err(_) => sleep(AGAIN).await,
            }
        }
    });
    let mut reading = std::pin::pin!(async {
        loop {
            match heard.recv().await {
                None => return false,
                Some(Err(_)) => return true,
                // The answer to a greeting that was repeated, or the guest has lost the meeting.
                Some(Ok(Heard::Greeting(heard))) if heard == nonce => {}
                Some(Ok(Heard::Greeting(_))) => return true,
                // A guest opens no streams.
                Some(Ok(Heard::Frame(Frame::Open(_)))) => return true,
                Some(Ok(Heard::Frame(frame))) => session.take(frame),
            }
        }
    });
    let mut writing = std::pin::pin!(async {
        while let Some(frame) = queue.recv().await {
            bytes.clear();
            frame.encode(&mut bytes);
            // What else is there goes with it.
            while bytes.len() < 64 << 10
                && let Ok(frame) = queue.try_recv()
            {
                frame.encode(&mut bytes);
            }
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut opening = std::pin::pin!(async {
        while let Some(socket) = to_open.recv().await {
            // One that cannot be taken is closed.
            let _ = session.open(socket).await;
        }
    });
    tokio::select! {
        again = &mut reading => Ok(again),
        () = &mut writing => Ok(false),
        () = &mut listening => Ok(false),
        () = &mut opening => Ok(false),
    }
}
