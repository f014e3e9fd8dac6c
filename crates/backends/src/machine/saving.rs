//! Who saves a sandbox with memory: noted beside it, so that whoever finds the saver gone wakes the agent that it has made quiet.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::process::HostProcess;

/// In the generation's folder.
const NAME: &str = "saving";
/// How long an agent that was told to be quiet may take to hear it: it listens to nobody for longer who does not say what he wants.
const TOLD: Duration = Duration::from_secs(15);
/// How long somebody who comes while it is saved waits.
const RETURN: Duration = Duration::from_millis(1500);
/// What a save may take: a layer of many GiB is fetched first, and memory may take minutes. Whoever waits goes on then, whatever the note says.
pub(super) const LONG: Duration = Duration::from_secs(900);
/// Between looks of those who wait for its end, which are many when many streams are read.
const LOOK: Duration = Duration::from_millis(20);
/// Between attempts.
const RETRY: Duration = Duration::from_millis(2);

/// The note of a generation.
#[derive(Debug, Clone)]
pub(crate) struct SaveNote {
    folder: PathBuf,
}

impl SaveNote {
    /// Of the generation with this folder. Touches nothing.
    pub(crate) fn of(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Says that this process is about to save it, for which its agent is quiet.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn write(&self) -> io::Result<()> {
        let own = HostProcess::of(std::process::id())?;
        // As a whole or not at all: others look at it at any time.
        let written = self.folder.join(format!("{NAME}-new"));
        fs::write(&written, format!("{} {}", own.pid, own.start_time))?;
        fs::rename(written, self.path())
    }

    /// Says that it goes on.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(self.path());
    }

    /// Whether a process that is gone has begun to save it, and so may have left its agent quiet.
    pub(crate) fn is_orphan(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.path()) else { return false };
        let saver = text
            .split_once(' ')
            .and_then(|(pid, start_time)| Some(HostProcess { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? }));
        saver.is_none_or(|saver| !saver.is_alive())
    }

    /// What an orphan asks for: an agent that is quiet (it has no socket) is woken.
    ///
    /// # Errors
    /// Of waking.
    pub(crate) fn settle<E>(&self, listens: bool, wake: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if !listens {
            wake()?;
            self.remove();
        } else if self.age() > TOLD {
            // It was never made quiet. Until then it may have been told, and not have come to it.
            self.remove();
        }
        Ok(())
    }

    /// For how long it has been noted.
    fn age(&self) -> Duration {
        let noted = fs::metadata(self.path()).and_then(|noted| noted.modified());
        noted.ok().and_then(|noted| noted.elapsed().ok()).unwrap_or(Duration::MAX)
    }

    /// Whether somebody who lives saves it.
    pub(super) fn is_in_force(&self) -> bool {
        self.path().exists() && self.age() < LONG && !self.is_orphan()
    }

    /// Waits until nobody does.
    pub(super) async fn over(&self) {
        while self.is_in_force() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Removes it when this is dropped: what was saved goes on by then, or was never made to stand still.
    pub(crate) fn until_dropped(self) -> Saving {
        Saving(self)
    }

    /// Attempts to reach the agent again as long as one that was woken, or that is quiet to be saved, may listen again soon.
    ///
    /// # Errors
    /// The last attempt's.
    pub(crate) async fn reach<T, E, Attempt: Future<Output = Result<T, E>>>(
        &self,
        was_orphan: bool,
        is_alive: impl Fn() -> bool,
        mut attempt: impl FnMut() -> Attempt,
    ) -> Result<T, E> {
        let begun = Instant::now();
        loop {
            let error = match attempt().await {
                Ok(reached) => return Ok(reached),
                Err(error) => error,
            };
            if !(was_orphan || self.path().exists()) || begun.elapsed() > RETURN || !is_alive() {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What a note says is true for as long as this lives.
#[derive(Debug)]
pub(crate) struct Saving(SaveNote);

impl Drop for Saving {
    fn drop(&mut self) {
        self.0.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_save_goes_on_when_it_is_over_or_nobody_is_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let note = SaveNote::of(folder.path());
        note.over().await;
        note.write().unwrap();
        let saving = note.clone().until_dropped();
        let waiting = tokio::spawn({
            let note = note.clone();
            async move { note.over().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished(), "its writer lives");
        drop(saving);
        waiting.await.unwrap();
        fs::write(note.path(), "1 1").unwrap();
        note.over().await;
    }

    #[test]
    fn a_note_is_an_orphan_when_its_writer_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let note = SaveNote::of(folder.path());
        assert!(!note.is_orphan(), "there is none");
        note.write().unwrap();
        assert!(!note.is_orphan(), "its writer lives");
        fs::write(note.path(), "1 1").unwrap();
        assert!(note.is_orphan(), "another process has that number");
        fs::write(note.path(), "no process").unwrap();
        assert!(note.is_orphan(), "it cannot be read");
    }

    #[test]
    fn an_agent_that_listens_is_not_woken() {
        let folder = tempfile::tempdir().unwrap();
        let note = SaveNote::of(folder.path());
        note.write().unwrap();
        note.settle(true, || Err("it was woken")).unwrap();
        assert!(note.path().exists(), "it may still become quiet");
        note.settle(false, || Err("it cannot be woken")).unwrap_err();
        assert!(note.path().exists());
        note.settle::<()>(false, || Ok(())).unwrap();
        assert!(!note.path().exists());
    }
}
