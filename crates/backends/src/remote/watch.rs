use async_trait::async_trait;
use futures_util::StreamExt;
use sandbar_core::{Result, WatchEvent, WatchStream};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{
    client::Socket,
    problem::{error_of, lost, strange},
};

/// What happens to a path on another host.
pub(super) struct Watch(pub(super) Socket);

#[async_trait]
impl WatchStream for Watch {
    async fn next(&mut self) -> Result<Option<WatchEvent>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    let words: Value = serde_json::from_str(&text).map_err(|error| strange("an event that is none").with_source(error))?;
                    if let Some(problem) = words.get("problem") {
                        return Err(error_of(problem));
                    }
                    return serde_json::from_value(words)
                        .map(Some)
                        .map_err(|error| strange("an event that is not known").with_source(error));
                }
                Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(_)) => {}
                // What happened since is not known, so it is not simply watched again.
                Some(Err(error)) => return Err(lost("the connection was cut, and with it the watch").with_source(error)),
                None => return Err(lost("the connection was cut, and with it the watch")),
            }
        }
    }
}
