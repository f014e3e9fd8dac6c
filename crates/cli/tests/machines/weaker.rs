use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use crate::world::World;

/// Whoever runs it is no member of anything else.
const USER: u32 = 65534;

/// With the jailer, without it as root, and as a member of the group that may use KVM: each says what there is around its machines, and that is what there is.
pub fn is_told(world: &World) {
    let around = |command: &dyn Fn(&[&str]) -> Command| {
        let output = |words: &[&str]| {
            let output = command(words).output().unwrap();
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let id = output(&world.creation());
        assert_eq!(output(&["exec", &id, "--", "echo", "here"]), "here");
        let told: serde_json::Value = serde_json::from_str(&output(&["inspect", &id])).unwrap();
        let machine = world.machine().as_raw_pid();
        let user = user_of(machine);
        assert!(!limit_of(machine, "Max address space").starts_with("unlimited"), "a monitor could have all memory of the host");
        let group = group_of(machine);
        output(&["rm", "-f", &id]);
        // Whether the machine as a whole is healthy is another question.
        let looked = command(&["doctor", "--json"]).output().unwrap();
        let looked: serde_json::Value = serde_json::from_slice(&looked.stdout).unwrap();
        let verdict = looked["providers"].as_array().unwrap().iter().find(|provider| provider["name"] == "firecracker").unwrap();
        let verdict = verdict["verdict"].as_str().unwrap().to_owned();
        let note = told["provider_notes"][0].as_str().unwrap().to_owned();
        assert!(verdict.contains(&note), "{verdict}: {note}");
        (note, user, group)
    };
    let jailed = around(&|words| world.command(words));
    assert!(jailed.0.contains("in a jail of its own") && jailed.1 != 0, "{jailed:?}");
    // Of a machine of one processor.
    assert_eq!(jailed.2, Some(("128".to_owned(), "200000 100000".to_owned())));

    let config = world.state().join("sandbar.toml");
    let without = fs::read_to_string(&config).unwrap().replace("jail = true", "jail = false");
    fs::write(&config, without).unwrap();
    let root = around(&|words| world.command(words));
    assert!(root.0.starts_with("weaker: ") && root.0.contains("runs as root") && root.1 == 0, "{root:?}");

    // Everything that is needed becomes another user's.
    let home = world.state().parent().unwrap().to_owned();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    let program = home.join("sandbar");
    fs::copy(env!("CARGO_BIN_EXE_sandbar"), &program).unwrap();
    assert!(Command::new("chown").arg("-R").arg(USER.to_string()).arg(world.state()).status().unwrap().success());
    let plain = around(&|words| as_user(&program, &home, &world.state(), words));
    assert!(plain.0.starts_with("weaker: ") && plain.0.contains("runs as this user") && plain.1 == USER, "{plain:?}");
}

fn limit_of(pid: i32, name: &str) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// What the control group of a machine bounds, if it has one of its own: threads and processors.
fn group_of(pid: i32) -> Option<(String, String)> {
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = Path::new("/sys/fs/cgroup/sandbar-firecracker").join(group.trim().rsplit_once("/sandbar-firecracker/")?.1);
    let bound = |name| fs::read_to_string(group.join(name)).unwrap().trim().to_owned();
    Some((bound("pids.max"), bound("cpu.max")))
}

fn as_user(program: &Path, home: &Path, state: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).env("SANDBAR_HOME", state).env("HOME", home).current_dir("/");
    command.uid(USER).gid(group_of_kvm());
    command
}

fn group_of_kvm() -> u32 {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let line = groups.lines().find(|line| line.starts_with("kvm:")).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

/// The effective user of a process.
fn user_of(pid: i32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
