//! Pausing, stopping, saving, crashing.

use std::{fs, process::Command, time::Duration};

use sandbar_backends::machine::process::{HostProcess, wait_for_exit};
use sandbar_core::{
    CheckpointKind, CheckpointOptions, ExecEvent, ExecRequest, Feature, Lifetime, RestoreRequest, SandboxProvider, SandboxSpec, State,
};

use crate::world::{World, is_root};

#[tokio::test]
async fn a_pause_holds_everything() {
    let world = World::new();
    if !world.provider.info().features.has(Feature::Pause) {
        eprintln!("no group can be frozen here");
        return;
    }
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    sandbox.shell("(while :; do echo x >> /tmp/ticks; done) >/dev/null 2>&1 &").await;
    sandbox.handle.pause().await.unwrap();
    assert_eq!(sandbox.handle.status().await.state, State::Paused);
    let ticks = || fs::metadata(sandbox.request.folder.join("g1/layer/tmp/ticks")).map_or(0, |found| found.len());
    let before = ticks();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ticks(), before);
    assert_eq!(sandbox.attached(&world).await.status().await.state, State::Paused);
    sandbox.handle.resume().await.unwrap();
    sandbox.shell("a=$(wc -c < /tmp/ticks); while [ $(wc -c < /tmp/ticks) = $a ]; do :; done").await;
    sandbox.handle.pause().await.unwrap();
    // A frozen sandbox can be taken down.
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_stop_keeps_the_layer_and_a_start_goes_on_with_it() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    sandbox.shell("echo kept > /root/file; mkdir /root/closed; chmod 0 /root/closed; rm /etc/group; sleep 1000 &").await;
    for _again in 0..2 {
        sandbox.handle.stop().await.unwrap();
        assert_eq!(sandbox.handle.status().await.state, State::Stopped);
        sandbox.handle.start().await.unwrap();
        assert_eq!(sandbox.shell("cat /root/file; ls -d /root/closed; test ! -e /etc/group").await, "kept\n/root/closed");
        assert!(!sandbox.shell("cat /proc/[0-9]*/comm").await.contains("sleep"), "a process outlived the stop");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_checkpoint_becomes_other_sandboxes() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    if world.has_users() {
        sandbox
            .shell("mkdir -p /root/theirs/deep; echo x > /root/theirs/deep/file; chmod 700 /root/theirs; chown -R 1000:1000 /root/theirs")
            .await;
    }
    sandbox
        .shell("echo one > /root/file; rm /etc/group; mkdir /root/dir; (while :; do echo x >> /tmp/ticks; done) >/dev/null 2>&1 &")
        .await;
    let into = world.home.path().join("checkpoint");
    fs::create_dir(&into).unwrap();
    let saved = sandbox.handle.checkpoint(CheckpointOptions { kind: CheckpointKind::Disk, into: into.clone() }).await.unwrap();
    assert!(saved.files >= 4, "{saved:?}");
    sandbox.shell("echo two > /root/file; a=$(wc -c < /tmp/ticks); while [ $(wc -c < /tmp/ticks) = $a ]; do :; done").await;

    let mut root = world.image();
    root.saved_layers = vec![into.join("layer")];
    let mut forks = Vec::new();
    for number in 0..2 {
        let (mut request, book) = world.request(SandboxSpec::default());
        request.root = root.clone();
        let fork = world.provision(request, book).await;
        assert_eq!(fork.shell("cat /root/file; stat -c %u:%g /root/file; test ! -e /etc/group").await, "one\n0:0");
        if world.has_users() {
            assert_eq!(fork.shell("stat -c %u:%g:%a /root/theirs /root/theirs/deep/file").await, "1000:1000:700\n1000:1000:644");
        }
        assert!(fork.handle.stats().await.unwrap().disk_bytes.is_some());
        fork.shell(&format!("echo {number} > /root/own; rmdir /root/dir")).await;
        forks.push(fork);
    }
    assert_eq!(forks[0].shell("cat /root/own").await, "0");
    sandbox.handle.restore(RestoreRequest { root, memory: None }).await.unwrap();
    assert_eq!(sandbox.shell("cat /root/file; ls -d /root/dir").await, "one\n/root/dir");
    for fork in forks {
        fork.destroy().await;
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_is_told_as_such() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    let pid = rustix::process::Pid::from_raw(sandbox.agent().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Before the kernel has ended it, it is an agent that says nothing.
    loop {
        let status = sandbox.handle.status().await;
        if status.state == State::Crashed && status.certain {
            assert!(status.reason.as_deref().is_some_and(|reason| reason.contains("signal 9")), "{status:?}");
            break;
        }
    }
    assert_eq!(sandbox.attached(&world).await.status().await.state, State::Crashed);
    sandbox.handle.start().await.unwrap();
    sandbox.shell("true").await;
    sandbox.destroy().await;
}

/// Waits until a process's file in `/proc` says so.
fn until_proc(pid: u32, file: &str, says: impl Fn(&str) -> bool) {
    while !says(&fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()) {}
}

#[tokio::test]
async fn an_agent_that_is_long_in_ending_is_told_as_one_that_was_ended() {
    use rustix::process::{Pid, Signal, kill_process};

    if !is_root() {
        return;
    }
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    let mut stream = sandbox.handle.exec_stream(ExecRequest::shell("echo up; sleep 1000")).await.unwrap();
    assert!(matches!(stream.output.next().await.unwrap(), Some(ExecEvent::Output { .. })));
    // The first process of a PID namespace cannot end whole, though all of its own is closed, before everybody in the namespace was waited for.
    let agent = HostProcess::of(sandbox.agent()).unwrap();
    let held = agent.open().unwrap().unwrap();
    let mut holder = Command::new("nsenter").args(["--target", &agent.pid.to_string(), "--pid", "sleep", "1000"]).spawn().unwrap();
    let pid = Pid::from_child(&holder);
    until_proc(holder.id(), &format!("task/{}/children", holder.id()), |children| !children.is_empty());
    kill_process(pid, Signal::STOP).unwrap();
    until_proc(holder.id(), "status", |status| status.contains("State:\tT"));
    agent.signal(Signal::KILL).unwrap();
    // Not by this thread, which may wait for the agent's end.
    let released = std::thread::spawn(move || {
        // Longer than it is looked for the end of an agent that lives.
        let is_held = !wait_for_exit(&held, Duration::from_secs(2)).unwrap();
        kill_process(pid, Signal::CONT).unwrap();
        holder.wait().unwrap();
        is_held
    });
    let error = loop {
        match stream.output.next().await {
            Ok(told) => assert!(told.is_some(), "it ends well"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("the agent was ended by signal 9"), "{}", error.chain());
    assert!(released.join().unwrap(), "nobody held it up");
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_a_dead_sandbar_left_is_reclaimed() {
    let world = World::new();
    let (mut request, book) = world.request(SandboxSpec::default());
    if is_root() {
        request.spec.limits.memory = Some(64 << 20);
    }
    let sandbox = world.provision(request, book).await;
    sandbox.shell("sleep 1000 & sleep 1000 & mkdir -m 0 /closed").await;
    let held = sandbox.book.held.lock().unwrap().clone();
    world.provider.reclaim(&sandbox.request.id, &held).await.unwrap();
    for resource in &held {
        if let sandbar_core::Resource::Cgroup { path } | sandbar_core::Resource::Folder { path } = resource {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
    assert!(!sandbox.handle.exec(ExecRequest::argv(["true"])).await.is_ok_and(|result| result.status.success()));
    // Once more is no error.
    world.provider.reclaim(&sandbox.request.id, &held).await.unwrap();
}

#[tokio::test]
async fn many_at_once_do_not_get_in_one_anothers_way() {
    let world = std::sync::Arc::new(World::new());
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let world = std::sync::Arc::clone(&world);
            tokio::spawn(async move {
                let (mut request, book) = world.request(SandboxSpec::default());
                request.lifetime = if number % 2 == 0 { Lifetime::Owned } else { Lifetime::Detached };
                let sandbox = world.provision(request, book).await;
                assert_eq!(sandbox.shell(&format!("echo {number} > /root/n; cat /root/n")).await, number.to_string());
                sandbox.destroy().await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Not a test of its own: what the next one starts, and kills.
#[tokio::test]
async fn an_owner() {
    if std::env::var_os("SANDBAR_TEST_OWNER").is_none() {
        return;
    }
    let world = World::new();
    let (mut request, book) = world.request(SandboxSpec::default());
    request.lifetime = Lifetime::Owned;
    let sandbox = world.provision(request, book).await;
    sandbox.shell("sleep 1000 >/dev/null 2>&1 &").await;
    eprintln!("agent={}", sandbox.agent());
    std::future::pending::<()>().await;
}

#[test]
fn an_owned_sandbox_ends_with_its_owner() {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };

    // In a folder of this test's, since the owner cannot clean up.
    let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    let home = tempfile::Builder::new().prefix("sandbar-owner-").tempdir_in(parent).unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::an_owner", "--nocapture"])
        .env("SANDBAR_TEST_OWNER", "1")
        .env("TMPDIR", home.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stderr.take().unwrap()).lines();
    let agent: u32 = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("agent=")?.parse().ok()).unwrap();
    let held = HostProcess::of(agent).unwrap().open().unwrap().unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(wait_for_exit(&held, Duration::from_secs(60)).unwrap(), "the sandbox outlives its owner");
    // Its group is what a later command reclaims.
    for group in fs::read_dir("/sys/fs/cgroup/unified").into_iter().flatten().flatten() {
        let owned = u64::from(owner.id()) << 16 | 1;
        if group.file_name().to_string_lossy().contains(sandbar_core::SandboxId::from_random(owned.to_le_bytes()).as_str()) {
            let _ = fs::remove_dir(group.path());
        }
    }
}
