use std::{fs, path::Path, process::Command, thread::sleep, time::Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sandbar_backends::machine::process::wait_for_exit;

use crate::world::{PATIENCE, World};

/// The process that serves a volume is killed, and so is sandbar while it starts one.
pub fn are_served(world: &World) {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(folder.path().join("file"), "of the host").unwrap();
    let volume = format!("{}:/mnt/volume", folder.path().display());
    let inner = format!("{}:/mnt/volume/inner:ro", folder.path().display());
    let create: Vec<&str> = world.creation().into_iter().chain(["-v", &volume, "-v", &inner]).collect();
    let id = created_with_a_lock(world, &create);
    assert_eq!(servers(world).len(), 2);
    let read = |path: &str| world.ok(&["exec", &id, "--", "cat", path]);
    assert_eq!(read("/mnt/volume/file"), "of the host");
    assert_eq!(read("/mnt/volume/inner/file"), "of the host");
    for number in 0..2 {
        // Who serves what lies in a volume that is gone may go with it.
        let victim = pidfd_open(Pid::from_raw(servers(world)[number]).unwrap(), PidfdFlags::empty()).unwrap();
        pidfd_send_signal(&victim, Signal::KILL).unwrap();
        assert!(wait_for_exit(&victim, PATIENCE).unwrap(), "it does not end");
        // What lies in a volume that is gone is let go of a moment later.
        let begun = Instant::now();
        while !world.run(&["exec", &id, "--", "cat", "/mnt/volume/inner/file"]).status.success() || servers(world).len() != 2 {
            assert!(begun.elapsed() < PATIENCE, "the volumes are not served again");
            sleep(std::time::Duration::from_millis(50));
        }
        assert_eq!(read("/mnt/volume/file"), "of the host");
    }
    world.ok(&["exec", &id, "--", "sh", "-c", "echo of the sandbox > /mnt/volume/made"]);
    assert_eq!(fs::read_to_string(folder.path().join("made")).unwrap(), "of the sandbox\n");
    let refused = world.run(&["checkpoint", "--with-memory", &id]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("with volumes cannot be saved"), "{refused:?}");
    assert_eq!(read("/mnt/volume/file"), "of the host");
    world.ok(&["rm", "-f", &id]);
    for step in ["volume.shared", "provision.answered", "provision.committed"] {
        world.killed_at(step, &create);
        world.ok(&["gc"]);
        for left in world.ok(&["ls", "-q"]).lines() {
            world.ok(&["rm", "-f", left]);
        }
        assert!(world.is_settled(step).is_empty());
        assert!(servers(world).is_empty(), "after {step}");
    }
}

/// Makes a sandbox from a shell that has something open: nothing that stays holds it.
fn created_with_a_lock(world: &World, create: &[&str]) -> String {
    let lock = world.state().join("lock-of-the-shell");
    let script = "exec 9> \"$1\"; shift; exec \"$@\"";
    let made = Command::new("sh")
        .args(["-c", script, "sh", &lock.display().to_string(), env!("CARGO_BIN_EXE_sandbar")])
        .args(create)
        .env("SANDBAR_HOME", world.state())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    for (pid, name) in world.processes() {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        assert!(open.into_iter().all(|path| path != lock), "{name} holds it");
    }
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// The processes that serve volumes of this state folder.
fn servers(world: &World) -> Vec<i32> {
    let serves = |pid: &u32| {
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"share")
    };
    world.processes().into_iter().map(|(pid, _)| pid).filter(serves).map(|pid| i32::try_from(pid).unwrap()).collect()
}
