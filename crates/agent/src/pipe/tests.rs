use std::{io, os::fd::OwnedFd, path::Path, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

use super::{
    frame::{Frame, Heard, LOST, MOST, Parser, Side, WINDOW},
    session::{FAREWELL, Session},
};

const SOON: Duration = Duration::from_secs(10);

fn frame() -> impl Strategy<Value = Frame> {
    let number = any::<u32>();
    prop_oneof![
        number.prop_map(Frame::Open),
        (number, proptest::collection::vec(any::<u8>(), 1..200)).prop_map(|(number, bytes)| Frame::Data(number, Bytes::from(bytes))),
        number.prop_map(Frame::End),
        number.prop_map(Frame::Reset),
        (number, 0..=WINDOW as u32).prop_map(|(number, bytes)| Frame::Credit(number, bytes)),
    ]
}

proptest! {
    #[test]
    fn frames_are_read_as_they_were_written_however_they_are_cut(frames in proptest::collection::vec(frame(), 0..20), cut in 1_usize..50) {
        let mut bytes = BytesMut::from(&*Side::Host.greeting([7; 16]));
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let mut parser = Parser::new(Side::Guest);
        let mut heard = Vec::new();
        for piece in bytes.chunks(cut) {
            parser.push(piece);
            while let Some(next) = parser.next().unwrap() {
                heard.push(next);
            }
        }
        prop_assert_eq!(heard.remove(0), Heard::Greeting([7; 16]));
        prop_assert_eq!(heard, frames.into_iter().map(Heard::Frame).collect::<Vec<_>>());
    }

    #[test]
    fn rubbish_neither_panics_nor_hides_the_next_greeting(rubbish in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut parser = Parser::new(Side::Guest);
        parser.push(&rubbish);
        while let Ok(Some(_)) = parser.next() {}
        // A frame that is never finished swallows at most its own length.
        let greeting = Side::Host.greeting([9; 16]);
        let mut met = false;
        for _ in 0..=(HEADER_AND_MOST / greeting.len() + 2) {
            parser.push(&greeting);
            loop {
                match parser.next() {
                    Ok(Some(Heard::Greeting(nonce))) => met = nonce == [9; 16],
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => break,
                }
            }
        }
        prop_assert!(met);
    }
}

const HEADER_AND_MOST: usize = 9 + MOST;

/// A guest that echoes every connection, on one end of a socket pair, and the other end where the host's process expects the machine's.
fn machine(folder: &Path) -> (UnixListener, UnixListener) {
    (UnixListener::bind(folder.join("wire.sock")).unwrap(), UnixListener::bind(folder.join("console.sock")).unwrap())
}

fn echo(socket: OwnedFd) {
    let socket = UnixStream::from_std(socket.into()).unwrap();
    tokio::task::spawn_local(async move {
        let (mut read, mut write) = socket.into_split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
}

/// Runs a host's process on a thread of its own, which ends when the machine does.
fn host(folder: &Path) -> std::thread::JoinHandle<()> {
    let folder = folder.to_owned();
    std::thread::spawn(move || super::host::serve_for_tests(&folder).unwrap())
}

#[tokio::test]
async fn connections_are_carried_side_by_side_with_their_ends() {
    let home = tempfile::tempdir().unwrap();
    let (wire, _console) = machine(home.path());
    let served = host(home.path());
    let local = tokio::task::LocalSet::new();
    let path = home.path().join("agent.sock");
    local
        .run_until(async move {
            let (port, _) = wire.accept().await.unwrap();
            let port = port.into_std().unwrap();
            let machine = port.try_clone().unwrap();
            let guest = tokio::task::spawn_local(super::guest::run(port.into(), echo));
            let connect = || async {
                loop {
                    match UnixStream::connect(&path).await {
                        Ok(stream) => return stream,
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            };
            // One that is never read does not hold back the others.
            let mut stuck = connect().await;
            let flood = vec![1; 4 * WINDOW];
            let _ = timeout(Duration::from_millis(200), stuck.write_all(&flood)).await;
            let tasks: Vec<_> = (0..20_u8)
                .map(|number| {
                    let path = path.clone();
                    tokio::task::spawn_local(async move {
                        let stream = UnixStream::connect(&path).await.unwrap();
                        let (mut read, mut write) = stream.into_split();
                        let sent: Rc<Vec<u8>> = Rc::new((0..2 * WINDOW).map(|at| (at as u8).wrapping_mul(number)).collect());
                        let sending = Rc::clone(&sent);
                        tokio::task::spawn_local(async move {
                            write.write_all(&sending).await.unwrap();
                            write.shutdown().await.unwrap();
                        });
                        let mut received = Vec::new();
                        read.read_to_end(&mut received).await.unwrap();
                        assert!(received == *sent);
                    })
                })
                .collect();
            for task in tasks {
                timeout(SOON, task).await.unwrap().unwrap();
            }
            // With the machine, everything ends.
            machine.shutdown(std::net::Shutdown::Both).unwrap();
            guest.abort();
            let mut rest = Vec::new();
            timeout(SOON, stuck.read_to_end(&mut rest)).await.unwrap().ok();
        })
        .await;
    tokio::task::spawn_blocking(move || served.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_hears_of_an_earlier_hosts_end_after_the_next_ones_greeting_says_so() {
    let (port, read) = mpsc::channel(8);
    let (write, mut said) = mpsc::channel(8);
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let guest = tokio::task::spawn_local(async move { super::guest::serve(read, &write, echo).await });
            for (heard, answer) in [
                (Ok(Side::Host.greeting([1; 16])), [1; 16]),
                (Err(io::ErrorKind::UnexpectedEof.into()), LOST),
                (Ok(Side::Host.greeting([2; 16])), [2; 16]),
                // What is no frame.
                (Ok(Bytes::from_static(b"?????????")), LOST),
                (Ok(Side::Host.greeting([3; 16])), [3; 16]),
            ] {
                port.send(heard).await.unwrap();
                assert_eq!(timeout(SOON, said.recv()).await.unwrap().unwrap(), Side::Guest.greeting(answer));
            }
            // Nothing is lost twice.
            port.send(Err(io::ErrorKind::UnexpectedEof.into())).await.unwrap();
            port.send(Err(io::ErrorKind::UnexpectedEof.into())).await.unwrap();
            drop(port);
            assert!(timeout(SOON, guest).await.unwrap().is_ok());
            assert_eq!(said.recv().await.unwrap(), Side::Guest.greeting(LOST));
            assert_eq!(said.recv().await, None);
        })
        .await;
}

#[tokio::test]
async fn a_lost_meeting_is_the_last_word_about_it() {
    let (port, read) = mpsc::channel(8);
    let (write, mut said) = mpsc::channel(8);
    // Both are there before anything can be answered.
    port.send(Ok(Side::Host.greeting([1; 16]))).await.unwrap();
    port.send(Err(io::ErrorKind::UnexpectedEof.into())).await.unwrap();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let guest = tokio::task::spawn_local(async move { super::guest::serve(read, &write, echo).await });
            let mut last = None;
            while last != Some(Side::Guest.greeting(LOST)) {
                last = Some(timeout(SOON, said.recv()).await.unwrap().unwrap());
            }
            // The host repeats itself, and is answered.
            port.send(Ok(Side::Host.greeting([1; 16]))).await.unwrap();
            assert_eq!(timeout(SOON, said.recv()).await.unwrap().unwrap(), Side::Guest.greeting([1; 16]));
            drop(port);
            timeout(SOON, guest).await.unwrap().unwrap();
            assert_eq!(said.recv().await, None);
        })
        .await;
}

/// The next greeting of a host, among whatever else it says.
async fn greeting(wire: &mut UnixStream, parser: &mut Parser) -> [u8; 16] {
    let mut bytes = [0; 4096];
    loop {
        if let Ok(Some(Heard::Greeting(nonce))) = parser.next() {
            return nonce;
        }
        let length = timeout(SOON, wire.read(&mut bytes)).await.unwrap().unwrap();
        parser.push(&bytes[..length]);
    }
}

#[tokio::test]
async fn a_host_meets_a_guest_anew_that_has_lost_the_meeting() {
    let home = tempfile::tempdir().unwrap();
    let (wire, _console) = machine(home.path());
    let served = host(home.path());
    let (mut port, _) = wire.accept().await.unwrap();
    let mut parser = Parser::new(Side::Guest);
    let first = greeting(&mut port, &mut parser).await;
    port.write_all(&[Side::Guest.greeting(first), Side::Guest.greeting(LOST)].concat()).await.unwrap();
    let second = loop {
        let nonce = greeting(&mut port, &mut parser).await;
        if nonce != first {
            break nonce;
        }
    };
    port.write_all(&Side::Guest.greeting(second)).await.unwrap();
    // A connection now comes through, and its end as well.
    drop(UnixStream::connect(home.path().join("agent.sock")).await.unwrap());
    let mut bytes = [0; 4096];
    loop {
        match parser.next().unwrap() {
            Some(Heard::Frame(Frame::Open(0))) => break,
            Some(_) => {}
            None => {
                let length = timeout(SOON, port.read(&mut bytes)).await.unwrap().unwrap();
                parser.push(&bytes[..length]);
            }
        }
    }
    drop(port);
    tokio::task::spawn_blocking(move || served.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_guest_in_the_middle_of_a_frame_of_another_host_is_met_soon() {
    let home = tempfile::tempdir().unwrap();
    let (wire, _console) = machine(home.path());
    let served = host(home.path());
    let (mut port, _) = wire.accept().await.unwrap();
    let mut parser = Parser::new(Side::Guest);
    parser.push(&Side::Host.greeting([7; 16]));
    let mut unfinished = BytesMut::new();
    Frame::Data(1, Bytes::from(vec![1; MOST])).encode(&mut unfinished);
    parser.push(&unfinished[..20]);
    assert_eq!(parser.next().unwrap(), Some(Heard::Greeting([7; 16])));
    // By greetings alone it would take a thousand of them.
    let nonce = greeting(&mut port, &mut parser).await;
    port.write_all(&Side::Guest.greeting(nonce)).await.unwrap();
    let client = UnixStream::connect(home.path().join("agent.sock"));
    timeout(SOON, client).await.unwrap().unwrap();
    drop(port);
    tokio::task::spawn_blocking(move || served.join().unwrap()).await.unwrap();
}

/// What a session has said of stream 1.
#[derive(Default)]
struct Said {
    bytes: usize,
    credit: usize,
    reset: bool,
}

impl Said {
    fn add(&mut self, frame: Frame) {
        match frame {
            Frame::Data(1, bytes) => self.bytes += bytes.len(),
            Frame::Credit(1, bytes) => self.credit += bytes as usize,
            Frame::Reset(1) => self.reset = true,
            other => panic!("{other:?}"),
        }
    }

    async fn more(&mut self, queue: &mut mpsc::Receiver<Frame>) {
        self.add(timeout(SOON, queue.recv()).await.unwrap().unwrap());
    }
}

/// Writes into a connection until its stream has no credit and its socket no room, and gives how much that was.
async fn exhaust(stream: &mut UnixStream, queue: &mut mpsc::Receiver<Frame>, said: &mut Said) -> usize {
    let mut written = 0;
    loop {
        while let Ok(length) = timeout(Duration::from_millis(50), stream.write(&[1; 4096])).await {
            written += length.unwrap();
        }
        if said.bytes == WINDOW {
            return written;
        }
        while let Ok(frame) = queue.try_recv() {
            said.add(frame);
        }
    }
}

#[tokio::test]
async fn what_a_connection_said_last_is_kept_although_it_takes_nothing_any_more() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            for side in [Side::Guest, Side::Host] {
                let (session, mut queue) = Session::new(side);
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                // Less than what is for it.
                rustix::net::sockopt::set_socket_send_buffer_size(&ours, MOST).unwrap();
                session.accept(1, ours).unwrap();
                for _ in 0..WINDOW / MOST {
                    session.take(Frame::Data(1, vec![2; MOST].into()));
                }
                let mut said = Said::default();
                let written = exhaust(&mut theirs, &mut queue, &mut said).await;
                assert!(written > WINDOW);
                assert!(said.credit < WINDOW);
                drop(theirs);
                // The other end does not stand still, and may say more.
                while said.credit < WINDOW {
                    said.more(&mut queue).await;
                }
                session.take(Frame::Data(1, vec![2; MOST].into()));
                if side == Side::Guest {
                    // A reader on the host may take its time.
                    assert!(timeout(FAREWELL + Duration::from_millis(500), queue.recv()).await.is_err());
                }
                assert!(!said.reset);
                session.take(Frame::Credit(1, WINDOW as u32));
                while !said.reset {
                    said.more(&mut queue).await;
                }
                assert_eq!(said.bytes, written);
                // Nothing of it is left.
                session.accept(1, UnixStream::pair().unwrap().0).unwrap();
            }
        })
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_while_nobody_takes_its_words_is_told_of() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (session, mut queue) = Session::new(Side::Host);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            session.accept(1, ours).unwrap();
            let mut said = Said::default();
            exhaust(&mut theirs, &mut queue, &mut said).await;
            // One that is still there is waited for, even if it has said all.
            theirs.shutdown().await.unwrap();
            assert!(timeout(FAREWELL + Duration::from_millis(500), queue.recv()).await.is_err());
            drop(theirs);
            said.more(&mut queue).await;
            assert!(said.reset);
            session.accept(1, UnixStream::pair().unwrap().0).unwrap();
        })
        .await;
}

#[tokio::test]
async fn what_cannot_be_a_stream_is_told_to_the_other_end() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (port, read) = mpsc::channel(8);
            let (write, mut said) = mpsc::channel(8);
            tokio::task::spawn_local(async move { super::guest::serve(read, &write, echo).await });
            let mut bytes = BytesMut::from(&*Side::Host.greeting([1; 16]));
            Frame::Open(5).encode(&mut bytes);
            Frame::Open(5).encode(&mut bytes);
            port.send(Ok(bytes.freeze())).await.unwrap();
            let mut parser = Parser::new(Side::Host);
            let mut heard = Vec::new();
            while heard.len() < 2 {
                parser.push(&timeout(SOON, said.recv()).await.unwrap().unwrap());
                while let Some(next) = parser.next().unwrap() {
                    heard.push(next);
                }
            }
            assert_eq!(heard, [Heard::Greeting([1; 16]), Heard::Frame(Frame::Reset(5))]);
            // One that was never put in, more of them than wait for the pipe.
            let (session, mut queue) = Session::new(Side::Guest);
            (0..100).for_each(|number| session.refuse(number));
            for number in 0..100 {
                assert_eq!(timeout(SOON, queue.recv()).await.unwrap(), Some(Frame::Reset(number)));
            }
            // More than what it may send.
            session.accept(1, UnixStream::pair().unwrap().0).unwrap();
            (0..=WINDOW / MOST).for_each(|_| session.take(Frame::Data(1, vec![2; MOST].into())));
            assert_eq!(timeout(SOON, queue.recv()).await.unwrap(), Some(Frame::Reset(1)));
            // The host opens nothing that it does not take itself.
            let (session, mut queue) = Session::new(Side::Host);
            let (ours, _theirs) = UnixStream::pair().unwrap();
            session.accept(0, ours).unwrap();
            assert!(session.open(UnixStream::pair().unwrap().0).await.is_err());
            let (ours, _theirs) = UnixStream::pair().unwrap();
            session.open(ours).await.unwrap();
            assert_eq!(queue.recv().await, Some(Frame::Open(1)));
        })
        .await;
}

#[tokio::test]
async fn the_last_words_of_one_that_never_listened_reach_a_client_that_rests() {
    let home = tempfile::tempdir().unwrap();
    let (wire, _console) = machine(home.path());
    let served = host(home.path());
    let path = home.path().join("agent.sock");
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let (port, _) = wire.accept().await.unwrap();
            let port = port.into_std().unwrap();
            let machine = port.try_clone().unwrap();
            let (ended, mut end) = mpsc::channel(1);
            let talk = move |socket: OwnedFd| {
                let mut socket = UnixStream::from_std(socket.into()).unwrap();
                let ended = ended.clone();
                tokio::task::spawn_local(async move {
                    // When the client has said more than is heard.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    socket.write_all(&vec![3; 2 * WINDOW]).await.unwrap();
                    drop(socket);
                    let _ = ended.send(()).await;
                });
            };
            let guest = tokio::task::spawn_local(super::guest::run(port.into(), talk));
            let client = loop {
                match UnixStream::connect(&path).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            let (mut read, mut write) = client.into_split();
            let flood = tokio::task::spawn_local(async move { while write.write_all(&[2; 4096]).await.is_ok() {} });
            // As much of it as the sockets hold, so that the rest is what the guest's end has.
            let mut received = vec![0; WINDOW / 2];
            timeout(SOON, read.read_exact(&mut received)).await.unwrap().unwrap();
            timeout(SOON, end.recv()).await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut rest = Vec::new();
            // The end of a connection that is still talked into is an error, behind all that it said.
            let _ = timeout(SOON, read.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(received.len() + rest.len(), 2 * WINDOW);
            timeout(SOON, flood).await.unwrap().unwrap();
            machine.shutdown(std::net::Shutdown::Both).unwrap();
            guest.abort();
        })
        .await;
    tokio::task::spawn_blocking(move || served.join().unwrap()).await.unwrap();
}
