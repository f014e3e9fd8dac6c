//! `kill -9` of sandbar at each step of a sandbox's life on an engine: nothing leaks, and what the ledger says is true.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::{
    fs,
    net::TcpStream,
    os::unix::{
        fs::PermissionsExt,
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};

#[path = "../../conformance/tests/engines/engine.rs"]
mod engine;
#[path = "../../conformance/tests/engines/trial.rs"]
mod trial;

/// Long enough for a loaded machine; nothing waits for it that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fact, and the runtime of the engine that it is shown on.
type Case = (&'static str, &'static str, fn(&World));

const CASES: &[Case] = &[
    ("setup_makes_the_image_base_and_a_sandbox_begins_from_it", "runc", setup_makes_the_image_base_and_a_sandbox_begins_from_it),
    ("a_socket_without_permission_is_told_with_who_may", "runc", a_socket_without_permission_is_told_with_who_may),
    ("a_kill_at_any_step_leaks_nothing_in_the_engine", "runc", a_kill_at_any_step_leaks_nothing_in_the_engine),
    ("a_kill_while_memory_is_saved_leaves_a_sandbox_that_answers", "runsc", a_kill_while_memory_is_saved_leaves_a_sandbox_that_answers),
];

fn main() -> ExitCode {
    let trial = |(name, runtime, body): &Case| -> Trial {
        let (runtime, body) = (*runtime, *body);
        let required = if runtime == "runsc" { "docker-runsc" } else { "docker-runc" };
        trial::trial(name, required, move || world(runtime), move |world| body(&world))
    };
    libtest_mimic::run(&Arguments::from_args(), CASES.iter().map(trial).collect()).exit_code()
}

/// A state folder on an engine of this test's own.
struct World {
    home: tempfile::TempDir,
    socket: PathBuf,
}

impl World {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command.args(arguments).stdin(Stdio::null()).env("SANDBAR_HOME", self.home.path().join("state"));
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs a command that is killed at a step.
    fn killed_at(&self, step: &str, arguments: &[&str]) {
        let output = self.command(arguments).env("SANDBAR_FAULT", step).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step} was not reached: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Containers that the engine has.
    fn containers(&self) -> usize {
        fs::read_dir(self.socket.with_file_name("root/containers")).map_or(0, Iterator::count)
    }

    /// What is true of a sandbox. Its agent on a busy machine may be silent for longer than a status waits: one that is in doubt is asked again.
    fn state(&self, id: &str) -> String {
        let begun = Instant::now();
        loop {
            let told: serde_json::Value = serde_json::from_str(&self.ok(&["inspect", id])).unwrap();
            if told["in_doubt"] != true || begun.elapsed() > PATIENCE {
                return told["state"].as_str().unwrap().to_owned();
            }
        }
    }

    /// After `gc` the engine has one container for each sandbox, and those that are there answer.
    fn is_settled(&self, step: &str) -> Vec<String> {
        self.ok(&["gc"]);
        let ids: Vec<String> = self.ok(&["ls", "-q"]).lines().map(str::to_owned).collect();
        assert_eq!(self.containers(), ids.len(), "containers after {step}");
        ids
    }
}

/// The words that make a sandbox.
const CREATE: [&str; 5] = ["create", "--on", "docker", "--image", "busybox"];

fn import_busybox(world: &World) {
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists()).unwrap();
    let tree = world.home.path().join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(program, tree.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "true", "sleep", "httpd"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    world.ok(&["image", "import", &tree.display().to_string(), "busybox"]);
}

/// A state folder on an engine with this runtime, which is started.
fn world(runtime: &str) -> Result<World, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("an engine of its own needs root".to_owned());
    }
    // Where it is, is noted there for other processes, of which there are none.
    let note = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (socket, _) = engine::of_run(note.path(), "cli", &engine::Engine::of(runtime))?;
    let world = World { home: tempfile::tempdir().map_err(|error| error.to_string())?, socket };
    wait_for_engine(&world);
    Ok(world)
}

/// The engine makes its socket when it is ready.
fn wait_for_engine(world: &World) {
    let begun = Instant::now();
    while UnixStream::connect(&world.socket).is_err() {
        assert!(begun.elapsed() < PATIENCE, "{}", engine::last_words(&world.socket));
        sleep(Duration::from_millis(50));
    }
}

fn setup_makes_the_image_base_and_a_sandbox_begins_from_it(world: &World) {
    let lacking = world.run(&["run", "--on", "docker", "--", "true"]);
    let said = String::from_utf8_lossy(&lacking.stderr).into_owned();
    assert!(lacking.status.code() == Some(125) && said.contains("sandbar setup docker"), "{said}");

    // It works, and its default image is not here: the doctor asks no sandbox of it to say hello.
    let found: serde_json::Value = serde_json::from_slice(&world.run(&["doctor", "--self-test", "--json"]).stdout).unwrap();
    let docker = found["providers"].as_array().unwrap().iter().find(|provider| provider["name"] == "docker").unwrap();
    assert_eq!((&docker["usable"], &docker["lacks_base"], &docker["said_hello"]), (&true.into(), &true.into(), &().into()), "{found}");
    assert!(docker["hint"].as_str().unwrap().contains("sandbar setup docker"), "{found}");

    let asked = world.run(&["setup", "docker"]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.success() && said.contains("to do: ") && said.contains("nothing was done"), "{said}");
    assert!(!world.ok(&["image", "ls"]).contains("base"));

    world.ok(&["setup", "docker", "--yes"]);
    assert_eq!(world.ok(&["run", "--on", "docker", "--", "python3", "-c", "print(6 * 7)"]), "42");
    let again = world.run(&["setup", "docker"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() && said.contains("lacks nothing"), "{said}");
}

fn a_socket_without_permission_is_told_with_who_may(world: &World) {
    fs::set_permissions(&world.socket, fs::Permissions::from_mode(0o660)).unwrap();
    fs::set_permissions(world.socket.parent().unwrap(), fs::Permissions::from_mode(0o711)).unwrap();
    // A user who can execute it and has a state folder, but may not talk to the engine.
    let (home, program) = (world.home.path(), world.home.path().join("sandbar"));
    fs::copy(env!("CARGO_BIN_EXE_sandbar"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    let (nobody, state) = (65534, home.join("state"));
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(nobody), Some(nobody)).unwrap();
    let tree = home.join("tree");
    fs::create_dir(&tree).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).env("SANDBAR_HOME", &state).env("HOME", home).current_dir("/");
        command.env("DOCKER_HOST", format!("unix://{}", world.socket.display())).uid(nobody).gid(nobody).output().unwrap()
    };
    assert!(as_nobody(&["image", "import", &tree.display().to_string(), "empty"]).status.success());
    let refused = as_nobody(&["create", "--on", "docker", "--image", "empty"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(125), "{said}");
    assert!(said.contains("may not talk to the engine") && said.contains("hint: "), "{said}");
    assert_eq!(String::from_utf8_lossy(&as_nobody(&["ls", "-q"]).stdout), "");
    assert_eq!(world.containers(), 0);
}

fn a_kill_at_any_step_leaks_nothing_in_the_engine(world: &World) {
    import_busybox(world);
    let create = CREATE;
    let id = world.ok(&create);
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);

    let making = ["create.row", "create.folder", "provision.folder", "docker.intended", "docker.created", "docker.started"];
    for step in making.into_iter().chain(["provision.booted", "provision.answered", "provision.committed", "create.provisioned"]) {
        world.killed_at(step, &create);
        for left in world.is_settled(step).iter().filter(|left| **left != id) {
            assert_eq!(world.ok(&["exec", left, "--", "sh", "-c", "echo here"]), "here", "{step}");
            world.ok(&["rm", "-f", left]);
        }
    }
    for (step, verb) in [("stop.handed-over", "stop"), ("stop.halted", "stop"), ("docker.started", "start"), ("start.answered", "start")] {
        // From the other state, which it may be in already.
        let _ = world.run(&[if verb == "stop" { "start" } else { "stop" }, &id]);
        world.killed_at(step, &[verb, &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    let _ = world.run(&["start", &id]);
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept");
    for step in ["checkpoint.frozen", "checkpoint.saved"] {
        world.killed_at(step, &["checkpoint", &id]);
        world.is_settled(step);
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    let checkpoint = world.ok(&["checkpoint", &id]);
    for step in ["restore.folder", "docker.created", "restore.booted", "restore.answered", "restore.committed", "restore.halted"] {
        world.killed_at(step, &["restore", &id, &checkpoint]);
        world.is_settled(step);
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    for (step, verb) in [("pause.row", "pause"), ("resume.row", "resume")] {
        world.killed_at(step, &[verb, &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        // Either it was done or it was not; what is told is true, and the other way is open.
        if world.state(&id) == "running" {
            assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
            world.ok(&["pause", &id]);
        }
        assert_eq!(world.state(&id), "paused", "{step}");
    }
    world.ok(&["resume", &id]);
    for step in ["fork.saved", "docker.created", "provision.answered"] {
        world.killed_at(step, &["fork", &id]);
        for other in world.is_settled(step).iter().filter(|other| **other != id) {
            assert_eq!(world.ok(&["exec", other, "--", "cat", "/file"]), "kept", "{step}");
            world.ok(&["rm", "-f", other]);
        }
    }
    for step in ["expose.row", "expose.listening"] {
        world.killed_at(step, &["expose", &id, "80"]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        let _ = world.run(&["unexpose", &id, "80"]);
    }
    // The keeper's, whose client only hears that it is gone, or of the next one.
    for step in ["keeper.row", "keeper.listening"] {
        let _ = world.command(&["expose", &id, "80"]).env("SANDBAR_FAULT", step).output().unwrap();
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        let _ = world.run(&["unexpose", &id, "80"]);
    }
    let address = world.ok(&["expose", &id, "80"]);
    assert!(TcpStream::connect(&address).is_ok());
    world.ok(&["unexpose", &id, "80"]);
    assert!(TcpStream::connect(&address).is_err());
    for step in ["destroy.begun", "destroy.halted", "destroy.removed"] {
        let other = world.ok(&create);
        world.killed_at(step, &["rm", "-f", &other]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    world.ok(&["rm", "-f", &id]);
    world.ok(&["gc"]);
    assert_eq!(world.containers(), 0);
}

fn a_kill_while_memory_is_saved_leaves_a_sandbox_that_answers(world: &World) {
    import_busybox(world);
    let id = world.ok(&CREATE);
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);
    for step in ["checkpoint.begun", "checkpoint.quiet", "checkpoint.memory-saved", "checkpoint.awake"] {
        world.killed_at(step, &["checkpoint", "--with-memory", &id]);
        let begun = Instant::now();
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.state(&id), "running", "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
        // By itself the agent would listen again after a minute.
        assert!(begun.elapsed() < Duration::from_secs(50), "{step}: {:?}", begun.elapsed());
    }
    assert_eq!(world.ok(&["checkpoints", "--json"]), "[]");
    world.ok(&["rm", "-f", &id]);
    assert_eq!(world.containers(), 0);
}
