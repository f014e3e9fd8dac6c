use std::{env, thread};

use xshell::{Shell, cmd};

use crate::{
    failures::told_again,
    lab, macos,
    outcome::{Failure, Step, all, say},
};

/// What this machine must be able to run when continuous integration says so.
const REQUIRED_IN_CI: &str = "fake,dangerous-host,container-root,container-rootless,container-rootless-ranges,gvisor-root,gvisor-rootless,docker-runc,docker-runsc,qemu-tcg,remote-http,remote-ssh,registry,lab,macos";

/// The walls that need KVM. Their guests are machines in an emulated machine: the suite's particular cases take minutes behind them, all of it hours, for which `SANDBAR_LONG=1` asks.
const WALLS: &str = "firecracker-jailed,firecracker-plain-user,qemu-kvm";
/// A disk for what cannot be a layer over the lab's own root, whose files are in memory: `$0` is the test program.
const LIMITS: &str =
    "set -e; truncate -s 2G /tmp/disk.img; mkfs.ext4 -q /tmp/disk.img; mkdir /tmp/disk; mount -o loop /tmp/disk.img /tmp/disk
TMPDIR=/tmp/disk \"$0\" container-root::limits
TMPDIR=/tmp/disk \"$0\" gvisor-root::limits --test-threads=1";

/// Builds and runs every test of the workspace, and those that need a working `/dev/kvm` once more in the lab.
///
/// What `SANDBAR_REQUIRE` names must run; without it, nothing must, or all that continuous integration can run.
pub fn run(shell: &Shell, filter: Option<&str>, in_ci: bool) -> Result<(), Failure> {
    let required = match env::var("SANDBAR_REQUIRE") {
        Ok(required) => required,
        Err(_) if in_ci || env::var("CI").is_ok_and(|value| value == "true") => REQUIRED_IN_CI.to_owned(),
        Err(_) => String::new(),
    };
    let known = || REQUIRED_IN_CI.split(',').chain(WALLS.split(','));
    if let Some(unknown) = required.split(',').find(|name| !name.is_empty() && known().all(|known| known != *name)) {
        let known: Vec<_> = known().collect();
        return Err(Failure::new(format!("SANDBAR_REQUIRE: nothing is called {unknown}; there are {}", known.join(", "))));
    }
    say(&format!("required: {}", if required.is_empty() { "nothing (what cannot run here is ignored)" } else { &required }));
    let is_required = |wanted| required.split(',').any(|name| name == wanted);
    let workspace = || {
        let filter = filter.as_slice();
        let tests = cmd!(shell, "cargo test --workspace --no-fail-fast -- {filter...}").env("SANDBAR_REQUIRE", &required);
        told_again(&mut tests.into())
    };
    let mut steps: Vec<Step<'_>> = vec![("workspace", Box::new(workspace))];
    if filter.is_none() {
        // The lab has one emulated processor and leaves one of this machine's idle.
        steps.push((
            "lab, and the client for macOS",
            Box::new(|| {
                thread::scope(|scope| {
                    let client = scope.spawn(|| for_macos(is_required("macos")));
                    let steps: Vec<Step<'_>> = vec![
                        ("lab", Box::new(|| in_lab(shell, is_required("lab")))),
                        ("macOS", Box::new(|| client.join().unwrap_or_else(|_| Err(Failure::new("the check panicked"))))),
                    ];
                    all(steps)
                })
            }),
        ));
    }
    all(steps)
}

/// The client of other hosts, compiled for macOS.
fn for_macos(required: bool) -> Result<(), Failure> {
    let shell = Shell::new()?;
    if !required && let Err(failure) = macos::fetch(&shell) {
        say(&format!("not checked for macOS: {failure}"));
        return Ok(());
    }
    macos::run(&shell)
}

/// What needs KVM, where it works.
fn in_lab(shell: &Shell, required: bool) -> Result<(), Failure> {
    if !required && let Err(failure) = lab::ready(shell) {
        say(&format!("not run in the lab: {failure}"));
        return Ok(());
    }
    let built = cmd!(shell, "cargo test --workspace --no-run").quiet().output()?;
    let built = String::from_utf8_lossy(&built.stderr);
    let (probe, providers) = (test_program(&built, "unittests", "sandbar_backends")?, test_program(&built, "tests/", "providers")?);
    let (machines, command_line) = (test_program(&built, "tests/", "machines")?, test_program(&built, "tests/", "command_line")?);
    let (required, long) = (format!("SANDBAR_REQUIRE={WALLS}"), env::var_os("SANDBAR_LONG").is_some());
    let mut failed = Vec::new();
    // Deadlines are several times what each takes on a quiet machine.
    let mut runs = vec![
        ("the KVM probe", size(300, 3072), vec![probe, "kvm::tests::guests::", "kvm::tests::kvm_runs"]),
        // The lab has control groups of version 2 alone, which machines with a hybrid hierarchy cannot test.
        (
            "limits by control groups of version 2",
            size(900, 6144),
            vec!["env", "SANDBAR_REQUIRE=container-root,gvisor-root", "sh", "-c", LIMITS, providers],
        ),
    ];
    let walls = |seconds, program, words: &[&'static str]| {
        let command: Vec<_> = ["env", required.as_str(), program].into_iter().chain(words.iter().copied()).collect();
        // Two emulated processors beside each other lose a guest of a guest now and then (it stands still, or panics); one does not.
        (WALLS, lab::Options { processors: 1, ..size(seconds, 6144) }, command)
    };
    runs.push(walls(if long { 12 * 3600 } else { 1200 }, providers, &["firecracker-", "--test-threads=1"]));
    runs.push(walls(if long { 12 * 3600 } else { 900 }, providers, &["qemu-kvm::", "--test-threads=1"]));
    runs.push(walls(if long { 3600 } else { 900 }, command_line, &["firecracker-jailed::", "--test-threads=1"]));
    if long {
        runs.push(walls(3600, machines, &["firecracker::", "--test-threads=1"]));
    }
    for (what, options, command) in runs {
        say(&format!("==> lab: {what}"));
        let status = lab::run(shell, &options, &command.into_iter().map(str::to_owned).collect::<Vec<_>>());
        if status != 0 {
            failed.push(format!("the tests of {what} ended with status {status} in the lab"));
        }
    }
    // Before the machine is up: whatever it is doing, it ends, and nothing of it is left.
    let status = lab::run(shell, &lab::Options { deadline: 1, ..lab::Options::default() }, &["sleep", "1000"].map(str::to_owned));
    let left = shell.read_file("/proc/thread-self/children")?;
    if (status, left.trim()) != (124, "") {
        failed.push(format!("a lab that had to end in time ended with status {status} and left the processes: {left}"));
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("; "))) }
}

/// How large a lab, in MiB, and for how many seconds at most.
fn size(deadline: u64, memory: u32) -> lab::Options {
    lab::Options { deadline, memory, ..lab::Options::default() }
}

/// The path of a test program, as the workspace's build names it: its kind of source, and its name.
fn test_program<'a>(said: &'a str, kind: &str, name: &str) -> Result<&'a str, Failure> {
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("Executable ")).filter(|line| line.starts_with(kind));
    let mut paths = lines.filter_map(|line| line.split_once('(')?.1.strip_suffix(')'));
    paths.find(|path| path.contains(&format!("/{name}-"))).ok_or_else(|| Failure::new(format!("cargo names no tests {name}")))
}
