use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use sandbar_protocol::{Ack, Claimed, Egress, FrameReader, Question, Remote, Reply, VERSION, Verdict, encode_message, question, reply};
use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    net::UnixStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use super::{listeners::QUESTIONS, names::Names};
use crate::agent::Agent;

/// How long somebody waits for the host where nobody decides at the moment: it is being started, or started anew.
const ABSENT: Duration = Duration::from_secs(10);
/// How long the host may take to resolve and connect: longer than TCP's own patience with a silent network would be of no use to anybody.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most questions that wait.
const MOST: usize = 4096;
/// Most connections from inside at a time, those that wait for an answer included. The host has smaller bounds of its own, and tells of what is over them.
const MOST_CONNECTIONS: u32 = 4096;
/// How long connections that were cut may take to be closed.
const FAREWELL: Duration = Duration::from_secs(5);

/// The host, as those who wait for its decisions see it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(super) names: RefCell<Names>,
    questions: RefCell<Option<mpsc::Sender<Question>>>,
    /// Somebody decides again.
    present: Notify,
    /// Somebody else decides: the one before is done.
    replaced: Notify,
    waiting: RefCell<HashMap<u64, Waiting>>,
    /// Connections that have left.
    open: RefCell<HashMap<u64, Voice>>,
    /// Whether whoever decides says of each end that it is one in order.
    confirms_ends: Cell<bool>,
    last: Cell<u64>,
    /// Whether the host's connections come by vsock: then streams are in frames.
    pub(super) is_on_vsock: bool,
    /// Why datagrams cannot leave, where connections can.
    pub(crate) no_datagrams: RefCell<Option<String>>,
    /// The only ports that connections can leave to, where they are not redirected; all where empty.
    pub(crate) only_ports: Cell<&'static [u16]>,
    /// Places for connections from inside.
    places: Arc<Semaphore>,
    /// Nothing may be open.
    quiet: Cell<bool>,
    /// Every connection from inside is to be reset.
    pub(super) cut: Notify,
}

/// What an answer is for.
#[derive(Debug)]
enum Waiting {
    Name(oneshot::Sender<bool>),
    Connection(oneshot::Sender<Option<Left>>),
}

/// How a connection that has left is told of.
#[derive(Debug)]
struct Voice {
    /// That it is to be reset.
    revoke: oneshot::Sender<()>,
    /// That what comes in ends in order. Dropped when whoever could have said so is gone.
    end: Option<oneshot::Sender<()>>,
}

/// A connection that is allowed, and was made.
#[derive(Debug)]
pub(super) struct Left {
    /// The host's end, and what it has said already.
    pub(super) remote: UnixStream,
    pub(super) ahead: Bytes,
    /// Tells that it is to be reset.
    pub(super) revoked: oneshot::Receiver<()>,
    /// Tells that what comes in ends in order.
    pub(super) ended: oneshot::Receiver<()>,
    pub(super) id: u64,
}

/// Takes a question out when nobody waits for its answer any more.
struct Place<'a> {
    host: &'a Host,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.host.waiting.borrow_mut().remove(&self.id);
    }
}

impl Host {
    /// Whether a name may be asked for; `None` when nobody decides.
    pub(super) async fn may_ask(&self, name: &str) -> Option<bool> {
        self.ask(None, question::What::Name(name.to_owned()), Waiting::Name).await
    }

    /// The host's end of a connection that is allowed; `None` when it is refused, or nobody decides.
    pub(super) async fn connect(&self, to: SocketAddr, process: Option<Claimed>) -> Option<Left> {
        self.ask(process, question::What::Connection(self.remote(to)), Waiting::Connection).await?
    }

    /// The same for datagrams, each of which is a frame there.
    pub(super) async fn associate(&self, to: SocketAddr, process: Option<Claimed>) -> Option<Left> {
        self.ask(process, question::What::Datagrams(self.remote(to)), Waiting::Connection).await?
    }

    /// Whether a port inside is one that the agent listens on, whoever is meant by its address.
    pub(crate) fn listens_on(&self, port: u16) -> bool {
        let only = self.only_ports.get();
        !only.is_empty() && (port == QUESTIONS || only.contains(&port))
    }

    /// What an address stands for: a name, or itself.
    fn remote(&self, to: SocketAddr) -> Remote {
        let (name, address) = match to.ip() {
            IpAddr::V4(address) => (self.names.borrow().name(address).map(ToOwned::to_owned), address.octets().to_vec()),
            IpAddr::V6(address) => (None, address.octets().to_vec()),
        };
        let address = if name.is_some() { Vec::new() } else { address };
        Remote { name, address, port: to.port().into() }
    }

    /// Asks whoever decides, and whoever comes after it when it goes before it has answered: a question that is asked while the host is
    /// being started anew is one that waits, whether that was seen here before it or after.
    async fn ask<T>(&self, process: Option<Claimed>, what: question::What, waiting: fn(oneshot::Sender<T>) -> Waiting) -> Option<T> {
        let asked = async {
            loop {
                let questions = self.somebody().await?;
                let id = self.last.get().wrapping_add(1);
                self.last.set(id);
                if self.waiting.borrow().len() >= MOST {
                    return None;
                }
                let _place = Place { host: self, id };
                let (sender, answer) = oneshot::channel();
                self.waiting.borrow_mut().insert(id, waiting(sender));
                // A sender that is dropped is a host that is gone.
                if questions.send(Question { id, process: process.clone(), what: Some(what.clone()) }).await.is_ok()
                    && let Ok(answer) = answer.await
                {
                    return Some(answer);
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.ok()?
    }

    async fn somebody(&self) -> Option<mpsc::Sender<Question>> {
        let end = Instant::now() + ABSENT;
        loop {
            let notified = self.present.notified();
            if let Some(questions) = self.questions.borrow().clone().filter(|questions| !questions.is_closed()) {
                return Some(questions);
            }
            tokio::time::timeout_at(end, notified).await.ok()?;
        }
    }

    /// Gives a connection of the host to the question that it is for; gives it back when nobody waits for it.
    pub(crate) fn leave(&self, id: u64) -> Option<Leaving> {
        match self.waiting.borrow_mut().remove(&id)? {
            Waiting::Connection(sender) => Some(Leaving { sender, id }),
            Waiting::Name(_) => None,
        }
    }

    /// A connection has ended.
    pub(super) fn forget(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
    }

    /// Nobody will tell of an end any more.
    fn lose_ends(&self) {
        for voice in self.open.borrow_mut().values_mut() {
            voice.end = None;
        }
    }

    fn decide(&self, verdict: Verdict) {
        let waiting = self.waiting.borrow_mut().remove(&verdict.id);
        match waiting {
            Some(Waiting::Name(sender)) => drop(sender.send(verdict.allowed)),
            // A yes needs a connection, not a word.
            Some(Waiting::Connection(sender)) => drop(sender.send(None)),
            None if !verdict.allowed => {
                let open = self.open.borrow_mut().remove(&verdict.id);
                // It may have ended just now.
                let _ = open.map(|voice| voice.revoke.send(()));
            }
            None => {
                let end = self.open.borrow_mut().get_mut(&verdict.id).and_then(|voice| voice.end.take());
                let _ = end.map(|end| end.send(()));
            }
        }
    }
}

/// A question about a connection whose answer is yes.
pub(crate) struct Leaving {
    sender: oneshot::Sender<Option<Left>>,
    id: u64,
}

impl Leaving {
    /// Hands the connection over.
    pub(crate) fn begin(self, host: &Host, remote: UnixStream, ahead: Bytes) {
        let ((revoke, revoked), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let end = if host.confirms_ends.get() {
            Some(end)
        } else {
            // It is there: the receiver is below.
            let _ = end.send(());
            None
        };
        // Before whoever waits can have gone on.
        host.open.borrow_mut().insert(self.id, Voice { revoke, end });
        if self.sender.send(Some(Left { remote, ahead, revoked, ended, id: self.id })).is_err() {
            // It ends, and the host sees that.
            host.forget(self.id);
        }
    }
}

/// Lets the host at the other end of this connection decide, until it goes (or `gone` says so) or another one comes.
pub(crate) async fn serve<R: AsyncRead + Unpin>(
    agent: &Agent,
    request: Egress,
    mut reader: FrameReader<R>,
    mut writer: impl AsyncWriteExt + Unpin,
    gone: impl Future<Output = ()>,
) {
    let host = &agent.egress;
    let (sender, mut questions) = mpsc::channel(64);
    host.replaced.notify_waiters();
    // Whoever waits for the one before waits in vain: it may have decided, and its answer is lost.
    host.waiting.borrow_mut().clear();
    host.lose_ends();
    host.confirms_ends.set(request.confirms_ends);
    *host.questions.borrow_mut() = Some(sender.clone());
    host.present.notify_waiters();
    let mut bytes = BytesMut::from(VERSION.encode().as_slice());
    if encode_message(&mut bytes, &Reply { answer: Some(reply::Answer::Done(Ack {})) }).is_ok() {
        let replaced = host.replaced.notified();
        tokio::pin!(replaced, gone);
        loop {
            if !bytes.is_empty() && writer.write_all_buf(&mut bytes).await.is_err() {
                break;
            }
            tokio::select! {
                biased;
                () = &mut replaced => return,
                verdict = reader.message::<Verdict>() => match verdict {
                    Ok(verdict) => host.decide(verdict),
                    Err(_) => break,
                },
                question = questions.recv() => match question {
                    Some(question) if encode_message(&mut bytes, &question).is_ok() => {}
                    _ => break,
                },
                () = &mut gone => break,
            }
        }
    }
    let own = host.questions.borrow().as_ref().is_some_and(|current| current.same_channel(&sender));
    if own {
        host.questions.borrow_mut().take();
        host.waiting.borrow_mut().clear();
        host.lose_ends();
    }
}

impl Host {
    /// A fresh one.
    pub(crate) fn new(is_on_vsock: bool) -> Rc<Self> {
        Rc::new(Self {
            names: RefCell::default(),
            questions: RefCell::default(),
            present: Notify::new(),
            replaced: Notify::new(),
            waiting: RefCell::default(),
            open: RefCell::default(),
            confirms_ends: Cell::default(),
            last: Cell::new(unlike_an_earlier_one()),
            is_on_vsock,
            no_datagrams: RefCell::default(),
            only_ports: Cell::default(),
            places: Arc::new(Semaphore::new(MOST_CONNECTIONS as usize)),
            quiet: Cell::default(),
            cut: Notify::new(),
        })
    }

    /// A place for a connection from inside, if there is one.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok().filter(|_| !self.is_quiet())
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.get()
    }

    /// Resets every connection: what is inside is to be saved, and what is outside cannot be.
    pub(crate) fn cut_connections(&self) {
        self.cut.notify_waiters();
        // None of them is there any more to be reset by itself.
        self.open.borrow_mut().clear();
    }

    /// Resets every connection, lets none in until [`open`](Self::open), and waits until none is left.
    pub(crate) async fn close(&self) {
        self.quiet.set(true);
        self.cut_connections();
        let _ = tokio::time::timeout(FAREWELL, self.places.acquire_many(MOST_CONNECTIONS)).await;
    }

    /// Lets connections in again.
    pub(crate) fn open(&self) {
        self.quiet.set(false);
    }
}

/// Where the numbers of questions begin: the host may still be busy with one that an agent before this one has asked, and its answer must be none to another
/// question.
fn unlike_an_earlier_one() -> u64 {
    let mut number = [0; 8];
    // Too early in a kernel's life for random bytes there was no agent before.
    let _ = rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_ne_bytes(number)
}
