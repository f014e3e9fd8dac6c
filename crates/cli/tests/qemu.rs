//! Virtual machines under the command line: a machine that is killed, panics or hangs is told as such, and `kill -9` of sandbar at each step of its life
//! leaks nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The words of `create`.
const CREATE: [&str; 5] = ["create", "--on", "qemu", "--image", "busybox"];
/// How long something may take that another process does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder with a kernel and an image.
struct World {
    home: tempfile::TempDir,
}

impl World {
    /// `None` where there is no kernel, QEMU or busybox; a failure where that is required.
    fn new() -> Option<Self> {
        let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "qemu-tcg"));
        let program = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists());
        let (Some(package), Some(program), true) = (kernel_package(), program, Path::new("/usr/bin/qemu-system-x86_64").exists()) else {
            assert!(!required, "a kernel's package, QEMU or busybox is missing: run `cargo xtask setup`");
            return None;
        };
        let world = Self { home: tempfile::Builder::new().prefix("sandbar-test-").tempdir_in("/tmp").unwrap() };
        fs::create_dir(world.state()).unwrap();
        fs::write(world.state().join("sandbar.toml"), "[qemu]\naccelerator = \"tcg\"\n").unwrap();
        let tree = world.home.path().join("tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::copy(program, tree.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "true", "sleep"] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        world.ok(&["image", "import", &tree.display().to_string(), "busybox"]);
        world.ok(&["kernel", "import", &package.display().to_string()]);
        Some(world)
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command.args(arguments).stdin(Stdio::null()).env("SANDBAR_HOME", self.state());
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

    fn killed_at(&self, step: &str, arguments: &[&str]) {
        let output = self.command(arguments).env("SANDBAR_FAULT", step).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step} was not reached: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn inspect(&self, id: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["inspect", id])).unwrap()
    }

    /// Processes of this host that work in this state folder.
    fn processes(&self) -> Vec<(u32, String)> {
        let state = self.state();
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let here = |pid: u32| {
            let place = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            place.starts_with(&state).then(|| (pid, fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()))
        };
        pids.filter_map(here).collect()
    }

    /// The machine of the only sandbox.
    fn machine(&self) -> Pid {
        let machines: Vec<u32> = self.processes().into_iter().filter(|(_, name)| name.starts_with("qemu")).map(|(pid, _)| pid).collect();
        assert_eq!(machines.len(), 1, "{machines:?}");
        Pid::from_raw(i32::try_from(machines[0]).unwrap()).unwrap()
    }

    /// After `gc` there is nothing but the sandboxes that the ledger has: two processes for each that runs, no half of a template.
    fn is_settled(&self, step: &str) -> Vec<String> {
        self.ok(&["gc"]);
        let ids: Vec<String> = self.ok(&["ls", "-q"]).lines().map(str::to_owned).collect();
        let running = ids.iter().filter(|id| self.inspect(id)["state"] == "running").count();
        // The pipe's process sees the end of its machine by itself.
        let begun = Instant::now();
        while self.processes().len() != 2 * running {
            assert!(begun.elapsed() < PATIENCE, "after {step} {running} run, and there are {:?}", self.processes());
            sleep(Duration::from_millis(20));
        }
        let half = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".new-");
        let left: Vec<_> = fs::read_dir(self.state().join("templates")).into_iter().flatten().flatten().filter(half).collect();
        assert!(left.is_empty(), "after {step}: {left:?}");
        let folders = fs::read_dir(self.state().join("sandboxes")).map_or(0, Iterator::count);
        assert_eq!(folders, ids.len(), "folders after {step}");
        ids
    }
}

/// What `cargo xtask setup` has got from the distribution.
fn kernel_package() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    let found = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path().join("package.deb"));
    found.filter(|path| path.exists()).max()
}

#[test]
fn a_kill_at_any_step_leaks_nothing() {
    let Some(world) = World::new() else { return };
    // The first of all boots a template, in the name of the sandbox that is wanted.
    for step in ["template.begun", "qemu.prepared", "qemu.launched", "qemu.piped", "template.booted", "template.saved", "template.kept"] {
        world.killed_at(step, &CREATE);
        for left in world.is_settled(step) {
            world.ok(&["rm", "-f", &left]);
        }
    }
    let id = world.ok(&CREATE);
    assert_eq!(world.ok(&["template", "ls", "--json"]).matches("\"id\"").count(), 1);
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);
    for step in [
        "provision.folder",
        "qemu.launched",
        "qemu.piped",
        "provision.booted",
        "provision.answered",
        "provision.committed",
        "create.provisioned",
    ] {
        world.killed_at(step, &CREATE);
        for left in world.is_settled(step).iter().filter(|left| **left != id) {
            assert_eq!(world.ok(&["exec", left, "--", "sh", "-c", "echo here"]), "here", "{step}");
            world.ok(&["rm", "-f", left]);
        }
    }
    for step in ["checkpoint.begun", "checkpoint.quiet", "checkpoint.memory-saved", "checkpoint.awake"] {
        world.killed_at(step, &["checkpoint", "--with-memory", &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    for step in ["checkpoint.frozen", "checkpoint.saved"] {
        world.killed_at(step, &["checkpoint", &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    for step in ["qemu.launched", "restore.booted", "restore.answered", "restore.committed", "restore.halted"] {
        world.killed_at(step, &["restore", &id, &checkpoint]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    for (step, verb) in [("stop.handed-over", "stop"), ("stop.halted", "stop"), ("qemu.launched", "start"), ("start.answered", "start")] {
        // From the other state, which it may be in already.
        let _ = world.run(&[if verb == "stop" { "start" } else { "stop" }, &id]);
        world.killed_at(step, &[verb, &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    let _ = world.run(&["start", &id]);
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept");
    for step in ["destroy.begun", "destroy.halted", "destroy.removed"] {
        let other = world.ok(&CREATE);
        world.killed_at(step, &["rm", "-f", &other]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    world.ok(&["rm", "-f", &id]);
    world.ok(&["checkpoint", "rm", &checkpoint]);
    let template = world.ok(&["template", "ls", "--json"]);
    let template = serde_json::from_str::<serde_json::Value>(&template).unwrap()[0]["id"].as_str().unwrap().to_owned();
    world.ok(&["template", "rm", &template]);
    assert!(world.is_settled("everything").is_empty());
    assert_eq!(fs::read_dir(world.state().join("checkpoints")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_machine_that_ends_or_hangs_is_told() {
    let Some(world) = World::new() else { return };
    let id = world.ok(&CREATE);
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file; sync"]);
    let is_told = |what: &str| {
        let begun = Instant::now();
        let told = loop {
            let told = world.inspect(&id);
            if told["state"] != "running" {
                break told;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {told}");
        };
        assert_eq!(told["state"], "crashed", "{what}: {told}");
        let exec = world.run(&["exec", &id, "--", "true"]);
        assert_eq!(exec.status.code(), Some(125), "{what}: {}", String::from_utf8_lossy(&exec.stderr));
        told.to_string()
    };
    let again = || {
        world.ok(&["start", &id]);
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept");
    };

    kill_process(world.machine(), Signal::STOP).unwrap();
    let told = is_told("a machine that hangs");
    assert!(told.contains("does not answer"), "{told}");
    again();

    kill_process(world.machine(), Signal::KILL).unwrap();
    is_told("a machine that was killed");
    assert_eq!(world.is_settled("a kill"), [id.as_str()]);
    again();

    // Root inside may do that to its own kernel.
    let _ = world.run(&["exec", &id, "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"]);
    let told = is_told("a kernel that panics");
    assert!(told.contains("Kernel panic"), "{told}");
    again();

    let pipes: Vec<u32> = world.processes().into_iter().filter(|(_, name)| !name.starts_with("qemu")).map(|(pid, _)| pid).collect();
    assert_eq!(pipes.len(), 1);
    kill_process(Pid::from_raw(i32::try_from(pipes[0]).unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "another process takes the pipe");
    world.ok(&["rm", "-f", &id]);
    assert!(world.is_settled("everything").is_empty());
}
