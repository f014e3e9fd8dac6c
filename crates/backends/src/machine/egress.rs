use std::net::IpAddr;

use async_trait::async_trait;
use bytes::Bytes;
use sandbar_core::{
    ClaimedProcess, Connection, DatagramStream, DomainName, EgressQuestion, EgressStream, Error, ErrorKind, RemoteHost, Result, Wanted,
};
use sandbar_protocol::{Egress, FrameError, FrameKind, Leave, Question, Remote, Verdict, question::What, request::Operation};

use super::{
    Backend,
    client::{Call, Link, Patience},
};

/// Bytes of the largest datagram.
const LARGEST: usize = 65_535;
/// Bytes of a process's name that are taken: as many as the kernel keeps.
const NAME: usize = 15;

impl<B: Backend> Call<B> {
    /// The questions about what leaves, from now on.
    ///
    /// # Errors
    /// As [`order`](Self::order).
    pub(super) async fn egress(self) -> Result<Asking<B>> {
        let link = self.order(Operation::Egress(Egress { confirms_ends: true }), Patience::Quick).await?;
        Ok(Asking { link, call: self })
    }

    /// The sandbox's end of a connection that leaves.
    ///
    /// # Errors
    /// `NotFound` when nobody waits for it any more.
    pub(super) async fn leave(self, question: u64) -> Result<Connection> {
        let link = self.order(Operation::Leave(Leave { id: question }), Patience::Quick).await?;
        Ok(self.both_ways(link))
    }

    /// The same of datagrams.
    ///
    /// # Errors
    /// As [`leave`](Self::leave).
    pub(super) async fn leave_datagrams(self, question: u64) -> Result<Datagrams<B>> {
        let link = self.order(Operation::Leave(Leave { id: question }), Patience::Quick).await?;
        Ok(Datagrams { link, call: self })
    }
}

/// The sandbox's end of datagrams.
pub(super) struct Datagrams<B: Backend> {
    link: Link,
    call: Call<B>,
}

#[async_trait]
impl<B: Backend> DatagramStream for Datagrams<B> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.link.reader.next().await {
            Ok(Some(frame)) if frame.kind == FrameKind::Bytes && frame.payload.len() <= LARGEST => Ok(Some(frame.payload)),
            Ok(Some(_)) => Err(Error::new(ErrorKind::Corrupt, "egress", "the agent sent something else than a datagram")),
            // Whoever is gone sends nothing more; a half of a datagram is lost.
            Ok(None) | Err(FrameError::Cut | FrameError::Io(_)) => Ok(None),
            Err(error) => Err(self.call.explain(error).await),
        }
    }

    async fn send(&mut self, datagram: &[u8]) -> Result<()> {
        match self.link.writer.frame(FrameKind::Bytes, datagram).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.call.explain(error).await),
        }
    }
}

/// The questions of one sandbox.
pub(super) struct Asking<B: Backend> {
    link: Link,
    call: Call<B>,
}

#[async_trait]
impl<B: Backend> EgressStream for Asking<B> {
    async fn next(&mut self) -> Result<EgressQuestion> {
        match self.link.reader.message::<Question>().await {
            Ok(question) => Ok(validated(question)),
            Err(error) => Err(self.call.explain(error).await),
        }
    }

    async fn answer(&mut self, question: u64, allowed: bool) -> Result<()> {
        match self.link.writer.message(&Verdict { id: question, allowed }).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.call.explain(error).await),
        }
    }
}

/// What the agent says, as far as it makes sense.
fn validated(question: Question) -> EgressQuestion {
    let process = question.process.map(|process| ClaimedProcess {
        pid: process.pid,
        name: String::from_utf8_lossy(&process.name[..process.name.len().min(NAME)]).into_owned(),
    });
    EgressQuestion { id: question.id, process, wanted: question.what.and_then(wanted) }
}

fn wanted(what: What) -> Option<Wanted> {
    match what {
        What::Name(name) => Some(Wanted::Name(name.parse().ok()?)),
        What::Connection(remote) => Some(Wanted::Connection(host(&remote)?, port(&remote)?)),
        What::Datagrams(remote) => Some(Wanted::Datagrams(host(&remote)?, port(&remote)?)),
    }
}

fn port(remote: &Remote) -> Option<u16> {
    u16::try_from(remote.port).ok().filter(|port| *port != 0)
}

fn host(remote: &Remote) -> Option<RemoteHost> {
    if let Some(name) = &remote.name {
        return name.parse::<DomainName>().ok().map(RemoteHost::Name);
    }
    let bytes = remote.address.as_slice();
    let address = <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
    // An IPv4 address in IPv6's clothes is what it is.
    Some(RemoteHost::Address(address.to_canonical()))
}

#[cfg(test)]
mod tests {
    use sandbar_protocol::Claimed;

    use super::*;

    fn connection(name: Option<&str>, address: &[u8], port: u32) -> Option<Wanted> {
        let remote = Remote { name: name.map(Into::into), address: address.to_vec(), port };
        validated(Question { id: 1, process: None, what: Some(What::Connection(remote)) }).wanted
    }

    #[test]
    fn what_makes_no_sense_is_not_passed_on() {
        for (name, address, port) in [
            (None, &[1, 2, 3][..], 80),
            (None, &[], 80),
            (None, &[1, 1, 1, 1], 0),
            (None, &[1, 1, 1, 1], 65_536),
            (Some("a b"), &[], 80),
            (Some("10.0.0.1"), &[], 80),
        ] {
            assert_eq!(connection(name, address, port), None, "{name:?} {address:?} {port}");
        }
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
        let address = RemoteHost::Address(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(connection(None, &mapped, 80), Some(Wanted::Connection(address, 80)));
        assert_eq!(connection(Some("A.com"), &[1], 80), Some(Wanted::Connection(RemoteHost::Name("a.com".parse().unwrap()), 80)));
    }

    #[test]
    fn a_process_has_a_short_name() {
        let process = Claimed { pid: 7, name: vec![b'x'; 1 << 16] };
        let question = Question { id: 1, process: Some(process), what: Some(What::Name("a.com".into())) };
        assert_eq!(validated(question).process.unwrap().name.len(), NAME);
    }
}
