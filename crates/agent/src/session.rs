use std::{
    cell::Cell,
    io::{self, IoSlice},
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::process::Signal;
use sandbar_protocol::{
    Attach, Empty, Event, Exec, Exited, FrameError, FrameKind, FrameReader, HEADER, Header, Input, Lost, Reply, Started, VERSION,
    encode_frame, encode_message, event, input, reply,
};
use tokio::{
    io::Interest,
    net::{UnixStream, unix::ReadHalf},
    time::Instant,
};

use crate::{
    agent::Agent,
    command::Command,
    failure::{self, Kind, failure},
    process::{Cursor, Process},
    pump::{self, Deadline, Source},
    readiness,
    ring::Ring,
    spawn::{self, Ends},
    terminal,
    watched::Watched,
};

/// Output that goes to a client with one write.
const BATCH: usize = 64 << 10;
/// A run of one stream from which on it goes out of the ring itself. What is shorter is put together first: it may alternate with the other stream.
const LONG: usize = 8 << 10;

/// Where a client begins: at this offset, of which what is no more kept is told as lost, and from which on nothing is forgotten.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) process: Rc<Process>,
    from: u64,
    cursor: Cursor,
}

/// Starts a process. Must not be dropped on the way: nobody would know of the process then.
///
/// The client has its place before anything is read of the process: its first words may fill more than the ring before the client's
/// own task has its turn.
pub(crate) async fn exec(agent: &Rc<Agent>, request: &Exec) -> failure::Result<Place> {
    agent.check_open()?;
    if agent.table.is_full() {
        return Err(failure(Kind::ResourceExhausted, format!("{} processes run already", crate::table::MAX_RUNNING)));
    }
    let command = Command::new(agent, request)?;
    let on_its_way = agent.forks.begin().await;
    let line = command.line.clone();
    let starting = spawn::start(agent, command, request.pty, request.stdin)?;
    let pending = Rc::clone(&starting.pending);
    let started = starting.wait().await;
    drop(on_its_way);
    agent.table.came(&pending);
    let (pid, ends) = started?;
    let process = Rc::new(Process::new(agent, pid, line, request.pty.is_some()));
    let sources = streams(agent, &process, ends).inspect_err(|_| pending.signal(Signal::KILL))?;
    agent.table.started(&process, &pending);
    let cursor = Cursor::new(&process, 0);
    let grace = Duration::from_millis(request.grace_ms);
    let limit = Some(request.timeout_ms).filter(|limit| *limit > 0);
    let deadline = limit.and_then(|limit| Instant::now().checked_add(Duration::from_millis(limit))).map(|at| Deadline { at, grace });
    tokio::task::spawn_local(pump::run(Rc::clone(agent), Rc::clone(&process), sources, deadline));
    Ok(Place { process, from: 0, cursor })
}

/// Puts the streams of a process into the event loop.
fn streams(agent: &Agent, process: &Process, ends: Ends) -> failure::Result<Vec<Source>> {
    let mut sources = Vec::with_capacity(2);
    for (fd, kind) in [(ends.stdout, FrameKind::Stdout), (ends.stderr, FrameKind::Stderr)] {
        if let Some(fd) = fd {
            sources.push(Source { fd: Rc::new(watched(agent, fd, Interest::READABLE)?), kind });
        }
    }
    if let Some(fd) = ends.terminal {
        let fd = Rc::new(watched(agent, fd, Interest::READABLE | Interest::WRITABLE)?);
        sources.push(Source { fd: Rc::clone(&fd), kind: FrameKind::Stdout });
        process.terminal.replace(Some(Rc::clone(&fd)));
        process.stdin.replace(Some(fd));
    }
    if let Some(fd) = ends.stdin {
        process.stdin.replace(Some(Rc::new(watched(agent, fd, Interest::WRITABLE)?)));
    }
    Ok(sources)
}

/// Finds a process, and where in its output a client is to begin.
pub(crate) fn attach(agent: &Agent, request: &Attach) -> failure::Result<Place> {
    let process = agent.table.find(request.pid)?;
    let (start, end) = {
        let ring = process.ring.borrow();
        (ring.start(), ring.end())
    };
    let from = match request.from {
        Some(_) if request.epoch.is_some_and(|epoch| epoch != agent.epoch.get()) => process.saved_at.get(),
        Some(from) if from > end => {
            let message = format!("offset {from} is beyond the end of the output of process {}: {end}", request.pid);
            return Err(failure(Kind::InvalidInput, message));
        }
        from => from.unwrap_or(start),
    };
    let cursor = Cursor::new(&process, from.max(start));
    Ok(Place { process, from, cursor })
}

fn watched(agent: &Agent, fd: OwnedFd, interest: Interest) -> failure::Result<Watched> {
    agent.roll.watch(fd, interest).map_err(|error| failure::io("cannot watch a stream of the command", &error))
}

/// Serves a client of a process until the end was told or the client is gone.
pub(crate) async fn serve(
    agent: &Agent,
    place: Place,
    mut reader: FrameReader<ReadHalf<'_>>,
    stream: &UnixStream,
    kill_on_disconnect: bool,
) {
    let closed = Cell::new(false);
    let process = &Rc::clone(&place.process);
    let mut input = pin!(listen(process, &mut reader, &closed));
    let mut listening = true;
    let told = {
        let mut output = pin!(tell(agent, place, stream, &closed));
        let mut gone = pin!(hung_up(stream, agent.is_on_vsock()));
        loop {
            tokio::select! {
                biased;
                told = &mut output => break told.is_ok(),
                heard = &mut input, if listening => {
                    // The client has said all it had to say; it may still listen. One that cannot be understood is let go.
                    listening = false;
                    // A kernel where the agent has to make its own socket (gVisor) tells of no hang-up: there the end of its words is the only
                    // sign that a client is gone, and no client of ours ends them before it goes.
                    if heard.is_err() || agent.settings().config.listen_folder.is_some() {
                        break false;
                    }
                }
                // While the client's words are read, their end tells that it is gone, unless they wait for a process that does not read.
                () = &mut gone, if !listening || process.stdin.borrow().is_some() => break false,
            }
        }
    };
    if told {
        return;
    }
    if kill_on_disconnect && process.status().is_none() {
        if process.pty {
            process.hint(Signal::HUP);
        }
        process.hint(Signal::KILL);
    } else if listening {
        // What was sent before the client left still belongs to the process.
        let _ = input.await;
    }
}

/// Tells a client everything from an offset on.
async fn tell(agent: &Agent, place: Place, stream: &UnixStream, closed: &Cell<bool>) -> Result<(), FrameError> {
    let Place { process, from, cursor } = &place;
    let from = *from;
    let mut out = BytesMut::from(VERSION.encode().as_slice());
    let started =
        Started { pid: process.pid.as_raw_pid().cast_unsigned(), offset: from, epoch: agent.epoch.get(), input: process.input.get() };
    encode_message(&mut out, &Reply { answer: Some(reply::Answer::Started(started)) })?;
    let lost = cursor.offset() - from;
    if lost > 0 {
        encode_message(&mut out, &Event { what: Some(event::What::Lost(Lost { bytes: lost })) })?;
    }
    // What a background process writes after the end was told is for those who attach later.
    let mut last = None;
    loop {
        let status = process.status();
        if status.is_some() {
            last.get_or_insert(process.ring.borrow().end());
        }
        let end = last.unwrap_or(u64::MAX);
        batch(process, cursor, end, &mut out)?;
        if out.is_empty() && !closed.get() && pour(process, cursor, end, stream).await? {
            continue;
        }
        if closed.take() {
            encode_message(&mut out, &Event { what: Some(event::What::InputClosed(Empty {})) })?;
        }
        let finished = last.is_some_and(|last| cursor.offset() >= last);
        if finished {
            encode_message(&mut out, &Event { what: Some(event::What::Exited(Exited { status })) })?;
        }
        if out.is_empty() {
            process.news.notified().await;
            continue;
        }
        send(stream, &mut out).await?;
        if finished {
            return Ok(());
        }
        // An idle client costs no buffer.
        out = BytesMut::new();
    }
}

/// The output of one stream from an offset on, up to a batch, and before another offset.
fn next(ring: &Ring, offset: u64, end: u64) -> Option<(FrameKind, &[u8])> {
    let (kind, bytes) = ring.peek(offset)?;
    let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len()).min(BATCH);
    (length > 0).then_some((kind, &bytes[..length]))
}

/// Sends a frame out of the ring itself, where the next is a long one. Whether it was.
async fn pour(process: &Process, cursor: &Cursor, end: u64, stream: &UnixStream) -> io::Result<bool> {
    let begin = cursor.offset();
    let Some((kind, length)) = next(&process.ring.borrow(), begin, end).map(|(kind, bytes)| (kind, bytes.len())) else { return Ok(false) };
    let header = Header { kind, length }.encode();
    let mut sent = 0;
    // The ring keeps what the cursor has not passed, which is all of the frame until it is out: a client that is cut in it begins it again.
    while sent < HEADER + length {
        let written = {
            let ring = process.ring.borrow();
            let offset = begin + sent.saturating_sub(HEADER) as u64;
            let Some((_, bytes)) = next(&ring, offset, begin + length as u64) else { return Err(io::ErrorKind::InvalidData.into()) };
            stream.try_write_vectored(&[IoSlice::new(&header[sent.min(HEADER)..]), IoSlice::new(bytes)])
        };
        match written {
            Ok(length) => sent += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    cursor.advance(length as u64);
    Ok(true)
}

/// Appends what there is to say, up to a batch, or to what goes out of the ring itself.
fn batch(process: &Process, cursor: &Cursor, end: u64, out: &mut BytesMut) -> Result<(), FrameError> {
    let ring = process.ring.borrow();
    while out.len() < BATCH {
        let Some((kind, bytes)) = next(&ring, cursor.offset(), end).filter(|(_, bytes)| bytes.len() < LONG) else { break };
        encode_frame(out, kind, bytes)?;
        cursor.advance(bytes.len() as u64);
    }
    Ok(())
}

/// Hears a client: stdin, signals, sizes. Ends when the client ends its words.
///
/// `closed` is set once, when the process does not take what the client sends.
async fn listen(process: &Process, reader: &mut FrameReader<ReadHalf<'_>>, closed: &Cell<bool>) -> Result<(), FrameError> {
    let (mut line_begun, mut told) = (false, false);
    while let Some(frame) = reader.next().await? {
        match frame.kind {
            FrameKind::Bytes => {
                line_begun = frame.payload.last().map_or(line_begun, |last| *last != b'\n');
                if !feed(process, frame.payload).await && !told {
                    told = true;
                    closed.set(true);
                    process.news.notify_waiters();
                }
            }
            FrameKind::End if process.pty => {
                let end = process.terminal.borrow().as_ref().map(|terminal| terminal::end_of_input(terminal.get_ref(), line_begun));
                feed(process, end.unwrap_or_default().into()).await;
            }
            FrameKind::End => drop(process.stdin.take()),
            FrameKind::Message => match frame.message::<Input>()?.what {
                // Nobody waits for an answer; a process that has just ended is no error.
                Some(input::What::Signal(number)) => drop(process.signal(number)),
                Some(input::What::Resize(size)) => {
                    if let Some(terminal) = process.terminal.borrow().as_ref() {
                        drop(terminal::resize(terminal.get_ref(), size));
                    }
                }
                None => {}
            },
            kind @ (FrameKind::Stdout | FrameKind::Stderr) => return Err(FrameError::UnexpectedKind(kind)),
        }
    }
    Ok(())
}

/// Writes to stdin. Nobody will read it any more: `false`, and it is thrown away.
async fn feed(process: &Process, mut bytes: Bytes) -> bool {
    let took = |length: usize| process.input.set(process.input.get().wrapping_add(length as u64));
    let Some(stdin) = process.stdin.borrow().clone() else {
        took(bytes.len());
        return false;
    };
    while !bytes.is_empty() {
        match stdin.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, &bytes)?)).await {
            Ok(length) => {
                took(length);
                bytes.advance(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                took(bytes.len());
                process.stdin.replace(None);
                return false;
            }
        }
    }
    true
}

/// Writes all of it.
pub(crate) async fn send(stream: &UnixStream, bytes: &mut BytesMut) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(length) => bytes.advance(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends when the other side has closed both directions: not when it has only said its last word. Where a connection ends as a whole that is the same, and a
/// socket of vsock tells of nothing else.
pub(crate) async fn hung_up(stream: &UnixStream, ends_as_a_whole: bool) {
    let interest = if ends_as_a_whole { Interest::READABLE } else { Interest::WRITABLE };
    // A second descriptor has readiness of its own, so that waiting here takes none from those who read and write.
    let Ok(twin) = stream.as_fd().try_clone_to_owned() else { return std::future::pending().await };
    let Ok(twin) = readiness::register(twin, interest) else { return std::future::pending().await };
    while let Ok(mut guard) = twin.ready(interest).await {
        if guard.ready().is_write_closed() || ends_as_a_whole && guard.ready().is_read_closed() {
            return;
        }
        guard.clear_ready();
    }
}
