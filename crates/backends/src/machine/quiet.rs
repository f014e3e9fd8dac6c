//! The wire before memory is saved: there are kernels that cannot be saved while a socket of the host is open.

use std::{sync::Arc, time::Duration};

use sandbar_core::{CheckpointKind, CheckpointOptions, Context, Result, SavedCheckpoint};
use sandbar_protocol::{Quiesce, request::Operation};

use super::{
    Backend,
    client::{Call, Patience},
    live::{Running, Shared},
    room,
    saving::SaveNote,
};

/// How long the agent stays quiet if nobody wakes it. Only met when sandbar is killed in the middle of a save, and the wall notes no saves.
const QUIET: Duration = Duration::from_secs(60);
/// How long the agent has until it answers again after a save.
const AWAKE: Duration = Duration::from_secs(10);

/// Saves processes and layer, with the agent quiet meanwhile, and returns when it answers again.
///
/// # Errors
/// Of the wall; `Unavailable` or `TimedOut` when the sandbox did not survive being saved.
pub(super) async fn save<B: Backend>(
    shared: &Arc<Shared<B>>,
    running: &Running<B::Place>,
    options: &CheckpointOptions,
) -> Result<SavedCheckpoint> {
    debug_assert_eq!(options.kind, CheckpointKind::Memory);
    let journal = Arc::clone(&shared.request.journal);
    let folder = shared.folder_of(running.current());
    let call = Call { shared: Arc::clone(shared), running: running.clone(), verb: "checkpoint" };
    let resume_after_ms = u64::try_from(QUIET.as_millis()).unwrap_or(u64::MAX);
    let note = call.save_note();
    if let Some(note) = &note {
        note.write().context("checkpoint", || "cannot note the checkpoint".to_owned())?;
    }
    let forget = || note.as_ref().map_or((), SaveNote::remove);
    if let Err(error) = call.order(Operation::Quiesce(Quiesce { resume_after_ms }), Patience::Quick).await {
        forget();
        return Err(error);
    }
    journal.step("checkpoint.quiet");
    let saved = shared.backend.save(Some(running.place()), &folder, options).await;
    journal.step("checkpoint.memory-saved");
    let awake = call.answers(AWAKE, "the sandbox did not survive being saved").await;
    if awake.is_ok() {
        forget();
    }
    journal.step("checkpoint.awake");
    let saved = saved.map_err(|error| room::told(error, &options.into))?;
    awake.map(|_| saved)
}
