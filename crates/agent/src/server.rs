use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::net::UnixStream as StdStream,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use prost::Message;
use rustix::{io::Errno, net::SocketFlags, process::Signal};
use sandbar_protocol::{
    Ack, Failure, FrameError, FrameReader, Pong, ProcessList, Reply, Request, VERSION, encode_message, reply, request::Operation,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::{
    agent::{Agent, MAX_CONNECTIONS},
    dial,
    door::Door,
    egress, failure,
    failure::{Kind, refusal},
    files, get, guest, identity, listing, ports, put, session,
    settings::Settings,
    share, shutdown, transfer,
    twin::Twin,
    usage, watch,
};

/// How long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that was cut off has to come back before its place in the output is given up.
const RETURN: Duration = Duration::from_secs(10);
/// How often it is looked whether that time has begun.
const REGARD: Duration = Duration::from_secs(1);
/// How long accepting rests when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(100);
/// How long a refused client that is still sending is listened to, so that it reads the refusal instead of a broken connection.
const FAREWELL: Duration = Duration::from_secs(5);

/// Accepts connections until the listener fails, which it does not.
pub(crate) async fn run(agent: Rc<Agent>, mut door: Door) -> io::Error {
    loop {
        if let Some(until) = agent.silent_until.take() {
            door = match door.stay_closed(&agent, until).await {
                Ok(door) => door,
                Err(error) => return error,
            };
            await_return(&agent);
        }
        let accepted = tokio::select! {
            biased;
            () = agent.cut.notified() => continue,
            accepted = door.listener().async_io(Interest::READABLE, accept) => accepted,
        };
        match accepted {
            Ok(socket) => welcome(&agent, socket),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => return error,
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => tokio::time::sleep(REST).await,
                // A client that left the queue.
                _ => {}
            },
        }
    }
}

/// Clients that were cut off have a while to come back.
fn await_return(agent: &Rc<Agent>) {
    let returning = {
        let agent = Rc::clone(agent);
        tokio::task::spawn_local(async move {
            let mut begin = Instant::now();
            while begin.elapsed() < RETURN {
                tokio::time::sleep(REGARD).await;
                // A guest's is fetched before it stands still, and clients come when it goes on.
                if agent.layers.borrow().iter().any(|layer| layer.strong_count() > 0) {
                    begin = Instant::now();
                }
            }
            agent.cut_off.take();
        })
    };
    agent.returning.replace(Some(returning.abort_handle()));
}

/// Serves one connection of a guest's pipe, which is in the way of no save and never closed.
pub(crate) fn welcome_in_guest(agent: &Rc<Agent>, socket: OwnedFd) {
    if agent.silent_until.take().is_some() {
        await_return(agent);
    }
    welcome(agent, socket);
}

fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

fn welcome(agent: &Rc<Agent>, socket: OwnedFd) {
    let Ok(permit) = Arc::clone(&agent.connections).try_acquire_owned() else {
        let full = failure::failure(Kind::ResourceExhausted, format!("there are {MAX_CONNECTIONS} connections already"));
        if let Ok(bytes) = encoded(&refusal(full)) {
            // It fits into the buffer of a new socket.
            let _ = rustix::io::write(&socket, &bytes);
        }
        return;
    };
    // Any stream socket will do: only its calls are used, never its addresses.
    let Ok(stream) = UnixStream::from_std(StdStream::from(socket)) else { return };
    let agent = Rc::clone(agent);
    let cuts = agent.cuts.get();
    tokio::task::spawn_local(async move {
        // It may have happened before this had its first turn.
        if agent.cuts.get() != cuts {
            return;
        }
        tokio::select! {
            biased;
            () = agent.cut.notified() => {}
            () = converse_to_the_end(&agent, stream, permit) => {}
        }
    });
}

/// A monitor with vsock forgets what its host has not read yet two seconds after the guest has closed, so there the host closes first.
async fn converse_to_the_end(agent: &Rc<Agent>, stream: UnixStream, permit: OwnedSemaphorePermit) {
    let twin = if agent.is_on_vsock() { stream.as_fd().try_clone_to_owned().ok() } else { None };
    let ends = converse(agent, stream, permit).await;
    if let (End::Host, Some(Ok(stream))) = (ends, twin.map(|twin| UnixStream::from_std(StdStream::from(twin)))) {
        let twin = Twin::of(&stream);
        tokio::select! {
            () = session::hung_up(&stream, true) => {}
            () = Twin::reset(twin.as_ref()) => {}
        }
    }
}

/// The place of a client in what was started for it. One that left meanwhile does not take it.
struct Unclaimed {
    place: Option<session::Place>,
    kill: bool,
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let (Some(place), true) = (&self.place, self.kill) {
            place.process.hint(Signal::KILL);
        }
    }
}

/// Who ends a connection, where that matters.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The host, when it has read the last word.
    Host,
    /// The agent: the host has gone, or is told something by it.
    Agent,
}

/// One connection: one operation.
async fn converse(agent: &Rc<Agent>, mut stream: UnixStream, permit: OwnedSemaphorePermit) -> End {
    let (read, write) = stream.split();
    let mut reader = FrameReader::new(read);
    let asked = async {
        reader.preamble().await?;
        reader.message::<Request>().await
    };
    let operation = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(Request { operation: Some(operation) })) => Ok(operation),
        Ok(Ok(Request { operation: None })) => Err(failure::failure(Kind::Unsupported, "this agent does not know that operation")),
        Ok(Err(FrameError::Cut | FrameError::Io(_))) => return End::Agent,
        Ok(Err(error @ FrameError::Version(_))) => Err(failure::failure(Kind::Unsupported, error.to_string())),
        Ok(Err(error)) => Err(failure::failure(Kind::InvalidInput, error.to_string())),
        Err(_) => Err(failure::failure(Kind::TimedOut, format!("no request within {} s", PATIENCE.as_secs()))),
    };
    let attached = match &operation {
        Ok(Operation::Exec(request)) => {
            // As a task of its own, which goes on when this connection is dropped.
            let (agent, request, kill) = (Rc::clone(agent), request.clone(), request.kill_on_disconnect);
            let (hand, started) = oneshot::channel();
            tokio::task::spawn_local(async move {
                let started = session::exec(&agent, &request).await;
                drop(hand.send(started.map(|place| Unclaimed { place: Some(place), kill })));
            });
            let started = started.await.unwrap_or_else(|_| Err(failure::failure(Kind::Internal, "the start was given up")));
            started.map(|mut unclaimed| unclaimed.place.take().map(|place| (place, kill)))
        }
        Ok(Operation::Attach(request)) => session::attach(agent, request).map(|place| Some((place, request.kill_on_disconnect))),
        Ok(_) => Ok(None),
        Err(failure) => Err(failure.clone()),
    };
    match attached {
        Ok(Some((place, kill))) => {
            let twin = if agent.is_on_vsock() { Twin::of(write.as_ref()) } else { None };
            let served = async {
                session::serve(agent, place, reader, write.as_ref(), kill).await;
                if agent.is_on_vsock() {
                    // What the host still says is for nobody, but must not wait: it would until the host closes.
                    discard(write.as_ref()).await;
                }
            };
            return tokio::select! {
                biased;
                // A machine that is saved, or loaded: that is a cut, after which clients come back, and no client that leaves.
                () = Twin::reset(twin.as_ref()) => End::Agent,
                () = served => End::Host,
            };
        }
        Ok(None) => {}
        Err(failure) => return refuse(&mut stream, failure).await,
    }
    let (_, ahead) = reader.into_parts();
    let Ok(operation) = operation else { return End::Agent };
    let done = match operation {
        Operation::Exec(_) | Operation::Attach(_) => Ok(()),
        Operation::Ping(_) => {
            let agent_version = env!("CARGO_PKG_VERSION").to_owned();
            let no_datagrams = agent.egress.no_datagrams.borrow().clone();
            let only_ports = agent.egress.only_ports.get().iter().copied().map(u32::from).collect();
            answer(&mut stream, reply::Answer::Pong(Pong { agent: agent_version, epoch: agent.epoch.get(), no_datagrams, only_ports }))
                .await
        }
        Operation::List(_) => {
            let processes = agent.table.all().iter().map(|process| process.record(agent.epoch.get())).collect();
            answer(&mut stream, reply::Answer::Processes(ProcessList { processes })).await
        }
        Operation::Signal(request) => match agent.table.find(request.pid).and_then(|process| process.signal(request.signal)) {
            Ok(()) => answer(&mut stream, reply::Answer::Done(Ack {})).await,
            Err(failure) => return refuse(&mut stream, failure).await,
        },
        Operation::Dial(request) => match dial::connect(request, |port| agent.egress.listens_on(port)).await {
            Ok(port) => match answer(&mut stream, reply::Answer::Done(Ack {})).await {
                Ok(()) => {
                    if agent.is_on_vsock() {
                        dial::relay_in_frames(stream, ahead, &port, async { true }).await;
                    } else {
                        dial::relay(stream, ahead, &port, async { true }).await;
                    }
                    return End::Agent;
                }
                lost => lost,
            },
            Err(failure) => return refuse(&mut stream, failure).await,
        },
        Operation::Egress(request) => {
            let twin = if agent.is_on_vsock() { Twin::of(&stream) } else { None };
            let (read, write) = stream.split();
            let reader = FrameReader::new(AsyncReadExt::chain(ahead.as_ref(), read));
            egress::serve(agent, request, reader, write, Twin::reset(twin.as_ref())).await;
            return End::Agent;
        }
        Operation::Leave(request) => match agent.egress.leave(request.id) {
            Some(leaving) => match answer(&mut stream, reply::Answer::Done(Ack {})).await {
                Ok(()) => {
                    leaving.begin(&agent.egress, stream, ahead);
                    return End::Agent;
                }
                lost => lost,
            },
            None => return refuse(&mut stream, failure::failure(Kind::NotFound, "nobody waits for this connection any more")).await,
        },
        Operation::Quiesce(request) => {
            let done = answer(&mut stream, reply::Answer::Done(Ack {})).await;
            agent.quiesce(Instant::now().checked_add(Duration::from_millis(request.resume_after_ms)));
            done
        }
        Operation::Settle(_) => match Settings::new(agent.settings().config.clone(), agent.guest.as_ref()) {
            Ok(settings) => {
                agent.set(settings);
                answer(&mut stream, reply::Answer::Done(Ack {})).await
            }
            Err(why) => return refuse(&mut stream, failure::failure(Kind::InvalidInput, why)).await,
        },
        Operation::Share(request) => {
            if agent.guest.is_none() {
                return refuse(&mut stream, failure::failure(Kind::Unsupported, "the volumes of this sandbox are the host's")).await;
            }
            // No transfer, whose turns are few, and not cut with the others: processes have to end first.
            transfer::hand_over(&agent.shares, &RefCell::default(), (stream, agent.is_on_vsock()), ahead, permit, move |link| {
                share::serve_in_guest(&request, link)
            })
            .await;
            return End::Host;
        }
        Operation::Resumed(request) => answer(&mut stream, reply::Answer::Renewed(identity::renew(agent, &request))).await,
        Operation::Shutdown(request) => {
            shutdown::run(agent, request, stream).await;
            return End::Agent;
        }
        other => {
            lend(agent, stream, ahead, permit, other).await;
            return End::Host;
        }
    };
    // A client that does not hear its answer any more needs none.
    drop(done);
    End::Host
}

/// What may block is done by a thread.
async fn lend(agent: &Rc<Agent>, stream: UnixStream, ahead: bytes::Bytes, permit: OwnedSemaphorePermit, operation: Operation) {
    let settings = agent.settings();
    let base = Arc::clone(&settings.base);
    let owner = settings.file_owner;
    let guest = agent.guest.clone();
    let forks = agent.forks.clone();
    let is_watch = matches!(operation, Operation::Watch(_) | Operation::WatchPorts(_));
    let turns = if is_watch { &agent.watches } else { &agent.transfers };
    // Where no hang-up is told: gVisor's sockets, and vsock.
    let (init, by_words) = (settings.config.init, settings.config.listen_folder.is_some() || agent.is_on_vsock());
    let lent = if matches!(operation, Operation::GetLayer(_)) { &agent.layers } else { &agent.lent };
    transfer::hand_over(turns, lent, (stream, agent.is_on_vsock()), ahead, permit, move |link| match operation {
        Operation::PutFile(request) => put::file(&base, owner, &request, &forks, link),
        Operation::PutTree(request) => put::tree(&base, owner, &request, &forks, link),
        Operation::GetFile(request) => get::file(&base, &request, link),
        Operation::GetTree(request) => get::tree(&base, &request, link),
        Operation::ReadDir(request) => listing::read_dir(&base, &request, link),
        Operation::Stat(request) => files::stat(&base, &request, link),
        Operation::MakeDir(request) => files::make_dir(&base, owner, &request, link),
        Operation::Rename(request) => files::rename(&base, &request, link),
        Operation::Symlink(request) => files::symlink(&base, owner, &request, link),
        Operation::Remove(request) => files::remove(&base, &request, link),
        Operation::Watch(request) => watch::run(&base, &request, by_words, link),
        Operation::WatchPorts(_) => ports::watch(init, by_words, link),
        Operation::Usage(_) => usage::report(init, link),
        Operation::GetLayer(_) => match &guest {
            Some(guest) => guest::send_layer(&guest.upper, guest.group.is_some(), link),
            None => Err(failure::failure(Kind::Unsupported, "the layer of this sandbox is the host's")),
        },
        _ => Err(failure::failure(Kind::Internal, "an operation went astray")),
    })
    .await;
}

fn encoded(message: &impl Message) -> Result<BytesMut, FrameError> {
    let mut bytes = BytesMut::from(VERSION.encode().as_slice());
    encode_message(&mut bytes, message)?;
    Ok(bytes)
}

async fn answer(stream: &mut UnixStream, answer: reply::Answer) -> Result<(), FrameError> {
    let mut bytes = encoded(&Reply { answer: Some(answer) })?;
    stream.write_all_buf(&mut bytes).await?;
    Ok(())
}

/// Says why not, and listens until the host has closed, or for a while.
async fn refuse(stream: &mut UnixStream, failure: Failure) -> End {
    if answer(stream, reply::Answer::Failure(failure)).await.is_err() || stream.shutdown().await.is_err() {
        return End::Agent;
    }
    let _ = tokio::time::timeout(FAREWELL, discard(stream)).await;
    End::Agent
}

/// Reads until the other side has closed.
async fn discard(stream: &UnixStream) {
    let mut discarded = [0; 1024];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut discarded) {
            Ok(length) if length > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}
