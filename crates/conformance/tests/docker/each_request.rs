//! Every verb, with an engine that is killed with one of the verb's requests in its hand: each of those that change something, in turn.

use std::{sync::Arc, time::Duration};

use sandbar_core::{CheckpointKind, ErrorKind, Result, State};
use sandbar_runtime::{ForkOptions, RestoreOptions, Runtime, Sandbox};

use crate::{
    between::Between,
    case::{Case, case},
    engine::Engine,
    world::{World, left, request, say, state},
};

// They wait for engines most of the time, so each has a share of the requests, and they run beside one another.
pub const CASES: &[Case] = &[
    case!(Engine::of("runsc"), memory_loses_nothing_at_any_odd_request),
    case!(Engine::of("runsc"), memory_loses_nothing_at_any_even_request),
    case!(Engine::of("runc"), a_life_loses_nothing_at_any_request),
    case!(Engine::of("runc"), what_is_saved_and_what_ends_loses_nothing_at_any_request),
];

/// How long a verb may take whose engine is killed, and with it what it was told to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// The checkpoint that a sandbox is restored to.
const SAVED: &str = "saved";

/// What is done to a sandbox whose file says `kept`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verb {
    Create,
    Exec,
    Pause,
    Resume,
    Stop,
    Start,
    Checkpoint,
    Restore,
    Fork,
    Destroy,
}

impl Verb {
    /// Brings a sandbox to where this can be done.
    async fn prepare(self, sandbox: &Sandbox, kind: CheckpointKind) {
        match self {
            Self::Resume => sandbox.pause().await.unwrap(),
            Self::Start => sandbox.stop().await.unwrap(),
            Self::Restore | Self::Fork => drop(sandbox.checkpoint(kind, Some(SAVED.to_owned())).await.unwrap()),
            _ => {}
        }
    }

    async fn on(self, sandbox: &Sandbox, runtime: &Runtime, kind: CheckpointKind) -> Result<()> {
        match self {
            Self::Create => runtime.create(request()).await.map(drop),
            Self::Exec => say(sandbox, "true").await.map(drop),
            Self::Pause => sandbox.pause().await,
            Self::Resume => sandbox.resume().await,
            Self::Stop => sandbox.stop().await,
            Self::Start => sandbox.start().await,
            Self::Checkpoint => sandbox.checkpoint(kind, None).await.map(drop),
            Self::Restore => sandbox.restore(SAVED, RestoreOptions::default()).await,
            Self::Fork => runtime.fork(SAVED, 1, ForkOptions::default()).await.map(drop),
            Self::Destroy => sandbox.destroy().await,
        }
    }
}

async fn a_life_loses_nothing_at_any_request(world: World) {
    use Verb::{Create, Exec, Pause, Resume, Start, Stop};
    at_each_request(world, CheckpointKind::Disk, &[Create, Exec, Pause, Resume, Stop, Start], (1, 1)).await;
}

async fn what_is_saved_and_what_ends_loses_nothing_at_any_request(world: World) {
    use Verb::{Checkpoint, Destroy, Fork, Restore};
    at_each_request(world, CheckpointKind::Disk, &[Checkpoint, Restore, Fork, Destroy], (1, 1)).await;
}

async fn memory_loses_nothing_at_any_odd_request(world: World) {
    memory_loses_nothing(world, 1).await;
}

async fn memory_loses_nothing_at_any_even_request(world: World) {
    memory_loses_nothing(world, 2).await;
}

async fn memory_loses_nothing(world: World, first: usize) {
    // An engine that comes back needs a quarter of a minute to end one that is paused.
    let verbs: &[Verb] = match std::env::var_os("SANDBAR_LONG") {
        Some(_) => &[Verb::Checkpoint, Verb::Restore, Verb::Fork],
        None => &[Verb::Checkpoint],
    };
    at_each_request(world, CheckpointKind::Memory, verbs, (first, 2)).await;
}

/// At every request whose number is the first or so many steps after it, and once where none is reached.
async fn at_each_request(world: World, kind: CheckpointKind, verbs: &[Verb], (first, step): (usize, usize)) {
    let world = Arc::new(world);
    let between = Between::new(&world);
    for verb in verbs {
        for number in (first..).step_by(step) {
            let at = format!("{verb:?}, request {number}");
            let runtime = world.runtime_by(&between.socket()).await;
            let sandbox = runtime.create(request()).await.unwrap();
            say(&sandbox, "echo kept > /file").await.unwrap();
            verb.prepare(&sandbox, kind).await;
            between.kill_at(number);
            let done = tokio::time::timeout(PATIENCE, verb.on(&sandbox, &runtime, kind)).await;
            let done = done.unwrap_or_else(|_| panic!("{at}: it hangs"));
            let line = between.killed();
            let is_last = line.is_none();
            match (&done, line) {
                (_, Some(line)) => world.start_again(&line).await,
                (Ok(()), None) => {}
                (Err(error), None) => panic!("{at} was not reached: {}", error.chain()),
            }
            if let Err(error) = &done {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{at}: {}", error.chain());
            }
            drop(runtime);
            settle(&world, &between, sandbox.id().as_str(), &at).await;
            if is_last {
                break;
            }
        }
    }
}

/// What the next process finds: the truth, everything that was there, and, when it is told to, nothing.
async fn settle(world: &World, between: &Between, id: &str, at: &str) {
    let runtime = world.runtime_by(&between.socket()).await;
    let report = runtime.gc().await.unwrap();
    assert!(report.failed.is_empty(), "{at}: {report:?}");
    // Gone is only what was to be destroyed.
    if let Ok(sandbox) = runtime.sandbox(id).await {
        match state(&sandbox).await {
            State::Running => {}
            State::Paused => sandbox.resume().await.unwrap_or_else(|error| panic!("{at}: {}", error.chain())),
            State::Stopped | State::Crashed => sandbox.start().await.unwrap_or_else(|error| panic!("{at}: {}", error.chain())),
            other => panic!("{at}: {other:?}"),
        }
        assert_eq!(say(&sandbox, "cat /file").await.unwrap_or_else(|error| panic!("{at}: {}", error.chain())), "kept", "{at}");
    } else {
        assert!(at.starts_with("Destroy"), "{at}: the sandbox is lost");
    }
    for summary in runtime.list().await.unwrap() {
        runtime.sandbox(summary.id.as_str()).await.unwrap().destroy().await.unwrap();
    }
    for checkpoint in runtime.checkpoints(None).await.unwrap() {
        runtime.remove_checkpoint(checkpoint.id.as_str()).await.unwrap();
    }
    assert_eq!(left(world), Vec::<String>::new(), "{at}");
}
