use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::StreamExt;
use sandbar_core::{PortStream, Result};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{
    client::Socket,
    problem::{error_of, lost, strange},
};

/// The ports that something listens on in a sandbox on another host.
pub(super) struct OpenPorts(pub(super) Socket);

#[async_trait]
impl PortStream for OpenPorts {
    async fn next(&mut self) -> Result<BTreeSet<u16>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    let words: Value = serde_json::from_str(&text).map_err(|error| strange("ports that are none").with_source(error))?;
                    if let Some(problem) = words.get("problem") {
                        return Err(error_of(problem));
                    }
                    let ports = words.get("ports").cloned().unwrap_or_default();
                    return serde_json::from_value(ports).map_err(|error| strange("ports that are none").with_source(error));
                }
                Some(Ok(Message::Close(_))) | None => return Err(lost("the connection was cut, and with it the watch")),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost("the connection was cut, and with it the watch").with_source(error)),
            }
        }
    }
}
