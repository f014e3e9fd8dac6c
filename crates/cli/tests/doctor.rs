//! `sandbar doctor`, on the machine that runs the tests.

#![expect(clippy::unwrap_used, reason = "what a test cannot do, it has to fail of")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;

fn doctor(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    command.arg("doctor").args(arguments).env("SANDBAR_HOME", home).env("RUNSC_PATH", "/nonexistent/runsc").output().unwrap()
}

fn home() -> tempfile::TempDir {
    // Not on a file system that cannot be below a container's root.
    let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    tempfile::Builder::new().prefix("sandbar-doctor-").tempdir_in(parent).unwrap()
}

fn is_required(name: &str) -> bool {
    std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|one| one == name))
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
}

#[test]
fn what_works_here_says_hello_and_what_does_not_is_told_with_what_to_do() {
    let home = home();
    let output = doctor(home.path(), &["--self-test", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let none = named(&found["providers"], "dangerous-host");
    assert_eq!((&none["usable"], &none["said_hello"], &none["isolation"]), (&true.into(), &true.into(), &"none".into()), "{found}");
    let gvisor = named(&found["providers"], "gvisor");
    assert_eq!((&gvisor["usable"], &gvisor["said_hello"]), (&false.into(), &Value::Null), "{found}");
    assert!(gvisor["hint"].as_str().unwrap().contains("RUNSC_PATH"), "{found}");
    // The exit status says of the whole what the fields say one by one.
    let providers = found["providers"].as_array().unwrap();
    let walled = providers.iter().any(|provider| provider["usable"] == true && provider["isolation"] != "none");
    // Whatever works here, and has an image to begin with, has said so.
    let says = |provider: &Value| provider["usable"] == true && provider["lacks_base"] == false;
    assert!(providers.iter().all(|provider| (provider["said_hello"] == true) == says(provider)), "{found}");
    assert!(walled || !is_required("container-root"), "{found}");
    let silent = providers.iter().any(|provider| provider["said_hello"] == false);
    assert_eq!(output.status.code(), Some(i32::from(!walled || silent)), "{found}");
    for name in ["kvm", "user-namespaces", "cgroups", "landlock", "disk", "clock"] {
        assert!(!named(&found["host"], name)["finding"].as_str().unwrap().is_empty(), "{found}");
    }
    let left = Command::new(env!("CARGO_BIN_EXE_sandbar")).args(["ls", "-q"]).env("SANDBAR_HOME", home.path()).output().unwrap();
    assert!(left.status.success() && left.stdout.is_empty(), "{left:?}");
}

#[test]
fn a_program_and_an_engine_that_hang_are_told_by_a_deadline_and_hold_up_nobody() {
    let home = home();
    let folder = home.path().join("programs");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("qemu-system-x86_64");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // Whoever comes is taken, and told nothing.
    let engine = folder.join("engine.sock");
    let _silent = UnixListener::bind(&engine).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    command.args(["doctor", "--json"]).env("SANDBAR_HOME", home.path().join("state"));
    command.env("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()));
    let begun = Instant::now();
    let output = command.env("DOCKER_HOST", format!("unix://{}", engine.display())).output().unwrap();
    // More than the longest deadline of a probe, which others that hang may come to; without any, a thousand seconds.
    assert!(begun.elapsed() < Duration::from_secs(200), "{:?}", begun.elapsed());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let verdict = |name: &str| {
        let provider = named(&found["providers"], name);
        assert_eq!(provider["usable"], false, "{found}");
        provider["verdict"].as_str().unwrap().to_owned()
    };
    let qemu = verdict("qemu");
    let lacks = ["sqfstar", "mkfs.ext4"].into_iter().find(|program| qemu.contains(program));
    match lacks {
        // It is asked where machines could be made alone.
        Some(program) if !is_required("qemu-tcg") => eprintln!("{program} is not here, so QEMU is not asked"),
        _ => assert!(qemu.contains("qemu-system-x86_64 does not answer"), "{found}"),
    }
    assert!(verdict("docker").contains("did not answer within 10 s"), "{found}");
    assert_eq!(named(&found["providers"], "dangerous-host")["usable"], true, "{found}");
}

/// A user who may make no namespaces.
#[test]
fn a_host_without_any_wall_is_told_with_the_reason() {
    let home = home();
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --bounding-set=-all --no-new-privs \"$@\"";
    let program = [env!("CARGO_BIN_EXE_sandbar"), "doctor", "--self-test", "--json"];
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).args(program);
    command
        .env("SANDBAR_HOME", home.path().join("state"))
        .env("RUNSC_PATH", "/nonexistent/runsc")
        .env("DOCKER_HOST", "unix:///nonexistent");
    let output = command.output().unwrap();
    let Ok(found) = serde_json::from_slice::<Value>(&output.stdout) else {
        // Where nobody may make a user namespace, container is not required either.
        assert!(!is_required("container-rootless"), "{output:?}");
        eprintln!("no user namespace can be made here, so none can be without walls");
        return;
    };
    assert_eq!((output.status.code(), &found["healthy"]), (Some(1), &false.into()), "{found}");
    let container = named(&found["providers"], "container");
    assert_eq!(container["usable"], false, "{found}");
    assert!(container["hint"].as_str().unwrap().contains("user.max_user_namespaces"), "{found}");
    assert_eq!(named(&found["host"], "user-namespaces")["health"], "missing", "{found}");
}

#[test]
fn a_person_reads_tables_and_what_to_do() {
    let home = home();
    let output = doctor(home.path(), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["PROVIDER", "HOST", "container", "cgroups", "\ngvisor: "] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn the_host_is_looked_at_also_where_no_state_can_be_kept() {
    let output = doctor(Path::new("/proc/sandbar"), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("disk") && text.contains("missing"), "{text}");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/sandbar"), "{output:?}");
}
