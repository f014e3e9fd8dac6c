use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::machine::process::HostProcess;

/// The agents that this process started and therefore has to reap. A sandbar that ends leaves its agents to the host's init.
#[derive(Default)]
pub(super) struct Children(Mutex<HashMap<HostProcess, Child>>);

enum Child {
    Running(OwnedFd),
    /// Why it is gone, in one sentence.
    Ended(String),
}

impl Children {
    pub(super) fn add(&self, process: HostProcess, held: OwnedFd) {
        self.lock().insert(process, Child::Running(held));
    }

    /// Reaps whatever has ended, and says why `process` did, if it was ours.
    pub(super) fn why_ended(&self, process: &HostProcess) -> Option<String> {
        self.reap();
        match self.lock().get(process) {
            Some(Child::Ended(reason)) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Those that have not been seen to end.
    #[cfg(test)]
    pub(super) fn running(&self) -> Vec<HostProcess> {
        self.lock().iter().filter(|(_, child)| matches!(child, Child::Running(_))).map(|(process, _)| *process).collect()
    }

    /// Reaps whatever has ended, and forgets `process`, which has.
    pub(super) fn forget(&self, process: &HostProcess) {
        self.reap();
        self.lock().remove(process);
    }

    fn reap(&self) {
        for child in self.lock().values_mut() {
            let Child::Running(held) = child else { continue };
            match waitid(WaitId::PidFd(held.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(None) => {}
                Ok(Some(status)) => *child = Child::Ended(sentence(&status)),
                // Somebody in this process waits for all children.
                Err(_) => *child = Child::Ended("the agent's process ended".to_owned()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostProcess, Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sentence(status: &WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("the agent exited with {code}"),
        (_, Some(signal)) => format!("the agent was ended by signal {signal}"),
        _ => "the agent's process ended".to_owned(),
    }
}
