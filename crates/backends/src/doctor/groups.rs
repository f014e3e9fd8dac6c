use std::sync::Arc;

use sandbar_core::{Journal, Limits, NoJournal, Result};

use super::{
    check::{Check, Health},
    unique_name,
};
use crate::host::{
    cgroup::{Controller, Groups, Hierarchies},
    ids::is_root,
};

const NAME: &str = "cgroups";
/// The controllers that limits need.
const CONTROLLERS: [(Controller, &str); 3] = [(Controller::Memory, "memory"), (Controller::Cpu, "cpu"), (Controller::Pids, "pids")];

/// Makes a group with every limit that this host seems to have, and removes it.
pub(super) fn check() -> Check {
    let host = Hierarchies::of_host();
    let (held, lacking): (Vec<_>, Vec<_>) = CONTROLLERS.into_iter().partition(|(controller, _)| host.holder(*controller).is_some());
    let names = |of: &[(Controller, &str)]| of.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    if let Err(error) = attempt(&held) {
        return Check::new(NAME, Health::Missing, format!("{}, but a group cannot be made: {}", host.describe(), error.chain()));
    }
    let freezing = if host.can_freeze() { "sandboxes can be paused" } else { "sandboxes cannot be paused" };
    if lacking.is_empty() {
        return Check::new(NAME, Health::Good, format!("{}: limits of {} hold, {freezing}", host.describe(), names(&held)));
    }
    let health = if held.is_empty() { Health::Missing } else { Health::Limited };
    let check = Check::new(NAME, health, format!("{}: no limits of {} for this user, {freezing}", host.describe(), names(&lacking)));
    match is_root() {
        true => check.with_hint("this kernel, or the container that this is, has no such controller"),
        false => check.with_hint(
            "let the service manager pass controllers on: `systemd-run --user --scope -p Delegate=yes sandbar …`, or run sandbar as root",
        ),
    }
}

fn attempt(held: &[(Controller, &str)]) -> Result<()> {
    let has = |wanted: Controller| held.iter().any(|(controller, _)| *controller == wanted);
    let limits = Limits {
        memory: has(Controller::Memory).then_some(64 << 20),
        cpu_millis: has(Controller::Cpu).then_some(1000),
        pids: has(Controller::Pids).then_some(64),
        ..Limits::default()
    };
    let journal: Arc<dyn Journal> = Arc::new(NoJournal);
    Groups::make(&unique_name(), &limits, None, &journal)?.groups.release(&journal)
}
