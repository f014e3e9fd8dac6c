use std::env;

use xshell::{Shell, cmd};

use crate::{
    failures::told_again,
    lab,
    outcome::{Failure, Step, all, say},
};

/// What this machine must be able to run when continuous integration says so.
const REQUIRED_IN_CI: &str = "fake,dangerous-host,container-root,container-rootless,container-rootless-ranges,gvisor-root,gvisor-rootless,docker-runc,docker-runsc,qemu-tcg,remote-http,remote-ssh,registry,lab";

/// How long the probe's tests in the lab may take, in seconds: they take half a minute.
const PROBE_DEADLINE: u64 = 300;
/// The walls that need KVM.
const WALLS: &str = "firecracker-jailed,firecracker-plain-user";
/// How long their tests in the lab may take, in seconds, and how much memory the lab has for it, in MiB.
const WALLS_DEADLINE: u64 = 600;
const WALLS_MEMORY: u32 = 6144;

/// Builds and runs every test of the workspace, and those that need a working `/dev/kvm` once more in the lab.
pub fn run(shell: &Shell, filter: Option<&str>) -> Result<(), Failure> {
    let required = match env::var("SANDBAR_REQUIRE") {
        Ok(required) => required,
        Err(_) if env::var("CI").is_ok_and(|value| value == "true") => REQUIRED_IN_CI.to_owned(),
        Err(_) => String::new(),
    };
    say(&format!("required: {}", if required.is_empty() { "nothing (what cannot run here is ignored)" } else { &required }));
    let lab_is_required = required.split(',').any(|name| name == "lab");
    let workspace = || {
        let filter = filter.as_slice();
        let tests = cmd!(shell, "cargo test --workspace --no-fail-fast -- {filter...}").env("SANDBAR_REQUIRE", &required);
        told_again(&mut tests.into())
    };
    let mut steps: Vec<Step<'_>> = vec![("workspace", Box::new(workspace))];
    if filter.is_none() {
        steps.push(("lab", Box::new(|| in_lab(shell, lab_is_required))));
    }
    all(steps)
}

/// What needs KVM, where it works.
fn in_lab(shell: &Shell, required: bool) -> Result<(), Failure> {
    if !required && let Err(failure) = lab::ready(shell) {
        say(&format!("not run in the lab: {failure}"));
        return Ok(());
    }
    let built = cmd!(shell, "cargo test --workspace --no-run").quiet().output()?;
    let built = String::from_utf8_lossy(&built.stderr);
    let program = test_program(&built, "unittests", "sandbar_backends")?;
    let options = lab::Options { deadline: PROBE_DEADLINE, ..lab::Options::default() };
    let status = lab::run(shell, &options, &[program, "kvm::tests::guests::", "kvm::tests::kvm_runs"].map(str::to_owned));
    if status != 0 {
        return Err(Failure::new(format!("the KVM probe's tests ended with status {status} in the lab")));
    }
    if env::var_os("SANDBAR_LONG").is_some() {
        let program = test_program(&built, "tests/", "providers")?;
        let require = format!("SANDBAR_REQUIRE={WALLS}");
        let walls = lab::Options { deadline: WALLS_DEADLINE, memory: WALLS_MEMORY, ..options };
        let status = lab::run(shell, &walls, &["env", &require, program, "firecracker-", "--test-threads=2"].map(str::to_owned));
        if status != 0 {
            return Err(Failure::new(format!("the tests of {WALLS} ended with status {status} in the lab")));
        }
    } else {
        say(&format!(
            "not run in the lab: {WALLS}, whose machines in an emulated machine take minutes and bear no load beside them: SANDBAR_LONG=1 asks for it"
        ));
    }
    // Before the machine is up: whatever it is doing, it ends, and nothing of it is left.
    let status = lab::run(shell, &lab::Options { deadline: 1, ..lab::Options::default() }, &["sleep", "1000"].map(str::to_owned));
    let left = shell.read_file("/proc/thread-self/children")?;
    match (status, left.trim()) {
        (124, "") => Ok(()),
        (status, left) => {
            Err(Failure::new(format!("a lab that had to end in time ended with status {status} and left the processes: {left}")))
        }
    }
}

/// The path of a test program, as the workspace's build names it: its kind of source, and its name.
fn test_program<'a>(said: &'a str, kind: &str, name: &str) -> Result<&'a str, Failure> {
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("Executable ")).filter(|line| line.starts_with(kind));
    let mut paths = lines.filter_map(|line| line.split_once('(')?.1.strip_suffix(')'));
    paths.find(|path| path.contains(&format!("/{name}-"))).ok_or_else(|| Failure::new(format!("cargo names no tests {name}")))
}
