use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{PATIENCE, World};

/// After this, `gc` has ended what gave no sign of life: a silence of 15 s, one of 30 s, and the end. An orderly end may take 60 s more.
const GIVEN_UP: Duration = Duration::from_secs(100);

/// Ends the machine in every way, and the process beside it.
pub fn are_told(world: &World) {
    let id = world.create();
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file; sync"]);
    let is_told = |what: &str| {
        let begun = Instant::now();
        let told = loop {
            let told = world.inspect(&id);
            if told["state"] != "running" {
                break told;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {told}");
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
    let begun = Instant::now();
    assert_eq!(world.is_settled("a machine that hangs"), [id.as_str()]);
    let told = world.inspect(&id);
    assert!(told["state"] == "stopped" && told.to_string().contains("does not answer"), "{told}");
    // A silence for `gc`, and another for the stop: what a machine has for its orderly end is not waited for.
    assert!(begun.elapsed() < GIVEN_UP, "{:?}", begun.elapsed());
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

    if world.monitor.name == "qemu" {
        // Root inside puts its kernel to a sleep from which nothing wakes it.
        world.ok(&["exec", &id, "--detach", "--", "sh", "-c", "echo freeze > /sys/power/state"]);
        let told = is_told("a kernel that hangs");
        assert!(told.contains("does not answer"), "{told}");
        again();
    }

    // Nobody reaches the agent, and the machine runs.
    let sockets = world.files("sandboxes", |name| matches!(name, "vsock.sock" | "agent.sock"));
    assert!(!sockets.is_empty());
    sockets.iter().for_each(|socket| fs::remove_file(socket).unwrap());
    is_told("a machine whose socket is gone");
    again();

    let name = world.monitor.name;
    let beside: Vec<u32> = world.processes().into_iter().filter(|(_, other)| !other.starts_with(name)).map(|(pid, _)| pid).collect();
    assert_eq!(beside.len(), 1);
    kill_process(Pid::from_raw(i32::try_from(beside[0]).unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "without the process beside it");
    world.ok(&["rm", "-f", &id]);
    assert!(world.is_settled("everything").is_empty());
}
