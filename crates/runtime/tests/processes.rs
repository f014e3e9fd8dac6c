//! Several processes on one state folder, killed where it hurts. This program is its own worker and its own keeper.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where something is not as it should be, and workers talk by stdout"
)]

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use sandbar_core::{CheckpointKind, ErrorKind, Lifetime, SandboxId, SandboxSpec, State};
use sandbar_runtime::{CreateRequest, ForkOptions, RestoreOptions, Runtime, RuntimeConfig, Sandbox};
use support::{Fake, command, fake_sandbox, leavings, open_as};
use tempfile::TempDir;

/// Every step at which the scenario can be killed, in the order in which it gets there. `:n` is the n-th time.
const FAULTS: &[&str] = &[
    "create.row",
    "create.folder",
    "fake.begun",
    "fake.folder",
    "fake.agent",
    "fake.committed",
    "create.provisioned",
    "create.finished",
    "exec.before",
    "exec.started",
    "create.row:2",
    "checkpoint.row",
    "checkpoint.inserted",
    "checkpoint.folder",
    "fake.frozen",
    "fake.copied",
    "checkpoint.filled",
    "checkpoint.renamed",
    "checkpoint.finished",
    "pause.row",
    "resume.row",
    "stop.row",
    "fake.stopping",
    "fake.stopped",
    "start.row",
    "fake.agent:3",
    "fake.started",
    "restore.row",
    "restore.pending",
    "fake.folder:3",
    "fake.agent:4",
    "fake.restored",
    "fork.saved",
    "create.row:3",
    "fake.committed:4",
    "fork.saved:2",
    "create.row:5",
    "checkpoint-rm.row",
    "checkpoint-rm.folder",
    "expose.row",
    "expose.listening",
    "destroy.row",
    "fake.destroying",
    "fake.destroyed",
    "destroy.provider",
    "destroy.folder",
    "destroy.finished",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[1..] {
        ["keeper", "--home", home, id] => block_on(async {
            // As the command line opens it: with a keeper program, which a keeper must not start.
            open(Path::new(home)).await.run_keeper(id).await.unwrap();
        }),
        ["worker", home, index] => block_on(work(Path::new(home), index)),
        ["scenario", home] => block_on(scenario(Path::new(home))),
        ["expose", home, port] => {
            let exposed =
                block_on(async { open(Path::new(home)).await.sandbox("web").await?.expose_port(port.parse().unwrap(), loopback()).await });
            return ExitCode::from(u8::from(exposed.is_err()));
        }
        ["owner", home] => block_on(own(Path::new(home))),
        _ => return libtest_mimic::run(&Arguments::from_args(), tests()).exit_code(),
    }
    ExitCode::SUCCESS
}

fn tests() -> Vec<Trial> {
    let mut tests = vec![
        test("processes::eight_share_a_state_folder", eight_share_a_state_folder),
        test("processes::a_lock_that_is_collected_keeps_nobody_from_creating", a_collected_lock),
        test("processes::a_sandbox_ends_with_its_owner", a_sandbox_ends_with_its_owner),
        test("keeper::a_port_outlives_the_command_and_the_keeper", a_port_outlives_the_command_and_the_keeper),
        test("keeper::it_holds_nothing_of_the_command", it_holds_nothing_of_the_command),
        test("keeper::it_ends_when_nothing_is_left", it_ends_when_nothing_is_left),
        test("keeper::an_address_that_is_taken_is_told", an_address_that_is_taken_is_told),
        test("keeper::a_time_to_live_ends_the_sandbox", a_time_to_live_ends_the_sandbox),
        test("keeper::many_callers_start_one", many_callers_start_one),
    ];
    tests.extend(
        ["keeper.row", "keeper.listening", "keeper.ending"]
            .map(|fault| test(format!("keeper::killed_at_{fault}"), move || a_keeper_killed_at(fault))),
    );
    tests.extend(FAULTS.iter().map(|fault| test(format!("killed_at::{fault}"), move || killed_at(fault))));
    tests
}

fn test<F: Future<Output = ()>>(name: impl Into<String>, body: impl FnOnce() -> F + Send + 'static) -> Trial {
    Trial::test(name, move || {
        block_on(body());
        Ok(())
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn open(home: &Path) -> Runtime {
    open_as(RuntimeConfig::new(home).with_keeper(env::current_exe().unwrap()), &Fake::default()).await
}

fn named(name: &str) -> CreateRequest {
    CreateRequest { name: Some(name.into()), ..fake_sandbox() }
}

async fn text(sandbox: &Sandbox, words: &[&str]) -> String {
    sandbox.exec(command(words)).await.unwrap().stdout_text()
}

fn this_program(words: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(words).env("RUST_BACKTRACE", "0");
    command
}

fn path(home: &TempDir) -> &str {
    home.path().to_str().unwrap()
}

/// What a process of its own does to a state folder that it shares.
async fn work(home: &Path, index: &str) {
    for round in 0..8 {
        // As commands do: each with a ledger connection of its own.
        let sandbox = open(home).await.create(named(&format!("w{index}-{round}"))).await.unwrap();
        let there = open(home).await.sandbox(sandbox.id().as_str()).await.unwrap();
        assert_eq!(text(&there, &["x"]).await, "x");
        assert!(open(home).await.list().await.unwrap().iter().any(|summary| summary.id == *sandbox.id()));
        there.stop().await.unwrap();
        there.start().await.unwrap();
        open(home).await.gc().await.unwrap();
        open(home).await.sandbox(sandbox.id().as_str()).await.unwrap().destroy().await.unwrap();
    }
}

async fn eight_share_a_state_folder() {
    let home = tempfile::tempdir().unwrap();
    let workers: Vec<Child> = (0..8).map(|index| this_program(&["worker", path(&home), &index.to_string()]).spawn().unwrap()).collect();
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    assert_eq!(leavings(home.path()), [""; 0]);
    assert!(open(home.path()).await.gc().await.unwrap().is_empty());
}

async fn a_collected_lock() {
    let home = tempfile::tempdir().unwrap();
    let runtime = open(home.path()).await;
    let id = SandboxId::from_random([3; 8]);
    let path = home.path().join("locks").join(id.as_str());
    let lock = fs::File::create(&path).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let collector = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        fs::remove_file(path).unwrap();
        drop(lock);
    });
    let sandbox = runtime.create(CreateRequest { id: Some(id.clone()), ..fake_sandbox() }).await.unwrap();
    collector.join().unwrap();
    assert_eq!(*sandbox.id(), id);
    sandbox.destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

/// Everything that can be done to sandboxes, once.
async fn scenario(home: &Path) {
    let runtime = open(home).await;
    let base = runtime.create(named("base")).await.unwrap();
    text(&base, &["write", "file", "old"]).await;
    runtime.create(named("kept")).await.unwrap();
    base.checkpoint(CheckpointKind::Disk, Some("cp".into())).await.unwrap();
    base.pause().await.unwrap();
    base.resume().await.unwrap();
    base.stop().await.unwrap();
    base.start().await.unwrap();
    base.restore("cp", RestoreOptions::default()).await.unwrap();
    let forks = runtime.fork("cp", 2, ForkOptions { name: Some("fork".into()), ..ForkOptions::default() }).await.unwrap();
    runtime.fork("base", 1, ForkOptions { name: Some("second".into()), ..ForkOptions::default() }).await.unwrap();
    let spare = base.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    runtime.remove_checkpoint(spare.id.as_str()).await.unwrap();
    forks[0].expose_port(80, loopback()).await.unwrap();
    forks[1].destroy().await.unwrap();
}

async fn killed_at(fault: &str) {
    let home = tempfile::tempdir().unwrap();
    let survivor = open(home.path()).await.create(named("survivor")).await.unwrap();
    let status = this_program(&["scenario", path(&home)]).env("SANDBAR_FAULT", fault).status().unwrap();
    assert_eq!(status.signal(), Some(9), "the scenario does not get to {fault}: {status}");

    // Half of it is done by opening, as by any command; the rest is for gc.
    let runtime = open(home.path()).await;
    let report = runtime.gc().await.unwrap();
    assert_eq!(report.failed, []);
    let report = runtime.gc().await.unwrap();
    assert!(report.is_empty(), "{report:?}");
    assert_eq!(text(&runtime.sandbox("survivor").await.unwrap(), &["alive"]).await, "alive");
    assert_eq!(runtime.sandbox("survivor").await.unwrap().id(), survivor.id());

    let list = runtime.list().await.unwrap();
    let checkpoints = runtime.checkpoints(None).await.unwrap();
    let mut known: BTreeSet<String> = list.iter().map(|summary| format!("sandboxes/{}", summary.id)).collect();
    known.extend(list.iter().map(|summary| format!("locks/{}", summary.id)));
    known.extend(checkpoints.iter().map(|checkpoint| format!("checkpoints/{}", checkpoint.id)));
    let there: BTreeSet<String> = leavings(home.path()).into_iter().filter(|name| !name.starts_with("keepers/")).collect();
    assert_eq!(there.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    for summary in &list {
        let sandbox = runtime.sandbox(summary.id.as_str()).await.unwrap();
        match summary.state {
            State::Running => {}
            State::Paused => sandbox.resume().await.unwrap(),
            State::Stopped | State::Crashed => sandbox.start().await.unwrap(),
            State::Provisioning | State::Destroying => panic!("{summary:?}"),
        }
        if matches!(summary.name.as_deref(), Some("base" | "fork-1" | "fork-2" | "second")) {
            let file = text(&sandbox, &["read", "file"]).await;
            // Killed before it was written.
            let early = ["create.", "exec.", "fake."].iter().any(|early| fault.starts_with(early));
            assert!(file == "old" || early, "{file}");
        }
        // One generation each: what a restore or a start left half made is gone.
        assert_eq!(fs::read_dir(home.path().join("sandboxes").join(summary.id.as_str())).unwrap().count(), 1, "{summary:?}");
        sandbox.destroy().await.unwrap();
    }
    for checkpoint in runtime.checkpoints(None).await.unwrap().iter().rev() {
        runtime.remove_checkpoint(checkpoint.id.as_str()).await.unwrap();
    }
    assert_eq!(leavings(home.path()), [""; 0]);
    assert_eq!(keepers(home.path()), [0; 0]);
}

async fn own(home: &Path) {
    let runtime = open(home).await;
    runtime.create(CreateRequest { lifetime: Lifetime::Owned, ..named("owned") }).await.unwrap();
    runtime.create(named("free")).await.unwrap();
    println!("made");
    std::thread::sleep(Duration::from_secs(3600));
}

async fn a_sandbox_ends_with_its_owner() {
    let home = tempfile::tempdir().unwrap();
    let mut owner = this_program(&["owner", path(&home)]).stdout(Stdio::piped()).spawn().unwrap();
    owner.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
    let owned = open(home.path()).await.list().await.unwrap().into_iter().filter(|summary| summary.owned).count();
    assert_eq!(owned, 1);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let list = open(home.path()).await.list().await.unwrap();
    assert_eq!(list.iter().map(|summary| summary.name.as_deref().unwrap()).collect::<Vec<_>>(), ["free"]);
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Answers each connection with its own words.
fn echo() -> u16 {
    let listener = TcpListener::bind(loopback()).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).unwrap();
            stream.write_all(&text).unwrap();
        }
    });
    port
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"hello")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The keepers of a state folder, by their command lines.
fn keepers(home: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let is_keeper = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&b"keeper".as_slice()) && words.get(3) == Some(&home.as_os_str().as_encoded_bytes())
    };
    processes.filter(is_keeper).collect()
}

fn kill(pid: u32) {
    let status: ExitStatus = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
    wait_until(|| !Path::new(&format!("/proc/{pid}")).exists());
}

fn wait_until(mut what: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn a_port_outlives_the_command_and_the_keeper() {
    let home = tempfile::tempdir().unwrap();
    let inside = echo();
    let sandbox = open(home.path()).await.create(named("web")).await.unwrap();
    let exposed = sandbox.expose_port(inside, loopback()).await.unwrap();
    drop(sandbox);
    assert_eq!(ask(exposed.listen).unwrap(), "hello");
    let pids = keepers(home.path());
    assert_eq!(pids.len(), 1);
    kill(pids[0]);
    assert!(ask(exposed.listen).is_err());
    // Any command.
    let runtime = open(home.path()).await;
    assert_eq!(ask(exposed.listen).unwrap(), "hello");
    let sandbox = runtime.sandbox("web").await.unwrap();
    assert_eq!(sandbox.exposed_ports().await.unwrap(), [exposed]);
    // A stop does not end it, and a start goes on with it.
    sandbox.stop().await.unwrap();
    assert_eq!(ask(exposed.listen).unwrap_or_default(), "");
    sandbox.start().await.unwrap();
    assert_eq!(ask(exposed.listen).unwrap(), "hello");
    sandbox.destroy().await.unwrap();
    assert!(TcpStream::connect(exposed.listen).is_err());
    assert_eq!(keepers(home.path()), [0; 0]);
    assert_eq!(leavings(home.path()), [""; 0]);
}

async fn it_holds_nothing_of_the_command() {
    let home = tempfile::tempdir().unwrap();
    let secret = home.path().join("secret");
    let file = fs::File::create(&secret).unwrap();
    // As if it had been inherited: it is not closed by an exec.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let sandbox = open(home.path()).await.create(named("web")).await.unwrap();
    sandbox.expose_port(81, loopback()).await.unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC).unwrap();
    let pid = keepers(home.path())[0];
    let link = |number: &str| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
    assert_eq!((link("0"), link("1")), (PathBuf::from("/dev/null"), PathBuf::from("/dev/null")));
    let held: Vec<PathBuf> =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(!held.contains(&secret), "{held:?}");
    assert!(!held.iter().any(|path| path.starts_with("/dev/pts") || path.to_string_lossy().starts_with("pipe:")), "{held:?}");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own");
    assert_ne!(fields[1], std::process::id().to_string(), "nobody's child");
    assert_eq!(fields[4], "0", "no terminal");
    sandbox.destroy().await.unwrap();
}

async fn it_ends_when_nothing_is_left() {
    let home = tempfile::tempdir().unwrap();
    let inside = echo();
    let runtime = open(home.path()).await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    let first = sandbox.expose_port(inside, loopback()).await.unwrap();
    let second = sandbox.expose_port(inside + 1, loopback()).await.unwrap();
    assert_eq!(sandbox.exposed_ports().await.unwrap().len(), 2);
    let mut held = TcpStream::connect(second.listen).unwrap();
    sandbox.unexpose_port(second.port).await.unwrap();
    assert!(TcpStream::connect(second.listen).is_err());
    assert_eq!(held.read(&mut [0; 1]).unwrap_or_default(), 0);
    assert_eq!(ask(first.listen).unwrap(), "hello");
    sandbox.unexpose_port(first.port).await.unwrap();
    assert!(TcpStream::connect(first.listen).is_err());
    wait_until(|| keepers(home.path()).is_empty());
    assert_eq!(leavings(home.path()).iter().filter(|name| name.starts_with("keepers/")).count(), 0);
    // And again.
    let again = sandbox.expose_port(inside, first.listen).await.unwrap();
    assert_eq!((again, ask(first.listen).unwrap()), (first, "hello".to_owned()));
    sandbox.destroy().await.unwrap();
}

async fn an_address_that_is_taken_is_told() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(loopback()).unwrap();
    let sandbox = open(home.path()).await.create(named("web")).await.unwrap();
    let error = sandbox.expose_port(80, taken.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.chain());
    assert_eq!(sandbox.exposed_ports().await.unwrap(), []);
    wait_until(|| keepers(home.path()).is_empty());
    sandbox.destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

async fn a_time_to_live_ends_the_sandbox() {
    let home = tempfile::tempdir().unwrap();
    // Long enough for it to be looked at before, on a machine that is busy.
    let spec = SandboxSpec { ttl: Some(Duration::from_secs(15)), ..SandboxSpec::default() };
    let sandbox = open(home.path()).await.create(CreateRequest { spec, ..named("web") }).await.unwrap();
    assert_eq!(keepers(home.path()).len(), 1);
    let folder = home.path().join("sandboxes").join(sandbox.id().as_str());
    // Nobody runs a command.
    wait_until(|| !folder.exists());
    wait_until(|| keepers(home.path()).is_empty());
    wait_until(|| leavings(home.path()).is_empty());
}

async fn many_callers_start_one() {
    let home = tempfile::tempdir().unwrap();
    let sandbox = open(home.path()).await.create(named("web")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for port in 1..=10 {
        let sandbox = open(home.path()).await.sandbox("web").await.unwrap();
        tasks.spawn(async move { sandbox.expose_port(port, loopback()).await });
    }
    let mut exposed = Vec::new();
    while let Some(done) = tasks.join_next().await {
        exposed.push(done.unwrap().unwrap().listen);
    }
    assert_eq!(sandbox.exposed_ports().await.unwrap().len(), 10);
    // One that came too late answers, and ends; the one that stays has them all.
    wait_until(|| keepers(home.path()).len() == 1);
    for listen in exposed {
        let refused = TcpStream::connect(listen).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        assert!(!refused, "nobody listens at {listen}");
    }
    sandbox.destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}

async fn a_keeper_killed_at(fault: &str) {
    let home = tempfile::tempdir().unwrap();
    let inside = echo();
    let sandbox = open(home.path()).await.create(named("web")).await.unwrap();
    let status = this_program(&["expose", path(&home), &inside.to_string()]).env("SANDBAR_KEEPER_FAULT", fault).status().unwrap();
    if fault == "keeper.ending" {
        assert!(status.success());
        sandbox.unexpose_port(inside).await.unwrap();
        wait_until(|| keepers(home.path()).is_empty());
    } else {
        assert_eq!(status.code(), Some(1), "the keeper dies, and who asked for it is told");
    }
    let runtime = open(home.path()).await;
    assert_eq!(sandbox.exposed_ports().await.unwrap(), []);
    let exposed = runtime.sandbox("web").await.unwrap().expose_port(inside, loopback()).await.unwrap();
    assert_eq!(ask(exposed.listen).unwrap(), "hello");
    sandbox.destroy().await.unwrap();
    assert_eq!(leavings(home.path()), [""; 0]);
}
