use std::path::Path;

use crate::{
    ends, kills,
    world::{Monitor, World},
};

/// `None` where there is no QEMU; a failure where that is required.
fn world() -> Option<World> {
    let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "qemu-tcg"));
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        assert!(!required, "QEMU is missing: run `cargo xtask setup`");
        return None;
    }
    let config = "[qemu]\naccelerator = \"tcg\"\n".to_owned();
    World::new(Monitor { name: "qemu", config, steps: &["qemu.prepared", "qemu.launched", "qemu.piped"] }, required)
}

#[test]
fn a_kill_at_any_step_leaks_nothing() {
    let Some(world) = world() else { return };
    kills::leak_nothing(&world);
}

#[test]
fn a_machine_that_ends_or_hangs_is_told() {
    let Some(world) = world() else { return };
    ends::are_told(&world);
}
