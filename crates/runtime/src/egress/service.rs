use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use sandbar_core::{
    ClaimedProcess, EgressQuestion, EgressStream, ErrorKind, Protocol, RemoteHost, Result, SandboxHandle, SandboxId, State, Wanted,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    gate::{Gate, Wish},
    log::NetworkEvent,
    passage::Passage,
};
use crate::{
    Sandbox,
    runtime::{WeakRuntime, gone},
};

/// How often the policy is read for connections that are open, should nobody have told of a change; and what was counted is written down.
const TICK: Duration = Duration::from_secs(1);
/// How long a sandbox whose agent has gone is left alone at first, and, while it has none, at most: it is stopped, or being replaced.
const REST: Duration = Duration::from_millis(20);
const LONG_REST: Duration = Duration::from_secs(2);

/// Answers for one sandbox as long as it exists. Dropping it ends every connection, a moment later.
pub(crate) struct EgressService {
    gate: Arc<Gate>,
    task: JoinHandle<()>,
}

impl Drop for EgressService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EgressService {
    /// Begins. The sandbox's agent may have asked already: its questions wait.
    pub(crate) fn begin(sandbox: &Sandbox) -> Self {
        let (runtime, id) = (sandbox.runtime().downgrade(), sandbox.id().clone());
        let gate = Arc::new(Gate::new(runtime.clone(), id.clone(), &sandbox.runtime().home().sandbox(&id)));
        let task = tokio::spawn(serve(Service { runtime, id, gate: Arc::clone(&gate), tasks: JoinSet::new() }));
        Self { gate, task }
    }

    /// Reads the policy anew, for connections that are open too, and looks for an agent if there was none.
    pub(crate) fn refresh(&self) {
        self.gate.policy();
        self.gate.woken.notify_one();
    }

    /// Ends it: when this returns, every connection is closed.
    async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

/// Says what was decided about one question.
pub(super) struct Answer {
    verdicts: mpsc::Sender<(u64, bool)>,
    question: u64,
}

impl Answer {
    /// See [`EgressStream::answer`].
    pub(super) async fn say(&self, allowed: bool) {
        // A link that is gone needs no verdict.
        let _ = self.verdicts.send((self.question, allowed)).await;
    }
}

struct Service {
    runtime: WeakRuntime,
    id: SandboxId,
    gate: Arc<Gate>,
    tasks: JoinSet<()>,
}

async fn serve(mut service: Service) {
    let mut rest = REST;
    loop {
        let asking = match service.find().await {
            Ok((handle, asking)) => {
                rest = REST;
                service.attend(&handle, asking).await
            }
            Err(error) => Err(error),
        };
        match asking {
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => tracing::debug!(id = %service.id, error = error.chain(), "nobody asks about what leaves"),
            Ok(never) => match never {},
        }
        service.gate.counter.write();
        let _ = timeout(rest, service.gate.woken.notified()).await;
        rest = LONG_REST.min(rest * 2);
    }
}

impl Service {
    /// The agent, of a sandbox that runs.
    async fn find(&self) -> Result<(Arc<dyn SandboxHandle>, Box<dyn EgressStream>)> {
        let runtime = self.runtime.upgrade().ok_or_else(|| gone(&self.id))?;
        let row = runtime.row(&self.id)?;
        let handle = Sandbox::of(runtime, &row).usable(&[State::Running]).await?;
        let asking = handle.egress().await?;
        Ok((handle, asking))
    }

    /// Answers one agent until it is gone.
    async fn attend(&mut self, handle: &Arc<dyn SandboxHandle>, mut asking: Box<dyn EgressStream>) -> Result<Infallible> {
        let (verdicts, mut decided) = mpsc::channel(64);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whoever has made the sandbox, started it or put it back does so as well, and may have been killed before.
        if self.gate.keyring().is_some() {
            let (runtime, id) = (self.runtime.clone(), self.id.clone());
            self.tasks.spawn(async move {
                let trusted = async {
                    let runtime = runtime.upgrade().ok_or_else(|| gone(&id))?;
                    Sandbox::of(runtime.clone(), &runtime.row(&id)?).establish_trust().await
                };
                if let Err(error) = trusted.await {
                    tracing::warn!(%id, error = error.chain(), "the authorities could not be written inside");
                }
            });
        }
        loop {
            tokio::select! {
                question = asking.next() => self.consider(question?, handle, &verdicts),
                Some((question, allowed)) = decided.recv() => asking.answer(question, allowed).await?,
                Some(_) = self.tasks.join_next() => {}
                _ = tick.tick() => {
                    self.gate.policy();
                    self.gate.counter.write();
                }
            }
        }
    }

    fn consider(&mut self, question: EgressQuestion, handle: &Arc<dyn SandboxHandle>, verdicts: &mpsc::Sender<(u64, bool)>) {
        let EgressQuestion { id, process, wanted } = question;
        let (gate, verdicts) = (Arc::clone(&self.gate), verdicts.clone());
        let handle = Arc::clone(handle);
        self.tasks.spawn(async move {
            let answer = Answer { verdicts, question: id };
            let Some(wanted) = wanted else { return answer.say(false).await };
            match wanted {
                Wanted::Name(name) => {
                    gate.watch_name(&name);
                    let policy = gate.policy();
                    let mut decision = policy.decide_name(&name);
                    // Names carry something out, too.
                    if decision.allowed
                        && let Err(reached) = gate.meter.check(policy.limits())
                    {
                        decision = reached.into();
                    }
                    let event = if decision.allowed { NetworkEvent::Allowed } else { NetworkEvent::Refused };
                    gate.tell(&Wish { name: Some(name), process, ..Wish::default() }, event, &decision);
                    answer.say(decision.allowed).await;
                }
                Wanted::Connection(host, port) => {
                    let wish = wish(host, port, Protocol::Tcp, process);
                    match (Passage { gate, handle, question: id, wish, port, protocol: Protocol::Tcp }).open().await {
                        Some(open) => open.run(&answer).await,
                        None => answer.say(false).await,
                    }
                }
                Wanted::Datagrams(host, port) => {
                    let wish = wish(host, port, Protocol::Udp, process);
                    match (Passage { gate, handle, question: id, wish, port, protocol: Protocol::Udp }).open_flow().await {
                        Some(flow) => flow.run(&answer).await,
                        None => answer.say(false).await,
                    }
                }
            }
        });
    }
}

fn wish(host: RemoteHost, port: u16, protocol: Protocol, process: Option<ClaimedProcess>) -> Wish {
    let (name, address) = match host {
        RemoteHost::Name(name) => (Some(name), None),
        RemoteHost::Address(address) => (None, Some(address)),
    };
    Wish { name, address, port: Some(port), protocol: Some(protocol), process }
}

/// Each connection holds two descriptors, and the soft limit is for programs that cannot handle many (see systemd's notes on RLIMIT_NOFILE).
pub(crate) fn raise_open_files() {
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    // Where that is refused, fewer connections are made.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

/// Services of this process: for sandboxes that end with it, and for a runtime without a keeper program.
#[derive(Default)]
pub(crate) struct LocalEgress(Mutex<HashMap<SandboxId, EgressService>>);

impl LocalEgress {
    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, EgressService>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, sandbox: &Sandbox) {
        raise_open_files();
        self.lock().insert(sandbox.id().clone(), EgressService::begin(sandbox));
    }

    pub(crate) fn refresh(&self, id: &SandboxId) {
        if let Some(service) = self.lock().get(id) {
            service.refresh();
        }
    }

    pub(crate) async fn close(&self, id: &SandboxId) {
        let service = self.lock().remove(id);
        if let Some(service) = service {
            service.close().await;
        }
    }
}
