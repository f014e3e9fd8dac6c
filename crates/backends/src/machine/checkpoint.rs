use std::sync::Arc;

use sandbar_core::{CheckpointKind, CheckpointOptions, Error, ErrorKind, Journal, RestoreRequest, Result, SavedCheckpoint, State};

use super::{
    Backend, Facts,
    lifecycle::commit,
    live::{Fate, Running, Shared},
    provision::{BootSteps, boot, complain, make_folder, undo},
    quiet,
    record::generation_folder,
};

/// Freezes (or, for memory, makes quiet), saves, thaws. A sandbox that was frozen stays frozen; one that was not never stays so, whatever fails.
pub(super) async fn checkpoint<B: Backend>(shared: Arc<Shared<B>>, options: CheckpointOptions) -> Result<SavedCheckpoint> {
    let _change = shared.change.lock().await;
    let journal = Arc::clone(&shared.request.journal);
    journal.step("checkpoint.begun");
    let current = shared.current();
    let folder = shared.folder_of(&current);
    let with_memory = options.kind == CheckpointKind::Memory;
    let refused = |message: &str, hint: &str| Err(Error::new(ErrorKind::Conflict, "checkpoint", message).with_hint(hint));
    let Some(running) = Running::of(current) else {
        if with_memory {
            return refused("the sandbox is stopped: it has no memory", "start it first, or save its disk alone");
        }
        return shared.backend.save(None, &folder, &options).await;
    };
    let place = running.place();
    if with_memory {
        shared.backend.check_memory(&shared.request.spec)?;
    }
    match shared.facts(&running) {
        Facts::Gone(reason) => {
            let message = format!("the sandbox does not run any more: {reason}");
            return Err(Error::new(ErrorKind::Unavailable, "checkpoint", message).with_hint("start it first: sandbar start ID"));
        }
        Facts::Frozen if with_memory => {
            return refused(
                "the sandbox is paused, and what is frozen cannot let go of what cannot be saved",
                "resume it first: sandbar resume ID",
            );
        }
        Facts::Frozen => return shared.backend.save(Some(place), &folder, &options).await,
        Facts::Alive if with_memory => return quiet::save(&shared, &running, &options).await,
        Facts::Alive => {}
    }
    let saved = match shared.backend.freeze(place).await {
        Ok(()) => {
            journal.step("checkpoint.frozen");
            shared.backend.save(Some(place), &folder, &options).await
        }
        Err(error) => Err(error),
    };
    journal.step("checkpoint.saved");
    // Also after a freeze that failed: it may have frozen a part.
    let thawed = shared.backend.thaw(place).await;
    journal.step("checkpoint.thawed");
    let saved = saved?;
    thawed.map(|()| saved)
}

/// Builds the new generation beside the old and puts it in its place when its agent answers.
pub(super) async fn restore<B: Backend>(shared: Arc<Shared<B>>, from: RestoreRequest) -> Result<()> {
    let _change = shared.change.lock().await;
    let journal = Arc::clone(&shared.request.journal);
    journal.step("restore.begun");
    let old = shared.current();
    let generation = old.record.generation + 1;
    let steps = BootSteps { booted: "restore.booted", answered: "restore.answered" };
    // A restore that was killed may have left a folder of this name; its rows are in the ledger for `reclaim`.
    let stray = generation_folder(&shared.request.folder, generation);
    shared.backend.remove(&stray, &old.journal()).await?;
    let holdings = make_folder(&shared.request, generation).await?;
    journal.step("restore.folder");
    let new = match boot(&shared.backend, &shared.request, &holdings, generation, &from, &steps).await {
        Ok(new) => new,
        Err(error) => {
            let journal: Arc<dyn Journal> = holdings;
            complain("the folder of a restore that failed", shared.backend.remove(&stray, &journal).await);
            return Err(error.during("restore"));
        }
    };
    if let Err(error) = commit(&shared, &new.record, State::Running) {
        undo(&shared.backend, &new, &shared.request.folder).await;
        return Err(error);
    }
    journal.step("restore.committed");
    // From here on the restore has succeeded; what cannot be removed of the old one is left to `reclaim`.
    old.doom(Fate::Restored);
    shared.replace(new);
    if let Some(place) = &old.record.place {
        complain("what ran before the restore", shared.backend.halt(place, &shared.folder_of(&old), &old.journal()).await);
    }
    journal.step("restore.halted");
    complain("the layer from before the restore", shared.backend.remove(&shared.folder_of(&old), &old.journal()).await);
    let sandbox = shared.request.folder.clone();
    complain("kept output", super::lifecycle::blocking(move || super::output::forget(&sandbox)).await);
    journal.step("restore.removed");
    Ok(())
}
