use std::{collections::BTreeSet, fs};

use crate::world::World;

/// Lives in a row, unless `SANDBAR_CYCLES` says how many: enough to see what each of them leaves; and with `SANDBAR_LONG`.
const CYCLES: usize = 20;
const MANY: usize = 1000;

/// Create, save with memory, fork, destroy: what the host has afterwards is what it had after the first of them.
pub fn leave_nothing(world: &World) {
    let usual = if std::env::var_os("SANDBAR_LONG").is_some() { MANY } else { CYCLES };
    let cycles = std::env::var("SANDBAR_CYCLES").map_or(usual, |cycles| cycles.parse().unwrap());
    let mut made = Vec::new();
    let users = live(world, &mut made);
    let before = Remains::of(world, &made);
    for cycle in 1..=cycles {
        assert_eq!(live(world, &mut made), users, "the users of this host that the first one had are not free");
        // No cleaner has been there since the first of them.
        if cycle % 100 == 0 {
            assert_eq!(Remains::of(world, &made), before, "after {cycle} lives");
        }
    }
    // Without a cleaner: what each life leaves is what is looked for.
    assert_eq!(Remains::of(world, &made), before, "after {cycles} lives");
    assert!(world.is_settled("everything").is_empty());
    assert_eq!(Remains::of(world, &made), before, "after {cycles} lives and gc");
}

/// One life; the users of this host that it had. What it makes is noted.
fn live(world: &World, made: &mut Vec<String>) -> serde_json::Value {
    let id = world.create();
    made.push(id.clone());
    let users = world.inspect(&id)["ids"].clone();
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    let fork = world.ok(&["fork", &checkpoint]);
    made.push(fork.clone());
    assert_eq!(world.ok(&["exec", &fork, "--", "cat", "/file"]), "kept");
    world.ok(&["rm", "-f", &id]);
    // What a fork began from stays as long as the fork needs it.
    assert!(!world.run(&["checkpoint", "rm", &checkpoint]).status.success());
    assert_eq!(world.ok(&["exec", &fork, "--", "cat", "/file"]), "kept");
    world.ok(&["rm", "-f", &fork]);
    world.ok(&["checkpoint", "rm", &checkpoint]);
    users
}

/// What there is of a state folder on this host.
#[derive(Debug, PartialEq, Eq)]
struct Remains {
    processes: usize,
    /// Every file and folder but the ledger's own and what it says.
    files: BTreeSet<String>,
    loop_devices: BTreeSet<String>,
    mounts: usize,
    groups: BTreeSet<String>,
}

impl Remains {
    /// Of this state folder, and of the sandboxes that it has had: others may be made on this host meanwhile.
    fn of(world: &World, made: &[String]) -> Self {
        let mut files = BTreeSet::new();
        let mut folders = vec![world.state()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                files.insert(entry.path().display().to_string());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        files.retain(|path| !path.contains("ledger"));
        let state = world.state().display().to_string();
        let is_here = |text: &str| text.contains(&state);
        let loop_devices = fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .filter(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).is_ok_and(|file| is_here(&file)));
        let groups = walk_groups(made);
        Self {
            processes: world.processes().len(),
            files,
            loop_devices: loop_devices.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|mount| is_here(mount)).count(),
            groups,
        }
    }
}

/// Control groups that these sandboxes have left.
fn walk_groups(made: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if made.iter().any(|id| name.contains(id.as_str())) {
                    found.insert(entry.path().display().to_string());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}
