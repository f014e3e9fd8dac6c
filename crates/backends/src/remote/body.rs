use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// What a request carries.
pub(super) enum Content {
    /// All of it at once.
    Whole(Option<Bytes>),
    /// What somebody feeds piece by piece. Without a last word it was cut off, and must not be taken for whole.
    Fed(mpsc::Receiver<Piece>),
}

/// A part of a request that is fed.
pub(super) enum Piece {
    /// Bytes.
    Data(Bytes),
    /// That was all.
    End,
}

impl Content {
    pub(super) fn none() -> Self {
        Self::Whole(None)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Fed(pieces) => Poll::Ready(match ready!(pieces.poll_recv(context)) {
                Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Piece::End) => None,
                None => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content was cut off"))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Fed(_) => SizeHint::default(),
        }
    }
}
