use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use sandbar_backends::docker;
use sandbar_core::{
    AttachRequest, CheckpointKind, CheckpointOptions, ErrorKind, ExecRequest, Journal, Lifetime, ProvisionRequest, Resource,
    RestoreRequest, Result, SandboxId, SandboxSpec, State,
};
use serde_json::Value;

use crate::{
    case::{Case, case},
    engine::Engine,
    world::{PATIENCE, World, left, request, say, state},
};

pub const CASES: &[Case] = &[
    case!(Engine::of("runc"), a_killed_engine_takes_nothing_with_it),
    case!(Engine::of("runc"), what_a_dead_engine_keeps_is_removed_when_it_is_back),
    case!(Engine::of("runc"), an_engine_killed_at_each_step_of_a_boot_leaves_nothing),
    case!(Engine::of("runc"), an_engine_killed_in_a_checkpoint_or_a_restore_loses_nothing),
    case!(Engine::of("runc"), a_container_that_somebody_removed_is_told),
];

async fn a_killed_engine_takes_nothing_with_it(world: World) {
    let runtime = world.runtime().await;
    let sandbox = runtime.create(request()).await.unwrap();
    say(&sandbox, "echo kept > /file").await.unwrap();
    let line = world.kill();
    assert_eq!(say(&sandbox, "cat /file").await.unwrap(), "kept", "commands do not go through the engine");
    assert_eq!(state(&sandbox).await, State::Running);
    let error = runtime.create(request()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.hint().is_some(), "{}", error.chain());
    world.start_again(&line).await;
    // It ends what ran without it, unless it is told to leave that alone; either way the truth is told and nothing is lost.
    let runtime = world.runtime().await;
    let sandbox = runtime.sandbox(sandbox.id().as_str()).await.unwrap();
    if state(&sandbox).await != State::Running {
        sandbox.start().await.unwrap();
    }
    assert_eq!(say(&sandbox, "cat /file").await.unwrap(), "kept");
    sandbox.destroy().await.unwrap();
    let report = runtime.gc().await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(left(&world), Vec::<String>::new());
}

async fn what_a_dead_engine_keeps_is_removed_when_it_is_back(world: World) {
    let runtime = world.runtime().await;
    let stopped = runtime.create(request()).await.unwrap();
    say(&stopped, "echo kept > /file").await.unwrap();
    stopped.stop().await.unwrap();
    let doomed = runtime.create(request()).await.unwrap();
    let line = world.kill();
    let error = stopped.start().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    // Nothing of it may be forgotten while it is there.
    let error = doomed.destroy().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    world.start_again(&line).await;
    let runtime = world.runtime().await;
    let report = runtime.gc().await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    if let Ok(doomed) = runtime.sandbox(doomed.id().as_str()).await {
        doomed.destroy().await.unwrap();
    }
    assert_eq!(left(&world).len(), 1, "containers");
    let stopped = runtime.sandbox(stopped.id().as_str()).await.unwrap();
    stopped.start().await.unwrap();
    assert_eq!(say(&stopped, "cat /file").await.unwrap(), "kept");
    stopped.destroy().await.unwrap();
    assert_eq!(left(&world), Vec::<String>::new());
}

/// Kills the engine at a step, once; remembers what a ledger would.
struct KillAt {
    world: Arc<World>,
    step: Mutex<&'static str>,
    line: Mutex<Vec<String>>,
    resources: Mutex<Vec<Resource>>,
    /// What was committed last, and whether that was since a step was named.
    record: Mutex<(Value, bool)>,
}

impl KillAt {
    fn new(world: &Arc<World>, step: &'static str) -> Arc<Self> {
        let (line, resources, record) = Default::default();
        Arc::new(Self { world: Arc::clone(world), step: Mutex::new(step), line, resources, record })
    }

    /// Kills it at another step.
    fn arm(&self, step: &'static str) {
        *self.step.lock().unwrap() = step;
        self.record.lock().unwrap().1 = false;
    }

    /// The command line of the engine that was killed.
    fn line(&self) -> Vec<String> {
        std::mem::take(&mut *self.line.lock().unwrap())
    }
}

impl Journal for KillAt {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.resources.lock().unwrap().push(resource.clone());
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        self.resources.lock().unwrap().retain(|known| known != resource);
        Ok(())
    }

    fn commit(&self, record: &Value, _: State) -> Result<()> {
        *self.record.lock().unwrap() = (record.clone(), true);
        Ok(())
    }

    fn step(&self, name: &'static str) {
        let mut step = self.step.lock().unwrap();
        if name == *step {
            *step = "";
            *self.line.lock().unwrap() = self.world.kill();
        }
    }
}

/// A sandbox for a provider alone.
async fn alone(world: &World, number: u8, folder: &Path, journal: &Arc<KillAt>) -> ProvisionRequest {
    ProvisionRequest {
        id: SandboxId::from_random([number; 8]),
        spec: SandboxSpec::default(),
        secret_values: BTreeMap::new(),
        root: world.runtime().await.images().resolve(Some("busybox")).await.unwrap(),
        folder: folder.to_owned(),
        ids: None,
        lifetime: Lifetime::Detached,
        journal: Arc::clone(journal) as Arc<dyn Journal>,
    }
}

async fn an_engine_killed_at_each_step_of_a_boot_leaves_nothing(world: World) {
    let world = Arc::new(world);
    for (number, step) in docker::STEPS.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let journal = KillAt::new(&world, step);
        let request = alone(&world, u8::try_from(number).unwrap(), folder.path(), &journal).await;
        let runtime = world.runtime().await;
        let error = runtime.providers().get("docker").unwrap().provision(request).await.err();
        let line = journal.line();
        assert!(!line.is_empty(), "{step} was not reached");
        let error = error.unwrap_or_else(|| panic!("a sandbox was made, though its engine was gone at {step}"));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{step}: {}", error.chain());
        world.start_again(&line).await;
        let runtime = world.runtime().await;
        let report = runtime.gc().await.unwrap();
        assert!(report.failed.is_empty(), "{step}: {report:?}");
        assert_eq!(left(&world), Vec::<String>::new(), "{step}");
    }
}

async fn an_engine_killed_in_a_checkpoint_or_a_restore_loses_nothing(world: World) {
    let world = Arc::new(world);
    let [folder, saved] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let journal = KillAt::new(&world, "");
    let request = alone(&world, 1, folder.path(), &journal).await;
    let provider = async || world.runtime().await.providers().get("docker").unwrap().clone();
    let save = |into: &Path| CheckpointOptions { kind: CheckpointKind::Disk, into: into.to_owned() };
    let mut handle = provider().await.provision(request.clone()).await.unwrap();
    handle.exec(ExecRequest::shell("echo saved > /file")).await.unwrap();
    handle.checkpoint(save(saved.path())).await.unwrap();
    let mut root = request.root.clone();
    root.saved_layers.push(saved.path().join("layer"));

    for step in ["checkpoint.frozen", "docker.created", "restore.answered"] {
        handle.exec(ExecRequest::shell("echo later > /file")).await.unwrap();
        let before = journal.resources.lock().unwrap().clone();
        journal.arm(step);
        let into = tempfile::tempdir().unwrap();
        let done = match step {
            "checkpoint.frozen" => handle.checkpoint(save(into.path())).await.map(drop),
            _ => handle.restore(RestoreRequest { root: root.clone(), memory: None }).await,
        };
        let line = journal.line();
        assert!(!line.is_empty(), "{step} was not reached");
        if let Err(error) = &done {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{step}: {}", error.chain());
        }
        world.start_again(&line).await;
        let (record, is_committed) = journal.record.lock().unwrap().clone();
        // As the runtime does: what a restore has made is given back, or, if it has taken effect, what was there before it.
        let left = journal.resources.lock().unwrap().clone();
        let left: Vec<Resource> = left.into_iter().filter(|resource| before.contains(resource) == is_committed).collect();
        if step != "checkpoint.frozen" {
            provider().await.reclaim(&request.id, &left).await.unwrap();
            journal.resources.lock().unwrap().retain(|resource| !left.contains(resource));
        }
        handle = provider().await.attach(AttachRequest { provision: request.clone(), record }).await.unwrap();
        // What was frozen when the engine was killed, what it ends when it begins: either is told as what it is.
        let begun = Instant::now();
        let state = loop {
            let status = handle.status().await;
            if status.certain || begun.elapsed() > PATIENCE {
                break status.state;
            }
        };
        match state {
            State::Running => {}
            State::Paused => handle.resume().await.unwrap(),
            State::Crashed => handle.start().await.unwrap(),
            other => panic!("{step}: {other:?}"),
        }
        let file = handle.exec(ExecRequest::shell("cat /file")).await.unwrap().stdout_text();
        assert_eq!(file.trim(), if is_committed { "saved" } else { "later" }, "{step}, {state:?}");
    }
    handle.destroy().await.unwrap();
    let report = world.runtime().await.gc().await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(left(&world), Vec::<String>::new());
}

async fn a_container_that_somebody_removed_is_told(world: World) {
    let runtime = world.runtime().await;
    let sandbox = runtime.create(request()).await.unwrap();
    let host = format!("unix://{}", world.socket.display());
    let name = left(&world).remove(0);
    assert!(Command::new("docker").args(["--host", &host, "rm", "-f", &name]).stdout(Stdio::null()).status().unwrap().success());
    assert_ne!(state(&sandbox).await, State::Running);
    assert_eq!(say(&sandbox, "true").await.unwrap_err().kind(), ErrorKind::Conflict);
    let error = sandbox.start().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    assert!(error.hint().is_some(), "{}", error.chain());
    sandbox.destroy().await.unwrap();
    assert_eq!(runtime.list().await.unwrap().len(), 0);
}
