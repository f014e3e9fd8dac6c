use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::{Error, ErrorKind, Result, State};
use sandbar_runtime::{Runtime, SandboxSummary, Verdict, Verdicts};
use tokio::{sync::broadcast, task::JoinHandle};

/// How often logs are read.
const LOOK: Duration = Duration::from_millis(200);
/// How often sandboxes are asked whether they are what they are said to be, so that a crash is told to those who listen.
const ASK: Duration = Duration::from_secs(2);
/// And how many times as long as asking takes there is no asking.
const REST: u32 = 20;
/// Verdicts that wait for a listener. Who is further behind is told how many it has missed.
const WAITING: usize = 4096;

/// What all listeners of a server have in common: one task follows the logs and asks the sandboxes, as long as anybody listens.
pub(crate) struct Feed {
    runtime: Runtime,
    verdicts: Mutex<Option<broadcast::Sender<Arc<Verdict>>>>,
}

impl Feed {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self { runtime, verdicts: Mutex::default() }
    }

    /// Verdicts from now on.
    ///
    /// # Errors
    /// When the ledger or a log cannot be read.
    pub(crate) async fn listen(self: &Arc<Self>) -> Result<broadcast::Receiver<Arc<Verdict>>> {
        if let Some(sender) = &*self.verdicts.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(sender.subscribe());
        }
        let runtime = self.runtime.clone();
        let followed = blocking(move || runtime.verdicts()).await?;
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have been here meanwhile.
        if let Some(sender) = &*verdicts {
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = broadcast::channel(WAITING);
        *verdicts = Some(sender.clone());
        tokio::spawn(Arc::clone(self).tell(followed, sender));
        Ok(receiver)
    }

    async fn tell(self: Arc<Self>, mut followed: Verdicts, sender: broadcast::Sender<Arc<Verdict>>) {
        let mut rested = Instant::now();
        let mut doubts = Vec::new();
        while !self.is_over(&sender) {
            tokio::time::sleep(LOOK).await;
            let (back, read) = match blocking(move || Ok((followed.read(), followed))).await {
                Ok((read, back)) => (back, read),
                Err(error) => {
                    tracing::error!(error = error.chain(), "verdicts are not told any more");
                    *self.verdicts.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return;
                }
            };
            followed = back;
            match read {
                // Nobody listening is noticed at the next turn.
                Ok(read) => read.into_iter().for_each(|verdict| drop(sender.send(Arc::new(verdict)))),
                Err(error) => tracing::warn!(error = error.chain(), "cannot read what was decided about sandboxes"),
            }
            if rested <= Instant::now() {
                let begun = Instant::now();
                // What is found is written into the ledger, which tells everybody.
                match self.runtime.list().await {
                    Ok(list) => self.settle(list, &mut doubts),
                    Err(error) => tracing::warn!(error = error.chain(), "cannot ask the sandboxes how they are"),
                }
                rested = Instant::now() + ASK.max(begun.elapsed() * REST);
            }
        }
    }

    /// Finds out, beside what goes on here, whether those that were told as crashed in doubt have crashed. Later doubts wait until these are settled.
    fn settle(&self, list: Vec<SandboxSummary>, doubts: &mut Vec<JoinHandle<()>>) {
        doubts.retain(|doubt| !doubt.is_finished());
        if !doubts.is_empty() {
            return;
        }
        for summary in list.into_iter().filter(|summary| summary.state == State::Crashed && summary.in_doubt) {
            let runtime = self.runtime.clone();
            doubts.push(tokio::spawn(async move {
                let settled = async { runtime.sandbox(summary.id.as_str()).await?.settle_doubt().await };
                if let Err(error) = settled.await {
                    tracing::warn!(id = %summary.id, error = error.chain(), "cannot settle whether it has crashed");
                }
            }));
        }
    }

    /// Whether nobody listens any more; then nobody is told from now on.
    fn is_over(&self, sender: &broadcast::Sender<Arc<Verdict>>) -> bool {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = sender.receiver_count() == 0;
        if is_over {
            *verdicts = None;
        }
        is_over
    }
}

/// Work with files, where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "events", "a task failed").with_source(error)))
}
