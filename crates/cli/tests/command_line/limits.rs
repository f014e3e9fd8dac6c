//! The options of limits: each is shown by going over it.

use crate::support::{Case, Home};

const ROOT: &[&str] = &["container-root"];

pub const CASES: &[Case] = &[
    Case::new("limits::options_are_told_and_hold", all).on(ROOT),
    Case::new("limits::a_processor_is_shared_as_asked", processor).on(ROOT).needs(&["/usr/bin/python3"]),
    Case::new("limits::an_option_that_cannot_hold_is_refused", refused).on(&["dangerous-host"]),
];

fn all(home: &Home) {
    let id = home.create(&["--memory", "128M", "--pids", "40", "--disk", "16M", "--open-files", "64"]);
    let told = home.json(&["inspect", &id]);
    let value = |name: &str| {
        let limits = told["limits"].as_array().unwrap();
        limits.iter().find(|limit| limit["limit"] == name).unwrap()["value"].as_u64()
    };
    assert_eq!(value("memory"), Some(128 << 20));
    assert_eq!(value("pids"), Some(40));
    assert_eq!(value("disk"), Some(16 << 20));
    assert_eq!(value("open-files"), Some(64));
    let over = |line: &str| home.sandbar(&["exec", &id, "--", "sh", "-c", line]);
    let full = over("head -c 32M /dev/zero > /root/file");
    assert!(full.code != 0 && full.stderr.contains("No space left"), "{full}");
    let crowd = over("i=0; while [ $i -lt 80 ]; do sleep 5 & i=$((i+1)); done");
    assert!(crowd.code != 0 && crowd.stderr.contains("fork"), "{crowd}");
    let files = over("ulimit -n");
    assert_eq!(files.text(), "64\n", "{files}");
    // Ended by the kernel, or refused the memory.
    let memory = over("head -c 256M /dev/zero | tail");
    assert_ne!(memory.code, 0, "{memory}");
    assert_eq!(home.shell(&id, "echo still there"), "still there");
}

fn processor(home: &Home) {
    const SPIN: &str = "
import time
start, cpu = time.monotonic(), time.process_time()
while time.monotonic() - start < 2: pass
print(time.process_time() - cpu)
";
    let run = home.sandbar(&home.run_args(&["--cpus", "0.25"], &["/usr/bin/python3", "-c", SPIN]));
    let used: f64 = run.text().trim().parse().unwrap();
    // A quarter of two seconds; a slice more where the second ends within one.
    assert!(used < 0.75, "{used} s of 2 s");
}

fn refused(home: &Home) {
    for option in [["--memory", "64M"], ["--cpus", "1"], ["--pids", "10"], ["--disk", "16M"]] {
        let refused = home.sandbar(&home.run_args(&option, &["true"]));
        assert!(refused.code == 125 && refused.stderr.contains("dangerous-host"), "{option:?}: {refused}");
    }
}
