use std::{io::Write, path::PathBuf, sync::Arc};

use bytes::Bytes;
use sandbar_core::{CheckpointKind, Context, Error, ErrorKind, ImageKind, Result, RootSource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::description::{ANNOTATION, DescribedImage, Description, without_reach};
use crate::{
    Runtime,
    image::{Departure, Digest, ImageStore, LayerSource, StagedLayer, blocking, platform_words},
    ledger::CheckpointRow,
};

const OPERATION: &str = "checkpoint export";

/// No image has more layers: it is what engines stop at, and what an import takes.
const MOST_LAYERS: usize = 127;

/// Pieces between another host and whoever writes them here.
const AHEAD: usize = 4;

/// How a checkpoint leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Make image and checkpoint one layer, an image with a digest of its own. The only way for a checkpoint on the image `host`.
    pub flatten: bool,
    /// Leave the image's layers out: whoever imports the file has the image.
    pub thin: bool,
    /// Of a checkpoint with memory, take the disk alone.
    pub without_memory: bool,
}

/// What was written. The names of the fields are those of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The digest of the image's manifest.
    pub digest: Digest,
    /// Bytes of the file.
    pub bytes: u64,
    /// Layers in it.
    pub layers: usize,
    /// Files and folders of the host that were left out since not everybody may read them.
    pub unreadable: u64,
    /// What of the sandbox's specification stays here.
    pub left_out: Vec<String>,
}

impl Runtime {
    /// Writes a checkpoint as one file; one on another host is written there, and comes from there. `stop` calls it off, after which there is an error and nothing of it in the state folder.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported`, with what to do, for a checkpoint with memory, or on the image `host`; `ResourceExhausted` on a full disk;
    /// whatever the writer says.
    pub async fn export_checkpoint(
        &self,
        reference: &str,
        options: ExportOptions,
        into: impl Write + Send + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<Exported> {
        self.deed("export").at(reference).done(self.export_now(reference, options, into, stop)).await
    }

    async fn export_now(
        &self,
        reference: &str,
        options: ExportOptions,
        into: impl Write + Send + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<Exported> {
        let row = self.ledger().find_checkpoint(reference, self.own())?;
        check(&row, options)?;
        if let ImageKind::Elsewhere { .. } = row.root.kind {
            let fetch = self.export_elsewhere(&row, options, into);
            tokio::select! {
                fetched = fetch => return fetched,
                () = stop => return Err(called_off()),
            }
        }
        let (mut root, pin) = self.resolve_again(&row.root.kind).await?;
        root.saved_layers = self.layers(&row)?;
        let most = if options.flatten { 1 } else { root.layers.len() + root.saved_layers.len() };
        if most > MOST_LAYERS {
            return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, "the checkpoint has more layers than an image may have")
                .with("layers", most)
                .with("most", MOST_LAYERS)
                .with_hint("--flatten makes them one"));
        }
        let store = self.images().clone();
        let stage = Arc::new(
            blocking({
                let store = store.clone();
                move || Departure::new(&store)
            })
            .await?,
        );
        let stopper = stage.stop();
        let work = blocking(move || {
            let _pin = pin;
            write(&store, &stage, &row, &root, options, into)
        });
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = stop => stopper.say(),
        }
        // It may have been done already. What breaks it off is no defect.
        work.await.map_err(|error| called_off().with_source(error))
    }

    /// Has it written by the host that has it.
    async fn export_elsewhere(
        &self,
        row: &CheckpointRow,
        options: ExportOptions,
        mut into: impl Write + Send + 'static,
    ) -> Result<Exported> {
        let gone = || Error::new(ErrorKind::Internal, OPERATION, "its provider is on no other host").with("provider", &row.provider);
        let host = self.providers().elsewhere(&row.provider)?.ok_or_else(gone)?;
        let (pieces, mut coming) = mpsc::channel::<Bytes>(AHEAD);
        // It ends when nothing comes any more.
        let writing = blocking(move || {
            let mut write = || {
                let mut bytes = 0;
                while let Some(piece) = coming.blocking_recv() {
                    into.write_all(&piece)?;
                    bytes += piece.len() as u64;
                }
                into.flush()?;
                Ok(bytes)
            };
            let written: std::io::Result<u64> = write();
            written.context(OPERATION, || "cannot write the file".to_owned())
        });
        let options = [("flatten", options.flatten), ("thin", options.thin), ("without_memory", options.without_memory)];
        let folder = self.home().checkpoint(&row.id);
        let (written, fetched) = tokio::join!(writing, host.export_checkpoint(&folder, &options, pieces));
        // Where writing has failed, fetching has for that reason.
        let bytes = written?;
        let exported: Exported = fetched?;
        if bytes != exported.bytes {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "what came from the other host is not the whole file")
                .with("bytes", bytes)
                .with("its bytes", exported.bytes));
        }
        Ok(exported)
    }
}

fn called_off() -> Error {
    Error::new(ErrorKind::Conflict, OPERATION, "it was called off")
}

fn check(row: &CheckpointRow, options: ExportOptions) -> Result<()> {
    let refuse =
        |message: &str, hint: &str| Err(Error::new(ErrorKind::Unsupported, OPERATION, message).with("checkpoint", &row.id).with_hint(hint));
    if options.flatten && options.thin {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "a flattened checkpoint has no image to leave out"));
    }
    if row.kind == CheckpointKind::Memory && !options.without_memory {
        return refuse(
            "memory is bound to the provider, its version and the processor that it was saved on",
            "--without-memory takes its files alone",
        );
    }
    match row.root.kind {
        ImageKind::Host { .. } if !options.flatten => refuse(
            "the checkpoint lies on the image `host`, which is this machine's own programs",
            "--flatten takes those along, as one layer with the checkpoint: all of /usr that everybody may read",
        ),
        ImageKind::Empty => refuse("the sandbox has no image", "only a sandbox with an image can be taken elsewhere"),
        // What keeps it there, that host knows.
        ImageKind::Host { .. } | ImageKind::Layers { .. } | ImageKind::Elsewhere { .. } => Ok(()),
    }
}

fn write(
    store: &ImageStore,
    stage: &Departure,
    row: &CheckpointRow,
    root: &RootSource,
    options: ExportOptions,
    into: impl Write,
) -> Result<Exported> {
    let stage_all =
        |paths: &[PathBuf]| -> Result<Vec<StagedLayer>> { paths.iter().map(|path| stage.layer(&LayerSource::One(path.clone()))).collect() };
    let base = base_configuration(store, &root.kind)?;
    let (below, own) = if options.flatten {
        let layers = root.layers.iter().chain(&root.saved_layers).cloned().collect();
        let host = root.host.iter().flat_map(|host| host.folders.clone()).collect();
        (vec![stage.layer(&LayerSource::Merged { layers, host })?], Vec::new())
    } else if options.thin {
        (Vec::new(), stage_all(&root.saved_layers)?)
    } else {
        (stage_all(&root.layers)?, stage_all(&root.saved_layers)?)
    };
    let image = described_image(row, root, base.as_ref().map(|(text, _)| text.as_slice()), &below, options)?;
    let kept = (!options.flatten && !options.thin).then_some(below.len());
    let config = configuration(base.map(|(_, config)| config), root, &below, &own, kept);
    let description = Description::of(row, own.len(), image);
    let description = serde_json::to_string(&description)
        .map_err(|source| Error::new(ErrorKind::Internal, OPERATION, "the description cannot be written as JSON").with_source(source))?;
    let name = row.name.as_deref().unwrap_or(row.id.as_str());
    let layers: Vec<StagedLayer> = below.into_iter().chain(own).collect();
    let digest = stage.finish(&config, &layers, &json!({ ANNOTATION: description }), name)?;
    Ok(Exported {
        digest,
        bytes: stage.write(into)?,
        layers: layers.len(),
        unreadable: layers.iter().map(|layer| layer.left_out).sum(),
        left_out: without_reach(&row.spec).1,
    })
}

/// The image's configuration, as it is written and as it is read; `None` for the image `host`, which has none.
fn base_configuration(store: &ImageStore, kind: &ImageKind) -> Result<Option<(Vec<u8>, Value)>> {
    let ImageKind::Layers { digest } = kind else { return Ok(None) };
    let text = store.configuration(&digest.parse()?)?;
    let config = serde_json::from_slice(&text)
        .map_err(|source| Error::new(ErrorKind::Corrupt, OPERATION, "the image's configuration is damaged").with_source(source))?;
    Ok(Some((text, config)))
}

fn described_image(
    row: &CheckpointRow,
    root: &RootSource,
    configuration: Option<&[u8]>,
    below: &[StagedLayer],
    options: ExportOptions,
) -> Result<DescribedImage> {
    let id = match &root.kind {
        ImageKind::Layers { digest } if !options.flatten => Some(digest.parse::<Digest>()?),
        _ => None,
    };
    let configuration = configuration.filter(|_| id.is_some() && !options.thin).and_then(|text| {
        let named: Value = serde_json::from_slice(text).ok()?;
        let named = serde_json::from_value::<Vec<Digest>>(named["rootfs"]["diff_ids"].clone()).ok()?;
        let packed = below.iter().map(|layer| layer.diff_id);
        packed.eq(named.iter().copied()).then(|| String::from_utf8(text.to_vec()).ok())?
    });
    Ok(DescribedImage { reference: row.image.clone(), id, configuration, left_out: options.thin })
}

/// The configuration of image and checkpoint as one image. The history of the image's layers is kept if they are in the file: `kept` of them.
fn configuration(base: Option<Value>, root: &RootSource, below: &[StagedLayer], own: &[StagedLayer], kept: Option<usize>) -> Value {
    let (os, architecture) = platform_words();
    let mut config = base.unwrap_or_else(|| {
        let env: Vec<String> = root.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        json!({ "os": os, "architecture": architecture, "config": { "Env": env } })
    });
    let makes_layer = |entry: &&Value| entry["empty_layer"] != true;
    let mut history: Vec<Value> = match (kept, config["history"].as_array()) {
        (Some(layers), Some(history)) if history.iter().filter(makes_layer).count() == layers => history.clone(),
        _ => below.iter().map(|_| json!({ "created_by": "sandbar image" })).collect(),
    };
    history.extend(own.iter().map(|_| json!({ "created_by": "sandbar checkpoint" })));
    let diff_ids: Vec<Digest> = below.iter().chain(own).map(|layer| layer.diff_id).collect();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    config["history"] = history.into();
    config
}
