//! Images that the engine has, or gets, as archives for the image store.

use std::{fs::File, io::Write, path::Path, time::Duration};

use bollard::query_parameters::CreateImageOptions;
use bytes::Bytes;
use futures_util::StreamExt;
use sandbar_core::{Context, Result};
use tokio::sync::mpsc;

use super::{
    engine::{Engine, QUICK},
    error::{OPERATION, explain, is_missing},
    image::blocking,
};

/// What a pull may take altogether.
const PULL: Duration = Duration::from_secs(3600);
/// Pieces of an archive on their way to the disk.
const PIECES: usize = 16;

/// Writes an image of the engine into a file, in the form of `docker save`. What the engine does not have, it pulls.
///
/// # Errors
/// `NotFound` when neither the engine nor a registry has it.
pub(super) async fn fetch(engine: &Engine, reference: &str, into: &Path, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<()> {
    let asked = reference.to_owned();
    match engine.try_ask("look for an image", QUICK, |client| async move { client.inspect_image(&asked).await }).await? {
        Ok(_) => {}
        Err(error) if is_missing(&error) => pull(engine, reference, said).await?,
        Err(error) => return Err(explain(engine.endpoint(), "look for an image", error)),
    }
    said(&format!("taking {reference} from the engine"));
    export(engine, reference, into).await
}

async fn pull(engine: &Engine, reference: &str, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<()> {
    let (sender, mut told) = mpsc::unbounded_channel::<String>();
    let asked = with_tag(reference);
    let pulling = engine.try_ask("pull an image", PULL, |client| async move {
        let options = CreateImageOptions { from_image: Some(asked), ..CreateImageOptions::default() };
        let mut steps = std::pin::pin!(client.create_image(Some(options), None, None));
        while let Some(step) = steps.next().await {
            let step = step?;
            let words = [step.id, step.status].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let _ = sender.send(words);
        }
        Ok(())
    });
    let mut pulling = std::pin::pin!(pulling);
    let pulled = loop {
        tokio::select! {
            pulled = &mut pulling => break pulled?,
            Some(words) = told.recv() => said(&words),
        }
    };
    // What it said last, at the same moment.
    while let Ok(words) = told.try_recv() {
        said(&words);
    }
    pulled.map_err(|error| {
        let error = explain(engine.endpoint(), "pull the image", error).with("image", reference);
        error.with_hint("sandbar image ls shows the images that are here; docker images those of the engine")
    })
}

/// Without a tag the engine would pull all of them.
fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains(':') || reference.contains('@') { reference.to_owned() } else { format!("{reference}:latest") }
}

async fn export(engine: &Engine, reference: &str, into: &Path) -> Result<()> {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let path = into.to_owned();
    let writing = blocking(move || {
        let mut write = || {
            let mut file = File::create(&path)?;
            while let Some(piece) = pieces.blocking_recv() {
                let piece: Bytes = piece;
                file.write_all(&piece)?;
            }
            file.flush()
        };
        write().context(OPERATION, || format!("cannot write {}", path.display()))
    });
    let asked = reference.to_owned();
    let exporting = engine.ask("take an image from the engine", PULL, |client| async move {
        let mut stream = std::pin::pin!(client.export_image(&asked));
        while let Some(piece) = stream.next().await {
            // Nobody takes it any more: the disk is full.
            if sender.send(piece?).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    let (exported, written) = tokio::join!(exporting, writing);
    written.and(exported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        assert_eq!(with_tag("alpine"), "alpine:latest");
        assert_eq!(with_tag("localhost:5000/alpine"), "localhost:5000/alpine:latest");
        assert_eq!(with_tag("alpine:3"), "alpine:3");
        assert_eq!(with_tag("alpine@sha256:00"), "alpine@sha256:00");
    }
}
