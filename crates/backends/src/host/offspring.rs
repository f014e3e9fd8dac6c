//! First processes of sandboxes, and monitors of machines, that this process has started and so has to reap. What outlives this process is the
//! host's init's.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::syscall::{Ended, reap};
use crate::machine::process::{HostProcess, wait_for_exit};

enum Member {
    Held {
        held: OwnedFd,
        /// Whether it was waited for in vain, though its first thread had ended.
        is_late: bool,
    },
    Gone(Ended),
}

fn members() -> MutexGuard<'static, HashMap<HostProcess, Member>> {
    static MEMBERS: OnceLock<Mutex<HashMap<HostProcess, Member>>> = OnceLock::new();
    MEMBERS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers one.
pub(crate) fn add(process: HostProcess, held: OwnedFd) {
    members().insert(process, Member::Held { held, is_late: false });
}

/// How long a process whose first thread has ended may take to end whole: nothing of it works any more, but on a busy machine its other threads wait for their
/// turn to end.
const WHOLE: Duration = Duration::from_secs(1);
/// And whenever it is asked for later, if it is not the machine that holds it up.
const MOMENT: Duration = Duration::from_millis(200);

/// What the host knows of a process.
pub(crate) enum Life {
    /// It runs.
    Alive,
    /// It has ended, and how, if this process started it.
    Gone(Option<Ended>),
}

/// Whether a process has ended, and how. Leaves no zombie. Blocks for a moment if it is just ending.
pub(crate) fn life(process: &HostProcess) -> Life {
    match how_ended(process) {
        Some(ended) => Life::Gone(Some(ended)),
        None if process.is_alive() => Life::Alive,
        // It may have ended since it was asked how, or its last thread is about to.
        None => Life::Gone(wait_whole(process)),
    }
}

/// How one of them has ended whose first thread has.
fn wait_whole(process: &HostProcess) -> Option<Ended> {
    let is_late = matches!(members().get(process), Some(Member::Held { is_late: true, .. }));
    let ended = wait(process, if is_late { MOMENT } else { WHOLE });
    if ended.is_none()
        && let Some(Member::Held { is_late, .. }) = members().get_mut(process)
    {
        *is_late = true;
    }
    ended
}

/// How one of them ended; `None` while it runs, or when it is not one of them. Leaves no zombie.
pub(crate) fn how_ended(process: &HostProcess) -> Option<Ended> {
    let mut members = members();
    let member = members.get_mut(process)?;
    if let Member::Held { held, .. } = member
        && let Some(ended) = reap(held.as_fd()).ok()?
    {
        *member = Member::Gone(ended);
    }
    match member {
        Member::Gone(ended) => Some(*ended),
        Member::Held { .. } => None,
    }
}

/// How one of them that is ending has ended, if that is known soon enough.
pub(crate) fn wait(process: &HostProcess, patience: Duration) -> Option<Ended> {
    let held = match members().get(process)? {
        Member::Held { held, .. } => held.try_clone().ok()?,
        Member::Gone(ended) => return Some(*ended),
    };
    let _ = wait_for_exit(&held, patience);
    how_ended(process)
}

/// Forgets one that is not asked for any more, after it has ended.
pub(crate) fn forget(process: &HostProcess) {
    how_ended(process);
    members().remove(process);
}
