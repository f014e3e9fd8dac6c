//! What leaves the sandbox: the agent asks, the host decides and connects.

use prost::{Message, Oneof};

/// The host decides from now on, on this connection; one that did so before is done.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Egress {
    /// Whether the host says of each connection that what comes in has ended in order: a `Verdict` that allows, after its bytes. Who has gone instead says
    /// nothing, and that resets it.
    #[prost(bool, tag = "1")]
    pub confirms_ends: bool,
}

/// The host has connected: the bytes of the question with this number go here; of datagrams, each one as a frame of raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Leave {
    /// The question's number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// Agent → host: may this leave?
#[derive(Clone, PartialEq, Message)]
pub struct Question {
    /// Its number, which the answer has too. Never used twice on one connection.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The process that wants it, as the agent sees it: nothing that anybody decides by.
    #[prost(message, optional, tag = "2")]
    pub process: Option<Claimed>,
    /// What.
    #[prost(oneof = "question::What", tags = "3, 4, 5")]
    pub what: Option<question::What>,
}

/// What is asked.
pub mod question {
    use super::*;

    /// What.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum What {
        /// May this name be asked for? → a `Verdict`.
        #[prost(string, tag = "3")]
        Name(String),
        /// May this be connected to? → a `Verdict` that refuses, or a connection of its own with [`Leave`].
        #[prost(message, tag = "4")]
        Connection(Remote),
        /// May datagrams of this socket inside go there? → as for a connection. They are asked about anew when that connection has ended.
        #[prost(message, tag = "5")]
        Datagrams(Remote),
    }
}

/// Where a connection or a datagram goes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Remote {
    /// The name, if the address was one of the agent's own for a name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// The address otherwise: 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub address: Vec<u8>,
    /// The port.
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

/// A process as the agent sees it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Claimed {
    /// Its id inside.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Its name, at most 15 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
}

/// Host → agent: what was decided.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Verdict {
    /// The question's number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Yes or no. No, of a connection that has left already: it is to be reset; datagrams find nobody there from then on. Yes, of one that has left: its end
    /// is one in order.
    #[prost(bool, tag = "2")]
    pub allowed: bool,
}
