//! What a crashed sandbar left, removed.

use sandbar_core::{Context, Error, ErrorKind, Resource, Result};

use super::{cgroup, disk, folder, worker};
use crate::machine::process::HostProcess;

/// Removes resources that walls on this host's kernel make; `end` ends a sandbox's first process and everything with it.
///
/// # Errors
/// The first that could not be removed; the others are removed all the same.
pub(crate) async fn reclaim(resources: &[Resource], end: fn(&HostProcess) -> Result<()>) -> Result<()> {
    let mut resources = resources.to_vec();
    // Processes hold groups and mounts; groups may hold more processes; mounts hold devices; and all of them use folders.
    resources.sort_by_key(|resource| match resource {
        Resource::Process { .. } => 0,
        Resource::Cgroup { .. } => 1,
        Resource::Loop { .. } => 2,
        _ => 3,
    });
    worker::blocking(move || resources.iter().map(|resource| remove(resource, end)).fold(Ok(()), Result::and)).await
}

fn remove(resource: &Resource, end: fn(&HostProcess) -> Result<()>) -> Result<()> {
    match resource {
        Resource::Process { pid, start_time, .. } => end(&HostProcess { pid: *pid, start_time: *start_time }),
        Resource::Cgroup { path } => {
            cgroup::empty_and_remove(path).context("reclaim", || format!("cannot remove the control group {}", path.display()))
        }
        Resource::Loop { backing } => disk::detach(backing),
        Resource::Folder { path } => folder::remove(path),
        other => Err(Error::new(ErrorKind::Internal, "reclaim", format!("this provider makes no such resource: {other:?}"))),
    }
}
