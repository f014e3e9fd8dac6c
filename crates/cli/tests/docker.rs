//! `kill -9` of sandbar at each step of a sandbox's life on an engine: nothing leaks, and what the ledger says is true.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
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

#[test]
fn a_kill_at_any_step_leaks_nothing_in_the_engine() {
    let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "docker-runc"));
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists());
    let note = tempfile::tempdir().unwrap();
    let (socket, program) = match (rustix::process::geteuid().is_root(), program) {
        (true, Some(program)) => match engine::of_run(note.path(), "cli", "runc") {
            Ok((socket, _)) => (socket, program),
            Err(reason) => return assert!(!required, "{reason}"),
        },
        _ => return assert!(!required, "an engine of its own needs root, and its image a static busybox"),
    };
    let world = World { home: tempfile::tempdir().unwrap(), socket };
    let tree = world.home.path().join("tree");
    make_tree(&tree, program);
    world.ok(&["image", "import", &tree.display().to_string(), "busybox"]);
    let create = ["create", "--on", "docker", "--image", "busybox"];
    let begun = Instant::now();
    let id = loop {
        let made = world.run(&create);
        if made.status.success() {
            break String::from_utf8(made.stdout).unwrap().trim().to_owned();
        }
        // The engine makes its socket when it is ready.
        let said = engine::last_words(&world.socket);
        assert!(begun.elapsed() < Duration::from_secs(60), "{}; {said}", String::from_utf8_lossy(&made.stderr));
        sleep(Duration::from_millis(50));
    };
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
