use std::{os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use sandbar_core::{
    Context, Error, ErrorKind, ProvisionRequest, Renewal, Resource, RestoreRequest, Result, RootSource, State, no_datagrams_leave,
    only_ports_leave,
};
use sandbar_protocol::AgentConfig;

use super::{
    Backend, Boot, Memory, answer,
    client::Call,
    live::{COMING_UP, Current, Running, Shared},
    record::{Holdings, Record, generation_folder},
    renewal, template,
};

/// Most ports that an agent may say are the only ones.
const MOST_PORTS: usize = 1024;

/// The names of the steps of one verb that brings up a generation.
pub(super) struct BootSteps {
    pub(super) booted: &'static str,
    pub(super) answered: &'static str,
}

/// Runs a change of the life cycle in a task of its own, so that it comes to its end, or is undone, when the caller goes away.
pub(super) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, "machine", "the task of a life cycle change ended early").with_source(error)),
    }
}

/// Makes a sandbox, and undoes everything when that fails or when nobody waits for it any more.
pub(super) async fn provision<B: Backend>(backend: Arc<B>, request: ProvisionRequest, from: RestoreRequest) -> Result<Arc<Shared<B>>> {
    // Dropped with the caller: then the sandbox has no owner.
    let (deliver, delivered) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let made = build(backend, request, from).await;
        if let Err(Ok(shared)) = deliver.send(made) {
            undo(&shared.backend, &shared.current(), &shared.request.folder).await;
        }
    });
    delivered.await.map_err(|error| Error::new(ErrorKind::Internal, "provision", "the task ended early").with_source(error))?
}

async fn build<B: Backend>(backend: Arc<B>, request: ProvisionRequest, from: RestoreRequest) -> Result<Arc<Shared<B>>> {
    let journal = Arc::clone(&request.journal);
    journal.step("provision.begun");
    let holdings = make_folder(&request, 1).await?;
    journal.step("provision.folder");
    let steps = BootSteps { booted: "provision.booted", answered: "provision.answered" };
    let current = match boot(&backend, &request, &holdings, 1, &from, &steps).await {
        Ok(current) => current,
        Err(error) => {
            let folder = generation_folder(&request.folder, 1);
            let journal: Arc<dyn sandbar_core::Journal> = holdings;
            complain("the folder of a sandbox that could not be made", backend.remove(&folder, &journal).await);
            return Err(error);
        }
    };
    let committed = current.record.to_json().and_then(|record| journal.commit(&record, State::Running));
    if let Err(error) = committed {
        undo(&backend, &current, &request.folder).await;
        return Err(error);
    }
    journal.step("provision.committed");
    Ok(Arc::new(Shared::new(backend, request, current)))
}

/// Makes the folder of a generation.
pub(super) async fn make_folder(request: &ProvisionRequest, generation: u32) -> Result<Arc<Holdings>> {
    let folder = generation_folder(&request.folder, generation);
    let holdings = Arc::new(Holdings::new(Arc::clone(&request.journal), Vec::new()));
    sandbar_core::Journal::intend(&*holdings, &Resource::Folder { path: folder.clone() })?;
    std::fs::DirBuilder::new().mode(0o700).create(&folder).context("provision", || format!("cannot make {}", folder.display()))?;
    Ok(holdings)
}

/// Brings up a generation, from memory where there is some, and waits until its agent answers; halts it when it does not. Its folder stays.
pub(super) async fn boot<B: Backend>(
    backend: &Arc<B>,
    request: &ProvisionRequest,
    holdings: &Arc<Holdings>,
    generation: u32,
    from: &RestoreRequest,
    steps: &BootSteps,
) -> Result<Current<B::Place>> {
    let folder = generation_folder(&request.folder, generation);
    let journal: Arc<dyn sandbar_core::Journal> = Arc::clone(holdings) as _;
    let ProvisionRequest { id, spec, ids, lifetime, .. } = request;
    let root = &from.root;
    let boot = Boot { id, spec, root, folder: &folder, generation, ids: *ids, lifetime: *lifetime, journal: &journal };
    let (mut place, resumed) = match &from.memory {
        Some((folder, record)) => (backend.load(boot, Memory { folder, record }).await?, Some(Resumption { config: None })),
        None => match backend.template(&boot).await? {
            Some(key) => {
                let template = template::ensure(backend, request, root, key, holdings).await?;
                let config = backend.template_config(&boot);
                let memory = Memory { folder: &template.folder, record: &template.record };
                (backend.load(boot, memory).await?, Some(Resumption { config }))
            }
            None => (backend.boot(boot).await?, None),
        },
    };
    journal.step(steps.booted);
    let greeted = match greet(backend, request, &place, Arc::clone(holdings), resumed).await {
        Ok(greeting) => backend.furnish(&mut place, spec, &journal).await.map(|()| greeting),
        Err(error) => Err(error),
    };
    match greeted {
        Ok(greeting) => {
            journal.step(steps.answered);
            let mut record = Record::new(generation, root.clone(), Some(place), holdings.held());
            // That it began from a template is nobody's concern.
            record.renewal = greeting.renewal.filter(|_| from.memory.is_some());
            record.no_datagrams = greeting.no_datagrams;
            record.only_ports = greeting.only_ports;
            Ok(Current::new(record, Arc::clone(holdings)))
        }
        Err(error) => {
            complain("a sandbox that did not come up", backend.halt(&place, &folder, &journal).await);
            Err(error)
        }
    }
}

/// How a place came to go on from memory.
pub(super) struct Resumption {
    /// What it is from now on, when the memory is a template's.
    pub(super) config: Option<AgentConfig>,
}

/// What an agent has said that answers for the first time.
#[derive(Default)]
pub(super) struct Greeting {
    /// What it has renewed, where it goes on from memory.
    renewal: Option<Renewal>,
    /// Why datagrams cannot leave, where connections can.
    no_datagrams: Option<String>,
    /// The only ports that connections can leave to; all where empty.
    only_ports: Vec<u16>,
}

/// Waits until the agent answers, and has it renew what memory has that must not be shared. Refuses a place that cannot do what its rules need.
pub(super) async fn greet<B: Backend>(
    backend: &Arc<B>,
    request: &ProvisionRequest,
    place: &B::Place,
    holdings: Arc<Holdings>,
    resumed: Option<Resumption>,
) -> Result<Greeting> {
    // The pings go through a handle of its own, which nobody else has yet.
    let record = Record::new(COMING_UP, RootSource::empty(), Some(place.clone()), Vec::new());
    let shared = Arc::new(Shared::new(Arc::clone(backend), request.clone(), Current::new(record, holdings)));
    let Some(running) = Running::of(shared.current()) else { return Ok(Greeting::default()) };
    let call = Call { shared, running, verb: "provision" };
    let pong = call.answers(backend.patience(), "the agent did not come up").await?;
    let is_gated = request.spec.network.policy().is_some();
    let no_datagrams = pong.no_datagrams.filter(|_| is_gated).map(|why| answer::text(&why));
    if let Some(why) = no_datagrams.as_deref().filter(|_| request.spec.network.needs_udp()) {
        return Err(no_datagrams_leave(why));
    }
    let ports = pong.only_ports.into_iter().filter(|_| is_gated).filter_map(|port| u16::try_from(port).ok());
    let only_ports: Vec<u16> = ports.take(MOST_PORTS).collect();
    if let Some(rule) = request.spec.network.needs_port_beside(&only_ports) {
        return Err(only_ports_leave(&rule, &only_ports));
    }
    let renewal = match resumed {
        Some(resumption) => Some(renewal::renew(&call, request, resumption.config).await?),
        None => None,
    };
    Ok(Greeting { renewal, no_datagrams, only_ports })
}

/// Takes a generation down altogether, after a failure: what cannot be removed stays in the ledger for `reclaim`.
pub(super) async fn undo<B: Backend>(backend: &Arc<B>, current: &Current<B::Place>, sandbox: &Path) {
    let folder = generation_folder(sandbox, current.record.generation);
    let journal = current.journal();
    if let Some(place) = &current.record.place {
        complain("a sandbox that is undone", backend.halt(place, &folder, &journal).await);
    }
    complain("the folder of a sandbox that is undone", backend.remove(&folder, &journal).await);
}

/// Logs what could not be cleaned up; its rows stay in the ledger, so that the next command removes it.
pub(super) fn complain(what: &'static str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(error = %error.chain(), "cannot remove {what}; the ledger keeps it for later");
    }
}
