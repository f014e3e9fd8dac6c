use std::path::Path;

use sandbar_backends::firecracker::STEPS;

use crate::world::{Monitor, World};

/// A world of machines in jails.
pub fn world() -> Result<World, String> {
    if std::env::var_os("SANDBAR_LAB").is_none() {
        return Err("it is for the lab: `cargo xtask lab -- PROGRAM firecracker::`".to_owned());
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/bin/firecracker");
    let config = format!("[firecracker]\nfirecracker = {program:?}\njail = true\n");
    World::new(Monitor { name: "firecracker", config, steps: &STEPS, steps_from_template: &STEPS })
}
