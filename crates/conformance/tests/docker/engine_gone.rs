use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use sandbar_backends::docker;
use sandbar_core::{ErrorKind, Journal, Lifetime, ProvisionRequest, Resource, Result, SandboxId, SandboxSpec, State};
use serde_json::Value;

use crate::world::{World, left, request, say, state};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_takes_nothing_with_it() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine) else { return };
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_engine_keeps_is_removed_when_it_is_back() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine) else { return };
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

/// Kills the engine at a step of a boot.
struct KillAt {
    step: &'static str,
    world: Arc<World>,
    line: Mutex<Vec<String>>,
}

impl Journal for KillAt {
    fn intend(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn forget(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn commit(&self, _: &Value, _: State) -> Result<()> {
        Ok(())
    }

    fn step(&self, name: &'static str) {
        let mut line = self.line.lock().unwrap();
        if name == self.step && line.is_empty() {
            *line = self.world.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_at_each_step_of_a_boot_leaves_nothing() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine).map(Arc::new) else { return };
    for (number, step) in docker::STEPS.into_iter().enumerate() {
        let runtime = world.runtime().await;
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(KillAt { step, world: Arc::clone(&world), line: Mutex::default() });
        let request = ProvisionRequest {
            id: SandboxId::from_random([u8::try_from(number).unwrap(); 8]),
            spec: SandboxSpec::default(),
            root: runtime.images().resolve(Some("busybox")).await.unwrap(),
            folder: folder.path().to_owned(),
            ids: None,
            lifetime: Lifetime::Detached,
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
        };
        let error = runtime.providers().get("docker").unwrap().provision(request).await.err();
        let line = journal.line.lock().unwrap().clone();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removed_is_told() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine) else { return };
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
