//! The life of a sandbox.
//!
//! ```text
//!                    provision                        pause
//!      (nothing) ───▶ Provisioning ───▶ Running ◀──────────────▶ Paused
//!                          │            │  ▲  │       resume        │
//!                          │       stop │  │  │ the agent is gone   │
//!                          │            ▼  │  ▼                     │
//!                          │        Stopped  Crashed ◀─────────────┘
//!                          │            │  ▲  │
//!                          │      start └──┼──┘ start, restore
//!                          ▼               ▼
//!                     Destroying ◀──── (from every state) ───▶ (nothing)
//! ```
//!
//! Who may change it: only the runtime, under the sandbox's lock, by [`Verb::check`] before and the state that follows after.
//! `Running` is never a guess: a reader of the ledger asks the agent, and reports `Crashed` when the host's own facts (a dead
//! process, a missing machine) say so.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Where a sandbox is in its life. See the picture in the module's source.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being made; the row exists, resources may exist.
    Provisioning,
    /// The agent answers.
    Running,
    /// Frozen: nothing inside runs, memory is kept.
    Paused,
    /// No process; the writable layer is kept.
    Stopped,
    /// It was running and its agent or wall is gone. The layer is kept.
    Crashed,
    /// Being taken down; cannot be used any more.
    Destroying,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Provisioning, Self::Running, Self::Paused, Self::Stopped, Self::Crashed, Self::Destroying];

    /// The word in JSON, tables and the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Destroying => "destroying",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "life cycle", "unknown state").with("value", text))
    }
}

/// What somebody wants to do with a sandbox, as far as its state matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Exec, files, ports, statistics: anything that the agent answers.
    Use,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// End the processes, keep the layer.
    Stop,
    /// Run again on the kept layer.
    Start,
    /// Save.
    Checkpoint,
    /// Put back to a checkpoint.
    Restore,
    /// End everything.
    Destroy,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 8] =
        [Self::Use, Self::Pause, Self::Resume, Self::Stop, Self::Start, Self::Checkpoint, Self::Restore, Self::Destroy];

    /// The verb as a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Checkpoint => "checkpoint",
            Self::Restore => "restore",
            Self::Destroy => "destroy",
        }
    }

    /// The state after this verb succeeded in `state`; `None` when the verb is not allowed there.
    ///
    /// `Destroying` stands for "gone" after `Destroy`.
    pub const fn next(self, state: State) -> Option<State> {
        use State::{Crashed, Destroying, Paused, Running, Stopped};
        match (self, state) {
            (Self::Destroy, _) => Some(Destroying),
            (Self::Use, Running) | (Self::Resume, Paused) | (Self::Start, Stopped | Crashed) => Some(Running),
            (Self::Restore, Running | Paused | Stopped | Crashed) => Some(Running),
            (Self::Pause, Running) => Some(Paused),
            (Self::Stop, Running | Paused | Crashed) => Some(Stopped),
            (Self::Checkpoint, Running | Paused | Stopped) => Some(state),
            _ => None,
        }
    }

    /// The state after this verb, or a `Conflict` that says what would help.
    ///
    /// # Errors
    /// `Conflict` when the verb is not allowed in `state`.
    pub fn check(self, state: State) -> Result<State> {
        self.next(state).ok_or_else(|| {
            let error = Error::new(ErrorKind::Conflict, self.name(), format!("the sandbox is {state}"));
            match (self, state) {
                (_, State::Paused) => error.with_hint("resume it first: sandbar resume ID"),
                (Self::Pause | Self::Use | Self::Checkpoint, State::Stopped) => error.with_hint("start it first: sandbar start ID"),
                (_, State::Crashed) => error.with_hint("its writable layer is kept: sandbar start ID, or sandbar rm -f ID"),
                _ => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_in_transition_can_only_be_destroyed() {
        for verb in Verb::ALL {
            for state in [State::Provisioning, State::Destroying] {
                assert_eq!(verb.next(state).is_some(), verb == Verb::Destroy, "{verb:?} in {state}");
            }
        }
    }

    #[test]
    fn every_verb_is_allowed_somewhere_and_destroy_everywhere() {
        for verb in Verb::ALL {
            assert!(State::ALL.into_iter().any(|state| verb.next(state).is_some()), "{verb:?}");
        }
        assert!(State::ALL.into_iter().all(|state| Verb::Destroy.next(state).is_some()));
    }

    #[test]
    fn a_checkpoint_does_not_change_the_state() {
        for state in State::ALL {
            assert!(Verb::Checkpoint.next(state).is_none_or(|next| next == state));
        }
    }

    #[test]
    fn state_names_parse_back() {
        for state in State::ALL {
            assert_eq!(state.name().parse::<State>().unwrap(), state);
        }
    }
}
