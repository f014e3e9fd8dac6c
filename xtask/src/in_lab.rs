//! What is tested in the lab: what needs a `/dev/kvm` that runs guests, and control groups of version 2 alone, which a machine with a hybrid hierarchy has
//! not.
//!
//! A lab has one emulated processor, so two of them keep two processors busy. Each is a process of its own: it hands descriptors to the programs it starts,
//! and no other thread may start programs meanwhile.

use std::{
    env,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use xshell::{Shell, cmd};

use crate::{
    failures::told_again,
    lab,
    outcome::{Elsewhere, Failure, all},
};

/// The walls that need KVM. Their guests are machines in an emulated machine, in which everything takes its time.
pub const WALLS: &str = "firecracker-jailed,firecracker-plain-user,qemu-kvm";
/// Runs it all.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    let built = cmd!(shell, "cargo test --workspace --no-run").quiet().output()?;
    let built = String::from_utf8_lossy(&built.stderr);
    let program = |kind: &str, name: &str| test_program(&built, kind, name).map(ToOwned::to_owned);
    let (probe, providers) = (program("unittests", "sandbar_backends")?, program("tests/", "providers")?);
    let (command_line, escape) = (program("tests/", "command_line")?, program("tests/", "escape")?);
    let machines = program("tests/", "machines")?;
    let is_long = env::var_os("SANDBAR_LONG").is_some();
    // Deadlines are several times what each takes on a quiet machine.
    let minutes = |minutes: u64| if is_long { 12 * 3600 } else { minutes * 60 };
    let walls = format!("SANDBAR_REQUIRE={WALLS}");
    // The program is `$0`.
    let limits = on_a_disk("\"$0\" container-root::limits; \"$0\" gvisor-root::limits --test-threads=1");
    let whole = on_a_disk("\"$0\" firecracker- --test-threads=1");
    let shard = |shard: &str| -> Elsewhere {
        let shard = format!("SANDBAR_SHARD={shard}");
        // Two emulated processors beside each other lose a guest of a guest now and then (it stands still, or panics); one does not.
        in_lab("firecracker", minutes(35), 1, &["env", &walls, &shard, "sh", "-c", &whole, &providers])
    };
    let faults = |what: &'static str, words: &[&str]| -> Elsewhere {
        in_lab(what, minutes(25), 1, &[&["env", &walls, &machines], words, &["--test-threads=1"]].concat())
    };
    // The longest first, so that both labs end at about the same time.
    let mut steps = vec![
        // Sandbar is killed at each step of a machine's life; machines and what belongs to them end or hang.
        faults("faults", &["firecracker::a_"]),
        shard("1/4"),
        shard("2/4"),
        shard("3/4"),
        shard("4/4"),
        in_lab(
            "limits by control groups of version 2",
            minutes(15),
            2,
            &["env", "SANDBAR_REQUIRE=container-root,gvisor-root", "sh", "-c", &limits, &providers],
        ),
        in_lab("attacks", minutes(15), 1, &["env", &walls, &escape, "firecracker-jailed::", "--test-threads=1"]),
        in_lab("commands", minutes(15), 1, &["env", &walls, &command_line, "firecracker-jailed::", "--test-threads=1"]),
        faults("images of memory", &["firecracker::an_"]),
        in_lab("qemu with KVM", minutes(15), 1, &["env", &walls, &providers, "qemu-kvm::", "--test-threads=1"]),
        in_lab("the KVM probe", minutes(5), 2, &[&probe, "kvm::tests::guests::", "kvm::tests::kvm_runs"]),
    ];
    if is_long {
        steps.insert(0, faults("lives of machines", &["firecracker::many_"]));
    }
    all(vec![("the end of a lab", Box::new(|| ends_in_time(shell))), ("two labs", Box::new(|| in_two(steps)))])
}

/// A script with a disk for temporary files. The lab's own root is in memory, which keeps no attributes of users, and over which no overlay can be put.
fn on_a_disk(script: &str) -> String {
    let disk = "set -e; truncate -s 3G /tmp/disk.img; mkfs.ext4 -q /tmp/disk.img; mkdir /tmp/disk; mount -o loop /tmp/disk.img /tmp/disk";
    format!("{disk}; chmod 1777 /tmp/disk; export TMPDIR=/tmp/disk\n{script}")
}

/// Two of them at a time.
fn in_two(steps: Vec<Elsewhere>) -> Result<(), Failure> {
    let steps = Mutex::new(steps.into_iter());
    let lane = || {
        let mut done = Ok(());
        loop {
            let next = steps.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((what, step)) = next else { return done };
            done = both(done, all(vec![(what, step)]));
        }
    };
    thread::scope(|scope| {
        let second = scope.spawn(lane);
        let first = lane();
        both(first, second.join().unwrap_or_else(|_| Err(Failure::new("its thread panicked"))))
    })
}

fn both(first: Result<(), Failure>, second: Result<(), Failure>) -> Result<(), Failure> {
    match (first, second) {
        (Err(first), Err(second)) => Err(Failure::new(format!("{first}; {second}"))),
        (first, second) => first.and(second),
    }
}

/// A command in a lab of so many processors, as a step.
fn in_lab(what: &'static str, seconds: u64, processors: u32, words: &[&str]) -> Elsewhere {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let step = move || {
        let mut lab = Command::new(env::current_exe()?);
        lab.args(["lab", "--memory", "6144", "--processors", &processors.to_string(), "--deadline", &seconds.to_string(), "--"]);
        // One that is renamed is not to fall out unseen.
        match told_again(lab.args(words))? {
            0 => Err(Failure::new("no test has that name")),
            _ => Ok(()),
        }
    };
    (what, Box::new(step))
}

/// Whatever a lab is doing, it ends, and nothing of it is left: here, before its machine is up.
fn ends_in_time(shell: &Shell) -> Result<(), Failure> {
    let status = lab::run(shell, &lab::Options { deadline: 1, ..lab::Options::default() }, &["sleep", "1000"].map(str::to_owned));
    let left = shell.read_file("/proc/thread-self/children")?;
    if (status, left.trim()) == (124, "") {
        return Ok(());
    }
    Err(Failure::new(format!("a lab that had to end in time ended with status {status} and left the processes: {left}")))
}

/// The path of a test program, as the workspace's build names it: its kind of source, and its name.
fn test_program<'a>(said: &'a str, kind: &str, name: &str) -> Result<&'a str, Failure> {
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("Executable ")).filter(|line| line.starts_with(kind));
    let mut paths = lines.filter_map(|line| line.split_once('(')?.1.strip_suffix(')'));
    paths.find(|path| path.contains(&format!("/{name}-"))).ok_or_else(|| Failure::new(format!("cargo names no tests {name}")))
}
