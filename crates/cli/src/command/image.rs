use std::path::PathBuf;

use clap::{Args, Subcommand};
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::Runtime;

use crate::{
    error::{Failure, Outcome},
    output::{self, PullProgress, Table, ago, bytes},
};

/// Get, list and remove images
///
/// An image is the root file system that sandboxes begin with. `host`, the read-only view of this machine's own programs, is always there
/// and needs none of this.
#[derive(Debug, Args)]
pub(crate) struct Image {
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
        /// Take it from this provider's engine, which pulls what it does not have
        #[arg(long, value_name = "PROVIDER")]
        on: Option<String>,
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
        match self.action {
            Action::Pull { json, on: Some(provider), reference } => {
                let from = runtime.providers().get(&provider)?;
                let image = runtime
                    .fetch_image(from.as_ref(), &reference, &output::note)
                    .await?
                    .ok_or_else(|| Error::new(ErrorKind::Unsupported, "image pull", format!("{provider} has no images of its own")))?;
                if json { output::json(&image) } else { output::line(&image.id.to_string()) }
            }
            Action::Pull { json, on: None, reference } => {
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
            Action::Ls { json } => list(runtime, json).await,
            Action::Rm { references } => {
                let mut errors = Vec::new();
                for reference in references {
                    match runtime.remove_image(&reference).await {
                        Ok(removed) if removed.in_use => {
                            output::note(&format!(
                                "{reference}: its files stay until the sandboxes and checkpoints that need them are gone"
                            ));
                        }
                        Ok(_) => {}
                        Err(error) => errors.push(error),
                    }
                }
                Failure::from_all(errors)
            }
        }
    }
}

async fn list(runtime: &Runtime, json: bool) -> Outcome {
    let images = runtime.images().list().await?;
    if json {
        return output::json(&images);
    }
    let mut table = Table::new(&["ID", "NAMES", "SIZE", "LAYERS", "ADDED", "FROM"]);
    for image in images {
        table.row([
            // As many digits as docker shows; they are accepted wherever an image is expected.
            image.id.hex()[..12].to_owned(),
            image.names.join(" "),
            bytes(image.bytes),
            image.layers.len().to_string(),
            format!("{} ago", ago(image.added_ms)),
            image.origin,
        ]);
    }
    table.print()
}
