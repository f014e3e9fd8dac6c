use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use bytes::BytesMut;
use sandbar_protocol::{FrameKind, FrameReader, encode_frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    claim,
    diverted::{self, LARGEST, Received, Sender},
    host::{Host, Left},
    packets,
    redirect::UDP,
};
use crate::{twin::Twin, watched::Watched};

/// Most flows at a time; what is over is refused.
const MOST: usize = 1024;
/// Most datagrams of one flow, and most bytes of all, that wait: for a decision, or for the host to take them. What is over is lost, as datagrams are.
const MOST_WAITING: usize = 64;
const MOST_BYTES: usize = 4 << 20;
/// What a datagram that waits costs beside its bytes.
const EACH: usize = 128;
/// How long a refusal is remembered: whoever goes on sending all the same has asked once.
const REFUSED: Duration = Duration::from_millis(100);
/// How often it is looked whether a flow's socket is there still.
const LOOK: Duration = Duration::from_secs(1);
/// How long receiving rests when it fails.
const REST: Duration = Duration::from_millis(100);

/// Who sends, and where to.
type Ends = (SocketAddr, SocketAddr);

/// What datagrams that would leave are sorted by: one question and one connection to the host for each two ends.
pub(super) struct Flows {
    host: Rc<Host>,
    sender: Sender,
    open: RefCell<HashMap<Ends, mpsc::Sender<Waiting>>>,
    bytes: Cell<usize>,
}

/// A datagram that waits.
struct Waiting {
    bytes: Vec<u8>,
    flows: Rc<Flows>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.flows.bytes.set(self.flows.bytes.get() - self.bytes.len() - EACH);
    }
}

/// How a flow ended.
enum End {
    /// Nothing is open any more: what comes next is asked about anew.
    Over,
    /// There is nobody at the other end for this one.
    Refused,
}

impl Flows {
    pub(super) fn new(host: Rc<Host>, sender: Sender) -> Rc<Self> {
        Rc::new(Self { host, sender, open: RefCell::default(), bytes: Cell::default() })
    }

    fn take(self: &Rc<Self>, ends: Ends, datagram: &[u8]) {
        // What is to be saved is not added to.
        if self.host.is_quiet() {
            return;
        }
        let bytes = self.bytes.get() + datagram.len() + EACH;
        if bytes > MOST_BYTES {
            return;
        }
        let mut open = self.open.borrow_mut();
        if open.len() >= MOST && !open.contains_key(&ends) {
            return self.refuse(ends);
        }
        let flow = open.entry(ends).or_insert_with(|| {
            let (sender, waiting) = mpsc::channel(MOST_WAITING);
            tokio::task::spawn_local(Rc::clone(self).run(ends, waiting));
            sender
        });
        if let Ok(place) = flow.try_reserve() {
            self.bytes.set(bytes);
            place.send(Waiting { bytes: datagram.to_vec(), flows: Rc::clone(self) });
        }
    }

    fn refuse(&self, (from, to): Ends) {
        if let Some(packet) = packets::unreachable(from, to) {
            self.sender.send(&packet, from);
        }
    }

    /// One flow, until it ends.
    async fn run(self: Rc<Self>, ends: Ends, mut waiting: mpsc::Receiver<Waiting>) {
        let cut = self.host.cut.notified();
        let place = self.host.enter();
        let end = match &place {
            None => End::Refused,
            Some(_) => tokio::select! {
                biased;
                () = cut => End::Over,
                end = self.pass(ends, &mut waiting) => end,
            },
        };
        drop(place);
        if matches!(end, End::Refused) {
            self.refuse(ends);
            let rest = Instant::now() + REFUSED;
            // Those that came while it was decided are refused together.
            while waiting.try_recv().is_ok() {}
            while let Ok(Some(_)) = tokio::time::timeout_at(rest, waiting.recv()).await {
                self.refuse(ends);
            }
        }
        self.open.borrow_mut().remove(&ends);
    }

    async fn pass(&self, (from, to): Ends, waiting: &mut mpsc::Receiver<Waiting>) -> End {
        let socket = claim::socket(UDP, from, to);
        let process = claim::of(UDP, from, to).await;
        let Some(Left { mut remote, ahead, revoked, id, .. }) = self.host.associate(to, process).await else { return End::Refused };
        let twin = if self.host.is_on_vsock { Twin::of(&remote) } else { None };
        let (read, mut write) = remote.split();
        let there = async {
            let mut frame = BytesMut::new();
            while let Some(datagram) = waiting.recv().await {
                if encode_frame(&mut frame, FrameKind::Bytes, &datagram.bytes).is_err() || write.write_all_buf(&mut frame).await.is_err() {
                    return;
                }
            }
        };
        let back = async {
            let mut reader = FrameReader::new(AsyncReadExt::chain(ahead.as_ref(), read));
            while let Ok(Some(frame)) = reader.next().await {
                if frame.kind != FrameKind::Bytes {
                    return;
                }
                if let Some(packet) = packets::datagram(to, from, &frame.payload) {
                    self.sender.send(&packet, from);
                }
            }
        };
        let gone = async {
            // Where it cannot be known, the host ends what is silent.
            while socket.is_some() && socket == claim::socket(UDP, from, to) {
                sleep(LOOK).await;
            }
        };
        let (there, back, gone) = (pin!(there), pin!(back), pin!(gone));
        let end = tokio::select! {
            biased;
            Ok(()) = revoked => End::Refused,
            () = there => End::Over,
            () = back => End::Over,
            () = Twin::reset(twin.as_ref()) => End::Over,
            () = gone, if socket.is_some() => End::Over,
        };
        self.host.forget(id);
        end
    }
}

/// Takes in what is diverted.
pub(super) async fn run(flows: Rc<Flows>, socket: Watched) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let receive = |socket: &OwnedFd| diverted::receive(socket, &mut buffer);
        match socket.async_io(Interest::READABLE, receive).await {
            // Whoever sends to the socket itself wanted to go nowhere; it is on loopback, and nothing else there comes here.
            Ok(Some(Received { length, from, to: Some(to) })) if !to.ip().is_loopback() && from.port() != 0 => {
                flows.take((from, to), &buffer[..length]);
            }
            Ok(_) => {}
            Err(_) => sleep(REST).await,
        }
    }
}
