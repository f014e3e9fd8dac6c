use std::{io::Read, sync::Arc};

use sandbar_core::{
    CheckpointId, CheckpointKind, Context, Error, ErrorKind, ImageKind, Isolation, Result, RootSource, SavedCheckpoint, check_name,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::description::{ANNOTATION, Description};
use crate::{
    CheckpointSummary, Runtime,
    create::random,
    fault,
    image::{Arrival, Digest, ImageStore, Landing, Pin, Unpacked, blocking},
    ledger::{CheckpointRow, CheckpointState},
    lock::SandboxLock,
    runtime::to_the_end,
};

const OPERATION: &str = "checkpoint import";

/// What was taken in. The names of the fields are those of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Imported {
    /// The checkpoint.
    #[serde(flatten)]
    pub checkpoint: CheckpointSummary,
    /// Whether its image was here already.
    pub image_was_here: bool,
}

/// What lies ready to be given its place.
struct Ready {
    /// Holds the layers.
    landing: Arc<Landing>,
    /// Keeps the image.
    pin: Pin,
    description: Description,
    image: Digest,
    image_was_here: bool,
    layers: Vec<Unpacked>,
}

impl Runtime {
    /// Takes in a checkpoint that [`export_checkpoint`](Self::export_checkpoint) has written, whoever sent it. Without a name it has the one that the file
    /// claims, if that is free. `stop` calls it off. After an error nothing of it is left.
    ///
    /// # Errors
    /// `Corrupt` for damage, and for layers that reach outside or hold devices; `AlreadyExists` when the name is taken; `NotFound` when the file was made
    /// without its image, and that is not here; `ResourceExhausted` over the limits or on a full disk.
    pub async fn import_checkpoint(
        &self,
        from: impl Read + Send + 'static,
        name: Option<String>,
        stop: impl Future<Output = ()>,
    ) -> Result<Imported> {
        let deed = self.deed("import");
        match self.import_now(from, name, stop).await {
            Ok(imported) => deed.at(&imported.checkpoint.id).end(Ok(imported)),
            failed => deed.end(failed),
        }
    }

    async fn import_now(&self, from: impl Read + Send + 'static, name: Option<String>, stop: impl Future<Output = ()>) -> Result<Imported> {
        if let Some(name) = &name {
            check_name(name)?;
            if self.is_taken(name) {
                // Better now than after all the reading.
                return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, "the name is taken").with("name", name));
            }
        }
        let store = self.images().clone();
        let landing = Arc::new(
            blocking({
                let store = store.clone();
                move || Landing::new(&store)
            })
            .await?,
        );
        let stopper = landing.stop();
        let work = blocking({
            let landing = Arc::clone(&landing);
            move || read(&store, landing, from)
        });
        let mut work = std::pin::pin!(work);
        let ready = tokio::select! {
            done = &mut work => done,
            () = stop => {
                stopper.say();
                work.await
            }
        }?;
        fault::point("import.unpacked");
        let runtime = self.clone();
        to_the_end(async move { runtime.take_in(ready, name).await }).await
    }

    fn is_taken(&self, name: &str) -> bool {
        self.ledger().find_checkpoint(name, None).is_ok_and(|row| row.name.as_deref() == Some(name))
    }

    async fn take_in(&self, ready: Ready, name: Option<String>) -> Result<Imported> {
        let Ready { landing, pin, description, image, image_was_here, layers } = ready;
        self.require_wall(&description.provider)?;
        let name = name.or_else(|| description.name.clone().filter(|name| !self.is_taken(name)));
        let root = self.images().root_of(&ImageKind::Layers { digest: image.to_string() }).await?;
        let mut rows = rows(&description, &root, layers.len(), name)?;
        rows.iter_mut().for_each(|row| row.key = self.holder().map(|holder| holder.key));
        // Whoever looks for rows that were left half made asks for this lock.
        let lock = SandboxLock::take(self.home(), &description.sandbox, OPERATION, self.config().lock_wait).await?;
        let placed = self.place(&rows, &layers);
        drop((landing, pin));
        if placed.is_err() {
            for row in rows.iter().rev() {
                self.finish_removal(row).await?;
            }
        }
        if self.ledger().sandbox(&description.sandbox)?.is_none() {
            lock.remove();
        }
        placed?;
        let last = rows.last().ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "there is no layer"))?;
        let row = self.ledger().checkpoint(&last.id)?;
        let row =
            row.ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, "the checkpoint was removed meanwhile").with("id", &last.id))?;
        Ok(Imported { checkpoint: row.into(), image_was_here })
    }

    /// Gives rows and layers their places; the last row is the checkpoint, and those before it what it builds on.
    fn place(&self, rows: &[CheckpointRow], layers: &[Unpacked]) -> Result<()> {
        for row in rows {
            self.ledger().insert_checkpoint(row)?;
        }
        fault::point("import.rows");
        for (row, layer) in rows.iter().zip(layers) {
            let place = self.home().checkpoint(&row.id);
            crate::home::make(&place).context(OPERATION, || format!("cannot make {}", place.display()))?;
            let target = place.join("layer");
            std::fs::rename(&layer.path, &target).context(OPERATION, || format!("cannot rename to {}", target.display()))?;
        }
        fault::point("import.placed");
        for (row, layer) in rows.iter().zip(layers) {
            let saved = SavedCheckpoint { kind: CheckpointKind::Disk, bytes: layer.bytes, files: layer.entries, record: Value::Null };
            self.ledger().finish_checkpoint(&row.id, &saved)?;
            fault::point("import.finished");
        }
        Ok(())
    }

    /// A fork goes behind the wall that its checkpoint names. A file must not name the one that is none.
    fn require_wall(&self, provider: &str) -> Result<()> {
        if provider.contains("://") {
            let message = "the file names a provider on another host";
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, message).with("provider", provider));
        }
        match self.providers().iter().find(|known| known.name == provider) {
            Some(known) if known.isolation == Isolation::None => {
                let message = "the file names a provider without a wall";
                Err(Error::new(ErrorKind::Corrupt, OPERATION, message).with("provider", provider))
            }
            // One that this build does not have is refused when somebody forks from it without another name.
            _ => Ok(()),
        }
    }
}

fn rows(description: &Description, root: &RootSource, layers: usize, mut name: Option<String>) -> Result<Vec<CheckpointRow>> {
    let mut rows: Vec<CheckpointRow> = Vec::with_capacity(layers);
    for index in 0..layers {
        let is_last = index + 1 == layers;
        rows.push(CheckpointRow {
            id: CheckpointId::from_random(random()?),
            name: name.take_if(|_| is_last),
            sandbox: description.sandbox.clone(),
            provider: description.provider.clone(),
            kind: CheckpointKind::Disk,
            image: description.image.reference.clone(),
            root: root.clone(),
            spec: description.spec.clone(),
            parent: rows.last().map(|below| below.id.clone()),
            bytes: 0,
            files: 0,
            record: Value::Null,
            state: CheckpointState::Saving,
            implicit: !is_last,
            created_ms: 0,
            key: None,
        });
    }
    Ok(rows)
}

fn read(store: &ImageStore, landing: Arc<Landing>, from: impl Read) -> Result<Ready> {
    let pin = store.pin_blocking()?;
    let mut added = Vec::new();
    let read = read_pinned(store, &landing, from, &mut added);
    match read {
        Ok((description, image, image_was_here, layers)) => Ok(Ready { landing, pin, description, image, image_was_here, layers }),
        Err(error) => {
            drop(pin);
            store.forget(&added);
            Err(error)
        }
    }
}

fn read_pinned(
    store: &ImageStore,
    landing: &Landing,
    from: impl Read,
    added: &mut Vec<Digest>,
) -> Result<(Description, Digest, bool, Vec<Unpacked>)> {
    let arrival = Arrival::receive(store, landing, from)?;
    let description = arrival.annotation(ANNOTATION).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, OPERATION, "the file holds an image, and no checkpoint")
            .with_hint("sandbar image import takes it as an image")
    })?;
    let description = Description::parse(description)?;
    let diff_ids = arrival.diff_ids();
    let below = diff_ids.len().checked_sub(description.own_layers);
    let below = below.filter(|below| (*below == 0) == description.image.left_out).ok_or_else(|| {
        let error = Error::new(ErrorKind::Corrupt, OPERATION, "the file does not have the layers that it says");
        error.with("layers", diff_ids.len()).with("own", description.own_layers)
    })?;
    let here = match &description.image.id {
        Some(id) if store.is_complete(id)? => Some(*id),
        _ => None,
    };
    // Before the image has its entry, so that nothing holds its layers when one of these is refused.
    let mut layers = (below..diff_ids.len()).map(|index| arrival.unpack(index)).collect::<Result<Vec<_>>>()?;
    if layers.is_empty() {
        layers.push(arrival.empty()?);
    }
    let image = match here {
        // Its layers are shared then. Those in the file are compared all the same: a damaged file is told as such.
        Some(id) => {
            (0..below).try_for_each(|index| arrival.verify(index))?;
            id
        }
        None if description.image.left_out => {
            return Err(missing_image(&description));
        }
        None => {
            for index in 0..below {
                added.extend(arrival.add(index)?);
            }
            let config = image_configuration(&arrival.config, &description, &diff_ids[..below])?;
            store.add_unnamed(&config, &format!("checkpoint {}", description.id))?
        }
    };
    Ok((description, image, here.is_some(), layers))
}

fn missing_image(description: &Description) -> Error {
    let mut error = Error::new(ErrorKind::NotFound, OPERATION, "the file was made without its image, which is not here")
        .with("image", &description.image.reference);
    if let Some(id) = &description.image.id {
        error = error.with("id", id);
    }
    error.with_hint("sandbar image pull or sandbar image import gets it; or export without --thin")
}

/// The configuration of the image alone: word for word, if the file has it and it is of these layers, so that it is the same image everywhere; else that
/// of the whole, without the checkpoint's layers.
fn image_configuration(whole: &[u8], description: &Description, below: &[Digest]) -> Result<Vec<u8>> {
    let damaged = |source| Error::new(ErrorKind::Corrupt, OPERATION, "the image's configuration is damaged").with_source(source);
    if let Some(text) = &description.image.configuration {
        let named: Value = serde_json::from_str(text).map_err(damaged)?;
        let named = serde_json::from_value::<Vec<Digest>>(named["rootfs"]["diff_ids"].clone()).map_err(damaged)?;
        if named == below && description.image.id == Some(Digest::of(text.as_bytes())) {
            return Ok(text.clone().into_bytes());
        }
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, "the image's configuration is not that of its layers"));
    }
    let mut config: Value = serde_json::from_slice(whole).map_err(damaged)?;
    config["rootfs"] = json!({ "type": "layers", "diff_ids": below });
    if let Some(history) = config["history"].as_array_mut() {
        history.truncate(history.len().saturating_sub(description.own_layers));
    }
    serde_json::to_vec(&config).map_err(damaged)
}
