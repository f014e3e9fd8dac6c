use std::collections::BTreeSet;

use async_trait::async_trait;
use sandbar_core::{PortStream, Result};
use sandbar_protocol::{Event, FrameError, WatchPorts, event, request::Operation};

use super::{
    Backend, answer,
    client::{Call, Link, Patience},
};

/// Ports that are listened to: the agent tells no more, and is believed no more.
const MOST: usize = 1024;

impl<B: Backend> Call<B> {
    pub(super) async fn watch_ports(self) -> Result<OpenPorts<B>> {
        let link = self.order(Operation::WatchPorts(WatchPorts {}), Patience::Quick).await?;
        Ok(OpenPorts { link, call: self })
    }
}

/// The ports of one sandbox.
pub(super) struct OpenPorts<B: Backend> {
    link: Link,
    call: Call<B>,
}

#[async_trait]
impl<B: Backend> PortStream for OpenPorts<B> {
    async fn next(&mut self) -> Result<BTreeSet<u16>> {
        loop {
            let frame = match self.link.reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(self.call.explain(FrameError::Cut).await),
                Err(error) => return Err(self.call.explain(error).await),
            };
            match frame.message::<Event>().map(|event| event.what) {
                Ok(Some(event::What::Ports(told))) => {
                    let ports = told.ports.into_iter().filter_map(|port| u16::try_from(port).ok().filter(|port| *port > 0));
                    return Ok(ports.take(MOST).collect());
                }
                Ok(Some(event::What::Failure(failure))) => return Err(answer::failure(self.call.verb, &failure)),
                Ok(_) => {}
                Err(error) => return Err(self.call.explain(error).await),
            }
        }
    }
}
