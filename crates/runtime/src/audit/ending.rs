use std::time::Instant;

use async_trait::async_trait;
use sandbar_core::{ExecEvent, ExecOutput, ExecStream, Result};

use crate::Sandbox;

/// A command's output on its way to whoever waits for it, whose end is written into the log.
struct Ending {
    output: Box<dyn ExecOutput>,
    sandbox: Sandbox,
    pid: u32,
    begun: Instant,
}

impl Sandbox {
    /// Has the end of this command told, if this client waits for it.
    pub(crate) fn told_of_its_end(&self, stream: ExecStream) -> ExecStream {
        let ExecStream { pid, input, output } = stream;
        ExecStream { pid, input, output: Box::new(Ending { output, sandbox: self.clone(), pid, begun: Instant::now() }) }
    }
}

#[async_trait]
impl ExecOutput for Ending {
    async fn next(&mut self) -> Result<Option<ExecEvent>> {
        let event = self.output.next().await?;
        if let Some(ExecEvent::Exited(status)) = &event {
            self.sandbox.deed("exit").of(self.pid).exited(status.shell_code(), self.begun);
        }
        Ok(event)
    }
}
