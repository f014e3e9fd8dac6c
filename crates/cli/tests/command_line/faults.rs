//! `kill -9` of sandbar at each of its steps, and what the next command makes of it.
//!
//! Each verb is run with `SANDBAR_FAULT` naming a step, at which the client kills itself. After `sandbar gc` there must be no trace of what
//! should not be, and every sandbox made by `create` that was running must answer.

use std::{collections::BTreeSet, fs::File};

use sandbar_backends::{container, machine};

use crate::support::{self, Case, Client, Finished, Home, assert_nothing_left, control_groups_with, ids_with_traces};

const CONTAINERS: &[&str] = &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless"];

pub const CASES: &[Case] = &[
    Case::new("faults::every_step_is_tried", every_step).on(&["dangerous-host"]),
    Case::new("faults::create", create),
    Case::new("faults::create_with_everything", create_with_everything).on(&["container-root", "container-rootless"]),
    Case::new("faults::run", run),
    Case::new("faults::destroy", destroy),
    Case::new("faults::stop", stop),
    Case::new("faults::start", start),
    Case::new("faults::pause_and_resume", pause),
    Case::new("faults::checkpoint", checkpoint).on(CONTAINERS),
    Case::new("faults::checkpoint_rm", checkpoint_rm).on(CONTAINERS),
    Case::new("faults::restore", restore).on(CONTAINERS),
    Case::new("faults::fork", fork).on(CONTAINERS),
    Case::new("faults::expose", expose),
    Case::new("faults::killed_keeper", keeper),
    Case::new("faults::a_killed_keeper_that_is_long_in_ending", late_keeper),
    Case::new("faults::exec", exec),
    Case::new("faults::another_boot", reboot),
    Case::new("faults::another_boot_finds_what_ran_crashed", crash_of_the_host),
];

/// From the row's making to its end, in order.
const MAKING: &[&str] = &[
    "create.row",
    "create.folder",
    "provision.begun",
    "provision.folder",
    "provision.booted",
    "provision.answered",
    "provision.committed",
    "create.provisioned",
    "create.finished",
];
/// What starting a container does between `provision.folder` and `provision.booted`.
const STARTING: &[&str] = &container::STEPS;
const DESTROYING: &[&str] =
    &["destroy.row", "destroy.begun", "destroy.halted", "destroy.removed", "destroy.provider", "destroy.folder", "destroy.finished"];
const SAVING: &[&str] = &[
    "checkpoint.row",
    "checkpoint.inserted",
    "checkpoint.folder",
    "checkpoint.begun",
    "checkpoint.frozen",
    "checkpoint.saved",
    "checkpoint.thawed",
    "checkpoint.filled",
    "checkpoint.renamed",
    "checkpoint.finished",
];

const STOPPING: &[&str] = &["stop.row", "stop.begun", "stop.handed-over", "stop.halted", "stop.committed"];
const STARTING_AGAIN: &[&str] = &["start.row", "start.begun", "start.booted", "start.answered", "start.committed"];
const RESTORING: &[&str] = &[
    "restore.row",
    "restore.pending",
    "restore.begun",
    "restore.folder",
    "restore.booted",
    "restore.answered",
    "restore.committed",
    "restore.halted",
    "restore.removed",
];
const OTHERS: &[&str] = &[
    "fork.saved",
    "pause.row",
    "resume.row",
    "checkpoint-rm.row",
    "checkpoint-rm.folder",
    "expose.row",
    "expose.listening",
    "keeper.row",
    "keeper.listening",
    "exec.before",
    "exec.started",
];
/// In `portable`, and with the runtime's own tests.
const ELSEWHERE: &[&str] = &["import.unpacked", "import.rows", "import.placed", "import.finished", "keeper.ending"];

/// The lists above are written by hand, in the order in which a verb comes to its steps; what is added to a verb must be added here. The steps of virtual
/// machines, of memory and of templates are those of the program `machines`, which notes where it kills.
fn every_step(_: &Home) {
    let tried: BTreeSet<&str> =
        [MAKING, DESTROYING, SAVING, STOPPING, STARTING_AGAIN, RESTORING, OTHERS, ELSEWHERE].concat().into_iter().collect();
    let steps: BTreeSet<&str> = sandbar_runtime::STEPS.into_iter().chain(machine::STEPS).collect();
    let untried: Vec<_> = steps.difference(&tried).collect();
    assert!(untried.is_empty(), "nobody is killed at {untried:?}");
    let unknown: Vec<_> = tried.difference(&steps).collect();
    assert!(unknown.is_empty(), "there is no step {unknown:?}");
}

/// Runs a command line that kills itself at a step.
fn killed_at(home: &Home, step: &str, args: &[&str]) -> Finished {
    let mut command = home.command(args);
    command.env("SANDBAR_FAULT", step);
    let finished = Client::start(command, args).finish();
    assert_eq!(finished.code, 137, "{step} was not reached: {finished}");
    finished
}

/// `gc`, after which these sandboxes must be there, every one that runs must answer, and nothing of others is left.
fn clear_up(home: &Home, step: &str, must: &[&str]) -> Vec<String> {
    let traces = ids_with_traces(home);
    let gc = home.sandbar(&["gc"]);
    assert_eq!(gc.code, 0, "{step}: {gc}");
    let ids = home.ids();
    for id in must {
        assert!(ids.iter().any(|there| there == id), "{step}: {id} is lost");
    }
    for sandbox in home.certain(&["ls", "--json"]).as_array().unwrap() {
        let (id, state) = (sandbox["id"].as_str().unwrap(), sandbox["state"].as_str().unwrap());
        assert!(["running", "stopped", "paused"].contains(&state), "{step}: {sandbox}");
        if state == "running" {
            assert_eq!(home.shell(id, "echo alive"), "alive", "{step}");
        }
    }
    assert_nothing_left(home);
    for id in traces.iter().filter(|id| !ids.contains(id)) {
        let groups = control_groups_with(id);
        assert!(groups.is_empty(), "{step}: {groups:?}");
    }
    ids
}

fn state(home: &Home, id: &str) -> String {
    home.certain(&["inspect", id])["state"].as_str().unwrap().to_owned()
}

fn create(home: &Home) {
    let bystander = home.create(&[]);
    for step in MAKING {
        killed_at(home, step, &["create", "--on", home.wall.provider]);
        for id in clear_up(home, step, &[&bystander]) {
            // What was whole before the client died may stay; nobody knows its id, but it is listed.
            assert_eq!(state(home, &id), "running", "{step}");
            if id != bystander {
                home.ok(&["rm", "-f", &id]);
            }
        }
    }
}

/// Limits, a disk of its own, a folder of the host: whatever a container can hold outside of itself.
fn create_with_everything(home: &Home) {
    let bystander = home.create(&[]);
    let shared = home.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    home.wall.hand_over(&shared);
    let volume = format!("{}:/shared", shared.display());
    let mut create = vec!["create", "--on", home.wall.provider, "-v", &volume];
    if home.wall.name == "container-root" {
        create.extend(["--memory", "256M", "--pids", "100", "--cpus", "1", "--disk", "32M"]);
    }
    for step in STARTING.iter().chain(&["provision.booted", "create.finished"]) {
        killed_at(home, step, &create);
        for id in clear_up(home, step, &[&bystander]) {
            if id != bystander {
                home.ok(&["rm", "-f", &id]);
            }
        }
    }
    for step in DESTROYING {
        let id = home.ok(&create);
        home.shell(&id, "echo of the sandbox > /shared/file");
        killed_at(home, step, &["rm", "-f", &id]);
        assert_eq!(clear_up(home, step, &[&bystander]), [bystander.as_str()], "{step}");
        assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "of the sandbox\n", "{step}: what is the host's stays");
    }
}

/// The command is asked for, or not yet; the sandbox is there in any case, and takes the next one.
fn exec(home: &Home) {
    let id = home.create(&[]);
    for step in ["exec.before", "exec.started"] {
        killed_at(home, step, &["exec", &id, "--", "sh", "-c", "echo ran >> ran; sleep 1000"]);
        clear_up(home, step, &[&id]);
        let ran = home.shell(&id, "cat ran 2> /dev/null || true");
        match step {
            "exec.before" => assert_eq!(ran, "", "{step}"),
            // Nobody waits for it, and it goes on.
            _ => support::eventually("the command has begun", || home.shell(&id, "cat ran 2> /dev/null || true") == "ran"),
        }
    }
}

fn run(home: &Home) {
    let bystander = home.create(&[]);
    for step in MAKING.iter().chain(DESTROYING) {
        killed_at(home, step, &home.run_args(&[], &["sh", "-c", "setsid sleep 1000 & true"]));
        let ids = clear_up(home, step, &[&bystander]);
        assert_eq!(ids, [bystander.as_str()], "{step}");
    }
}

fn destroy(home: &Home) {
    let bystander = home.create(&[]);
    for step in DESTROYING {
        let id = home.create(&[]);
        home.shell(&id, "setsid sleep 1000 > /dev/null 2>&1 &");
        killed_at(home, step, &["rm", "-f", &id]);
        let ids = clear_up(home, step, &[&bystander]);
        assert_eq!(ids, [bystander.as_str()], "{step}");
    }
}

fn stop(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo kept > file");
    for step in STOPPING {
        killed_at(home, step, &["stop", &id]);
        clear_up(home, step, &[&id]);
        if state(home, &id) != "running" {
            home.ok(&["start", &id]);
        }
        assert_eq!(home.shell(&id, "cat file"), "kept", "{step}");
    }
}

fn start(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo kept > file");
    for step in STARTING_AGAIN {
        home.ok(&["stop", &id]);
        killed_at(home, step, &["start", &id]);
        clear_up(home, step, &[&id]);
        if state(home, &id) != "running" {
            home.ok(&["start", &id]);
        }
        assert_eq!(home.shell(&id, "cat file"), "kept", "{step}");
    }
}

fn pause(home: &Home) {
    let id = home.create(&[]);
    if home.lacks("pause", &["pause", &id]) {
        return;
    }
    home.ok(&["resume", &id]);
    killed_at(home, "pause.row", &["pause", &id]);
    clear_up(home, "pause.row", &[&id]);
    if state(home, &id) != "paused" {
        home.ok(&["pause", &id]);
    }
    killed_at(home, "resume.row", &["resume", &id]);
    clear_up(home, "resume.row", &[&id]);
    if state(home, &id) == "paused" {
        home.ok(&["resume", &id]);
    }
    assert_eq!(home.shell(&id, "echo on"), "on");
}

fn checkpoint(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo saved > /root/file");
    for step in SAVING {
        killed_at(home, step, &["checkpoint", &id]);
        clear_up(home, step, &[&id]);
        assert_eq!(state(home, &id), "running", "{step}");
        // One that is listed is whole.
        for checkpoint in home.json(&["checkpoints", "--json"]).as_array().unwrap() {
            let checkpoint = checkpoint["id"].as_str().unwrap();
            let fork = home.ok(&["fork", checkpoint]);
            assert_eq!(home.shell(&fork, "cat /root/file"), "saved", "{step}");
            home.ok(&["rm", "-f", &fork]);
            home.ok(&["checkpoint", "rm", checkpoint]);
        }
    }
}

fn checkpoint_rm(home: &Home) {
    let id = home.create(&[]);
    for step in ["checkpoint-rm.row", "checkpoint-rm.folder"] {
        let checkpoint = home.ok(&["checkpoint", &id]);
        killed_at(home, step, &["checkpoint", "rm", &checkpoint]);
        clear_up(home, step, &[&id]);
        assert!(!home.state().join("checkpoints").join(&checkpoint).exists(), "{step}");
        assert_eq!(home.json(&["checkpoints", "--json"]).as_array().unwrap().len(), 0, "{step}");
    }
}

fn restore(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo first > /root/file");
    let checkpoint = home.ok(&["checkpoint", &id]);
    for step in RESTORING {
        home.shell(&id, "echo second > /root/file");
        killed_at(home, step, &["restore", &id, &checkpoint]);
        clear_up(home, step, &[&id]);
        assert_eq!(state(home, &id), "running", "{step}");
        let content = home.shell(&id, "cat /root/file");
        assert!(content == "first" || content == "second", "{step}: {content}");
        home.ok(&["restore", &id, &checkpoint]);
        assert_eq!(home.shell(&id, "cat /root/file"), "first", "{step}");
    }
}

fn fork(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo origin > /root/file");
    for step in SAVING.iter().chain(&["fork.saved"]).chain(MAKING) {
        killed_at(home, step, &["fork", &id, "-n", "2"]);
        for other in clear_up(home, step, &[&id]) {
            assert_eq!(home.shell(&other, "cat /root/file"), "origin", "{step}");
            if other != id {
                home.ok(&["rm", "-f", &other]);
            }
        }
        // What was saved only for the forks has gone with them.
        home.ok(&["gc"]);
        assert_eq!(home.json(&["checkpoints", "--json"]).as_array().unwrap().len(), 0, "{step}");
    }
}

fn expose(home: &Home) {
    let id = home.create(&[]);
    for step in ["expose.row", "expose.listening"] {
        killed_at(home, step, &["expose", &id, "80"]);
        clear_up(home, step, &[&id]);
        home.sandbar(&["unexpose", &id, "80"]);
    }
    // The keeper has these; its client only hears that it is gone, or of the next one.
    for step in ["keeper.row", "keeper.listening"] {
        let mut command = home.command(&["expose", &id, "80"]);
        command.env("SANDBAR_KEEPER_FAULT", step);
        let asked = Client::start(command, &["expose", step]).finish();
        assert!(asked.code == 125 && asked.stderr.contains("keeper"), "{step}: {asked}");
        clear_up(home, step, &[&id]);
        home.sandbar(&["unexpose", &id, "80"]);
    }
    let address = home.ok(&["expose", &id, "80"]);
    assert!(std::net::TcpStream::connect(&address).is_ok());
    home.ok(&["unexpose", &id, "80"]);
    assert!(std::net::TcpStream::connect(&address).is_err());
}

fn keeper(home: &Home) {
    let id = home.create(&[]);
    let address = home.ok(&["expose", &id, "80"]);
    let keepers = support::processes_with(&format!("keeper\0--home\0{}", home.state().display()));
    assert_eq!(keepers.len(), 1, "{keepers:?}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(keepers[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    clear_up(home, "keeper", &[&id]);
    // The next command has started another one, at the same address.
    support::eventually("it listens again", || std::net::TcpStream::connect(&address).is_ok());
    home.ok(&["rm", "-f", &id]);
    support::eventually("the keeper has ended", || {
        support::processes_with(&format!("keeper\0--home\0{}", home.state().display())).is_empty()
    });
}

/// Of one that was killed, a thread that had no turn yet holds the lock after all else of it is gone.
fn late_keeper(home: &Home) {
    let id = home.create(&[]);
    let address = home.ok(&["expose", &id, "80"]);
    let keepers = || support::processes_with(&format!("keeper\0--home\0{}", home.state().display()));
    let lock = File::open(home.state().join("keepers").join(format!("{id}.lock"))).unwrap();
    let pid = rustix::process::Pid::from_raw(keepers()[0].cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    support::eventually("it is gone", || keepers().is_empty());
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let next = home.start(&["exec", &id, "--", "true"]);
    support::eventually("another one comes", || !keepers().is_empty());
    // Time enough for it to find that it has to wait.
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(lock);
    let next = next.finish();
    assert_eq!(next.code, 0, "{next}");
    assert!(std::net::TcpStream::connect(&address).is_ok(), "nobody listens");
    home.ok(&["rm", "-f", &id]);
}

/// As after a loss of power: nobody has stopped anything.
fn crash_of_the_host(home: &Home) {
    let id = home.create(&[]);
    let mark = format!("1000.{}", std::process::id());
    home.shell(&id, &format!("echo kept > file; sync file; sleep {mark} > /dev/null 2>&1 &"));
    let inside = || support::processes_with(&format!("sleep\0{mark}"));
    let processes = support::processes_of_sandbox(home, &id, &inside());
    assert!(processes.len() > 1, "{processes:?}");
    for pid in processes {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    support::eventually("its processes are gone", || support::processes_of_sandbox(home, &id, &inside()).is_empty());
    let other_boot = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("SANDBAR_BOOT_ID", "11111111-2222-3333-4444-555555555555");
        let finished = Client::start(command, args).finish();
        assert_eq!(finished.code, 0, "{finished}");
        finished
    };
    let told: serde_json::Value = serde_json::from_str(&other_boot(&["inspect", &id]).text()).unwrap();
    assert_eq!(told["state"], "crashed", "{told}");
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("restarted")), "{told}");
    other_boot(&["start", &id]);
    assert_eq!(other_boot(&["exec", &id, "--", "cat", "file"]).text(), "kept\n");
    other_boot(&["rm", "-f", &id]);
    assert_nothing_left(home);
}

fn reboot(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo kept > file");
    let owned = home.start(&home.run_args(&[], &["sleep", "1000"]));
    support::eventually("both are there", || home.ids().len() == 2);
    owned.signal(rustix::process::Signal::KILL);
    owned.finish();
    // A machine that goes down ends what runs; here that has to be done by hand.
    home.ok(&["stop", &id]);
    let other_boot = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("SANDBAR_BOOT_ID", "11111111-2222-3333-4444-555555555555");
        Client::start(command, args).finish()
    };
    let gc = other_boot(&["gc"]);
    assert_eq!(gc.code, 0, "{gc}");
    let listed = other_boot(&["ls", "-q"]);
    assert_eq!(listed.text().trim(), id, "{listed}");
    let started = other_boot(&["start", &id]);
    assert_eq!(started.code, 0, "{started}");
    assert_eq!(other_boot(&["exec", &id, "--", "cat", "file"]).text(), "kept\n");
    let removed = other_boot(&["rm", "-f", &id]);
    assert_eq!(removed.code, 0, "{removed}");
}
