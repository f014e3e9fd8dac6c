//! A state folder for one monitor.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use sandbar_backends::machine;

/// How long something may take that another process does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a command may take that finds its machine gone.
pub const SECONDS: Duration = Duration::from_secs(60);

/// What is tested.
pub struct Monitor {
    /// The provider, and how the names of its processes begin.
    pub name: &'static str,
    /// What `sandbar.toml` has.
    pub config: String,
    /// Where a boot calls the journal.
    pub steps: &'static [&'static str],
    /// Where a start from a template does.
    pub steps_from_template: &'static [&'static str],
}

/// A state folder with a kernel and an image.
pub struct World {
    home: tempfile::TempDir,
    pub monitor: Monitor,
    /// The steps at which something was killed.
    pub killed: RefCell<BTreeSet<String>>,
}

/// What is killed while sandbar stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Machine,
    /// The process beside it, which has what the machine prints or its wire.
    Beside,
    /// The first process of its kernel, which panics then. The sandbox is the last that the command names.
    Agent,
}

impl World {
    /// # Errors
    /// What is missing here.
    pub fn new(monitor: Monitor) -> Result<Self, String> {
        if kernel().and(busybox()).is_none() {
            return Err("a kernel or busybox is missing: run `cargo xtask setup`".to_owned());
        }
        let world = Self::bare(monitor);
        world.import("busybox", "/name");
        world.import_kernel(&[]);
        Ok(world)
    }

    /// Takes in the distribution's kernel.
    pub fn import_kernel(&self, words: &[&str]) {
        let kernel = kernel().unwrap();
        let [package, unpacked, modules] = ["package.deb", "vmlinux", "modules"].map(|name| kernel.join(name).display().to_string());
        // An emulated machine would take minutes to unpack it.
        match std::env::var_os("SANDBAR_LAB") {
            Some(_) => self.ok(&[&["kernel", "import", &unpacked, "--modules", &modules], words].concat()),
            None => self.ok(&[&["kernel", "import", &package], words].concat()),
        };
    }

    /// A state folder with nothing but the configuration.
    pub fn bare(monitor: Monitor) -> Self {
        let home = tempfile::Builder::new().prefix("sandbar-test-").tempdir_in("/tmp").unwrap();
        let world = Self { home, monitor, killed: RefCell::default() };
        fs::create_dir(world.state()).unwrap();
        fs::write(world.state().join("sandbar.toml"), &world.monitor.config).unwrap();
        world
    }

    /// Makes an image of little more than a shell, the same one each time. The file has the image's name in it.
    pub fn import(&self, name: &str, file: &str) {
        let tree = self.home.path().join(format!("tree-{name}"));
        if !tree.exists() {
            fs::create_dir_all(tree.join("bin")).unwrap();
            fs::copy(busybox().unwrap(), tree.join("bin/busybox")).unwrap();
            for program in ["sh", "cat", "true", "sleep", "echo"] {
                std::os::unix::fs::symlink("busybox", tree.join("bin").join(program)).unwrap();
            }
            fs::write(tree.join(file.trim_start_matches('/')), name).unwrap();
        }
        self.ok(&["image", "import", &tree.display().to_string(), name]);
    }

    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command.args(arguments).stdin(Stdio::null()).env("SANDBAR_HOME", self.state());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn killed_at(&self, step: &str, arguments: &[&str]) {
        let output = self.command(arguments).env("SANDBAR_FAULT", step).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step} was not reached: {}", String::from_utf8_lossy(&output.stderr));
        self.killed.borrow_mut().insert(step.to_owned());
    }

    /// Runs a command that stands still at a step, kills one of its machine's processes meanwhile, and lets it go on: the newest machine's, where it has
    /// made one.
    pub fn struck_at(&self, step: &str, arguments: &[&str], victim: Victim) -> Output {
        let before: Vec<u32> = self.processes().into_iter().map(|(pid, _)| pid).collect();
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("SANDBAR_FAULT", step).env("SANDBAR_FAULT_STOPS", "1");
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        while state(child.id()) != Some('T') {
            if child.try_wait().unwrap().is_some() {
                panic!("{step} was not reached: {:?}", child.wait_with_output().unwrap());
            }
            assert!(begun.elapsed() < PATIENCE, "{step} was not reached");
            sleep(Duration::from_millis(5));
        }
        let is_one = |name: &str| name.starts_with(self.monitor.name) == (victim != Victim::Beside);
        // A machine has the name of its monitor from when what confines it has become that.
        let struck = loop {
            let all: Vec<u32> = self.processes().into_iter().filter(|(_, name)| is_one(name)).map(|(pid, _)| pid).collect();
            let new: Vec<u32> = all.iter().copied().filter(|pid| !before.contains(pid)).collect();
            // One whose agent has handed over ends by itself, and may have done so by now.
            if all.is_empty() && step == "stop.handed-over" {
                break None;
            }
            if let [one] = *if new.is_empty() { all } else { new } {
                break Some(one);
            }
            assert!(begun.elapsed() < PATIENCE, "{step}: which of these is to be killed? {:?}", self.processes());
            sleep(Duration::from_millis(5));
        };
        if victim == Victim::Agent {
            // Nobody may kill the first process of a kernel but the kernel itself.
            self.run(&["exec", arguments[arguments.len() - 1], "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"]);
        } else if let Some(struck) = struck {
            let killed = kill_process(Pid::from_raw(i32::try_from(struck).unwrap()).unwrap(), Signal::KILL);
            assert!(matches!(killed, Ok(()) | Err(Errno::SRCH)), "{step}: {killed:?}");
        }
        while struck.is_some_and(|struck| !matches!(state(struck), None | Some('Z' | 'X'))) {
            assert!(begun.elapsed() < PATIENCE, "{step}: it does not end");
            sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(begun.elapsed() < SECONDS, "{step} without its {victim:?} takes {:?}: {output:?}", begun.elapsed());
        self.killed.borrow_mut().insert(step.to_owned());
        output
    }

    /// Every step at which a machine's life calls the journal.
    pub fn steps(&self) -> BTreeSet<String> {
        let general = machine::STEPS.iter().chain(&machine::MEMORY_STEPS).chain(&machine::TEMPLATE_STEPS);
        general.chain(self.monitor.steps).map(|step| (*step).to_owned()).collect()
    }

    pub fn inspect(&self, id: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["inspect", id])).unwrap()
    }

    /// Makes a sandbox.
    pub fn create(&self) -> String {
        self.ok(&self.creation())
    }

    /// The words that make one.
    pub fn creation(&self) -> [&'static str; 7] {
        ["create", "--on", self.monitor.name, "--image", "busybox", "--memory", "64M"]
    }

    /// Processes of this host that work in this state folder. One in a jail does not tell where that is: in the lab there are no others.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let state = self.state();
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let here = |pid: u32| {
            let place = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (place.starts_with(&state) || name.starts_with("firecracker")).then_some((pid, name))
        };
        pids.filter_map(here).collect()
    }

    /// Files below a folder of the state that have such a name.
    pub fn files(&self, folder: &str, is_one: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut folders = vec![self.state().join(folder)];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                } else if entry.file_name().to_str().is_some_and(&is_one) {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// Device and inode of the only root image.
    pub fn image(&self) -> (u64, u64) {
        let all = fs::read_dir(self.state().join("root-images")).unwrap().flatten();
        let images: Vec<_> = all.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).collect();
        assert_eq!(images.len(), 1, "{images:?}");
        let image = images[0].metadata().unwrap();
        (image.dev(), image.ino())
    }

    /// The machine of the only sandbox.
    pub fn machine(&self) -> Pid {
        let machines: Vec<u32> =
            self.processes().into_iter().filter(|(_, name)| name.starts_with(self.monitor.name)).map(|(pid, _)| pid).collect();
        assert_eq!(machines.len(), 1, "{machines:?}");
        Pid::from_raw(i32::try_from(machines[0]).unwrap()).unwrap()
    }

    /// After `gc` there is nothing but the sandboxes that the ledger has: two processes for each that runs, no half of a template.
    pub fn is_settled(&self, step: &str) -> Vec<String> {
        self.ok(&["gc"]);
        let ids: Vec<String> = self.ok(&["ls", "-q"]).lines().map(str::to_owned).collect();
        // The process beside a machine sees its end by itself; an agent that is slow to answer is for a while not said to run.
        let begun = Instant::now();
        loop {
            let running = ids.iter().filter(|id| self.inspect(id)["state"] == "running").count();
            let processes = self.processes();
            if processes.len() == 2 * running {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "after {step} {running} run, and there are {processes:?}");
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

/// The state of a process, as `proc(5)` has it.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn busybox() -> Option<&'static Path> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists())
}

/// What `cargo xtask setup` has got from the distribution: the package, and what is in it.
pub fn kernel() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    let found = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    found.filter(|path| path.join("modules").exists()).max()
}
