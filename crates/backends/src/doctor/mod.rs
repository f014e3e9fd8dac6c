//! What this host offers to walls, beyond what a single provider's probe says: found by trying, each within a deadline.
//!
//! | module | noun |
//! |---|---|
//! | `check` | [`Check`]: one thing that was looked at, and what was found |
//! | `namespaces` | user namespaces, and whether they have rights |
//! | `groups` | control groups: a group with limits is made and removed |
//! | `place` | the disk below the state folder |
//! | `clock` | whether the time can be right |
//! | `mac` | what a Mac has instead |

mod check;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod groups;
#[cfg(any(target_os = "macos", test))]
mod mac;
#[cfg(target_os = "linux")]
mod namespaces;
mod place;

use std::{path::Path, thread, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

pub use check::{Check, Health};

#[cfg(target_os = "linux")]
use crate::{container, kvm};

/// Where KVM hangs, its probe needs the better part of a minute to be sure.
const PATIENCE: Duration = Duration::from_secs(75);

/// Looks at the host, at everything at once. `home` is the state folder, which need not exist.
///
/// Changes nothing that stays. What does not answer in time is told as such; its thread is left behind.
pub async fn examine(home: &Path) -> Vec<Check> {
    let place = home.to_owned();
    #[cfg(not(target_os = "linux"))]
    let begun = [begin("linux", mac::check), begin("disk", move || place::check(&place))];
    #[cfg(target_os = "linux")]
    let begun = [
        begin("kvm", || Check::of_probe("kvm", kvm::probe().to_probe())),
        begin("user-namespaces", namespaces::check),
        begin("cgroups", groups::check),
        begin("landlock", container::landlock::check),
        begin("disk", move || place::check(&place)),
        begin("clock", clock::check),
    ];
    let mut checks = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for (name, answer) in begun {
        checks.push(answered(name, answer, deadline).await);
    }
    checks
}

async fn answered(name: &str, answer: oneshot::Receiver<Check>, deadline: Instant) -> Check {
    match timeout_at(deadline, answer).await {
        Ok(Ok(check)) => check,
        Ok(Err(_)) => Check::new(name, Health::Missing, "could not be looked at"),
        Err(_) => Check::new(name, Health::Missing, format!("did not answer within {} seconds", PATIENCE.as_secs())),
    }
}

/// Begins one on a thread of its own: what hangs in the kernel holds up nothing else, not even the end of this process.
fn begin(name: &'static str, look: impl FnOnce() -> Check + Send + 'static) -> (&'static str, oneshot::Receiver<Check>) {
    let (tell, answer) = oneshot::channel();
    // Without a thread the sender is dropped, which is the answer.
    let _ = thread::Builder::new().name(format!("doctor-{name}")).spawn(move || drop(tell.send(look())));
    (name, answer)
}

/// For what is made to see that it can be made: several may look at the same time, in one process too, and one that was killed may have left something.
fn unique_name() -> String {
    let mut random = [0; 8];
    // Without random numbers nothing else works either, and those who look at the same time may find one another's.
    let _ = getrandom::fill(&mut random);
    format!("sandbar-doctor-{:016x}", u64::from_ne_bytes(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_look_at_once_and_find_the_same() {
        let home = tempfile::tempdir().unwrap();
        let first = examine(home.path()).await;
        let finding = |checks: &[Check], name: &str| checks.iter().find(|check| check.name == name).unwrap().health;
        let mut looks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let home = home.path().to_owned();
            looks.spawn(async move { examine(&home).await });
        }
        for checks in looks.join_all().await {
            for name in ["cgroups", "disk"] {
                assert_eq!(finding(&checks, name), finding(&first, name), "{checks:?}");
            }
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn everything_is_looked_at_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let checks = examine(home.path()).await;
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["kvm", "user-namespaces", "cgroups", "landlock", "disk", "clock"]);
        assert!(checks.iter().all(|check| !check.finding.is_empty()));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_told_when_the_time_is_up() {
        let (held, wait) = std::sync::mpsc::channel::<()>();
        let (name, answer) = begin("other", move || {
            let _ = wait.recv();
            Check::new("other", Health::Good, "too late")
        });
        let check = answered(name, answer, Instant::now() + PATIENCE).await;
        assert_eq!((check.health, check.finding.as_str()), (Health::Missing, "did not answer within 75 seconds"));
        drop(held);
    }

    #[tokio::test]
    async fn one_that_panics_is_told_and_the_others_go_on() {
        let (_, answer) = begin("other", || panic!("on purpose"));
        assert!(answer.await.is_err());
    }
}
