//! `kill -9` of sandbar at each step of a sandbox's life on an engine: nothing leaks, and what the ledger says is true.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

#[path = "../../conformance/tests/engines/engine.rs"]
mod engine;

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

    /// After `gc` the engine has one container for each sandbox, and those that are there answer.
    fn is_settled(&self, step: &str) -> Vec<String> {
        self.ok(&["gc"]);
        let ids: Vec<String> = self.ok(&["ls", "-q"]).lines().map(str::to_owned).collect();
        assert_eq!(self.containers(), ids.len(), "containers after {step}");
        ids
    }
}

fn make_tree(tree: &Path, program: &Path) {
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(program, tree.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "true", "sleep"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
}

/// What stands in the way of a fact is a failure where the engine is required.
fn world(note: &Path) -> Option<World> {
    let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "docker-runc"));
    if !rustix::process::geteuid().is_root() {
        assert!(!required, "an engine of its own needs root");
        return None;
    }
    match engine::of_run(note, "cli", &engine::Engine::of("runc")) {
        Ok((socket, _)) => Some(World { home: tempfile::tempdir().unwrap(), socket }),
        Err(reason) => {
            assert!(!required, "{reason}");
            None
        }
    }
}

/// The engine makes its socket when it is ready.
fn wait_for_engine(world: &World) {
    let begun = Instant::now();
    while UnixStream::connect(&world.socket).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", engine::last_words(&world.socket));
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn setup_makes_the_image_base_and_a_sandbox_begins_from_it() {
    let note = tempfile::tempdir().unwrap();
    let Some(world) = world(note.path()) else { return };
    wait_for_engine(&world);
    let lacking = world.run(&["run", "--on", "docker", "--", "true"]);
    let said = String::from_utf8_lossy(&lacking.stderr).into_owned();
    assert!(lacking.status.code() == Some(125) && said.contains("sandbar setup docker"), "{said}");

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

#[test]
fn a_socket_without_permission_is_told_with_who_may() {
    let note = tempfile::tempdir().unwrap();
    let Some(world) = world(note.path()) else { return };
    wait_for_engine(&world);
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

#[test]
fn a_kill_at_any_step_leaks_nothing_in_the_engine() {
    let note = tempfile::tempdir().unwrap();
    let Some(world) = world(note.path()) else { return };
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists()).unwrap();
    let tree = world.home.path().join("tree");
    make_tree(&tree, program);
    world.ok(&["image", "import", &tree.display().to_string(), "busybox"]);
    wait_for_engine(&world);
    let create = ["create", "--on", "docker", "--image", "busybox"];
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
    for step in ["destroy.begun", "destroy.halted", "destroy.removed"] {
        let other = world.ok(&create);
        world.killed_at(step, &["rm", "-f", &other]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    world.ok(&["rm", "-f", &id]);
    world.ok(&["gc"]);
    assert_eq!(world.containers(), 0);
}
