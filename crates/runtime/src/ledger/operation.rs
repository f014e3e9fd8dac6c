use std::{collections::HashSet, fmt, str::FromStr};

use rusqlite::params;
use sandbar_core::{CheckpointId, Error, ErrorKind, Result, RootSource, SandboxId, State, Verb};

use super::{Ledger, checkpoint_row::require_ready, sandbox_row::to_json};
use crate::process_identity::ProcessIdentity;

/// What somebody is doing to a sandbox. A row that has one whose lock is free has lost its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Provision,
    Pause,
    Resume,
    Stop,
    Start,
    Checkpoint,
    Restore,
    Destroy,
}

impl Operation {
    const ALL: [Self; 8] =
        [Self::Provision, Self::Pause, Self::Resume, Self::Stop, Self::Start, Self::Checkpoint, Self::Restore, Self::Destroy];

    /// The word in the ledger and in messages.
    pub(crate) const fn name(self) -> &'static str {
        match self.verb() {
            Some(verb) => verb.name(),
            None => "provision",
        }
    }

    /// The verb that it is; making a sandbox is none.
    pub(crate) const fn verb(self) -> Option<Verb> {
        match self {
            Self::Provision => None,
            Self::Pause => Some(Verb::Pause),
            Self::Resume => Some(Verb::Resume),
            Self::Stop => Some(Verb::Stop),
            Self::Start => Some(Verb::Start),
            Self::Checkpoint => Some(Verb::Checkpoint),
            Self::Restore => Some(Verb::Restore),
            Self::Destroy => Some(Verb::Destroy),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|operation| operation.name() == text);
        known.ok_or_else(|| Error::new(ErrorKind::Corrupt, "ledger", "unknown operation").with("value", text))
    }
}

impl Ledger {
    /// Says what is about to be done, by whom. From now on until [`finish`](Self::finish) the row is in transition.
    pub(crate) fn begin(&self, id: &SandboxId, operation: Operation, operator: &ProcessIdentity) -> Result<()> {
        self.write(|transaction| {
            let sql = "
                UPDATE sandboxes SET operation = ?2, operator_pid = ?3, operator_start = ?4, operator_boot = ?5, committed = 0,
                    attempted_ms = NULL, state = CASE ?2 WHEN 'destroy' THEN 'destroying' ELSE state END WHERE id = ?1";
            let values = params![id.as_str(), operation.name(), operator.pid, operator.start_time, operator.boot];
            transaction.prepare_cached(sql)?.execute(values)?;
            if operation != Operation::Destroy {
                let sql = "UPDATE resources SET kept = 1, fresh = 0 WHERE sandbox = ?1 AND (kept = 0 OR fresh = 1)";
                transaction.prepare_cached(sql)?.execute([id.as_str()])?;
            }
            Ok(())
        })?;
        if operation == Operation::Destroy {
            self.ending().insert(id.clone(), HashSet::new());
        }
        Ok(())
    }

    /// Within a restore: the provider's commit will put `base` and `root` in the place of the present ones.
    ///
    /// # Errors
    /// `NotFound` when the checkpoint is not there any more.
    pub(crate) fn set_pending(&self, id: &SandboxId, base: &CheckpointId, root: &RootSource) -> Result<()> {
        self.write(|transaction| {
            require_ready(transaction, base)?;
            let sql = "UPDATE sandboxes SET pending_base = ?2, pending_root = ?3 WHERE id = ?1";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), base.as_str(), to_json(root)?])?;
            Ok(())
        })
    }

    /// Ends the operation: the sandbox is in `state` now. A reason is kept for states that nobody asked for. Returns the row's revision.
    pub(crate) fn finish(&self, id: &SandboxId, state: State, reason: Option<&str>) -> Result<i64> {
        self.write(|transaction| {
            let sql = "
                UPDATE sandboxes SET state = ?2, reason = ?3, operation = NULL, operator_pid = NULL, operator_start = NULL,
                    operator_boot = NULL, committed = 0, pending_base = NULL, pending_root = NULL, attempted_ms = NULL WHERE id = ?1
                    RETURNING revision";
            Ok(transaction.prepare_cached(sql)?.query_row(params![id.as_str(), state.name(), reason], |row| row.get(0))?)
        })
    }

    /// Writes a state that was found, not made. Only under the sandbox's lock, and only without an operation.
    pub(crate) fn correct(&self, id: &SandboxId, state: State, reason: Option<&str>) -> Result<()> {
        self.write(|transaction| {
            let sql = "UPDATE sandboxes SET state = ?2, reason = ?3 WHERE id = ?1 AND operation IS NULL";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), state.name(), reason])?;
            Ok(())
        })
    }

    /// After a reboot: what the kernel held is gone, whatever the row says; the layer is kept.
    pub(crate) fn notice_reboot(&self, id: &SandboxId) -> Result<()> {
        self.write(|transaction| {
            for kind in ["process", "cgroup", "loop"] {
                let sql = "DELETE FROM resources WHERE sandbox = ?1 AND json_extract(resource, '$.type') = ?2";
                transaction.prepare_cached(sql)?.execute(params![id.as_str(), kind])?;
            }
            transaction.prepare_cached("DELETE FROM keepers WHERE sandbox = ?1")?.execute([id.as_str()])?;
            let sql = "
                UPDATE sandboxes SET boot = ?2, reason = CASE WHEN state IN ('running', 'paused') THEN 'the host was restarted' ELSE reason END,
                    state = CASE WHEN state IN ('running', 'paused') THEN 'crashed' ELSE state END WHERE id = ?1";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), self.boot()])?;
            Ok(())
        })
    }
}
