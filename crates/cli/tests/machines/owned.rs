use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::world::{PATIENCE, World};

/// The client of `run` is killed while its machine works.
pub fn ends(world: &World) {
    // So that a machine of this kind comes up at once.
    let first = world.create();
    world.ok(&["rm", "-f", &first]);
    let run = ["run", "--on", world.monitor.name, "--image", "busybox", "--memory", "64M", "--", "sleep", "1000"];
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
