use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::{Error, ErrorKind, Result, State};
use sandbar_runtime::{PortChange, PortChanges, Runtime, SandboxSummary, Verdict, Verdicts};
use tokio::{sync::broadcast, task::JoinHandle};

/// How often logs are read.
const LOOK: Duration = Duration::from_millis(200);
/// How often sandboxes are asked whether they are what they are said to be, so that a crash is told to those who listen.
const ASK: Duration = Duration::from_secs(2);
/// And how many times as long as asking takes there is no asking.
const REST: u32 = 20;
/// Verdicts, and changes of ports, that wait for a listener. Who is further behind is told how many it has missed.
const WAITING: usize = 4096;

/// What all listeners of a server have in common: one task follows the logs and asks the sandboxes, and one for each sandbox its ports, as long as anybody
/// listens.
pub(crate) struct Feed {
    runtime: Runtime,
    senders: Mutex<Option<Senders>>,
}

#[derive(Clone)]
struct Senders {
    verdicts: broadcast::Sender<Arc<Verdict>>,
    ports: broadcast::Sender<Arc<PortChange>>,
}

/// What somebody who listens is told, beside what the ledger has.
pub(crate) struct Told {
    pub(crate) verdicts: broadcast::Receiver<Arc<Verdict>>,
    pub(crate) ports: broadcast::Receiver<Arc<PortChange>>,
}

impl Senders {
    fn subscribe(&self) -> Told {
        Told { verdicts: self.verdicts.subscribe(), ports: self.ports.subscribe() }
    }
}

impl Feed {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self { runtime, senders: Mutex::default() }
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// When the ledger or a log cannot be read.
    pub(crate) async fn listen(self: &Arc<Self>) -> Result<Told> {
        if let Some(senders) = &*self.senders() {
            return Ok(senders.subscribe());
        }
        let runtime = self.runtime.clone();
        let followed = blocking(move || runtime.verdicts()).await?;
        let new = Senders { verdicts: broadcast::Sender::new(WAITING), ports: broadcast::Sender::new(WAITING) };
        let (changed, told) = (new.ports.clone(), new.subscribe());
        // Nobody listening is noticed at the next turn.
        let ports = self.runtime.port_changes(move |change| drop(changed.send(Arc::new(change)))).await?;
        let mut senders = self.senders();
        // Somebody else may have been here meanwhile.
        if let Some(senders) = &*senders {
            return Ok(senders.subscribe());
        }
        *senders = Some(new.clone());
        tokio::spawn(Arc::clone(self).tell(followed, ports, new));
        Ok(told)
    }

    fn senders(&self) -> MutexGuard<'_, Option<Senders>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(self: Arc<Self>, mut followed: Verdicts, mut ports: PortChanges, senders: Senders) {
        let mut rested = Instant::now();
        let mut doubts = Vec::new();
        while !self.is_over(&senders) {
            tokio::time::sleep(LOOK).await;
            let (back, read) = match blocking(move || Ok((followed.read(), followed))).await {
                Ok((read, back)) => (back, read),
                Err(error) => {
                    tracing::error!(error = error.chain(), "verdicts are not told any more");
                    *self.senders() = None;
                    return;
                }
            };
            followed = back;
            match read {
                // Nobody listening is noticed at the next turn.
                Ok(read) => read.into_iter().for_each(|verdict| drop(senders.verdicts.send(Arc::new(verdict)))),
                Err(error) => tracing::warn!(error = error.chain(), "cannot read what was decided about sandboxes"),
            }
            if let Err(error) = ports.notice() {
                tracing::warn!(error = error.chain(), "cannot see which sandboxes run");
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
    fn is_over(&self, senders: &Senders) -> bool {
        let mut known = self.senders();
        let is_over = senders.verdicts.receiver_count() == 0;
        if is_over {
            *known = None;
        }
        is_over
    }
}

/// Work with files, where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "events", "a task failed").with_source(error)))
}
