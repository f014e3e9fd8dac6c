//! Saving sandboxes, putting them back, and what is kept for it.

use std::path::{Path, PathBuf};

use sandbar_core::{
    CheckpointId, CheckpointKind, CheckpointOptions, Context, Error, ErrorKind, RestoreRequest, Result, SandboxId, SavedCheckpoint,
    check_name,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Runtime, Sandbox,
    create::random,
    fault, home,
    image::Pin,
    ledger::{CheckpointRow, CheckpointState, Operation, SandboxRow},
    runtime::to_the_end,
    turn::Turn,
};

/// A checkpoint in a list. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointSummary {
    /// Its id.
    pub id: CheckpointId,
    /// Its name.
    pub name: Option<String>,
    /// The sandbox it was made of, which may be gone.
    pub sandbox: SandboxId,
    /// What it holds.
    pub kind: CheckpointKind,
    /// The provider of the sandbox.
    pub provider: String,
    /// The image that its layers lie upon.
    pub image: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Bytes of this checkpoint alone, without those it builds on.
    pub bytes: u64,
    /// Files and folders of this checkpoint alone.
    pub files: u64,
    /// The checkpoint that it builds on.
    pub parent: Option<CheckpointId>,
    /// Whether it was made on the way to a fork; then it goes with the last sandbox that needs it.
    pub implicit: bool,
}

impl From<CheckpointRow> for CheckpointSummary {
    fn from(row: CheckpointRow) -> Self {
        let CheckpointRow { id, name, sandbox, kind, provider, image, created_ms, bytes, files, parent, implicit, .. } = row;
        Self { id, name, sandbox, kind, provider, image, created_ms, bytes, files, parent, implicit }
    }
}

/// How a sandbox is put back.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Take the disk of a checkpoint with memory alone, and start anew on it. On any provider that takes the image.
    pub without_memory: bool,
}

impl Sandbox {
    /// Saves the sandbox. Its processes are frozen meanwhile and go on afterwards.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `Conflict` in a state that has nothing to save, `Unsupported` for a kind that the provider
    /// does not have.
    pub async fn checkpoint(&self, kind: CheckpointKind, name: Option<String>) -> Result<CheckpointSummary> {
        self.save(None, kind, name, false).await.map(CheckpointSummary::from)
    }

    /// The same with an id of the caller's, who must know it before the checkpoint is there.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint); `AlreadyExists` when there is a checkpoint of this id.
    pub async fn checkpoint_as(&self, id: CheckpointId, kind: CheckpointKind, name: Option<String>) -> Result<CheckpointSummary> {
        self.save(Some(id), kind, name, false).await.map(CheckpointSummary::from)
    }

    pub(crate) async fn save(
        &self,
        id: Option<CheckpointId>,
        kind: CheckpointKind,
        name: Option<String>,
        implicit: bool,
    ) -> Result<CheckpointRow> {
        name.as_deref().map_or(Ok(()), check_name)?;
        let sandbox = self.clone();
        to_the_end(async move {
            let deed = sandbox.deed("checkpoint");
            let saved = async {
                let turn = sandbox.begin(Operation::Checkpoint).await?;
                let outcome = sandbox.save_under(&turn, id, kind, name, implicit).await;
                turn.end(outcome).await
            };
            match saved.await {
                Ok(row) => deed.at(&row.id).end(Ok(row)),
                failed => deed.end(failed),
            }
        })
        .await
    }

    async fn save_under(
        &self,
        turn: &Turn,
        id: Option<CheckpointId>,
        kind: CheckpointKind,
        name: Option<String>,
        implicit: bool,
    ) -> Result<CheckpointRow> {
        let runtime = self.runtime();
        let id = id.map_or_else(|| Ok(CheckpointId::from_random(random()?)), Ok)?;
        let row = CheckpointRow {
            id: id.clone(),
            name,
            sandbox: self.id().clone(),
            provider: turn.row.provider.clone(),
            kind,
            image: turn.row.image.clone(),
            root: turn.row.root.clone(),
            spec: turn.row.spec.clone(),
            parent: turn.row.base.clone(),
            bytes: 0,
            files: 0,
            record: Value::Null,
            state: CheckpointState::Saving,
            implicit,
            created_ms: 0,
            key: turn.row.key,
        };
        runtime.ledger().insert_checkpoint(&row)?;
        fault::point("checkpoint.inserted");
        match runtime.fill(turn, &id, kind).await {
            Ok(saved) => {
                runtime.ledger().finish_checkpoint(&id, &saved)?;
                fault::point("checkpoint.finished");
                runtime.ledger().checkpoint(&id)?.ok_or_else(|| Error::new(ErrorKind::Internal, "checkpoint", "the row is gone"))
            }
            Err(error) => {
                runtime.discard_unfinished_checkpoints(&turn.row).await?;
                Err(error)
            }
        }
    }

    /// Puts the sandbox back to a checkpoint: one of its own, or of another sandbox with the same image. If that fails, it goes on as it was.
    ///
    /// # Errors
    /// `NotFound` for the checkpoint; `Conflict` when it lies on another image, or the host has changed since; `Unsupported` for a memory checkpoint of
    /// another provider.
    pub async fn restore(&self, checkpoint: &str, options: RestoreOptions) -> Result<()> {
        let (sandbox, checkpoint) = (self.clone(), checkpoint.to_owned());
        to_the_end(async move { sandbox.deed("restore").at(&checkpoint).done(sandbox.restore_now(&checkpoint, options)).await }).await
    }

    async fn restore_now(&self, checkpoint: &str, options: RestoreOptions) -> Result<()> {
        let runtime = self.runtime();
        let checkpoint = runtime.ledger().find_checkpoint(checkpoint, runtime.own())?;
        let row = runtime.row(self.id())?;
        if checkpoint.root.kind != row.root.kind {
            return Err(Error::new(ErrorKind::Conflict, "restore", "the checkpoint lies on another image than the sandbox")
                .with("checkpoint", &checkpoint.id)
                .with("its image", &checkpoint.image)
                .with("image", &row.image)
                .with_hint(format!("sandbar fork {} makes a sandbox from it", checkpoint.id)));
        }
        let (from, pin) = runtime.restore_request(&checkpoint, &row.provider, !options.without_memory).await?;
        let turn = self.begin(Operation::Restore).await?;
        let outcome = async {
            runtime.ledger().set_pending(self.id(), &checkpoint.id, &from.root)?;
            drop(pin);
            fault::point("restore.pending");
            turn.handle.restore(from).await
        };
        let outcome = outcome.await;
        turn.end(outcome).await?;
        // The layer may be of a time, or of a sandbox, with other ones.
        self.establish_trust().await
    }
}

impl Runtime {
    /// The checkpoints, the oldest first; those of one sandbox (which may be gone, if its id is given in full), or all.
    ///
    /// # Errors
    /// `NotFound` for a reference that is neither a sandbox nor an id.
    pub async fn checkpoints(&self, of: Option<&str>) -> Result<Vec<CheckpointSummary>> {
        Ok(self.checkpoints_after(of, None, usize::MAX).await?.0)
    }

    /// A page of that list: at most `limit` after the one that was made at this moment (Unix milliseconds) and has this id. With it comes the place where the
    /// next page begins, if there is one.
    ///
    /// # Errors
    /// As [`checkpoints`](Self::checkpoints).
    pub async fn checkpoints_after(
        &self,
        of: Option<&str>,
        after: Option<(u64, &str)>,
        limit: usize,
    ) -> Result<(Vec<CheckpointSummary>, Option<(u64, CheckpointId)>)> {
        let of = match of {
            None => None,
            Some(reference) => match self.ledger().find_sandbox(reference, self.own()) {
                Ok(row) => Some(row.id),
                Err(error) => Some(reference.parse().map_err(|_| error)?),
            },
        };
        let mut rows = self.ledger().checkpoints_after(of.as_ref(), after, limit.saturating_add(1), self.own())?;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| !is_last).map(|row| (row.created_ms, row.id.clone()));
        Ok((rows.into_iter().map(CheckpointSummary::from).collect(), next))
    }

    /// The checkpoint that is meant: an id, a name, or a prefix of an id (with or without `cp-`) that no other id has.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` with the matches when there are several.
    pub async fn checkpoint(&self, reference: &str) -> Result<CheckpointSummary> {
        self.ledger().find_checkpoint(reference, self.own()).map(CheckpointSummary::from)
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`, naming them, when sandboxes or other checkpoints build on it.
    pub async fn remove_checkpoint(&self, reference: &str) -> Result<()> {
        let (runtime, reference) = (self.clone(), reference.to_owned());
        to_the_end(async move { runtime.deed("discard").at(&reference).done(runtime.remove_checkpoint_now(&reference)).await }).await
    }

    async fn remove_checkpoint_now(&self, reference: &str) -> Result<()> {
        let row = self.ledger().find_checkpoint(reference, self.own())?;
        if self.ledger().begin_checkpoint_removal(&row.id, false)? {
            fault::point("checkpoint-rm.row");
            self.finish_removal(&row).await?;
        }
        Ok(())
    }

    /// Removes the folders and the row of a checkpoint that is out of use.
    pub(crate) async fn finish_removal(&self, row: &CheckpointRow) -> Result<()> {
        for folder in [self.home().unfinished_checkpoint(&row.id), self.home().checkpoint(&row.id)] {
            if let Ok(provider) = self.provider(&row.provider) {
                provider.discard_checkpoint(&folder).await?;
            }
            self.remove_folder(&row.provider, &row.sandbox, folder).await?;
        }
        fault::point("checkpoint-rm.folder");
        self.ledger().delete_checkpoint(&row.id)?;
        self.forget_secrets(&row.spec)
    }

    /// Removes what nobody asked for and nothing needs any more. One may have lain upon another.
    pub(crate) async fn remove_idle_checkpoints(&self) -> Result<Vec<CheckpointId>> {
        let mut removed = Vec::new();
        loop {
            let idle = self.ledger().idle_implicit_checkpoints()?;
            let before = removed.len();
            for id in idle {
                if self.ledger().begin_checkpoint_removal(&id, true)?
                    && let Some(row) = self.ledger().checkpoint(&id)?
                {
                    self.finish_removal(&row).await?;
                    removed.push(id);
                }
            }
            if removed.len() == before {
                return Ok(removed);
            }
        }
    }

    /// Removes what a checkpoint of this sandbox that came to no end has left. Only under the sandbox's lock.
    pub(crate) async fn discard_unfinished_checkpoints(&self, row: &SandboxRow) -> Result<()> {
        for unfinished in self.ledger().unfinished_checkpoints()? {
            if unfinished.sandbox == row.id && unfinished.state == CheckpointState::Saving {
                self.finish_removal(&unfinished).await?;
            }
        }
        Ok(())
    }

    /// Has the folder of a checkpoint filled under another name, looks at it, and puts it into its place.
    async fn fill(&self, turn: &Turn, id: &CheckpointId, kind: CheckpointKind) -> Result<SavedCheckpoint> {
        let unfinished = self.home().unfinished_checkpoint(id);
        home::make(&unfinished).context("checkpoint", || format!("cannot make {}", unfinished.display()))?;
        fault::point("checkpoint.folder");
        let saved = turn.handle.checkpoint(CheckpointOptions { kind, into: unfinished.clone() }).await?;
        fault::point("checkpoint.filled");
        let layer = unfinished.join("layer");
        if saved.kind != kind || !layer.is_dir() {
            let error = Error::new(ErrorKind::Corrupt, "checkpoint", "the provider did not save what it was asked for");
            return Err(error.with("provider", &turn.row.provider).with("id", id));
        }
        let place = self.home().checkpoint(id);
        std::fs::rename(&unfinished, &place).context("checkpoint", || format!("cannot rename to {}", place.display()))?;
        fault::point("checkpoint.renamed");
        Ok(saved)
    }

    /// What a provider needs to load a checkpoint: the image as it is now, with the checkpoint's layers upon it.
    ///
    /// The pin must be held until the ledger says who uses it.
    pub(crate) async fn restore_request(
        &self,
        checkpoint: &CheckpointRow,
        provider: &str,
        with_memory: bool,
    ) -> Result<(RestoreRequest, Option<Pin>)> {
        let with_memory = with_memory && checkpoint.kind == CheckpointKind::Memory;
        if with_memory && checkpoint.provider != provider {
            return Err(Error::new(ErrorKind::Unsupported, "restore", "a checkpoint with memory is bound to its provider")
                .with("checkpoint", &checkpoint.id)
                .with("its provider", &checkpoint.provider)
                .with("provider", provider)
                .with_hint("--without-memory starts anew on its disk"));
        }
        let (mut root, pin) = self.resolve_again(&checkpoint.root.kind).await?;
        root.saved_layers = self.layers(checkpoint)?;
        let memory = with_memory.then(|| (self.home().checkpoint(&checkpoint.id), checkpoint.record.clone()));
        Ok((RestoreRequest { root, memory }, pin))
    }

    /// The layers of a checkpoint and of all that it builds on, the lowest first.
    pub(crate) fn layers(&self, checkpoint: &CheckpointRow) -> Result<Vec<PathBuf>> {
        /// overlayfs takes 500 lower layers (`OVL_MAX_STACK`), of which an image may need 128.
        const MOST: usize = 300;
        let mut layers = Vec::new();
        let mut next = Some(checkpoint.id.clone());
        while let Some(id) = next {
            let layer = self.home().checkpoint(&id).join("layer");
            require_folder(&layer, &id)?;
            layers.push(layer);
            if layers.len() > MOST {
                return Err(Error::new(ErrorKind::ResourceExhausted, "restore", "the checkpoint builds on too many others")
                    .with("checkpoint", &checkpoint.id)
                    .with("most", MOST));
            }
            next = if id == checkpoint.id {
                checkpoint.parent.clone()
            } else {
                self.ledger()
                    .checkpoint(&id)?
                    .ok_or_else(|| Error::new(ErrorKind::Corrupt, "restore", "a checkpoint below is missing").with("id", &id))?
                    .parent
            };
        }
        layers.reverse();
        Ok(layers)
    }
}

fn require_folder(layer: &Path, id: &CheckpointId) -> Result<()> {
    if layer.is_dir() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "restore", "the checkpoint's layer is missing").with("id", id).with("path", layer.display()))
}
