use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    ends, kills,
    world::{Monitor, PATIENCE, World},
};

fn world() -> World {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/bin/firecracker");
    let config = format!("[firecracker]\nfirecracker = {program:?}\njail = true\n");
    let steps = &["firecracker.prepared", "firecracker.told", "firecracker.launched"];
    World::new(Monitor { name: "firecracker", config, steps }, true).unwrap()
}

#[test]
#[ignore = "needs a KVM that runs guests: `cargo xtask test` runs it in the lab"]
fn a_kill_at_any_step_leaks_nothing() {
    kills::leak_nothing(&world());
}

#[test]
#[ignore = "needs a KVM that runs guests: `cargo xtask test` runs it in the lab"]
fn a_machine_that_ends_or_hangs_is_told() {
    ends::are_told(&world());
}

#[test]
#[ignore = "needs a KVM that runs guests: `cargo xtask test` runs it in the lab"]
fn a_machine_in_a_jail_ends_with_the_client_that_owns_it() {
    let world = world();
    // So that a machine of this kind comes up at once.
    let first = world.create();
    world.ok(&["rm", "-f", &first]);
    let run = ["run", "--on", "firecracker", "--image", "busybox", "--memory", "64M", "--", "sleep", "1000"];
    let mut client = world.command(&run).spawn().unwrap();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", world.processes());
            sleep(Duration::from_millis(20));
        }
    };
    wait("it does not run", &|| world.ok(&["ls", "-q"]).lines().count() == 1 && world.processes().len() == 2);
    client.kill().unwrap();
    client.wait().unwrap();
    wait("it outlives its client", &|| world.processes().is_empty());
    assert!(world.is_settled("the client's end").is_empty());
}
