//! What is gVisor's alone: a kernel that can be killed, and memory that goes on.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{self, Case, Client, Home, assert_nothing_left};

const WALLS: &[&str] = &["gvisor-root", "gvisor-rootless"];
/// A call that waits for an agent in vain ends after as long as this.
const SILENCE: Duration = Duration::from_secs(15);
const PYTHON: &[&str] = &["/usr/bin/python3"];

pub const CASES: &[Case] = &[
    Case::new("gvisor::a_killed_sentry_is_told_and_cleared", killed_sentry).on(WALLS).brief(),
    Case::new("gvisor::a_killed_first_process_is_told_and_cleared", killed_first).on(WALLS).brief(),
    Case::new("gvisor::a_sentry_that_hangs_is_told_and_cleared", hung_sentry).on(WALLS).brief(),
    Case::new("gvisor::a_sentry_killed_at_work_is_told", killed_at_work).on(WALLS).brief(),
    Case::new("gvisor::a_runsc_that_is_too_old_is_told_and_setup_shows_how_to_get_another", too_old).on(WALLS).brief(),
    Case::new("gvisor::python_counts_on_in_forks_and_after_a_restore", counting).on(WALLS).needs(PYTHON),
    Case::new("gvisor::what_cannot_be_saved_is_named", unsaved).on(WALLS).needs(PYTHON).brief(),
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

/// Sends a signal to the only process of this name that a sandbox has.
fn send(signal: Signal, program: &str, id: &str) {
    let pids = processes(program, id);
    assert_eq!(pids.len(), 1, "{program}: {pids:?}");
    kill_process(Pid::from_raw(i32::try_from(pids[0]).unwrap()).unwrap(), signal).unwrap();
}

/// Whether every thread of a process is stopped: each stops when it comes to run.
fn stands_still(pid: u32) -> bool {
    let threads: Vec<_> =
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path().join("stat")).collect();
    let state = |stat: &std::path::PathBuf| std::fs::read_to_string(stat).ok()?.rsplit_once(") ")?.1.chars().next();
    threads.iter().all(|stat| matches!(state(stat), None | Some('T' | 't')))
}

fn kill(home: &Home, program: &str) {
    let bystander = home.create(&[]);
    let id = home.create(&[]);
    send(Signal::KILL, program, &id);
    support::eventually("the state is told", || home.json(&["inspect", &id])["state"] != "running");
    let begun = Instant::now();
    let exec = home.sandbar(&["exec", &id, "--", "true"]);
    assert_eq!(exec.code, 125, "{exec}");
    assert!(begun.elapsed() < SILENCE, "{:?}", begun.elapsed());
    assert_eq!(home.sandbar(&["gc"]).code, 0);
    assert!(support::processes_with(&id).is_empty());
    assert_eq!(home.json(&["inspect", &id])["state"], "stopped");
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

/// Nothing was asked of the sandbox since: what the ledger has is what was true before.
fn hung_sentry(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo kept > /root/file");
    let hang = || {
        send(Signal::STOP, "runsc-sandbox", &id);
        support::eventually("it hangs", || processes("runsc-sandbox", &id).into_iter().all(stands_still));
    };
    hang();
    let begun = Instant::now();
    let exec = home.sandbar(&["exec", &id, "--", "true"]);
    assert_eq!(exec.code, 125, "{exec}");
    assert!(exec.stderr.contains("the sentry hangs"), "{exec}");
    let listed = home.json(&["ls", "--json"]);
    assert_eq!(listed[0]["state"], "crashed", "{listed}");
    let told = home.json(&["inspect", &id]);
    assert!(told["state"] == "crashed" && told.to_string().contains("the sentry hangs"), "{told}");
    assert!(begun.elapsed() < 2 * SILENCE, "{:?}", begun.elapsed());
    // What is left of it goes, and the reason stays.
    assert!(home.ok(&["gc"]).contains("the sentry hangs"));
    assert!(support::processes_with(&id).is_empty());
    let told = home.json(&["inspect", &id]);
    assert!(told["state"] == "stopped" && told.to_string().contains("the sentry hangs"), "{told}");
    let exec = home.sandbar(&["exec", &id, "--", "true"]);
    assert!(exec.code == 125 && exec.stderr.contains("the sentry hangs"), "{exec}");
    // What it wrote is in the layer, and goes on from there.
    home.ok(&["start", &id]);
    assert_eq!(home.shell(&id, "cat /root/file"), "kept");
    hang();
    home.ok(&["rm", "-f", &id]);
    assert!(support::processes_with(&id).is_empty());
    assert_nothing_left(home);
}

/// While a command runs, while memory is saved, while it is paused: whoever is at it is told, and what was written goes on.
fn killed_at_work(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo kept > /root/file");
    let again = |what: &str| {
        assert_eq!(home.json(&["inspect", &id])["state"], "crashed", "{what}");
        assert_eq!(home.sandbar(&["gc"]).code, 0, "{what}");
        home.ok(&["start", &id]);
        assert_eq!(home.shell(&id, "cat /root/file"), "kept", "{what}");
    };

    let mut client = home.start(&["exec", &id, "--", "sh", "-c", "echo runs; sleep 1000"]);
    client.wait_for_line("runs");
    send(Signal::KILL, "runsc-sandbox", &id);
    let told = client.finish();
    assert!(told.code == 125 && told.stderr.contains("sentry"), "{told}");
    again("a command");

    let note = home.state().join("sandboxes").join(&id).join("g1/saving");
    let client = home.start(&["checkpoint", "--with-memory", &id]);
    support::eventually("it is being saved", || note.exists());
    // A save may end at any time, and whoever saves may not see its end before the kill.
    client.signal(Signal::STOP);
    support::eventually("whoever saves stands still", || stands_still(client.pid().as_raw_nonzero().get().cast_unsigned()));
    assert!(note.exists(), "it was saved before it could be killed");
    send(Signal::KILL, "runsc-sandbox", &id);
    client.signal(Signal::CONT);
    let told = client.finish();
    assert_eq!(told.code, 125, "{told}");
    assert_eq!(home.json(&["checkpoints", "--json"]).as_array().unwrap().len(), 0);
    again("a save");

    home.ok(&["pause", &id]);
    send(Signal::KILL, "runsc-sandbox", &id);
    support::eventually("the state is told", || home.json(&["inspect", &id])["state"] != "paused");
    again("a pause");
    home.ok(&["rm", "-f", &id]);
    assert_nothing_left(home);
}

fn too_old(home: &Home) {
    let program = home.work().join("runsc");
    std::fs::write(&program, "#!/bin/sh\necho runsc version 0.0~20221219.0\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = |words: &[&str]| {
        let mut command = home.command(words);
        command.env("PATH", format!("{}:/usr/bin:/bin", home.work().display()));
        Client::start(command, words).finish()
    };
    let made = told(&["create", "--on", "gvisor"]);
    assert!(made.code == 125 && made.stderr.contains("20221219.0 is too old: 20240729 is needed"), "{made}");
    assert!(made.stderr.contains("setup gvisor") && home.ids().is_empty(), "{made}");
    assert_nothing_left(home);
    let shown = told(&["setup", "gvisor"]);
    if std::fs::read_to_string("/etc/os-release").unwrap_or_default().lines().any(|line| line == "ID=debian") {
        assert!(shown.code == 0 && shown.stderr.contains("nothing was done"), "{shown}");
        assert!(
            shown.stderr.lines().any(|line| line.contains("to do: ") && line.contains("apt-get install") && line.contains(" runsc")),
            "{shown}"
        );
    } else {
        assert!(shown.code == 125 && shown.stderr.contains("RUNSC_PATH"), "{shown}");
    }
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

/// What a process holds that no memory can hold: the lines that make it so, and what the refusal names. A connection to outside is not among them,
/// as there is none from this wall; one within goes on.
const UNSAVED: [(&str, &str); 2] = [
    ("s = socket.socket(socket.AF_UNIX); s.bind('/root/a.sock'); s.listen()", "/root/a.sock"),
    ("f = open('/root/scratch', 'w'); os.unlink('/root/scratch')", "scratch"),
];

fn unsaved(home: &Home) {
    let id = home.create(&[]);
    for (hold, named) in UNSAVED {
        let program = format!("import os, socket, time\n{hold}\nopen('/root/holds', 'w')\ntime.sleep(1000)");
        let process = home.ok(&["exec", "-d", &id, "--", "python3", "-c", &program]);
        support::eventually("it holds it", || home.shell(&id, "ls /root").contains("holds"));
        let refused = home.sandbar(&["checkpoint", "--with-memory", &id]);
        assert_eq!(refused.code, 125, "{refused}");
        assert!(refused.stderr.contains(named) && refused.stderr.contains("hint: "), "{refused}");
        assert_eq!(home.shell(&id, "rm /root/holds; echo alive"), "alive");
        assert_eq!(home.json(&["checkpoints", "--json"]).as_array().unwrap().len(), 0);
        home.ok(&["kill", &id, process.trim(), "-s", "KILL"]);
        support::eventually("it has ended", || home.shell(&id, "pgrep -c python3 || true").trim() == "0");
    }
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
        assert_eq!(home.certain(&["inspect", &id])["state"], "running", "{step}");
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
