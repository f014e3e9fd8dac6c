use std::path::Path;

use sandbar_backends::qemu::STEPS;

use crate::world::{Monitor, World};

/// A world of emulated machines.
pub fn world() -> Result<World, String> {
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        return Err("QEMU is missing: run `cargo xtask setup`".to_owned());
    }
    let config = "[qemu]\naccelerator = \"tcg\"\n".to_owned();
    World::new(Monitor { name: "qemu", config, steps: &STEPS, steps_from_template: &STEPS[1..] })
}
