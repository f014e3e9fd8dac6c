//! When a process's time is over.

use std::time::{Duration, Instant};

use sandbar_protocol::Exec;

use crate::host::{Host, eventually, is_alive, shell};

#[test]
fn time_is_over_for_a_process_that_never_stops_speaking() {
    let host = Host::new();
    // A pipe as large as it gets, which several fill: there is always something to be read.
    let large = "import fcntl, os; fcntl.fcntl(1, 1031, 1 << 20); os.execvp('sh', ['sh', '-c', 'yes & yes & yes & exec yes'])";
    let request = Exec { timeout_ms: 500, ..shell(&format!("exec python3 -c \"{large}\"")) };
    let begun = Instant::now();
    // Nobody listens, so nothing holds it back.
    let pid = host.exec(request).started.pid;
    eventually("it has ended", || !is_alive(pid));
    assert!(begun.elapsed() >= Duration::from_millis(500));
}
