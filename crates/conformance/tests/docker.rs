//! What becomes of sandboxes when their engine is killed, restarted, gone, or shared with others.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    CheckpointKind, Error, ErrorKind, ExecRequest, Isolation, Lifetime, NoJournal, ProvisionRequest, SandboxId, SandboxSpec, State,
};
use sandbar_runtime::{CreateRequest, Runtime, RuntimeConfig, Sandbox};
use tempfile::TempDir;

#[path = "engines/busybox.rs"]
mod busybox;
#[path = "engines/engine.rs"]
mod engine;

/// A state folder on an engine of this test's own.
struct World {
    home: TempDir,
    socket: PathBuf,
}

impl World {
    /// `None`, said, where there is no engine to start; a failure where that is required.
    fn new(engine: &TempDir) -> Option<Self> {
        let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "docker-runc"));
        if !rustix::process::geteuid().is_root() {
            assert!(!required, "an engine of its own needs root");
            return None;
        }
        match engine::of_run(engine.path(), "faults", "runc") {
            Ok((socket, _)) => Some(Self { home: tempfile::tempdir().unwrap(), socket }),
            Err(reason) => {
                assert!(!required, "{reason}");
                None
            }
        }
    }

    async fn runtime(&self) -> Runtime {
        let mut config = RuntimeConfig::new(self.home.path());
        config.docker_host = Some(format!("unix://{}", self.socket.display()));
        let runtime = Runtime::open(config).await.unwrap();
        let begun = Instant::now();
        while let probe = runtime.providers().get("docker").unwrap().probe().await
            && !probe.usable
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}; {}", probe.verdict, engine::last_words(&self.socket));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        busybox::image(runtime.images(), self.home.path()).await.unwrap();
        runtime
    }

    fn pid(&self) -> u32 {
        fs::read_to_string(self.socket.with_file_name("pid")).unwrap().trim().parse().unwrap()
    }

    /// Kills the engine at once; gives the command line that it had.
    fn kill(&self) -> Vec<String> {
        let pid = self.pid();
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let held = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&held, rustix::process::Signal::KILL).unwrap();
        let mut ended = [rustix::event::PollFd::new(&held, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
        line.split_terminator('\0').map(str::to_owned).collect()
    }

    /// Starts it again. The keeper of the run ends this one too.
    #[expect(clippy::zombie_processes, reason = "it outlives this test's process, which cannot wait for it")]
    async fn start_again(&self, line: &[String]) {
        // Its own helper ends with it, and must be gone altogether: an engine takes a zombie for one that works.
        let helper = fs::read_to_string(self.socket.with_file_name("exec/containerd/containerd.pid")).unwrap_or_default();
        let begun = Instant::now();
        while !helper.trim().is_empty() && Path::new("/proc").join(helper.trim()).exists() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the engine's helper does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = fs::OpenOptions::new().append(true).open(self.socket.with_file_name("log")).unwrap();
        // The number in its file may be another process's by now.
        fs::remove_file(self.socket.with_file_name("pid")).unwrap();
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap();
    }
}

fn request() -> CreateRequest {
    CreateRequest { provider: Some("docker".to_owned()), image: Some("busybox".to_owned()), ..CreateRequest::default() }
}

async fn say(sandbox: &Sandbox, line: &str) -> Result<String, Error> {
    Ok(sandbox.exec(ExecRequest::shell(line)).await?.stdout_text().trim().to_owned())
}

async fn state(sandbox: &Sandbox) -> State {
    sandbox.summary().await.unwrap().state
}

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
async fn gc_finds_what_the_ledger_lost_and_leaves_what_is_not_ours() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine) else { return };
    let runtime = world.runtime().await;
    let other = World { home: tempfile::tempdir().unwrap(), socket: world.socket.clone() };
    let others = other.runtime().await;
    let theirs = others.create(request()).await.unwrap();
    let ours = runtime.create(request()).await.unwrap();
    // Made with no ledger, as if its rows were lost.
    let root = runtime.images().resolve(Some("busybox")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lost = ProvisionRequest {
        id: SandboxId::from_random([7; 8]),
        spec: SandboxSpec::default(),
        root,
        folder: folder.path().to_owned(),
        ids: None,
        lifetime: Lifetime::Detached,
        journal: Arc::new(NoJournal),
    };
    let id = lost.id.clone();
    let handle = runtime.providers().get("docker").unwrap().provision(lost).await.unwrap();
    assert_eq!(left(&world).len(), 3);
    let report = runtime.gc().await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.removed.iter().any(|item| item.name.contains(id.as_str())), "{report:?}");
    drop(handle);
    assert_eq!(say(&theirs, "echo here").await.unwrap(), "here", "another state folder's sandbox");
    assert_eq!(say(&ours, "echo here").await.unwrap(), "here", "a sandbox of the ledger");
    assert_eq!(left(&world).len(), 2);
    ours.destroy().await.unwrap();
    theirs.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_go_from_wall_to_wall() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine) else { return };
    let runtime = world.runtime().await;
    let here = runtime.create(request()).await.unwrap();
    say(&here, "echo docker > /file; rm /etc/group; chown 1234:5678 /file; touch -d '2001-02-03 04:05:06' /file").await.unwrap();
    let saved = here.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    let fork = |from: String, on: &str| {
        let options = sandbar_runtime::ForkOptions { provider: Some(on.to_owned()), ..Default::default() };
        let runtime = runtime.clone();
        async move { runtime.fork(&from, 1, options).await.unwrap().remove(0) }
    };
    let there = fork(saved.id.to_string(), "container").await;
    assert_eq!(say(&there, "cat /file; stat -c '%u %g %Y' /file").await.unwrap(), "docker\n1234 5678 981173106");
    say(&there, "test ! -e /etc/group && test -e /etc/passwd && test ! -e /.sandbar || echo wrong >> /file").await.unwrap();
    say(&there, "echo container >> /file; rm /etc/passwd").await.unwrap();
    let again = there.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    let back = fork(again.id.to_string(), "docker").await;
    let gone = "test ! -e /etc/group && test ! -e /etc/passwd && cat /file; stat -c '%u %g' /file";
    assert_eq!(say(&back, gone).await.unwrap(), "docker\ncontainer\n1234 5678");
    for sandbox in [here, there, back] {
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let home = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(home.path());
    config.docker_host = Some(format!("unix://{}/nobody.sock", home.path().display()));
    let runtime = Runtime::open(config).await.unwrap();
    let error = runtime.create(CreateRequest { image: None, ..request() }).await.err().unwrap();
    assert!(error.kind() == ErrorKind::NotFound && error.hint().is_some_and(|hint| hint.contains("setup docker")), "{}", error.chain());
    fs::create_dir(home.path().join("tree")).unwrap();
    runtime.images().import(&home.path().join("tree"), Some("busybox")).await.unwrap();
    let error = runtime.create(request()).await.err().unwrap();
    assert!(error.kind() == ErrorKind::Unavailable && error.hint().is_some(), "{}", error.chain());
    let floor = CreateRequest { isolation: Some(Isolation::UserKernel), ..request() };
    assert_eq!(runtime.create(floor).await.err().unwrap().kind(), ErrorKind::Unsupported);
}

/// The containers that the engine has.
fn left(world: &World) -> Vec<String> {
    let folder = Path::new("root/containers");
    let entries = fs::read_dir(world.socket.with_file_name(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
