//! Sandboxes of a fake provider, from their beginning to their end, in one process.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

#[path = "life/choice.rs"]
mod choice;
mod support;
#[path = "life/trials.rs"]
mod trials;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use sandbar_core::{CheckpointKind, ErrorKind, Isolation, Lifetime, SandboxSpec, State};
use sandbar_runtime::{CreateRequest, ForkOptions, RestoreOptions, Runtime, RuntimeConfig};
use support::{Fake, command, fake_sandbox, leavings, open_as};
use tempfile::TempDir;

async fn open(home: &std::path::Path, fake: &Fake) -> Runtime {
    open_as(RuntimeConfig::new(home), fake).await
}

async fn setup() -> (TempDir, Fake, Runtime) {
    let home = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let runtime = open(home.path(), &fake).await;
    (home, fake, runtime)
}

fn named(name: &str) -> CreateRequest {
    CreateRequest { name: Some(name.into()), ..fake_sandbox() }
}

async fn text(sandbox: &sandbar_runtime::Sandbox, words: &[&str]) -> String {
    sandbox.exec(command(words)).await.unwrap().stdout_text()
}

fn crash(home: &TempDir, sandbox: &sandbar_runtime::Sandbox) {
    for generation in std::fs::read_dir(home.path().join("sandboxes").join(sandbox.id().as_str())).unwrap() {
        std::fs::remove_file(generation.unwrap().path().join("agent")).unwrap();
    }
}

#[tokio::test]
async fn a_sandbox_goes_through_its_states_and_leaves_nothing() {
    let (home, _fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    assert_eq!(sandbox.name(), Some("web"));
    assert_eq!(text(&sandbox, &["hello", "you"]).await, "hello you");
    let list = runtime.list().await.unwrap();
    assert_eq!((list.len(), list[0].state, list[0].provider.as_str()), (1, State::Running, "fake"));

    sandbox.pause().await.unwrap();
    assert_eq!(sandbox.exec(command(&["x"])).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(sandbox.summary().await.unwrap().state, State::Paused);
    sandbox.resume().await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    sandbox.stop().await.unwrap();
    let error = sandbox.exec(command(&["x"])).await.unwrap_err();
    assert!(error.hint().unwrap().contains("sandbar start"), "{error}");
    assert_eq!(sandbox.stop().await.unwrap_err().kind(), ErrorKind::Conflict);
    sandbox.start().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");

    sandbox.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
    assert_eq!(sandbox.exec(command(&["x"])).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(leavings(home.path()), [""; 0]);
    assert!(runtime.gc().await.unwrap().is_empty());
}

#[tokio::test]
async fn another_handle_sees_what_one_has_done() {
    let (home, fake, one) = setup().await;
    let here = one.create(named("web")).await.unwrap();
    let two = open(home.path(), &fake).await;
    let there = two.sandbox("web").await.unwrap();
    let saved = here.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    assert_eq!(text(&there, &["x"]).await, "x");
    // A restore puts the sandbox into another folder.
    here.restore(saved.id.as_str(), RestoreOptions::default()).await.unwrap();
    text(&there, &["write", "file", "new"]).await;
    assert_eq!(text(&here, &["read", "file"]).await, "new");
}

#[tokio::test]
async fn ids_names_and_prefixes_find_a_sandbox() {
    let (_home, _fake, runtime) = setup().await;
    let web = runtime.create(named("web")).await.unwrap();
    let others = 17;
    for _ in 0..others {
        runtime.create(fake_sandbox()).await.unwrap();
    }
    let id = web.id().as_str();
    for reference in [id, "web", &id[..id.len() - 1], &id[3..id.len() - 1]] {
        assert_eq!(runtime.sandbox(reference).await.unwrap().id(), web.id(), "{reference}");
    }
    for reference in ["", "nope", "sb-", "sb-x", "wë%_"] {
        assert_eq!(runtime.sandbox(reference).await.unwrap_err().kind(), ErrorKind::NotFound, "{reference}");
    }
    // 18 ids begin with 16 letters: two begin alike.
    let list = runtime.list().await.unwrap();
    let alike = list.iter().find(|one| list.iter().filter(|other| other.id.as_str()[..4] == one.id.as_str()[..4]).count() > 1).unwrap();
    let error = runtime.sandbox(&alike.id.as_str()[..4]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(alike.id.as_str()), "{error}");
}

#[tokio::test]
async fn a_name_is_one_sandboxs() {
    let (home, _fake, runtime) = setup().await;
    let web = runtime.create(named("web")).await.unwrap();
    assert_eq!(runtime.create(named("web")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(runtime.create(named("-web")).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    web.destroy().await.unwrap();
    runtime.create(named("web")).await.unwrap().destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

#[tokio::test]
async fn a_provision_that_fails_is_undone() {
    let (home, fake, runtime) = setup().await;
    fake.failing().insert("provision");
    assert_eq!(runtime.create(fake_sandbox()).await.unwrap_err().message(), "provision fails");
    assert_eq!(leavings(home.path()), [""; 0]);
    assert_eq!(runtime.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_removed_is_removed_by_gc_later() {
    let (home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    fake.failing().insert("destroy");
    fake.failing().insert("reclaim");
    assert_eq!(sandbox.destroy().await.unwrap_err().message(), "reclaim fails");
    let summary = sandbox.summary().await.unwrap();
    assert_eq!(summary.state, State::Destroying);
    assert!(summary.reason.unwrap().contains("reclaim fails"));
    let report = runtime.gc().await.unwrap();
    assert_eq!((report.failed.len(), report.removed.len()), (1, 0));
    fake.failing().remove("reclaim");
    let report = runtime.gc().await.unwrap();
    assert_eq!((report.failed.len(), report.removed.len()), (0, 1));
    assert_eq!(leavings(home.path()), [""; 0]);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cut_a_change_in_two() {
    let (_home, _fake, runtime) = setup().await;
    tokio::select! {
        biased;
        _ = runtime.create(named("web")) => panic!("nothing was awaited"),
        () = std::future::ready(()) => {}
    }
    while runtime.list().await.unwrap().first().is_none_or(|summary| summary.state != State::Running) {
        tokio::task::yield_now().await;
    }
    runtime.sandbox("web").await.unwrap().destroy().await.unwrap();
}

#[tokio::test]
async fn a_crash_is_noticed_by_whoever_looks_and_the_layer_is_kept() {
    let (home, _fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    crash(&home, &sandbox);
    let list = runtime.list().await.unwrap();
    assert_eq!((list[0].state, list[0].reason.as_deref()), (State::Crashed, Some("the agent's file is gone")));
    let error = sandbox.exec(command(&["x"])).await.unwrap_err();
    assert!(error.to_string().contains("crashed"), "{error}");
    sandbox.start().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
    // Nobody has looked this time.
    crash(&home, &sandbox);
    sandbox.start().await.unwrap();
    assert_eq!(sandbox.summary().await.unwrap().state, State::Running);
}

#[tokio::test]
async fn an_agent_that_was_silent_for_a_moment_has_not_crashed() {
    let (_home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    // Both looks of whoever asks: before the lock is held, and under it.
    fake.silent.store(2, SeqCst);
    let seen = sandbox.summary().await.unwrap();
    assert_eq!((seen.state, seen.in_doubt, seen.reason.as_deref()), (State::Crashed, true, Some("the agent does not answer")));
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
    let seen = sandbox.summary().await.unwrap();
    assert_eq!((seen.state, seen.in_doubt, seen.reason), (State::Running, false, None));
    // Starting it would end what runs.
    fake.silent.store(3, SeqCst);
    assert_eq!(sandbox.start().await.unwrap_err().kind(), ErrorKind::Conflict);
    fake.silent.store(3, SeqCst);
    sandbox.settle_doubt().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
}

#[tokio::test]
async fn an_agent_that_stays_silent_is_given_up() {
    let (_home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    fake.silent.store(usize::MAX, SeqCst);
    tokio::time::pause();
    sandbox.settle_doubt().await.unwrap();
    tokio::time::resume();
    fake.silent.store(0, SeqCst);
    // It stays what everybody was told.
    assert_eq!(sandbox.summary().await.unwrap().state, State::Crashed);
    let error = sandbox.exec(command(&["x"])).await.unwrap_err();
    assert!(error.to_string().contains("crashed"), "{error}");
    sandbox.start().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
}

#[tokio::test]
async fn a_verb_that_fails_leaves_the_state_that_is_true() {
    let (home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    let saved = sandbox.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    fake.failing().insert("stop");
    sandbox.stop().await.unwrap_err();
    assert_eq!(sandbox.summary().await.unwrap().state, State::Running);
    fake.failing().insert("restore");
    sandbox.restore(saved.id.as_str(), RestoreOptions::default()).await.unwrap_err();
    assert_eq!(text(&sandbox, &["still here"]).await, "still here");
    fake.failing().insert("checkpoint");
    sandbox.checkpoint(CheckpointKind::Disk, Some("bad".into())).await.unwrap_err();
    assert_eq!(runtime.checkpoints(None).await.unwrap().len(), 1);
    crash(&home, &sandbox);
    fake.failing().insert("start");
    sandbox.start().await.unwrap_err();
    assert_eq!(sandbox.summary().await.unwrap().state, State::Crashed);
}

#[tokio::test]
async fn a_checkpoint_is_restored_in_place_and_forked() {
    let (home, _fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "old"]).await;
    let saved = sandbox.checkpoint(CheckpointKind::Disk, Some("before".into())).await.unwrap();
    assert_eq!((saved.name.as_deref(), saved.files, saved.parent.clone()), (Some("before"), 1, None));
    let error = sandbox.checkpoint(CheckpointKind::Disk, Some("before".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);

    text(&sandbox, &["write", "file", "new"]).await;
    sandbox.restore("before", RestoreOptions::default()).await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "old");
    assert_eq!(sandbox.inspect().await.unwrap().base, Some(saved.id.clone()));
    // Only what is new since is saved.
    text(&sandbox, &["write", "more", "new"]).await;
    let second = sandbox.checkpoint(CheckpointKind::Disk, Some("after".into())).await.unwrap();
    assert_eq!((second.parent.as_ref(), second.files), (Some(&saved.id), 1));

    let options = ForkOptions { name: Some("fork".into()), ..ForkOptions::default() };
    let forks = runtime.fork("after", 5, options).await.unwrap();
    assert_eq!(forks.iter().map(|fork| fork.name().unwrap()).collect::<Vec<_>>(), ["fork-1", "fork-2", "fork-3", "fork-4", "fork-5"]);
    for fork in &forks {
        assert_eq!(text(fork, &["read", "file"]).await + &text(fork, &["read", "more"]).await, "oldnew");
        text(fork, &["write", "file", fork.id().as_str()]).await;
    }
    for fork in &forks {
        assert_eq!(text(fork, &["read", "file"]).await, fork.id().as_str());
    }

    let error = runtime.remove_checkpoint("before").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(second.id.as_str()), "{error}");
    let error = runtime.remove_checkpoint("after").await.unwrap_err();
    assert!(error.to_string().contains(forks[0].id().as_str()), "{error}");
    for sandbox in forks.iter().chain([&sandbox]) {
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(runtime.checkpoints(Some(sandbox.id().as_str())).await.unwrap().len(), 2);
    runtime.remove_checkpoint("after").await.unwrap();
    runtime.remove_checkpoint(saved.id.as_str()).await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

#[tokio::test]
async fn a_checkpoint_for_a_fork_goes_with_the_last_that_needs_it() {
    let (home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "x"]).await;
    let forks = runtime.fork("web", 2, ForkOptions::default()).await.unwrap();
    assert!(runtime.checkpoints(None).await.unwrap()[0].implicit);
    forks[0].destroy().await.unwrap();
    assert_eq!(text(&forks[1], &["read", "file"]).await, "x");
    forks[1].destroy().await.unwrap();
    assert_eq!(runtime.checkpoints(None).await.unwrap(), []);
    fake.failing().insert("fork");
    runtime.fork("web", 3, ForkOptions::default()).await.unwrap_err();
    assert_eq!(runtime.checkpoints(None).await.unwrap(), []);
    sandbox.destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

#[tokio::test]
async fn forks_are_made_all_or_none() {
    let (_home, _fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    sandbox.checkpoint(CheckpointKind::Disk, Some("cp".into())).await.unwrap();
    runtime.create(named("fork-3")).await.unwrap();
    let options = ForkOptions { name: Some("fork".into()), ..ForkOptions::default() };
    assert_eq!(runtime.fork("cp", 4, options).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(runtime.list().await.unwrap().len(), 2);
    assert_eq!(runtime.fork("nope", 1, ForkOptions::default()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(runtime.fork("cp", 0, ForkOptions::default()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_reboot_is_noticed() {
    let (home, fake, runtime) = setup().await;
    let kept = runtime.create(named("kept")).await.unwrap();
    text(&kept, &["write", "file", "x"]).await;
    let stopped = runtime.create(named("stopped")).await.unwrap();
    stopped.stop().await.unwrap();
    runtime.create(CreateRequest { lifetime: Lifetime::Owned, ..named("owned") }).await.unwrap();
    let config = RuntimeConfig { boot_id: Some("another".into()), ..RuntimeConfig::new(home.path()) };
    let runtime = open_as(config, &fake).await;
    let mut list = runtime.list().await.unwrap();
    // Those of one millisecond are listed in no order.
    list.sort_by_key(|summary| summary.name.clone());
    let states: Vec<_> = list.iter().map(|summary| (summary.name.as_deref().unwrap(), summary.state)).collect();
    assert_eq!(states, [("kept", State::Crashed), ("stopped", State::Stopped)]);
    assert_eq!(list[0].reason.as_deref(), Some("the host was restarted"));
    let kept = runtime.sandbox("kept").await.unwrap();
    kept.start().await.unwrap();
    assert_eq!(text(&kept, &["read", "file"]).await, "x");
}

#[tokio::test]
async fn a_sandbox_whose_time_has_passed_is_destroyed_by_this_process_or_the_next_command() {
    let (home, fake, runtime) = setup().await;
    // Long enough for it to be looked at before, on a machine that is busy.
    let spec = SandboxSpec { ttl: Some(Duration::from_secs(15)), ..SandboxSpec::default() };
    let sandbox = runtime.create(CreateRequest { spec: spec.clone(), ..named("web") }).await.unwrap();
    assert!(sandbox.summary().await.unwrap().expires_ms.is_some());
    while !runtime.list().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(leavings(home.path()), [""; 0]);
    // One whose process is gone.
    let (config, made) = (RuntimeConfig::new(home.path()), fake.clone());
    let spec = SandboxSpec { ttl: Some(Duration::from_millis(1)), ..spec };
    let request = CreateRequest { spec, ..named("web") };
    let process = std::thread::spawn(move || {
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        threads.block_on(async { open_as(config, &made).await.create(request).await.unwrap() });
    });
    process.join().unwrap();
    std::thread::sleep(Duration::from_millis(2));
    assert!(open(home.path(), &fake).await.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_floor_is_never_lowered() {
    let (_home, fake, runtime) = setup().await;
    let automatic = CreateRequest { isolation: Some(Isolation::Vm), ..CreateRequest::default() };
    let error = runtime.create(automatic).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("fake has only namespaces"), "{error}");
    let named = CreateRequest { isolation: Some(Isolation::UserKernel), ..fake_sandbox() };
    assert_eq!(runtime.create(named).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let nobody = CreateRequest { provider: Some("nope".into()), ..CreateRequest::default() };
    assert!(runtime.create(nobody).await.unwrap_err().hint().unwrap().contains("fake"));
    let config = RuntimeConfig { isolation: Some(Isolation::Vm), ..runtime.config().clone() };
    let strict = open_as(config, &fake).await;
    assert_eq!(strict.create(fake_sandbox()).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn fifty_at_once_share_a_state_folder() {
    let (home, fake, runtime) = setup().await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..50 {
        // Half of them as other processes would: with a ledger connection of their own.
        let runtime = if index % 2 == 0 { runtime.clone() } else { open(home.path(), &fake).await };
        tasks.spawn(async move {
            for _ in 0..4 {
                let sandbox = runtime.create(named(&format!("n-{index}"))).await.unwrap();
                assert_eq!(text(&sandbox, &["x"]).await, "x");
                sandbox.pause().await.unwrap();
                sandbox.destroy().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(leavings(home.path()), [""; 0]);
    assert!(runtime.gc().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once_on_one_sandbox_follow_one_another() {
    let (home, fake, runtime) = setup().await;
    runtime.create(named("web")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..50 {
        let runtime = open(home.path(), &fake).await;
        tasks.spawn(async move {
            let sandbox = runtime.sandbox("web").await.unwrap();
            let done = match index % 5 {
                0 => sandbox.pause().await,
                1 => sandbox.resume().await,
                2 => sandbox.stop().await,
                3 => sandbox.start().await,
                _ => sandbox.checkpoint(CheckpointKind::Disk, None).await.map(|_| ()),
            };
            if let Err(error) = done {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.chain());
            }
            runtime.list().await.unwrap()
        });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done.unwrap().len(), 1);
    }
    let summary = runtime.sandbox("web").await.unwrap().summary().await.unwrap();
    assert!(matches!(summary.state, State::Running | State::Paused | State::Stopped), "{summary:?}");
    assert!(runtime.gc().await.unwrap().is_empty());
}

#[tokio::test]
async fn gc_removes_what_no_row_speaks_for_once() {
    let (home, _fake, runtime) = setup().await;
    let kept = runtime.create(named("web")).await.unwrap();
    let orphan = "sb-bbbbbbbbbbbb";
    std::fs::create_dir_all(home.path().join("sandboxes").join(orphan).join("g1/layer")).unwrap();
    std::fs::create_dir_all(home.path().join("checkpoints/.tmp-cp-bbbbbbbbbbbb/layer")).unwrap();
    std::fs::write(home.path().join("locks").join(orphan), "").unwrap();
    std::fs::write(home.path().join("keepers").join(format!("{orphan}.sock")), "").unwrap();
    let report = runtime.gc().await.unwrap();
    let mut kinds: Vec<&str> = report.removed.iter().map(|item| item.kind.as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["folder", "folder", "keeper", "lock"]);
    assert!(runtime.gc().await.unwrap().is_empty());
    assert_eq!(text(&kept, &["alive"]).await, "alive");
    kept.destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

#[tokio::test]
async fn inspect_tells_why_and_on_what() {
    let (_home, _fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    let inspect = serde_json::to_value(sandbox.inspect().await.unwrap()).unwrap();
    assert_eq!((&inspect["name"], &inspect["choice"]), (&"web".into(), &"asked for by name".into()));
    assert_eq!(inspect["provider_notes"][0], "made of folders");
    assert_eq!(inspect["limits"][0]["limit"], "memory");
    assert_eq!(inspect["state"], "running");
}

#[tokio::test]
async fn the_default_may_be_configured() {
    let home = tempfile::tempdir().unwrap();
    let config = RuntimeConfig { provider: Some("fake".into()), ..RuntimeConfig::new(home.path()) };
    let runtime = open_as(config, &Fake::default()).await;
    let sandbox = runtime.create(CreateRequest::default()).await.unwrap();
    assert_eq!(sandbox.inspect().await.unwrap().choice, "named by the configuration");
}

#[tokio::test]
async fn ports_are_passed_on_without_a_keeper() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (_home, _fake, runtime) = setup().await;
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = inside.accept().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        }
    });
    let sandbox = runtime.create(named("web")).await.unwrap();
    let exposed = sandbox.expose_port(port, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert_eq!(sandbox.exposed_ports().await.unwrap(), [exposed]);
    let error = sandbox.expose_port(port, "127.0.0.1:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    // Half closed: the answer comes after the end of the question.
    let mut client = tokio::net::TcpStream::connect(exposed.listen).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "QUESTION");
    let error = sandbox.expose_port(port + 1, exposed.listen).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.chain());
    sandbox.unexpose_port(port).await.unwrap();
    assert_eq!(sandbox.unexpose_port(port).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(sandbox.exposed_ports().await.unwrap(), []);
}
