//! Freezing and thawing a container, whose engine is the last to know of it.
//!
//! An engine hears of its own pauses and resumes by events as well, in order, and later: that of the pause makes it forget the resume that came after it, until it hears of that
//! one, too. So what it says for a while is not believed: neither when it refuses, nor when it is asked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sandbar_core::{Context, Result};

use super::{
    engine::{Engine, SLOW},
    error::explain,
    object,
    place::Place,
};
use crate::machine::Facts;

/// How long an engine that refuses may take to hear of what it has done itself.
const HEARSAY: Duration = Duration::from_millis(500);
/// How long what it says of a container may be older than what was done to it: its events wait for a busy machine.
const STALE: Duration = Duration::from_secs(5);
/// Between looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// In the generation's folder.
const NOTE: &str = "frozen";

/// Freezes a container. One that is frozen is left so.
///
/// # Errors
/// Those of the engine.
pub(super) async fn freeze(engine: &Engine, place: &Place) -> Result<()> {
    change(engine, &place.name, true).await?;
    note(&place.folder, true)
}

/// Thaws a container. One that is not frozen is left so.
///
/// # Errors
/// Those of the engine.
pub(super) async fn thaw(engine: &Engine, place: &Place) -> Result<()> {
    change(engine, &place.name, false).await?;
    note(&place.folder, false)
}

/// What a container that runs is, of which the engine says `said`.
pub(super) fn true_state(folder: &Path, said: Facts) -> Facts {
    match (said, last_done(folder)) {
        (Facts::Alive | Facts::Frozen, Some(true)) => Facts::Frozen,
        (Facts::Alive | Facts::Frozen, Some(false)) => Facts::Alive,
        (said, _) => said,
    }
}

/// Freezes or thaws. A refusal is none when the container is as it was asked to be.
///
/// # Errors
/// Those of the engine.
pub(super) async fn change(engine: &Engine, name: &str, freeze: bool) -> Result<()> {
    let what = if freeze { "freeze the container" } else { "thaw the container" };
    let begun = Instant::now();
    loop {
        let asked = name.to_owned();
        let done = engine.try_ask(what, SLOW, move |client| async move {
            if freeze { client.pause_container(&asked).await } else { client.unpause_container(&asked).await }
        });
        let Err(error) = done.await? else { return Ok(()) };
        match object::inspect(engine, name).await?.and_then(|found| found.state).map(object::state) {
            Some(Facts::Gone(_)) if !freeze => return Ok(()),
            Some(Facts::Alive | Facts::Frozen) if begun.elapsed() < HEARSAY => tokio::time::sleep(LOOK).await,
            Some(now) if (now == Facts::Frozen) == freeze => return Ok(()),
            _ => return Err(explain(engine.endpoint(), what, error)),
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(NOTE)
}

/// Notes what was done, for whoever asks next, in this process or in another.
fn note(folder: &Path, frozen: bool) -> Result<()> {
    // As a whole or not at all: others look at it at any time.
    let new = folder.join(format!("{NOTE}-new"));
    let written = fs::write(&new, if frozen { "1" } else { "0" }).and_then(|()| fs::rename(&new, path(folder)));
    match written {
        // It is being removed, and what it was does not matter any more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.context("freeze", || format!("cannot note the container's state in {}", folder.display())),
    }
}

/// Whether the container was frozen (`true`) or thawed, if that was just now.
fn last_done(folder: &Path) -> Option<bool> {
    let path = path(folder);
    let age = fs::metadata(&path).and_then(|noted| noted.modified()).ok()?.elapsed().ok()?;
    (age < STALE).then(|| fs::read_to_string(&path).ok()).flatten().map(|text| text == "1")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_was_just_done_is_believed_before_the_engine_and_later_the_engine() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(true_state(folder.path(), Facts::Frozen), Facts::Frozen, "nothing was done");
        note(folder.path(), false).unwrap();
        assert_eq!(true_state(folder.path(), Facts::Frozen), Facts::Alive, "it was thawed");
        note(folder.path(), true).unwrap();
        assert_eq!(true_state(folder.path(), Facts::Alive), Facts::Frozen, "it was frozen");
        assert_eq!(true_state(folder.path(), Facts::Gone("gone".to_owned())), Facts::Gone("gone".to_owned()));
        let file = fs::File::options().write(true).open(path(folder.path())).unwrap();
        file.set_modified(SystemTime::now() - STALE).unwrap();
        assert_eq!(true_state(folder.path(), Facts::Alive), Facts::Alive, "somebody else thawed it since");
    }
}
