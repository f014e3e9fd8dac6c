//! What leaves: connections and questions end here, and the host is asked about each; it decides, resolves and connects.
//!
//! | module | noun |
//! |---|---|
//! | `redirect`, `netlink`, `tables` | how everything that would leave comes here |
//! | `names` | addresses that stand for names |
//! | `dns` | questions and answers |
//! | `resolver` | the servers that answer them |
//! | `connections` | the connections that come to listeners |
//! | `listeners` | those of a list of ports, where a kernel cannot redirect |
//! | `flows` | diverted datagrams, by who sent them where |
//! | `diverted` | the sockets for them |
//! | `packets` | what the agent answers in the name of addresses outside |
//! | `host` | the host's connection, and what waits for its answers |
//! | `claim` | the process behind a connection |

mod claim;
mod connections;
mod diverted;
mod dns;
mod flows;
mod host;
mod listeners;
mod names;
pub(crate) mod netlink;
mod packets;
mod redirect;
mod resolver;
mod tables;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp},
    os::fd::OwnedFd,
    rc::Rc,
};

use rustix::thread::CapabilitySet;
use tokio::io::Interest;

use crate::agent::Agent;

pub(crate) use host::{Host, serve};

use connections::Destination;
use diverted::Diverted;
use flows::Flows;
use listeners::Listeners;
use redirect::{Ports, Way};

/// Where resolv.conf leads: loopback, so that no rule is needed to get there, and not the address that a server of the user's own would take.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// Tries to find a port that is free for IPv4 and IPv6, connections and datagrams.
const TRIES: usize = 32;

/// What leaves comes here from now on; nobody has answered it yet.
pub(crate) struct Redirected {
    sockets: Sockets,
    /// In the place of a redirection, where the kernel has none.
    listeners: Option<Listeners>,
    diverted: io::Result<Diverted>,
}

impl Redirected {
    /// Redirects, before any command runs and so before anybody else could take the ports, and gives up the right to change that for good. `is_guest`: the kernel is the
    /// sandbox's alone, and its settings too.
    ///
    /// # Errors
    /// When the kernel refuses, or the ports cannot be had. That datagrams cannot leave is none, nor that connections can to a list of ports alone: the host is told
    /// ([`Host::no_datagrams`], [`Host::only_ports`]).
    pub(crate) fn begin(is_guest: bool) -> io::Result<Self> {
        let mut sockets = Sockets::open()?;
        // A kernel without them, or without the right to have them: then nothing is answered for what is outside.
        let diverted = Diverted::open(&sockets.datagrams);
        sockets.ports.datagrams = diverted.as_ref().ok().map(|diverted| diverted.port);
        let way = redirect::install(sockets.ports)?;
        if is_guest {
            redirect::remember_many();
        }
        let listeners = match way {
            Way::Diverted | Way::Redirected => None,
            Way::Local => {
                sockets.leave_name_server();
                Some(Listeners::open()?)
            }
        };
        give_up_rights()?;
        resolver::name_in_file(NAME_SERVER);
        let diverted = diverted.and_then(|diverted| match way {
            Way::Diverted => Ok(diverted),
            Way::Redirected | Way::Local => Err(io::Error::other("its kernel cannot divert them (nft_tproxy)")),
        });
        Ok(Self { sockets, listeners, diverted })
    }

    /// Answers.
    ///
    /// # Errors
    /// Of the event loop.
    pub(crate) fn serve(self, agent: &Agent) -> io::Result<()> {
        let (host, roll) = (&agent.egress, &agent.roll);
        match self.diverted {
            Ok(diverted) => {
                let flows = Flows::new(Rc::clone(host), diverted.sender);
                for socket in diverted.sockets {
                    tokio::task::spawn_local(flows::run(Rc::clone(&flows), roll.watch(socket.into(), Interest::READABLE)?));
                }
            }
            Err(error) => *host.no_datagrams.borrow_mut() = Some(error.to_string()),
        }
        for listener in self.sockets.connections {
            let listener = roll.watch(listener.into(), Interest::READABLE)?;
            tokio::task::spawn_local(connections::run(Rc::clone(host), listener, Destination::Original));
        }
        let (mut questions, mut datagrams) = (owned(self.sockets.questions), owned(self.sockets.datagrams));
        if let Some(listeners) = self.listeners {
            host.only_ports.set(&listeners::PORTS);
            for listener in listeners.connections {
                let listener = roll.watch(listener, Interest::READABLE)?;
                tokio::task::spawn_local(connections::run(Rc::clone(host), listener, Destination::Own));
            }
            questions.extend(listeners.questions);
            datagrams.extend(listeners.datagrams);
        }
        for listener in questions {
            tokio::task::spawn_local(resolver::connections(Rc::clone(host), roll.watch(listener, Interest::READABLE)?));
        }
        for socket in datagrams {
            tokio::task::spawn_local(resolver::datagrams(Rc::clone(host), roll.watch(socket, Interest::READABLE)?));
        }
        Ok(())
    }
}

fn owned<T: Into<OwnedFd>>(sockets: Vec<T>) -> Vec<OwnedFd> {
    sockets.into_iter().map(Into::into).collect()
}

/// Lays down what it took, and takes it from everything that this process executes: neither the agent nor a command needs it again.
fn give_up_rights() -> io::Result<()> {
    for right in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW] {
        rustix::thread::remove_capability_from_bounding_set(right)?;
    }
    let mut sets = rustix::thread::capabilities(None)?;
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
    }
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

struct Sockets {
    ports: Ports,
    connections: Vec<StdListener>,
    questions: Vec<StdListener>,
    datagrams: Vec<StdUdp>,
}

impl Sockets {
    fn open() -> io::Result<Self> {
        let connections = both(&|address| listen(address))?;
        let port = |listener: &StdListener| listener.local_addr().map(|address| address.port());
        let mut last = None;
        for _ in 0..TRIES {
            let mut questions = both(&|address| listen(address))?;
            let number = port(&questions[0])?;
            match both(&|address| datagrams(SocketAddr::new(address.ip(), number))) {
                Ok(mut sockets) => {
                    questions.push(listen(SocketAddr::from((NAME_SERVER, listeners::QUESTIONS)))?);
                    sockets.push(datagrams(SocketAddr::from((NAME_SERVER, listeners::QUESTIONS)))?);
                    let ports = Ports { connections: port(&connections[0])?, questions: number, datagrams: None };
                    return Ok(Self { ports, connections, questions, datagrams: sockets });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    /// Makes room for whoever takes the name server's port on every address.
    fn leave_name_server(&mut self) {
        let is_own = |address: io::Result<SocketAddr>| address.is_ok_and(|address| address.port() == listeners::QUESTIONS);
        self.questions.retain(|listener| !is_own(listener.local_addr()));
        self.datagrams.retain(|socket| !is_own(socket.local_addr()));
    }
}

/// One for each loopback address, with the same port; only IPv4's where there is no IPv6.
fn both<T: HasPort>(open: &dyn Fn(SocketAddr) -> io::Result<T>) -> io::Result<Vec<T>> {
    let mut last = None;
    for _ in 0..TRIES {
        let first = open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        match open(SocketAddr::from((Ipv6Addr::LOCALHOST, first.port()?))) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
            Err(_) => return Ok(vec![first]),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

trait HasPort {
    fn port(&self) -> io::Result<u16>;
}

impl HasPort for StdListener {
    fn port(&self) -> io::Result<u16> {
        self.local_addr().map(|address| address.port())
    }
}

impl HasPort for StdUdp {
    fn port(&self) -> io::Result<u16> {
        self.local_addr().map(|address| address.port())
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn datagrams(address: SocketAddr) -> io::Result<StdUdp> {
    let socket = StdUdp::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
