use std::{path::Path, process::Command};

use sandbar_backends::qemu::STEPS;

use crate::world::{Monitor, World};

/// A world of emulated machines.
pub fn world() -> Result<World, String> {
    World::new(monitor()?)
}

/// The same before anything is set up, where the distribution's packages can be had.
pub fn bare() -> Result<World, String> {
    let monitor = monitor()?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    // Of a few kilobytes, and part of every installation.
    let got = Command::new("apt-get").args(["download", "--quiet", "hostname"]).current_dir(folder.path()).output();
    match got {
        Ok(got) if got.status.success() => Ok(World::bare(monitor)),
        Ok(got) => Err(format!("the distribution's packages cannot be had: {}", String::from_utf8_lossy(&got.stderr).trim())),
        Err(error) => Err(format!("there is no apt-get: {error}")),
    }
}

fn monitor() -> Result<Monitor, String> {
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        return Err("QEMU is missing: run `cargo xtask setup`".to_owned());
    }
    let config = "[qemu]\naccelerator = \"tcg\"\n".to_owned();
    Ok(Monitor { name: "qemu", config, steps: &STEPS, steps_from_template: &STEPS[1..] })
}
