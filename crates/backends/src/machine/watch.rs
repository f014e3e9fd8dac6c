use async_trait::async_trait;
use sandbar_core::{Result, WatchEvent, WatchEventKind, WatchStream};
use sandbar_protocol::{Event, FrameError, Watch, event, request::Operation};

use super::{
    Backend, answer,
    client::{Call, Link, Patience},
};

impl<B: Backend> Call<B> {
    pub(super) async fn watch(self, path: &str, recursive: bool) -> Result<Watching<B>> {
        // A recursive watch walks the tree before it answers.
        let link = self.order(Operation::Watch(Watch { path: path.into(), recursive }), Patience::Long).await;
        Ok(Watching { link: link.map_err(|error| error.with("path", format!("{path:?}")))?, call: self, gone: false })
    }
}

/// The events of one watch.
pub(super) struct Watching<B: Backend> {
    link: Link,
    call: Call<B>,
    /// Whether the watched path itself was told as removed: that was the last event. The agent may wait for us to close the connection.
    gone: bool,
}

#[async_trait]
impl<B: Backend> WatchStream for Watching<B> {
    async fn next(&mut self) -> Result<Option<WatchEvent>> {
        let verb = self.call.verb;
        while !self.gone {
            let frame = match self.link.reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(self.call.explain(FrameError::Cut).await),
                Err(error) => return Err(self.call.explain(error).await),
            };
            match frame.message::<Event>().map(|event| event.what) {
                Ok(Some(event::What::Watch(event))) => {
                    let event = answer::watch_event(verb, event)?;
                    self.gone |= event.kind == WatchEventKind::Removed && event.path.is_empty();
                    return Ok(Some(event));
                }
                Ok(Some(event::What::Failure(failure))) => return Err(answer::failure(verb, &failure)),
                Ok(Some(event::What::Lost(_) | event::What::Exited(_) | event::What::InputClosed(_) | event::What::Ports(_)) | None) => {}
                Err(error) => return Err(self.call.explain(error).await),
            }
        }
        Ok(None)
    }
}
