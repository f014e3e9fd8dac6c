//! What commands say that are run to their end, until their clients have it.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use sandbar_core::{ExecOutput, ExecResult, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of output that a server holds for all its clients together. In an answer each takes a few more, in JSON and in base64.
const ROOM: usize = 256 << 20;
/// An answer goes out in pieces of so many bytes.
const PIECE: usize = 64 << 10;

/// The room for output, of all requests together.
#[derive(Clone)]
pub(crate) struct Collected(Arc<Semaphore>);

/// Room that is taken, until it is dropped.
#[derive(Default)]
pub(crate) struct Taken(Option<OwnedSemaphorePermit>);

impl Default for Collected {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Collected {
    /// Collects output until the end, as [`ExecResult::collect_within`] does. What there is no room for is counted as dropped too: nobody waits for room, since those who
    /// have some might wait for one another.
    ///
    /// # Errors
    /// Those of [`ExecOutput::next`].
    pub(crate) async fn collect(&self, output: &mut dyn ExecOutput, limit: usize) -> Result<(ExecResult, Taken)> {
        let mut taken = Taken::default();
        let result = ExecResult::collect_within(output, limit, |bytes| self.take(&mut taken, bytes)).await?;
        Ok((result, taken))
    }

    fn take(&self, taken: &mut Taken, bytes: usize) -> bool {
        let Some(more) = u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()) else {
            return false;
        };
        match &mut taken.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

impl Taken {
    /// An answer's body. The room is there again when all of it has been passed on.
    pub(crate) fn body(self, content: Vec<u8>) -> Body {
        if content.len() <= PIECE {
            return Body::from(content);
        }
        let pieces = stream::unfold((Bytes::from(content), self), |(mut rest, taken)| async move {
            let piece = rest.split_to(rest.len().min(PIECE));
            (!piece.is_empty()).then_some((Ok::<_, std::convert::Infallible>(piece), (rest, taken)))
        });
        Body::from_stream(pieces)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures_util::StreamExt;
    use sandbar_core::{ExecEvent, OutputKind};

    use super::*;

    /// Says so many bytes.
    struct Says(Vec<usize>);

    #[async_trait]
    impl ExecOutput for Says {
        async fn next(&mut self) -> Result<Option<ExecEvent>> {
            let output = |length| ExecEvent::Output { kind: OutputKind::Stdout, offset: 0, data: Bytes::from(vec![b'x'; length]) };
            Ok(self.0.pop().map(output))
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_until_others_have_their_answer() {
        let room = Collected(Arc::new(Semaphore::new(3 * PIECE)));
        let collect = async |pieces: Vec<usize>| room.collect(&mut Says(pieces), 10 * PIECE).await.unwrap();
        let (first, taken) = collect(vec![PIECE, PIECE]).await;
        assert_eq!((first.stdout.len(), first.dropped), (2 * PIECE, 0));
        let (second, others) = collect(vec![PIECE, PIECE]).await;
        assert_eq!((second.stdout.len(), second.dropped), (PIECE, PIECE as u64));
        drop(others);
        let mut body = taken.body(first.stdout).into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap().len(), PIECE);
        assert_eq!(collect(vec![2 * PIECE]).await.0.stdout.len(), 0, "the client has not read yet");
        assert_eq!(body.next().await.unwrap().unwrap().len(), PIECE);
        assert!(body.next().await.is_none());
        assert_eq!(collect(vec![2 * PIECE]).await.0.stdout.len(), 2 * PIECE);
    }

    #[tokio::test]
    async fn a_limit_is_one_of_each_stream() {
        let (result, _taken) = Collected::default().collect(&mut Says(vec![5, 5]), 7).await.unwrap();
        assert_eq!((result.stdout.len(), result.dropped), (7, 3));
    }
}
