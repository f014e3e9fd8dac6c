use sandbar_core::{Connection, ReadAhead, Result};
use sandbar_protocol::{Dial, request::Operation};

use super::{
    Backend,
    client::{Call, Link, Patience},
    framed::Framed,
};

impl<B: Backend> Call<B> {
    /// A byte stream to a port inside.
    ///
    /// # Errors
    /// `Unavailable` when nothing listens there.
    pub(super) async fn connect_port(self, port: u16) -> Result<Connection> {
        let link = self.order(Operation::Dial(Dial { port: port.into() }), Patience::Quick).await;
        Ok(self.both_ways(link.map_err(|error| error.with("port", port))?))
    }

    /// The connection, for bytes after the answer whose directions end one by one.
    pub(super) fn both_ways(&self, link: Link) -> Connection {
        if self.shared.backend.ends_one_way() { link.into_stream() } else { link.into_framed() }
    }
}

impl Link {
    /// The connection, for raw bytes after the answer.
    pub(super) fn into_stream(self) -> Connection {
        let (reader, ahead) = self.reader.into_parts();
        let stream = reader.unsplit(self.writer.into_inner());
        if ahead.is_empty() { stream } else { Box::new(ReadAhead::new(ahead, stream)) }
    }

    /// The connection, for frames of raw bytes after the answer.
    fn into_framed(self) -> Connection {
        let (reader, ahead) = self.reader.into_parts();
        Box::new(Framed::new(reader.unsplit(self.writer.into_inner()), ahead))
    }
}
