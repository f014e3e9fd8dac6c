use std::{fs, io, net::Ipv4Addr, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    sync::Semaphore,
};

use super::{
    connections, diverted,
    dns::{Answer, Kind, Question},
    host::Host,
};
use crate::watched::Watched;

/// Most questions by datagram that wait at a time; what is over is lost, as datagrams are, and asked again.
const MOST: usize = 256;
/// Most connections at a time; what is over is closed.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// How long receiving rests when it fails.
const REST: Duration = Duration::from_millis(100);
/// Most bytes of a question.
const LARGEST: usize = 1024;

async fn answer(host: &Host, question: &Question) -> Vec<u8> {
    let answer = match host.may_ask(&question.name).await {
        None => Answer::Failure,
        Some(false) => Answer::NoSuchName,
        Some(true) if question.kind == Kind::Address => Answer::Address(host.names.borrow_mut().address(&question.name)),
        Some(true) => Answer::Nothing,
    };
    question.answer(answer)
}

/// Answers datagrams.
pub(super) async fn datagrams(host: Rc<Host>, socket: Watched) {
    let (socket, places) = (Rc::new(socket), Arc::new(Semaphore::new(MOST)));
    let mut buffer = [0; LARGEST];
    loop {
        let receive = |socket: &OwnedFd| diverted::receive(socket, &mut buffer);
        let Ok(Some(received)) = socket.async_io(Interest::READABLE, receive).await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let message = &buffer[..received.length];
        let question = match Question::parse(message) {
            Ok(question) => question,
            Err(why) => {
                if let Some(answer) = why.answer(message) {
                    diverted::answer(socket.get_ref(), &answer, &received);
                }
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (host, socket): (Rc<Host>, Rc<Watched>) = (Rc::clone(&host), Rc::clone(&socket));
        tokio::task::spawn_local(async move {
            // Whoever asked may be gone, or asks again.
            diverted::answer(socket.get_ref(), &answer(&host, &question).await, &received);
            drop(place);
        });
    }
}

/// Answers connections, where each message is preceded by its length (RFC 1035, 4.2.2).
pub(super) async fn connections(host: Rc<Host>, listener: Watched) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Some((stream, _)) = connections::next(&listener).await else { continue };
        let (Ok(place), Some(entered)) = (Arc::clone(&places).try_acquire_owned(), host.enter()) else { continue };
        let host = Rc::clone(&host);
        tokio::task::spawn_local(async move {
            let cut = host.cut.notified();
            if !host.is_quiet() {
                tokio::select! {
                    biased;
                    () = cut => {}
                    _ = converse(&host, stream) => {}
                }
            }
            drop((place, entered));
        });
    }
}

async fn converse(host: &Host, mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; LARGEST];
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await.map_err(io::Error::other)??;
        let message = buffer.get_mut(..usize::from(length)).ok_or(io::ErrorKind::InvalidData)?;
        tokio::time::timeout(IDLE, stream.read_exact(message)).await.map_err(io::Error::other)??;
        let answer = match Question::parse(message) {
            Ok(question) => answer(host, &question).await,
            Err(why) => why.answer(message).ok_or(io::ErrorKind::InvalidData)?,
        };
        let mut framed = Vec::with_capacity(2 + answer.len());
        framed.extend_from_slice(&u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes());
        framed.extend_from_slice(&answer);
        stream.write_all(&framed).await?;
    }
}

/// Says in /etc/resolv.conf where to ask. Questions to any other server come here too, so one that cannot be written changes little.
pub(super) fn name_in_file(server: Ipv4Addr) {
    const FILE: &str = "/etc/resolv.conf";
    const NEW: &str = "/etc/.resolv.conf.sandbar";
    let line = format!("nameserver {server}\n");
    // Beside it and over it: what is there may be a link that leads anywhere.
    let _ = fs::remove_file(NEW);
    match fs::write(NEW, &line).and_then(|()| fs::rename(NEW, FILE)) {
        Ok(()) => {}
        // It is mounted, as engines do, and so no link.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let _ = fs::remove_file(NEW);
            let _ = fs::write(FILE, &line);
        }
        Err(_) => drop(fs::remove_file(NEW)),
    }
}
