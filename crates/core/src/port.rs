use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways. Shutting down the writing side tells the other end-of-file and leaves the reading side open.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A boxed [`ByteStream`].
pub type Connection = Box<dyn ByteStream>;

/// A port of the sandbox that listens on the host.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedPort {
    /// The port inside.
    pub port: u16,
    /// Where the host listens.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub listen: SocketAddr,
}
