use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sandbar_core::{Error, ErrorKind, Journal, ProvisionRequest, Resource, Result, State, Verb};

use super::{
    Backend, Facts,
    process::HostProcess,
    record::{Holdings, Record, generation_folder, generations_on_disk},
};

/// The generation of a place that is not the sandbox's yet, or will never be: its agent has not answered, or it becomes a template.
pub(super) const COMING_UP: u32 = 0;

/// How often, and how long apart, it is looked for whether a place has ended whose connection was cut.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);
/// How long a process of the place may take that is on its way out.
const END: Duration = Duration::from_secs(10);

/// What the clones and tasks of one handle share.
pub(super) struct Shared<B: Backend> {
    pub(super) backend: Arc<B>,
    /// As it was provisioned; the root may have changed since, see the record.
    pub(super) request: ProvisionRequest,
    current: RwLock<Arc<Current<B::Place>>>,
    /// Held while the life cycle changes, by this process. Other processes are kept away by the runtime's lock.
    pub(super) change: tokio::sync::Mutex<()>,
}

/// One generation, from one boot to its end.
pub(super) struct Current<P> {
    pub(super) record: Record<P>,
    pub(super) holdings: Arc<Holdings>,
    fate: OnceLock<Fate>,
    /// Frozen because somebody asked for it, not for the moment of a checkpoint.
    paused: AtomicBool,
}

/// Why a place that was there is not there any more, as far as this process did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stopped,
    Restored,
    Destroyed,
}

impl Fate {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Stopped => "the sandbox was stopped",
            Self::Restored => "the sandbox was restored to another checkpoint",
            Self::Destroyed => "the sandbox was destroyed",
        }
    }
}

impl<P> Current<P> {
    pub(super) fn new(record: Record<P>, holdings: Arc<Holdings>) -> Self {
        Self { record, holdings, fate: OnceLock::new(), paused: AtomicBool::new(false) }
    }

    /// Remembers whether it is frozen until somebody thaws it.
    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether it is frozen until somebody thaws it, as far as this process knows.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Says why this place is about to end, to those who are cut off by it.
    pub(super) fn doom(&self, fate: Fate) {
        let _ = self.fate.set(fate);
    }

    /// Whether one of its processes is on its way out.
    fn is_ending(&self) -> bool {
        self.holdings.held().iter().any(|held| match held {
            Resource::Process { pid, start_time, .. } => HostProcess { pid: *pid, start_time: *start_time }.is_ending(),
            _ => false,
        })
    }

    /// The holdings as the walls want them.
    pub(super) fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.holdings) as Arc<dyn Journal>
    }
}

impl<B: Backend> Shared<B> {
    pub(super) fn new(backend: Arc<B>, request: ProvisionRequest, current: Current<B::Place>) -> Self {
        Self { backend, request, current: RwLock::new(Arc::new(current)), change: tokio::sync::Mutex::default() }
    }

    /// The generation that is in force now.
    pub(super) fn current(&self) -> Arc<Current<B::Place>> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in force.
    pub(super) fn replace(&self, current: Current<B::Place>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    /// The folder of a generation.
    pub(super) fn folder_of(&self, current: &Current<B::Place>) -> PathBuf {
        generation_folder(&self.request.folder, current.record.generation)
    }

    /// A running generation.
    ///
    /// # Errors
    /// `Conflict` when the sandbox is stopped.
    pub(super) fn running(&self, verb: &'static str) -> Result<Running<B::Place>> {
        Running::of(self.current()).ok_or_else(|| match Verb::Use.check(State::Stopped) {
            Err(error) => error.during(verb),
            Ok(_) => Error::new(ErrorKind::Internal, verb, "a stopped sandbox can be used"),
        })
    }

    /// What the host knows of a place, or why it is gone.
    pub(super) fn facts(&self, running: &Running<B::Place>) -> Facts {
        match self.backend.facts(running.place()) {
            Facts::Gone(reason) => Facts::Gone(self.fate(running).map_or(reason, str::to_owned)),
            other => other,
        }
    }

    /// Why a connection to this place was cut. The agent's sockets close a moment before its process has ended, so the facts
    /// may come a little late: on a busy machine as late as the process has its next turn.
    pub(super) async fn why_cut(&self, running: &Running<B::Place>) -> String {
        let begun = Instant::now();
        for look in 0.. {
            // Before the facts: what has ended in between, they tell.
            let is_ending = running.0.is_ending();
            if let Some(fate) = running.0.fate.get() {
                return format!("{} while this ran", fate.sentence());
            }
            match self.backend.facts(running.place()) {
                // Its first thread has ended and another one has not: nobody can say yet how it ended.
                Facts::Gone(_) if is_ending && begun.elapsed() < END => tokio::time::sleep(LOOK).await,
                Facts::Gone(reason) => {
                    let fate = self.fate(running).map(|fate| format!("{fate} while this ran"));
                    return fate.unwrap_or_else(|| format!("the sandbox ended: {reason}"));
                }
                Facts::Frozen => break,
                Facts::Alive if look >= LOOKS && !(is_ending && begun.elapsed() < END) => break,
                Facts::Alive => tokio::time::sleep(LOOK).await,
            }
        }
        "the agent closed the connection".to_owned()
    }

    /// By this process's doing, else by the traces that another process's verb leaves in the sandbox's folder.
    fn fate(&self, running: &Running<B::Place>) -> Option<&'static str> {
        let fate = running.0.fate.get().copied();
        let generation = running.0.record.generation;
        // No verb of another process knows of a place that is only coming up: what is in the folder is said of others.
        let on_disk = || (generation != COMING_UP).then(|| fate_on_disk(&self.request.folder, generation)).flatten();
        fate.or_else(on_disk).map(Fate::sentence)
    }
}

fn fate_on_disk(sandbox: &Path, generation: u32) -> Option<Fate> {
    let generations = generations_on_disk(sandbox);
    if generations.is_empty() {
        Some(Fate::Destroyed)
    } else if generations.iter().any(|other| *other > generation) {
        Some(Fate::Restored)
    } else if super::output::begun_or_kept(sandbox) {
        Some(Fate::Stopped)
    } else {
        None
    }
}

/// A generation that has a place.
pub(super) struct Running<P>(Arc<Current<P>>, P);

impl<P: Clone> Running<P> {
    pub(super) fn of(current: Arc<Current<P>>) -> Option<Self> {
        let place = current.record.place.clone()?;
        Some(Self(current, place))
    }

    pub(super) fn place(&self) -> &P {
        &self.1
    }

    pub(super) fn current(&self) -> &Arc<Current<P>> {
        &self.0
    }
}

impl<P: Clone> Clone for Running<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_process_did_is_seen_in_the_folder() {
        let home = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::create_dir(home.path().join(name)).unwrap();
        assert_eq!(fate_on_disk(home.path(), 1), Some(Fate::Destroyed));
        make("g1");
        assert_eq!(fate_on_disk(home.path(), 1), None);
        make("output");
        assert_eq!(fate_on_disk(home.path(), 1), Some(Fate::Stopped));
        make("g2");
        assert_eq!(fate_on_disk(home.path(), 1), Some(Fate::Restored));
        assert_eq!(fate_on_disk(home.path(), 3), Some(Fate::Stopped));
    }
}
