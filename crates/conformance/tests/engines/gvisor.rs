use std::fs;

use sandbar_conformance::{Account, Availability, Reach, Subject, Variant, World};
use sandbar_core::SandboxId;

use crate::variants::{Found, Preparing, TEST_USER, can_map, is_root};

/// Each sandbox with host ids of its own.
pub const ROOT: Variant = Variant { name: "gvisor-root", prepare: prepare_root };
/// A plain user with subordinate ids.
pub const ROOTLESS: Variant = Variant { name: "gvisor-rootless", prepare: prepare_rootless };

fn prepare_root(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if !is_root() {
            return Availability::Unavailable("these tests do not run as root".to_owned());
        }
        look(world, ROOT.name).await
    })
}

fn prepare_rootless(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if !is_root() {
            return look(world, ROOTLESS.name).await;
        }
        match Account::named(TEST_USER).filter(can_map) {
            Some(account) => Availability::As(account),
            None => Availability::Unavailable(format!("there is no user {TEST_USER} with ids of its own: run `cargo xtask setup` as root")),
        }
    })
}

async fn look(world: &World, variant: &str) -> Availability {
    let found = match Found::find(world, variant, "gvisor").await {
        Ok(found) => found,
        Err(reason) => return Availability::Unavailable(reason),
    };
    let root = match found.host_image().await {
        Ok(root) => root,
        Err(reason) => return Availability::Unavailable(reason),
    };
    let reach = [Reach::Shell, Reach::Crash, Reach::NoOrphans, Reach::OwnRoot, Reach::Layers];
    Availability::Here(Box::new(Subject {
        reach: reach.to_vec(),
        threads: Some(2),
        crash: Some(Box::new(end_sentry)),
        ..found.subject(variant, root)
    }))
}

/// Ends the kernel of a sandbox, as the host's own does when memory runs out.
fn end_sentry(id: &SandboxId) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let of_sandbox = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
        arguments.next() == Some(b"runsc-sandbox") && arguments.next_back() == Some(id.as_str().as_bytes())
    };
    let Some(pid) = pids.filter(of_sandbox).find_map(rustix::process::Pid::from_raw) else { return false };
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}
