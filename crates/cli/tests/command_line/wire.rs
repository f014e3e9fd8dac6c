//! As many connections as the wire of a wall has.

use std::time::{Duration, Instant};

use crate::support::{Case, Finished, Home, Stage, eventually};

pub const CASES: &[Case] =
    &[Case::new("wire::more_connections_than_a_microvm_has_are_refused", too_many).on(&["firecracker-jailed"]).staged()];

fn curl(home: &Home, id: &str) -> Finished {
    home.sandbar(&["exec", id, "--", "curl", "-sS", "-m", "20", "http://allowed.test/"])
}

/// Opens so many connections to a server that says nothing by itself, and holds them.
const HOLD: &str = r#"for part in 1 2 3; do
curl --http0.9 -sS -m 500 --no-buffer --parallel --parallel-immediate --parallel-max 300 "http://allowed.test:7000/$part/[1-$1]" -o /dev/null &
done
wait"#;

fn too_many(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let begun = Instant::now();
    home.ok(&["exec", "-d", &id, "--", "sh", "-c", HOLD, "hold", "270"]);
    let log = || home.ok(&["net", "log", &id]);
    let full = |log: &str| log.contains("768 connections are open");
    while !full(&log()) {
        assert!(begun.elapsed() < Duration::from_secs(300), "{}", log());
        std::thread::sleep(Duration::from_millis(500));
    }
    // A place is taken before the server is connected to.
    eventually("they are open", || stage.seen().iter().filter(|line| line.as_str() == "tcp 93.184.215.14 7000").count() >= 768);
    // What is over is refused at once, and the sandbox answers as ever.
    let over = curl(&home, &id);
    // An answer that never comes would be 28.
    assert!([7, 35, 52, 55, 56].contains(&over.code), "{over}");
    home.shell(&id, "busybox killall curl");
    eventually("there is room again", || curl(&home, &id).code == 0);
    home.close();
}
