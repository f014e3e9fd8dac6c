use std::{
    any::Any,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use sandbar_core::{Connection, Decision, ReadAhead};
use sandbar_relay::Toll;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    gate::Gate,
    held::Held,
    log::NetworkEvent,
    meter::{BUFFER, Meter, Reached},
    secret::{Watch, Watched},
    service::Answer,
    shown::{Beginning, Shown},
};

/// Bytes between who takes a connection apart and the server, one way.
const PIPE: usize = 32 << 10;
/// How long the agent may take to reset a connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a connection is cut off, where that is no mere break.
pub(super) type Verdict = OnceLock<(NetworkEvent, Decision)>;

/// Bytes that have passed.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// The sandbox's end of a connection.
pub(super) enum Inside {
    /// A plain socket, and what it has said already.
    Socket(UnixStream, Bytes),
    /// Anything else.
    Stream(Held),
}

impl Inside {
    pub(super) fn new(connection: Connection) -> Self {
        let (ahead, connection) = match downcast::<ReadAhead>(connection) {
            Ok(read) => read.into_parts(),
            Err(connection) => (Bytes::new(), connection),
        };
        match downcast::<UnixStream>(connection) {
            Ok(socket) => Self::Socket(*socket, ahead),
            Err(connection) => Self::Stream(Held::new(Box::new(ReadAhead::new(ahead, connection)))),
        }
    }

    /// What it has said already, which is not read any more then.
    pub(super) fn take_ahead(&mut self) -> Bytes {
        match self {
            Self::Socket(_, ahead) => std::mem::take(ahead),
            Self::Stream(_) => Bytes::new(),
        }
    }

    /// Reads what it says next; nothing at its end.
    pub(super) async fn next(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Socket(socket, _) => next(socket, || BUFFER).await,
            Self::Stream(held) => next(held, || BUFFER).await,
        }
    }

    /// Has it say this first.
    pub(super) fn put_back(&mut self, said: Bytes) {
        match self {
            Self::Socket(_, ahead) => *ahead = said,
            Self::Stream(held) => *held = Held::new(Box::new(ReadAhead::new(said, Box::new(held.clone())))),
        }
    }

    /// A hold of it.
    pub(super) fn hold(&mut self) -> Held {
        let held = match std::mem::replace(self, Self::Stream(Held::new(nobody()))) {
            Self::Socket(socket, ahead) => Held::new(Box::new(ReadAhead::new(ahead, Box::new(socket)))),
            Self::Stream(held) => held,
        };
        *self = Self::Stream(held.clone());
        held
    }

    /// Waits until the agent has reset it: an end that comes before would be taken for an orderly one.
    pub(super) async fn await_reset(&mut self) {
        let mut sink = tokio::io::sink();
        let _ = match self {
            Self::Socket(socket, _) => timeout(FAREWELL, tokio::io::copy(socket, &mut sink)).await,
            Self::Stream(held) => timeout(FAREWELL, tokio::io::copy(held, &mut sink)).await,
        };
    }
}

/// What it is, if it is a `T`.
fn downcast<T: Any>(connection: Connection) -> Result<Box<T>, Connection> {
    if !(&*connection as &dyn Any).is::<T>() {
        return Err(connection);
    }
    let connection: Box<dyn Any> = connection;
    // It is one, as was seen just now.
    connection.downcast::<T>().map_err(|_| nobody())
}

fn nobody() -> Connection {
    Box::new(tokio::io::join(tokio::io::empty(), tokio::io::sink()))
}

/// Counts one direction of a connection.
pub(super) struct Carrier<'a> {
    pub(super) gate: &'a Gate,
    /// Of the connection, and of the sandbox.
    pub(super) counters: [&'a AtomicU64; 2],
    pub(super) verdict: &'a Verdict,
}

impl Toll for Carrier<'_> {
    fn piece(&self) -> Option<usize> {
        self.gate.meter.bound(self.gate.limits())
    }

    async fn pay(&self, bytes: usize) -> io::Result<()> {
        let full = |reached: Reached| {
            let _ = self.verdict.set((NetworkEvent::Refused, reached.into()));
            io::Error::from(io::ErrorKind::QuotaExceeded)
        };
        self.gate.meter.spend(bytes, self.gate.limits()).await.map_err(full)
    }

    fn passed(&self, bytes: usize) {
        for counter in self.counters {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl Carrier<'_> {
    /// Passes bytes on, as many as may pass, until their end, which it passes on too.
    pub(super) async fn copy(&self, from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while self.copy_once(from, to).await? {}
        to.shutdown().await
    }

    /// Passes on what comes next; not so at the end.
    async fn copy_once(&self, from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<bool> {
        let bytes = next(from, || Meter::piece(self.gate.limits())).await?;
        if bytes.is_empty() {
            return Ok(false);
        }
        self.pay(bytes.len()).await?;
        to.write_all(&bytes).await?;
        to.flush().await?;
        self.passed(bytes.len());
        Ok(true)
    }
}

/// What comes next, as many bytes as may pass at once then. While it is waited for there is no buffer, since most connections wait most of the time.
async fn next(from: &mut (impl AsyncRead + Unpin), most: impl Fn() -> usize) -> io::Result<Vec<u8>> {
    poll_fn(|context| {
        let mut space = [MaybeUninit::uninit(); BUFFER];
        let mut buffer = ReadBuf::uninit(&mut space[..most().min(BUFFER)]);
        ready!(Pin::new(&mut *from).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().to_vec()))
    })
    .await
}

/// With somebody in between, who is given the server's end. What counts is what passes outside.
pub(super) async fn between<F: Future<Output = io::Result<()>>>(
    outside: &mut TcpStream,
    [there, back]: [Carrier<'_>; 2],
    who: impl FnOnce(Connection) -> F,
) -> io::Result<()> {
    let (near, far) = tokio::io::duplex(PIPE);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let (mut from_outside, mut to_outside) = outside.split();
    let there = there.copy(&mut from_near, &mut to_outside);
    let who = who(Box::new(near));
    let mut through = pin!(async { tokio::try_join!(who, there).map(drop) });
    let back = back.copy(&mut from_outside, &mut to_near);
    tokio::select! {
        // Who is in between has done with both sides: what the server may say yet is for nobody.
        through = &mut through => return through,
        back = back => back?,
    }
    through.await
}

/// Passes bytes both ways as they come, but for what must not go out. That what comes in has ended is said to the agent.
pub(super) async fn relay(
    inside: &mut Inside,
    outside: &mut TcpStream,
    [there, back]: [Carrier<'_>; 2],
    watch: Option<Watch>,
    judge: impl FnMut(&Shown) -> bool + Unpin + Send,
    answer: &Answer,
) -> io::Result<()> {
    match inside {
        Inside::Socket(socket, ahead) => {
            let is_watched = watch.is_some();
            let (mut from_inside, to_inside) = socket.split();
            let (from_outside, mut to_outside) = outside.split();
            let there = async {
                let mut rest: &[u8] = ahead;
                let all = AsyncReadExt::chain(&mut rest, &mut from_inside);
                let mut beginning = Beginning::new(Watched::new(all, watch), judge);
                while is_watched || !beginning.is_clear() {
                    if !there.copy_once(&mut beginning, &mut to_outside).await? {
                        return to_outside.shutdown().await;
                    }
                }
                drop(beginning);
                while !rest.is_empty() {
                    there.copy_once(&mut rest, &mut to_outside).await?;
                }
                sandbar_relay::pass(from_inside.as_ref(), to_outside.as_ref(), &there).await
            };
            let back = async {
                sandbar_relay::pass(from_outside.as_ref(), to_inside.as_ref(), &back).await?;
                answer.say(true).await;
                Ok(())
            };
            tokio::try_join!(there, back).map(drop)
        }
        Inside::Stream(held) => {
            let mut to_inside = held.clone();
            let (mut from_outside, mut to_outside) = outside.split();
            let mut from_inside = Beginning::new(Watched::new(held.clone(), watch), judge);
            let there = there.copy(&mut from_inside, &mut to_outside);
            let back = async {
                back.copy(&mut from_outside, &mut to_inside).await?;
                answer.say(true).await;
                Ok(())
            };
            tokio::try_join!(there, back).map(drop)
        }
    }
}
