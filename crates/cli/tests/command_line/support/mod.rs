//! What the tests of the command share: the real binary, a state folder that leaves nothing behind, a terminal.

mod case;
mod client;
mod home;
mod internet;
mod leftovers;
mod registry;
#[path = "../../../../runtime/tests/image/served.rs"]
mod served;
mod stage;
mod supplies;
mod terminal;
mod wall;
mod welcome;

pub use case::{Case, main, open_to_all};
pub use client::{Client, Finished, feed};
pub use home::Home;
pub use internet::{OWN, OWN_SECOND, OWN_V6, serve_if_asked};
pub use leftovers::{assert_nothing_left, control_groups_with, ids_with_traces, leftovers, processes_of_sandbox, processes_with};
pub use registry::Registry;
pub use stage::Stage;
pub use terminal::Terminal;
pub use wall::{EVERYWHERE, Wall};

use std::time::{Duration, Instant};

/// Longer than anything takes on a machine that is busy; what takes longer hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for something that another process does, and that nobody tells us of.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
