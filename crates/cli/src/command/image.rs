use std::path::PathBuf;

use clap::{Args, Subcommand};
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::{Elsewhere, Runtime, image::ImageSummary};
use serde::Deserialize;

use super::elsewhere;
use crate::{
    error::{Failure, Outcome},
    output::{self, PullProgress, Table, ago, bytes},
};

/// Get, list and remove images
///
/// An image is the root file system that sandboxes begin with. `host`, the read-only view of this machine's own programs, is always there
/// and needs none of this.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sandbar image ls\n  sandbar image import --on farm app.tar app      into the images of another host, as its key allows"
)]
pub(crate) struct Image {
    /// Those of another host: a context, https:// or ssh://. To pull, also a provider whose engine has it, or gets it
    #[arg(long, global = true, value_name = "PLACE")]
    on: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Get an image from a registry
    ///
    /// Prints its id. What is here already is not fetched again, and an interrupted pull goes on where it stopped.
    #[command(after_help = "Example:\n  sandbar image pull docker.io/library/alpine:3")]
    Pull {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// `REGISTRY/REPOSITORY[:TAG][@DIGEST]`; with --on, whatever the engine calls it
        reference: String,
    },
    /// Make an image of a folder, a tar (plain, gzip or zstd), or an OCI layout
    ///
    /// Prints its id.
    #[command(after_help = "Examples:\n  sandbar image import ./rootfs mine\n  docker save alpine | sandbar image import /dev/stdin")]
    Import {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The folder or file; PATH:TAG where an archive holds several images
        #[arg(value_name = "PATH")]
        source: PathBuf,
        /// What to call it
        name: Option<String>,
    },
    /// List the images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images
    ///
    /// A name, and with the last one the image. What sandboxes still need stays until they are gone.
    Rm {
        /// The images
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
}

impl Image {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        match self.on {
            None => here(self.action, runtime).await,
            Some(place) => match (runtime.providers().elsewhere(&place)?, self.action) {
                (Some(host), action) => there(action, &host).await,
                (None, Action::Pull { json, reference }) => {
                    let from = runtime.providers().get(&place)?;
                    let image = runtime
                        .fetch_image(from.as_ref(), &reference, &output::note)
                        .await?
                        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "image pull", format!("{place} has no images of its own")))?;
                    if json { output::json(&image) } else { output::line(&image.id.to_string()) }
                }
                (None, _) => Err(elsewhere::of_all_providers("images", &place).into()),
            },
        }
    }
}

async fn here(action: Action, runtime: &Runtime) -> Outcome {
    match action {
        Action::Pull { json, reference } => {
            let progress = PullProgress::new();
            let image = runtime.pull_image(&reference, progress.callback()).await;
            progress.finish();
            let image = image?;
            if json { output::json(&image) } else { output::line(&image.id.to_string()) }
        }
        Action::Import { json, source, name } => {
            let image = runtime.import_image(&source, name.as_deref()).await?;
            if json { output::json(&image) } else { output::line(&image.id.to_string()) }
        }
        Action::Ls { json } => {
            let images = runtime.images().list().await?;
            if json { output::json(&images) } else { table(images.into_iter().map(Row::from)) }
        }
        Action::Rm { references } => {
            let mut errors = Vec::new();
            for reference in references {
                match runtime.remove_image(&reference).await {
                    Ok(removed) => note_use(&reference, removed.in_use),
                    Err(error) => errors.push(error),
                }
            }
            Failure::from_all(errors)
        }
    }
}

/// The same on another host, which does what it is asked for.
async fn there(action: Action, host: &Elsewhere) -> Outcome {
    let print = |image: serde_json::Value, json: bool| {
        if json { output::json(&image) } else { output::line(image["id"].as_str().unwrap_or_default()) }
    };
    match action {
        Action::Pull { json, reference } => print(host.pull_image(&reference).await?, json),
        Action::Import { json, source, name } => {
            let Some(mut file) = elsewhere::file(&source, "image import").await? else {
                let message = "to another host an image goes as one file";
                let hint = "tar -cC DIR . | sandbar image import --on PLACE /dev/stdin NAME";
                return Err(Error::new(ErrorKind::InvalidInput, "image import", message)
                    .with("path", source.display())
                    .with_hint(hint)
                    .into());
            };
            print(host.import_image(&mut file, None, name.as_deref()).await?, json)
        }
        Action::Ls { json } => {
            let images = host.images().await?;
            if json {
                return output::json(&images);
            }
            let strange = |error| {
                Error::new(ErrorKind::Unavailable, "image", "the other host tells of images in a way that is not known").with_source(error)
            };
            table(Vec::<Row>::deserialize(images).map_err(strange)?.into_iter())
        }
        Action::Rm { references } => {
            let mut errors = Vec::new();
            for reference in references {
                match host.remove_image(&reference).await {
                    Ok(removed) => note_use(&reference, removed["in_use"] == true),
                    Err(error) => errors.push(error),
                }
            }
            Failure::from_all(errors)
        }
    }
}

fn note_use(reference: &str, in_use: bool) {
    if in_use {
        output::note(&format!("{reference}: its files stay until the sandboxes and checkpoints that need them are gone"));
    }
}

/// What a table shows of an image, of whichever host.
#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    names: Vec<String>,
    bytes: u64,
    layers: Vec<serde::de::IgnoredAny>,
    added_ms: u64,
    origin: String,
}

impl From<ImageSummary> for Row {
    fn from(image: ImageSummary) -> Self {
        let ImageSummary { id, names, bytes, layers, added_ms, origin, .. } = image;
        Self { id: id.to_string(), names, bytes, layers: layers.iter().map(|_| serde::de::IgnoredAny).collect(), added_ms, origin }
    }
}

fn table(images: impl Iterator<Item = Row>) -> Outcome {
    let mut table = Table::new(&["ID", "NAMES", "SIZE", "LAYERS", "ADDED", "FROM"]);
    for image in images {
        table.row([
            // As many digits as docker shows; they are accepted wherever an image is expected.
            image.id.trim_start_matches("sha256:").chars().take(12).collect(),
            image.names.join(" "),
            bytes(image.bytes),
            image.layers.len().to_string(),
            format!("{} ago", ago(image.added_ms)),
            image.origin,
        ]);
    }
    table.print()
}
