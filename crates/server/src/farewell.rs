//! The end of a WebSocket.

use std::time::Duration;

use axum::{Error, extract::ws::Message};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

/// How long a client may take to say goodbye, and how long what one that is gone has said may take to be done.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

/// Reads, and forgets, what a client still says after the server has closed, until it has closed too. A connection that ends with something unread is reset, and what
/// the client has not read by then is lost to it.
pub(crate) async fn until_closed(source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin)) {
    let closed = async { while let Some(Ok(_)) = source.next().await {} };
    // Who takes longer is cut off.
    let _ = timeout(LAST_WORDS, closed).await;
}
