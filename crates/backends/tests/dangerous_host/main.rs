//! `dangerous-host` with the real agent: the machine adapter from end to end, on every Linux, without privileges.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a copy of it speaks to another by its output"
)]

mod deaths;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use sandbar_backends::{ProviderOptions, Registry, dangerous_host::DangerousHost, machine::process::HostProcess};
use sandbar_core::{
    AttachRequest, CheckpointKind, CheckpointOptions, ErrorKind, ExecEvent, ExecRequest, ExitStatus, Feature, Journal, Lifetime,
    ProvisionRequest, PutOptions, Resource, RestoreRequest, Result, RootSource, SandboxHandle, SandboxId, SandboxProvider, SandboxSpec,
    SandboxStatus, Signal, State, WatchEventKind,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a ledger would hold.
#[derive(Default)]
struct Book {
    held: Mutex<Vec<Resource>>,
    record: Mutex<Value>,
}

impl Journal for Book {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.held.lock().unwrap().push(resource.clone());
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        self.held.lock().unwrap().retain(|held| held != resource);
        Ok(())
    }

    fn commit(&self, record: &Value, _: State) -> Result<()> {
        *self.record.lock().unwrap() = record.clone();
        Ok(())
    }
}

struct Home {
    folder: tempfile::TempDir,
    provider: Arc<dyn SandboxProvider>,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(&ProviderOptions::new(folder.path()));
        Self { provider: registry.get("dangerous-host").unwrap(), folder }
    }

    fn request(&self, number: u8) -> (ProvisionRequest, Arc<Book>) {
        let book = Arc::<Book>::default();
        let folder = self.folder.path().join(format!("sandbox-{number}"));
        std::fs::create_dir(&folder).unwrap();
        // Tests run side by side, in one process or in many, and one that was killed may have left something under its id.
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let mut random = [COUNT.fetch_add(1, Ordering::SeqCst); 8];
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        random[..4].copy_from_slice(&(now ^ std::process::id().rotate_left(16)).to_ne_bytes());
        let request = ProvisionRequest {
            id: SandboxId::from_random(random),
            spec: SandboxSpec::default(),
            secret_values: BTreeMap::new(),
            root: RootSource::empty(),
            folder,
            ids: None,
            lifetime: Lifetime::Detached,
            journal: Arc::clone(&book) as Arc<dyn Journal>,
        };
        (request, book)
    }

    async fn sandbox(&self, number: u8) -> Sandbox {
        let (request, book) = self.request(number);
        let handle = self.provider.provision(request.clone()).await.unwrap();
        Sandbox { handle, request, book }
    }
}

struct Sandbox {
    handle: Box<dyn SandboxHandle>,
    request: ProvisionRequest,
    book: Arc<Book>,
}

impl Sandbox {
    async fn shell(&self, line: &str) -> String {
        let result = self.handle.exec(ExecRequest::shell(line)).await.unwrap();
        assert!(result.status.success(), "{line}: {result:?}");
        result.stdout_text()
    }

    fn processes(&self) -> Vec<HostProcess> {
        let held = self.book.held.lock().unwrap();
        held.iter()
            .filter_map(|resource| match resource {
                Resource::Process { pid, start_time, .. } => Some(HostProcess { pid: *pid, start_time: *start_time }),
                _ => None,
            })
            .collect()
    }

    /// Destroys it and looks whether anything is left.
    async fn destroy(self) {
        let processes = self.processes();
        let groups: Vec<PathBuf> = self
            .book
            .held
            .lock()
            .unwrap()
            .iter()
            .filter_map(|resource| match resource {
                Resource::Cgroup { path } => Some(path.clone()),
                _ => None,
            })
            .collect();
        self.handle.destroy().await.unwrap();
        assert!(processes.iter().all(|process| !process.is_alive()));
        assert!(groups.iter().all(|group| !group.exists()));
        assert_eq!(*self.book.held.lock().unwrap(), [], "the journal is empty");
        assert_eq!(std::fs::read_dir(&self.request.folder).unwrap().count(), 0);
        self.handle.destroy().await.unwrap();
    }
}

/// A test that failed leaves nothing behind either.
impl Drop for Sandbox {
    fn drop(&mut self) {
        let held = self.book.held.lock().unwrap().clone();
        if !held.is_empty() {
            let (provider, id) = (DangerousHost::provider(&self.request.folder), self.request.id.clone());
            let reclaiming = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let _ = runtime.block_on(provider.reclaim(&id, &held));
            });
            let _ = reclaiming.join();
        }
    }
}

/// What a sandbox is beyond doubt: on a busy machine an agent may be silent for longer than a status waits for it.
async fn certain(handle: &dyn SandboxHandle) -> SandboxStatus {
    let begun = Instant::now();
    loop {
        let status = handle.status().await;
        if status.certain {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status:?}");
    }
}

fn checkpoint_in(folder: &Path) -> CheckpointOptions {
    std::fs::create_dir(folder).unwrap();
    CheckpointOptions { kind: CheckpointKind::Disk, into: folder.to_owned() }
}

fn root_of(checkpoint: &CheckpointOptions) -> RestoreRequest {
    RestoreRequest { root: RootSource { saved_layers: vec![checkpoint.into.join("layer")], ..RootSource::empty() }, memory: None }
}

#[tokio::test]
async fn the_provider_works_here_and_says_what_it_is() {
    let home = Home::new();
    let probe = home.provider.probe().await;
    assert!(probe.usable, "{probe:?}");
    assert!(home.provider.info().notes.iter().any(|note| note.contains("control group")));
}

#[tokio::test]
async fn commands_run_in_the_workspace_with_a_filtered_environment() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let layer = sandbox.request.folder.join("g1/layer");
    assert_eq!(sandbox.shell("pwd").await.trim(), layer.to_str().unwrap());
    let environment = sandbox.shell("env").await;
    for line in environment.lines() {
        let name = line.split('=').next().unwrap();
        let known = ["PATH", "LANG", "TERM", "TZ", "HOME", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD", "USER", "LOGNAME", "SHELL"];
        assert!(known.contains(&name), "{line}");
    }
    assert!(environment.contains(&format!("HOME={}\n", layer.display())), "{environment}");
    sandbox.shell("test -d \"$TMPDIR\" && touch \"$TMPDIR/x\"").await;
    let result = sandbox.handle.exec(ExecRequest::shell("echo out; echo err >&2; exit 7")).await.unwrap();
    assert_eq!((result.status, result.stdout_text(), result.stderr_text()), (ExitStatus::exited(7), "out\n".into(), "err\n".into()));
    let missing = sandbox.handle.exec(ExecRequest::argv(["no-such-command"])).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::CommandNotFound);
    assert_eq!(certain(&*sandbox.handle).await.state, State::Running);
    sandbox.destroy().await;
}

#[tokio::test]
async fn streams_signals_and_timeouts_pass() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let mut stream = sandbox.handle.exec_stream(ExecRequest::argv(["cat"]).with_stdin()).await.unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    let (mut input, output) = (stream.input, stream.output);
    stream = sandbox.handle.reattach(stream.pid, None).await.unwrap();
    let sent = megabyte.clone();
    let writing = tokio::spawn(async move {
        input.write(sent.into()).await.unwrap();
        input.close().await.unwrap();
        input
    });
    drop(output);
    let result = stream.collect(2 << 20).await.unwrap();
    assert!(result.stdout == megabyte && result.status.success(), "{:?} {}", result.status, result.stdout.len());
    drop(writing.await.unwrap());

    let stream = sandbox.handle.exec_stream(ExecRequest::argv(["sleep", "100"])).await.unwrap();
    sandbox.handle.signal(stream.pid, Signal::TERM).await.unwrap();
    assert_eq!(stream.collect(1).await.unwrap().status, ExitStatus::signaled(15));
    let slow = ExecRequest::argv(["sleep", "100"]).with_timeout(Duration::from_millis(50));
    assert!(sandbox.handle.exec(slow).await.unwrap().status.timed_out);
    let listed = sandbox.handle.processes().await.unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|process| process.status.is_some()));
    sandbox.destroy().await;
}

#[tokio::test]
async fn files_are_put_got_listed_and_confined() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let handle = &sandbox.handle;
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let options = PutOptions { make_parents: true, mode: Some(0o640), ..PutOptions::default() };
    handle.put_file("a/b/file", options, &mut content.as_slice()).await.unwrap();
    let (stat, mut reader) = handle.get_file("a/b/file", 1000).await.unwrap();
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    assert!(stat.size == 3_000_000 && stat.mode == 0o640 && back == content[1000..]);
    handle.make_dir("c", false, None).await.unwrap();
    handle.rename("a/b/file", "c/moved", false).await.unwrap();
    handle.symlink("/etc/passwd", "c/link").await.unwrap();
    let names: Vec<_> = handle.read_dir("c").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["link", "moved"]);
    let escaped = handle.get_file("c/link", 0).await.err().unwrap();
    assert!(matches!(escaped.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::NotFound), "{escaped}");
    let mut tar = Vec::new();
    handle.get_dir("c").await.unwrap().read_to_end(&mut tar).await.unwrap();
    handle.put_dir("copy", PutOptions::default(), &mut tar.as_slice()).await.unwrap();
    assert_eq!(handle.stat("copy/moved", true).await.unwrap().size, 3_000_000);
    handle.remove_path("c", sandbar_core::RemoveOptions { recursive: true, missing_ok: false }).await.unwrap();
    assert_eq!(handle.stat("c", true).await.unwrap_err().kind(), ErrorKind::NotFound);
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_watch_tells_changes_and_ends_when_the_path_is_gone() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    sandbox.handle.make_dir("d", false, None).await.unwrap();
    let mut watch = sandbox.handle.watch("d", true).await.unwrap();
    sandbox.shell("touch d/file; rm -r d").await;
    let mut told = Vec::new();
    while let Some(event) = watch.next().await.unwrap() {
        told.push((event.kind, event.path));
    }
    assert!(told.contains(&(WatchEventKind::Created, "file".to_owned())), "{told:?}");
    assert_eq!(told.last(), Some(&(WatchEventKind::Removed, String::new())));
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_stop_keeps_files_and_output_and_a_start_goes_on() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    sandbox.shell("echo kept > file; echo said").await;
    let mut running = sandbox.handle.exec_stream(ExecRequest::shell("echo running; exec sleep 100")).await.unwrap();
    let pid = running.pid;
    assert!(matches!(running.output.next().await.unwrap(), Some(ExecEvent::Output { .. })));
    drop(running);
    let before = sandbox.processes();
    sandbox.handle.stop().await.unwrap();
    assert!(before.iter().all(|process| !process.is_alive()));
    assert_eq!(certain(&*sandbox.handle).await.state, State::Stopped);
    let kept = sandbox.handle.reattach(pid, None).await.unwrap().collect(100).await.unwrap();
    assert_eq!((kept.stdout_text().as_str(), kept.status), ("running\n", ExitStatus::signaled(15)));
    assert_eq!(sandbox.handle.exec(ExecRequest::argv(["true"])).await.unwrap_err().kind(), ErrorKind::Conflict);
    sandbox.handle.start().await.unwrap();
    assert_eq!(sandbox.shell("cat file").await, "kept\n");
    sandbox.destroy().await;
}

#[tokio::test]
async fn another_process_attaches_by_the_record_and_a_killed_agent_is_a_crash() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let record = sandbox.book.record.lock().unwrap().clone();
    let other = DangerousHost::provider(home.folder.path());
    let handle = other.attach(AttachRequest { provision: sandbox.request.clone(), record }).await.unwrap();
    assert_eq!(certain(&*handle).await.state, State::Running);
    assert!(handle.exec(ExecRequest::argv(["true"])).await.unwrap().status.success());
    let stream = handle.exec_stream(ExecRequest::argv(["sleep", "100"])).await.unwrap();
    sandbox.processes()[0].signal(rustix::process::Signal::KILL).unwrap();
    let error = stream.collect(1).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.message().starts_with("the sandbox ended"), "{error}");
    let status = certain(&*sandbox.handle).await;
    assert_eq!(status.state, State::Crashed);
    assert!(status.reason.unwrap().contains("signal 9"), "the parent knows how it ended");
    sandbox.handle.start().await.unwrap();
    assert_eq!(certain(&*sandbox.handle).await.state, State::Running);
    sandbox.destroy().await;
}

#[tokio::test]
async fn checkpoints_restore_in_place_and_fork() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    sandbox.shell("mkdir d; echo one > d/file; ln d/file d/hard").await;
    let options = checkpoint_in(&home.folder.path().join("checkpoint"));
    let saved = sandbox.handle.checkpoint(options.clone()).await.unwrap();
    assert!(saved.files == 3 && saved.bytes > 0, "{saved:?}");
    sandbox.shell("echo two > d/file; touch later").await;
    let cut = sandbox.handle.exec_stream(ExecRequest::argv(["sleep", "100"])).await.unwrap();
    let ended = tokio::spawn(cut.collect(1));
    sandbox.handle.restore(root_of(&options)).await.unwrap();
    let error = ended.await.unwrap().unwrap_err();
    assert_eq!(error.message(), "the sandbox was restored to another checkpoint while this ran");
    assert_eq!(sandbox.shell("cat d/hard; ls").await, "one\nd\ntmp\n");
    assert!(!sandbox.request.folder.join("g1").exists());

    let (request, book) = home.request(2);
    let handle = home.provider.restore(request.clone(), root_of(&options)).await.unwrap();
    let fork = Sandbox { handle, request, book };
    assert_eq!(fork.shell("cat d/file; echo three > d/file").await, "one\n");
    assert_eq!(sandbox.shell("cat d/file").await, "one\n");
    fork.destroy().await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn pausing_freezes_everything_where_it_is_claimed() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    if home.provider.info().features.has(Feature::Pause) {
        sandbox.handle.pause().await.unwrap();
        assert_eq!(certain(&*sandbox.handle).await.state, State::Paused);
        sandbox.handle.resume().await.unwrap();
        assert_eq!(certain(&*sandbox.handle).await.state, State::Running);
        sandbox.handle.pause().await.unwrap();
    } else {
        assert_eq!(sandbox.handle.pause().await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn ports_inside_are_reached_and_exposed() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let inside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = inside.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = inside.accept().unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
            std::io::Write::write_all(&mut stream, text.to_uppercase().as_bytes()).unwrap();
        }
    });
    let exposed = sandbox.handle.expose_port(port, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let direct = sandbox.handle.connect_port(port).await.unwrap();
    let through: Box<dyn sandbar_core::ByteStream> = Box::new(tokio::net::TcpStream::connect(exposed.listen).await.unwrap());
    for mut stream in [direct, through] {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "HELLO");
    }
    echo.join().unwrap();
    assert_eq!(sandbox.handle.connect_port(port).await.err().unwrap().kind(), ErrorKind::Unavailable);
    sandbox.destroy().await;
}

#[tokio::test]
async fn every_descendant_ends_with_the_sandbox() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let line = "setsid sleep 1000 >/dev/null 2>&1 & echo $!; (setsid sh -c 'sleep 1000 & echo $!; : > told; wait' &)
        until test -e told; do sleep 0.01; done";
    let pids = sandbox.shell(line).await;
    let processes: Vec<_> = pids.lines().map(|line| HostProcess::of(line.trim().parse().unwrap()).unwrap()).collect();
    assert_eq!(processes.len(), 2, "{pids}");
    sandbox.destroy().await;
    assert!(processes.iter().all(|process| !process.is_alive()));
}

#[tokio::test]
async fn what_a_crash_left_is_reclaimed_twice_without_complaint() {
    let home = Home::new();
    let sandbox = home.sandbox(1).await;
    let held = sandbox.book.held.lock().unwrap().clone();
    assert!(held.len() >= 2, "{held:?}");
    let processes = sandbox.processes();
    let other = DangerousHost::provider(home.folder.path());
    for _ in 0..2 {
        other.reclaim(&sandbox.request.id, &held).await.unwrap();
    }
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert_eq!(std::fs::read_dir(&sandbox.request.folder).unwrap().count(), 0);
}

#[tokio::test]
async fn an_owned_sandbox_does_not_end_with_the_thread_that_made_it() {
    let home = Home::new();
    let (mut request, book) = home.request(1);
    request.lifetime = Lifetime::Owned;
    let provider = Arc::clone(&home.provider);
    let made = request.clone();
    // A runtime of its own: its threads are gone when it is dropped.
    let handle = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(provider.provision(made)).unwrap()
    });
    let handle = tokio::task::spawn_blocking(move || handle.join().unwrap()).await.unwrap();
    let sandbox = Sandbox { handle, request, book };
    assert_eq!(sandbox.shell("echo here").await, "here\n");
    sandbox.destroy().await;
}
