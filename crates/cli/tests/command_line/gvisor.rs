//! What is gVisor's alone: a kernel that can be killed, and memory that goes on.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{self, Case, Client, Home, assert_nothing_left};

const WALLS: &[&str] = &["gvisor-root", "gvisor-rootless"];
const PYTHON: &[&str] = &["/usr/bin/python3"];

pub const CASES: &[Case] = &[
    Case::new("gvisor::a_killed_sentry_is_told_and_cleared", killed_sentry).on(WALLS).brief(),
    Case::new("gvisor::a_killed_first_process_is_told_and_cleared", killed_first).on(WALLS).brief(),
    Case::new("gvisor::python_counts_on_in_forks_and_after_a_restore", counting).on(WALLS).needs(PYTHON),
    Case::new("gvisor::what_cannot_be_saved_is_named", bound_socket).on(WALLS).needs(PYTHON),
    Case::new("gvisor::faults_of_a_checkpoint_with_memory", faults).on(WALLS).brief(),
    Case::new("gvisor::faults_of_a_start", start).on(WALLS).brief(),
];

/// Processes of the host whose first word and last word are these.
fn processes(first: &str, last: &str) -> Vec<u32> {
    let both = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
        words.first() == Some(&first.as_bytes()) && words.last() == Some(&last.as_bytes())
    };
    support::processes_with(last).into_iter().filter(both).collect()
}

fn kill(home: &Home, program: &str) {
    let bystander = home.create(&[]);
    let id = home.create(&[]);
    let pids = processes(program, &id);
    assert_eq!(pids.len(), 1, "{program}: {pids:?}");
    kill_process(Pid::from_raw(i32::try_from(pids[0]).unwrap()).unwrap(), Signal::KILL).unwrap();
    support::eventually("the state is told", || home.json(&["inspect", &id])["state"] != "running");
    let begun = Instant::now();
    let exec = home.sandbar(&["exec", &id, "--", "true"]);
    assert_eq!(exec.code, 125, "{exec}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(home.sandbar(&["gc"]).code, 0);
    support::eventually("its processes are gone", || support::processes_with(&id).is_empty());
    home.ok(&["rm", "-f", &id]);
    assert_eq!(home.shell(&bystander, "echo alive"), "alive");
    home.ok(&["rm", "-f", &bystander]);
    assert_nothing_left(home);
}

fn killed_sentry(home: &Home) {
    kill(home, "runsc-sandbox");
}

fn killed_first(home: &Home) {
    kill(home, "runsc");
}

const COUNTER: &str = "import time\nn = 0\nwhile True:\n    n += 1\n    open('/root/n', 'w').write(str(n))\n    time.sleep(0.01)\n";

fn count(home: &Home, id: &str) -> u64 {
    // The file is empty for a moment each time, and not there before the first.
    let mut last = 0;
    support::eventually("a number is there", || {
        last = home.shell(id, "cat /root/n || true").trim().parse().unwrap_or(0);
        last > 0
    });
    last
}

fn goes_on(home: &Home, id: &str, past: u64) {
    support::eventually("it counts on", || count(home, id) > past + 20);
}

fn counting(home: &Home) {
    let id = home.create(&[]);
    home.ok(&["exec", "-d", &id, "--", "python3", "-c", COUNTER]);
    goes_on(home, &id, 0);
    let checkpoint = home.ok(&["checkpoint", "--with-memory", &id]);
    let at_least = count(home, &id);
    let forks = home.ok(&["fork", &checkpoint, "-n", "3"]);
    let forks: Vec<&str> = forks.lines().collect();
    assert_eq!(forks.len(), 3);
    let mut names = Vec::new();
    for fork in &forks {
        goes_on(home, fork, 0);
        names.push(home.shell(fork, "hostname"));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}");
    goes_on(home, &id, at_least);
    // Without memory nothing counts.
    let cold = home.ok(&["fork", "--without-memory", &checkpoint]);
    assert_eq!(home.shell(&cold, "pgrep -c python3 || true").trim(), "0");
    home.ok(&["restore", &id, &checkpoint]);
    goes_on(home, &id, 0);
    for sandbox in forks.iter().copied().chain([id.as_str(), cold.as_str()]) {
        home.ok(&["rm", "-f", sandbox]);
    }
    home.ok(&["checkpoint", "rm", &checkpoint]);
    assert_nothing_left(home);
}

fn bound_socket(home: &Home) {
    let id = home.create(&[]);
    let program = "import socket, time\ns = socket.socket(socket.AF_UNIX)\ns.bind('/root/a.sock')\ns.listen()\ntime.sleep(1000)";
    let process = home.ok(&["exec", "-d", &id, "--", "python3", "-c", program]);
    support::eventually("it is bound", || home.shell(&id, "ls /root").contains("a.sock"));
    let refused = home.sandbar(&["checkpoint", "--with-memory", &id]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.to_string().contains("/root/a.sock"), "{refused}");
    assert_eq!(home.shell(&id, "echo alive"), "alive");
    assert_eq!(home.json(&["checkpoints", "--json"]).as_array().unwrap().len(), 0);
    home.ok(&["kill", &id, process.trim(), "-s", "KILL"]);
    home.ok(&["checkpoint", "--with-memory", &id]);
    assert_nothing_left(home);
}

fn killed_at(home: &Home, step: &str, args: &[&str]) {
    let mut command = home.command(args);
    command.env("SANDBAR_FAULT", step);
    let finished = Client::start(command, args).finish();
    assert_eq!(finished.code, 137, "{step} was not reached: {finished}");
}

fn faults(home: &Home) {
    let id = home.create(&[]);
    for step in
        ["checkpoint.begun", "checkpoint.quiet", "checkpoint.memory-saved", "checkpoint.awake", "checkpoint.filled", "checkpoint.finished"]
    {
        killed_at(home, step, &["checkpoint", "--with-memory", &id]);
        assert_eq!(home.sandbar(&["gc"]).code, 0, "{step}");
        // Whoever finds the agent quiet, and the one gone who made it so, wakes it. By itself it would listen again within a minute.
        let begun = Instant::now();
        while home.sandbar(&["exec", &id, "--", "true"]).code != 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{step}: it does not answer");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{step}: {:?}", begun.elapsed());
        assert_eq!(home.json(&["inspect", &id])["state"], "running", "{step}");
        assert_nothing_left(home);
    }
}

fn start(home: &Home) {
    for step in
        ["gvisor.grouped", "gvisor.cloned", "gvisor.mapped", "gvisor.prepared", "gvisor.intended", "gvisor.executed", "gvisor.listening"]
    {
        killed_at(home, step, &["create", "--on", home.wall.provider]);
        assert_eq!(home.sandbar(&["gc"]).code, 0, "{step}");
        support::eventually("nothing of it is left", || support::leftovers(home).is_empty());
        assert!(home.ids().is_empty(), "{step}");
    }
}
