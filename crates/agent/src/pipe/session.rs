use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
    task::AbortHandle,
};

use super::frame::{Frame, MOST, Side, WINDOW};

/// Most streams at a time: the agent's own limit of connections, and as many again.
const MOST_STREAMS: usize = 8192;
/// How long what a client on the host sent last has to be taken inside, when the client is gone: the agent has to hear of that. A reader on the host may take
/// its time, as one of a file that has been sent whole.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// Frames that wait for their turn on the pipe.
const QUEUE: usize = 8;

/// The streams of one meeting of the two ends. Dropped, it cuts all of them.
pub(super) struct Session {
    streams: Rc<RefCell<HashMap<u32, Stream>>>,
    out: mpsc::Sender<Frame>,
    next: Cell<u32>,
    side: Side,
}

struct Stream {
    inbound: mpsc::UnboundedSender<Inward>,
    flow: Rc<Flow>,
    tasks: [AbortHandle; 2],
}

/// What came for a connection.
enum Inward {
    Bytes(Bytes),
    /// No more of them.
    End,
    /// Whoever sent them is gone.
    Gone,
}

/// How much of one stream is under way.
struct Flow {
    /// What may still be sent.
    credit: Cell<usize>,
    more: Notify,
    /// What was received and not given back as credit.
    unread: Cell<usize>,
    /// Directions that are still open.
    open: Cell<u8>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Session {
    /// A meeting without streams, and what it wants to send.
    pub(super) fn new(side: Side) -> (Self, mpsc::Receiver<Frame>) {
        let (out, queue) = mpsc::channel(QUEUE);
        (Self { streams: Rc::default(), out, next: Cell::new(0), side }, queue)
    }

    /// Opens a stream for a connection, as the host does.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) async fn open(&self, socket: UnixStream) -> io::Result<()> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let place = self.out.reserve().await.map_err(io::Error::other)?;
        // The guest hears of no stream that this end does not take: nobody would ever end it.
        self.accept(number, socket)?;
        // Before any byte of it: the stream's tasks have not had their turn.
        place.send(Frame::Open(number));
        Ok(())
    }

    /// Takes a connection for a stream that the host has opened.
    ///
    /// # Errors
    /// When there are too many, or it is open already.
    pub(super) fn accept(&self, number: u32, socket: UnixStream) -> io::Result<()> {
        if self.streams.borrow().len() >= MOST_STREAMS || self.streams.borrow().contains_key(&number) {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many streams"));
        }
        let (read, write) = socket.into_split();
        let (inbound, received) = mpsc::unbounded_channel();
        let flow = Rc::new(Flow { credit: Cell::new(WINDOW), more: Notify::new(), unread: Cell::new(0), open: Cell::new(2) });
        let end = Ending { number, side: self.side, flow: Rc::clone(&flow), out: self.out.clone(), streams: Rc::clone(&self.streams) };
        let outward = tokio::task::spawn_local(send(end.clone(), read)).abort_handle();
        let inward = tokio::task::spawn_local(receive(end, write, received)).abort_handle();
        self.streams.borrow_mut().insert(number, Stream { inbound, flow, tasks: [outward, inward] });
        Ok(())
    }

    /// Ends a stream that cannot be, whether or not it was put in, and tells the other end. Never waits: a task of its own does, for its turn on the pipe.
    pub(super) fn refuse(&self, number: u32) {
        self.streams.borrow_mut().remove(&number);
        let out = self.out.clone();
        // It ends with the meeting, whose queue nobody takes from then.
        tokio::task::spawn_local(async move {
            let _ = out.send(Frame::Reset(number)).await;
        });
    }

    /// Takes a frame about a stream that exists; others are about streams that have ended meanwhile. Never waits.
    pub(super) fn take(&self, frame: Frame) {
        let number = match &frame {
            Frame::Open(number) | Frame::Data(number, _) | Frame::End(number) | Frame::Reset(number) | Frame::Credit(number, _) => *number,
        };
        let streams = self.streams.borrow();
        let Some(stream) = streams.get(&number) else { return };
        match frame {
            Frame::Data(_, bytes) if stream.flow.unread.get() + bytes.len() <= WINDOW => {
                stream.flow.unread.set(stream.flow.unread.get() + bytes.len());
                let _ = stream.inbound.send(Inward::Bytes(bytes));
            }
            Frame::End(_) => {
                let _ = stream.inbound.send(Inward::End);
            }
            Frame::Credit(_, bytes) => {
                // More than a window is never under way, whatever the other end says.
                stream.flow.credit.set((stream.flow.credit.get() + bytes as usize).min(WINDOW));
                stream.flow.more.notify_one();
            }
            Frame::Reset(_) => {
                // Behind all that the other end had to say, which is still handed over, unless nobody takes it.
                let _ = stream.inbound.send(Inward::Gone);
                // The other end's connection is gone in both directions, so nobody there takes what this one says.
                stream.tasks[0].abort();
                if self.side == Side::Host {
                    return;
                }
                let (streams, flow) = (Rc::clone(&self.streams), Rc::clone(&stream.flow));
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(FAREWELL).await;
                    let is_same = streams.borrow().get(&number).is_some_and(|stream| Rc::ptr_eq(&stream.flow, &flow));
                    if is_same {
                        streams.borrow_mut().remove(&number);
                    }
                });
            }
            // It sends more than it may.
            Frame::Open(_) | Frame::Data(..) => {
                drop(streams);
                self.refuse(number);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.streams.borrow_mut().clear();
    }
}

/// What both tasks of a stream need to end it.
#[derive(Clone)]
struct Ending {
    number: u32,
    side: Side,
    flow: Rc<Flow>,
    out: mpsc::Sender<Frame>,
    streams: Rc<RefCell<HashMap<u32, Stream>>>,
}

impl Ending {
    /// One direction has come to its end.
    fn one(&self) {
        self.flow.open.set(self.flow.open.get().saturating_sub(1));
        if self.flow.open.get() == 0 {
            self.streams.borrow_mut().remove(&self.number);
        }
    }

    /// The other end is gone.
    fn gone(&self) {
        self.streams.borrow_mut().remove(&self.number);
    }

    /// The connection is gone in both directions, and what it has said and somebody takes is on its way.
    async fn both(&self) {
        let _ = self.out.send(Frame::Reset(self.number)).await;
        self.streams.borrow_mut().remove(&self.number);
    }

    /// Waits until more may be sent; `false` when it is of no use to wait any longer.
    ///
    /// On the host, a client may leave meanwhile, and the agent has to hear of that although the process reads nothing. What such a client has sent still
    /// belongs to the process, so one that reads gets it: each time there is no credit, it has as long for that as for what is inside already. A few times at
    /// most: the socket of a client that has left holds no more than a few credits' worth.
    ///
    /// In the guest, the agent leaves whenever it has said all, and a client that has not read it may take its time. When the client leaves, the host says so.
    async fn may_send(&self, from: &OwnedReadHalf) -> bool {
        let left = async {
            match self.side {
                Side::Host => crate::session::hung_up(from.as_ref(), false).await,
                Side::Guest => std::future::pending().await,
            }
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            biased;
            () = self.flow.more.notified() => true,
            () = left => false,
        }
    }
}

/// From the connection into the pipe.
async fn send(end: Ending, mut from: OwnedReadHalf) {
    let mut buffer = BytesMut::new();
    loop {
        let credit = end.flow.credit.get();
        if credit == 0 {
            if end.may_send(&from).await {
                continue;
            }
            return end.both().await;
        }
        // An idle stream costs no buffer.
        if from.readable().await.is_err() {
            return end.both().await;
        }
        buffer.reserve(MOST);
        let mut limited = bytes::BufMut::limit(&mut buffer, credit.min(MOST));
        match from.read_buf(&mut limited).await {
            Ok(0) => {
                let _ = end.out.send(Frame::End(end.number)).await;
                end.one();
                // It has said all, and may still listen, for as long as it is there.
                crate::session::hung_up(from.as_ref(), false).await;
                return end.both().await;
            }
            Ok(length) => {
                end.flow.credit.set(end.flow.credit.get().saturating_sub(length));
                let bytes = buffer.split().freeze();
                if end.out.send(Frame::Data(end.number, bytes)).await.is_err() {
                    return;
                }
                buffer = BytesMut::new();
            }
            Err(_) => return end.both().await,
        }
    }
}

/// From the pipe into the connection.
async fn receive(end: Ending, mut to: OwnedWriteHalf, mut received: mpsc::UnboundedReceiver<Inward>) {
    let (mut read, mut taken) = (0, true);
    loop {
        let bytes = match received.recv().await {
            Some(Inward::Bytes(bytes)) => bytes,
            Some(Inward::End) => break,
            Some(Inward::Gone) | None => return end.gone(),
        };
        // Once nobody takes it any more it is thrown away, and credit given for it. The stream goes on for what the connection said before it went, which may have
        // to wait for a reader; `send` comes to the end of that, and tells the other end then, which must not stand still until it hears of it.
        if taken && let Err(error) = to.write_all(&bytes).await {
            // Of any other failure the connection knows nothing, and would miss something in the middle.
            if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                return end.both().await;
            }
            taken = false;
        }
        read += bytes.len();
        // Not for every frame, and long before the other end stands still.
        if read >= WINDOW / 4 {
            end.flow.unread.set(end.flow.unread.get().saturating_sub(read));
            if end.out.send(Frame::Credit(end.number, u32::try_from(read).unwrap_or(u32::MAX))).await.is_err() {
                return;
            }
            read = 0;
        }
    }
    let _ = to.shutdown().await;
    end.one();
    // Held until both directions have ended, or the other end is gone.
    while let Some(inward) = received.recv().await {
        if let Inward::Gone = inward {
            return end.gone();
        }
    }
}
