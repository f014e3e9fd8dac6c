use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sandbar_core::{ErrorKind, Result, SandboxId};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{Runtime, Sandbox, ledger::Known};

/// How long a sandbox is left alone at first that could not be asked: it is being saved, or put back.
const REST: Duration = Duration::from_millis(200);
/// And at most.
const LONG_REST: Duration = Duration::from_secs(30);
/// How long the sandboxes that run already may take until they have told what is open in them, all at once.
const FIRST: Duration = Duration::from_secs(2);
/// How often one sandbox is listened to at most: whoever opens and closes ports all the time gets no more attention.
const PACE: Duration = Duration::from_millis(200);

/// A port that something in a sandbox has begun to listen on, or has ceased to. The names of the fields are those of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortChange {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The sandbox's name.
    pub name: Option<String>,
    /// The port.
    pub port: u16,
    /// Whether something listens there now.
    #[serde(skip)]
    pub is_open: bool,
    /// The key that the sandbox was made with.
    #[serde(skip)]
    key: Option<i64>,
}

/// The ports of all sandboxes of a state folder, followed as long as this lives.
pub struct PortChanges {
    runtime: Runtime,
    tell: Arc<dyn Fn(PortChange) + Send + Sync>,
    followed: HashMap<SandboxId, Follower>,
    /// While it looks around, what every follower drops with its first answer. Later all ports are told, of sandboxes that were not there before.
    looks: Option<mpsc::Sender<()>>,
}

struct Follower {
    task: JoinHandle<()>,
    ports: Arc<Ports>,
}

/// What is known of one sandbox's.
struct Ports {
    known: Known,
    tell: Arc<dyn Fn(PortChange) + Send + Sync>,
    open: Mutex<Open>,
}

enum Open {
    /// Nobody has been told of any.
    Unknown,
    These(BTreeSet<u16>),
    /// The sandbox does not run any more.
    Over,
}

impl Runtime {
    /// Follows which ports something listens on in sandboxes: those that are seen here. Of those that run already, only what changes is told: what is open in
    /// them is asked before this returns, though one that is silent is not waited for long. Needs a runtime of tokio's.
    ///
    /// # Errors
    /// As [`PortChanges::notice`].
    pub async fn port_changes(&self, tell: impl Fn(PortChange) + Send + Sync + 'static) -> Result<PortChanges> {
        let (looks, mut answers) = mpsc::channel(1);
        let mut changes = PortChanges { runtime: self.clone(), tell: Arc::new(tell), followed: HashMap::new(), looks: Some(looks) };
        changes.notice()?;
        changes.looks = None;
        // Nothing is sent: it ends when everybody has dropped it.
        let _ = timeout(FIRST, answers.recv()).await;
        Ok(changes)
    }

    /// Whether a change is about a sandbox that is seen here.
    pub fn sees_port(&self, change: &PortChange) -> bool {
        self.own().is_none_or(|own| change.key == Some(own))
    }
}

impl PortChanges {
    /// Notices which sandboxes run and which do not any more. Is to be called now and then.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn notice(&mut self) -> Result<()> {
        let mut there = HashSet::new();
        for known in self.runtime.ledger().alive(self.runtime.own())? {
            there.insert(known.id.clone());
            if self.followed.contains_key(&known.id) {
                continue;
            }
            let looks = self.looks.clone();
            let open = if looks.is_none() { Open::These(BTreeSet::new()) } else { Open::Unknown };
            let id = known.id.clone();
            let ports = Arc::new(Ports { known, tell: Arc::clone(&self.tell), open: Mutex::new(open) });
            let task = tokio::spawn(follow(self.runtime.clone(), Arc::clone(&ports), looks));
            self.followed.insert(id, Follower { task, ports });
        }
        self.followed.retain(|id, follower| {
            let is_there = there.contains(id);
            if !is_there {
                follower.task.abort();
                follower.ports.end();
            }
            is_there
        });
        Ok(())
    }
}

impl Drop for PortChanges {
    fn drop(&mut self) {
        self.followed.values().for_each(|follower| follower.task.abort());
    }
}

impl Ports {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, port: u16, is_open: bool) {
        let Known { id, name, key } = &self.known;
        (self.tell)(PortChange { sandbox: id.clone(), name: name.clone(), port, is_open, key: *key });
    }

    /// Tells what has changed.
    fn renew(&self, now: BTreeSet<u16>) {
        let mut open = self.open();
        match &*open {
            Open::Over => return,
            Open::Unknown => {}
            Open::These(before) => {
                before.difference(&now).for_each(|port| self.tell(*port, false));
                now.difference(before).for_each(|port| self.tell(*port, true));
            }
        }
        *open = Open::These(now);
    }

    /// Tells that nothing is open any more.
    fn end(&self) {
        let mut open = self.open();
        if let Open::These(before) = &*open {
            before.iter().for_each(|port| self.tell(*port, false));
        }
        *open = Open::Over;
    }
}

/// Until it is aborted, or nothing can be asked; drops `looks` when what was open is known, or could not be asked.
async fn follow(runtime: Runtime, ports: Arc<Ports>, mut looks: Option<mpsc::Sender<()>>) {
    let mut rest = REST;
    loop {
        let followed = async {
            let row = runtime.row(&ports.known.id)?;
            let mut stream = Sandbox::of(runtime.clone(), &row).watch_ports().await?;
            loop {
                ports.renew(stream.next().await?);
                looks = None;
                rest = REST;
                sleep(PACE).await;
            }
        };
        let ended: Result<std::convert::Infallible> = followed.await;
        let Err(error) = ended;
        looks = None;
        // An agent that is too old stays so until the sandbox is started again.
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) {
            tracing::debug!(id = %ports.known.id, error = error.chain(), "its ports are not told");
            return;
        }
        sleep(rest).await;
        rest = LONG_REST.min(rest * 2);
    }
}
