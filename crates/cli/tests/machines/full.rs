use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::world::World;

/// What the state folder's disk holds: two memories and what belongs to them, and no third.
const DISK: &str = "size=1g";
/// What is left on a full one: enough for what is noted of a sandbox, and for no memory.
const LEFT: u64 = 3 << 20;

/// Saves, forks and makes templates on a full disk: that is told, nothing is left of it, and what ran goes on.
pub fn is_told(world: &World) {
    let state = world.state();
    let _disk = Disk::under(&state);
    let filling = Filling(state.join("filling"));
    filling.put();
    is_said(&world.run(&world.creation()));
    assert!(world.is_settled("a template on a full disk").is_empty());
    filling.take();

    let id = world.create();
    // Its memory is its own, and no zeros.
    world.ok(&[
        "exec",
        &id,
        "--",
        "sh",
        "-c",
        "echo kept > /file; /bin/busybox dd if=/dev/urandom of=/dev/shm/noise bs=1M count=16 2> /dev/null",
    ]);
    filling.put();
    is_said(&world.run(&["checkpoint", "--with-memory", &id]));
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "after a save on a full disk");
    is_said(&world.run(&["fork", &id]));
    assert_eq!(world.is_settled("a fork on a full disk"), [id.as_str()]);
    assert_eq!(fs::read_dir(world.state().join("checkpoints")).map_or(0, Iterator::count), 0);
    filling.take();

    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    world.ok(&["restore", &id, &checkpoint]);
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept");
    world.ok(&["rm", "-f", &id]);
}

fn is_said(told: &Output) {
    let said = String::from_utf8_lossy(&told.stderr);
    assert_eq!(told.status.code(), Some(125), "{said}");
    assert!(said.contains("no room left") || said.contains("No space left"), "{said}");
}

/// A disk of its own, with what was in the folder.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn under(folder: &'a Path) -> Self {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).unwrap();
        fs::create_dir(folder).unwrap();
        let ok = |program: &str, arguments: &[&str]| assert!(Command::new(program).args(arguments).status().unwrap().success());
        let folder_name = folder.display().to_string();
        ok("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs", &folder_name]);
        let disk = Self(folder);
        ok("cp", &["-a", &format!("{}/.", aside.display()), &folder_name]);
        disk
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0).status();
    }
}

/// A file that takes the room.
struct Filling(PathBuf);

impl Filling {
    fn put(&self) {
        let left = rustix::fs::statvfs(self.0.parent().unwrap()).unwrap();
        let size = (left.f_bavail * left.f_frsize).checked_sub(LEFT).unwrap();
        let file = fs::File::create(&self.0).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).unwrap();
    }

    fn take(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}
