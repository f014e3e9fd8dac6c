use std::net::IpAddr;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{DomainName, Result};

/// Something that would leave a sandbox, and waits for a decision. All of it is the agent's word, validated; only what is really resolved and
/// connected to decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressQuestion {
    /// Its number, for the answer.
    pub id: u64,
    /// The process that wants it.
    pub process: Option<ClaimedProcess>,
    /// What it wants; `None` for what is no name, no address or no port: that is to be refused.
    pub wanted: Option<Wanted>,
}

/// A process as the agent sees it: for a reader, never for a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedProcess {
    /// Its id inside.
    pub pid: u32,
    /// Its name, at most 15 bytes before they were made text.
    pub name: String,
}

/// What somebody inside wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// To ask for a name.
    Name(DomainName),
    /// A TCP connection.
    Connection(RemoteHost, u16),
    /// Datagrams (UDP) between one socket inside and one address.
    Datagrams(RemoteHost, u16),
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteHost {
    /// To whatever the name means on the host.
    Name(DomainName),
    /// To an address that nobody asked for by a name.
    Address(IpAddr),
}

/// The questions of one sandbox.
#[async_trait]
pub trait EgressStream: Send {
    /// The next question. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// `Unavailable` when the sandbox is gone, or somebody else decides now.
    async fn next(&mut self) -> Result<EgressQuestion>;

    /// Answers a question. For a connection that is allowed the answer is [`leave`](crate::SandboxHandle::leave) instead, and for datagrams
    /// [`leave_datagrams`](crate::SandboxHandle::leave_datagrams); a no after that resets it, so that whoever is inside does not take what has come for all
    /// there was. A yes after that says that the end of what comes in is one in order: an end without it resets the connection, too.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    async fn answer(&mut self, question: u64, allowed: bool) -> Result<()>;
}

/// Datagrams between one socket inside and one address outside, both ways, with their boundaries. Dropping it ends that: what comes from inside next is
/// asked about anew.
#[async_trait]
pub trait DatagramStream: Send {
    /// The next that the sandbox sends; `None` when there will be none. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// `Corrupt` for what is no datagram.
    async fn next(&mut self) -> Result<Option<Bytes>>;

    /// Passes one into the sandbox, where it may be lost, as datagrams may. Not to be dropped while it waits.
    ///
    /// # Errors
    /// `Unavailable` when the sandbox is gone.
    async fn send(&mut self, datagram: &[u8]) -> Result<()>;
}
