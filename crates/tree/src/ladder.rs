//! A way down a tree of any depth and back, with a bounded number of descriptors and no recursion.

use crate::metadata::{Identity, Metadata};
use crate::nofollow;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// How many descriptors one ladder holds at most, the top one aside.
const HELD: usize = 24;

/// The directories from a tree's root to where a walk currently is, each with the walk's own state.
///
/// Beyond [`HELD`] levels the upper descriptors are let go, and found again through `..` of the level below. That a
/// hostile process moved the lower directory meanwhile is noticed, because the directory found must be the one that
/// was left; `ESTALE` says otherwise.
#[derive(Debug)]
pub(crate) struct Ladder<State> {
    rungs: Vec<Rung<State>>,
    top: OwnedFd,
}

#[derive(Debug)]
struct Rung<State> {
    name: OsString,
    identity: Identity,
    /// `None` for the top rung, whose descriptor is [`Ladder::top`], and for those let go.
    descriptor: Option<OwnedFd>,
    state: State,
}

impl<State> Ladder<State> {
    /// A ladder that stands on the root of a tree.
    pub(crate) fn new(root: OwnedFd, metadata: &Metadata, state: State) -> Self {
        let rung = Rung { name: OsString::new(), identity: metadata.identity(), descriptor: None, state };
        Self { rungs: vec![rung], top: root }
    }

    /// The directory that the walk is in.
    pub(crate) fn here(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Which directory that is.
    pub(crate) fn identity(&self) -> Identity {
        self.rungs[self.rungs.len() - 1].identity
    }

    /// The walk's state for that directory.
    pub(crate) fn state(&mut self) -> &mut State {
        let top = self.rungs.len() - 1;
        &mut self.rungs[top].state
    }

    /// Where that directory is, relative to the root; empty for the root itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.rungs.iter().skip(1).map(|rung| rung.name.as_os_str()).collect()
    }

    /// Goes down into a directory that the caller opened below [`Ladder::here`].
    pub(crate) fn descend(&mut self, name: OsString, directory: OwnedFd, metadata: &Metadata, state: State) {
        let left = std::mem::replace(&mut self.top, directory);
        let top = self.rungs.len() - 1;
        self.rungs[top].descriptor = Some(left);
        self.rungs.push(Rung { name, identity: metadata.identity(), descriptor: None, state });
        if let Some(far) = self.rungs.len().checked_sub(HELD + 2).filter(|far| *far > 0) {
            self.rungs[far].descriptor = None;
        }
    }

    /// Goes up one level and hands back the name and state of the directory left; `None` at the root.
    pub(crate) fn ascend(&mut self) -> Result<Option<(OsString, State)>, Errno> {
        let Some(above) = self.rungs.len().checked_sub(2) else { return Ok(None) };
        let rung = &mut self.rungs[above];
        self.top = match rung.descriptor.take() {
            Some(held) => held,
            None => {
                let found = nofollow::open_directory(&self.top, OsStr::new(".."))?;
                if Metadata::of(&found)?.identity() != rung.identity {
                    return Err(Errno::STALE);
                }
                found
            }
        };
        Ok(self.rungs.pop().map(|left| (left.name, left.state)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn descend(ladder: &mut Ladder<usize>, name: &str, level: usize) {
        let directory = nofollow::open_directory(ladder.here(), OsStr::new(name)).unwrap();
        let metadata = Metadata::of(&directory).unwrap();
        ladder.descend(name.into(), directory, &metadata, level);
    }

    fn standing_on(root: &std::path::Path) -> Ladder<usize> {
        let root = OwnedFd::from(File::open(root).unwrap());
        let metadata = Metadata::of(&root).unwrap();
        Ladder::new(root, &metadata, 0)
    }

    #[test]
    fn few_descriptors_are_held_and_the_way_back_is_found() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("d/".repeat(200))).unwrap();
        let mut ladder = standing_on(place.path());
        let root = ladder.identity();
        for level in 1..=200 {
            descend(&mut ladder, "d", level);
            assert!(ladder.rungs.iter().filter(|rung| rung.descriptor.is_some()).count() <= HELD + 1);
        }
        assert_eq!(ladder.path(), std::path::Path::new(&"d/".repeat(200)));
        for level in (1..=200).rev() {
            assert_eq!(ladder.ascend().unwrap(), Some(("d".into(), level)));
        }
        assert_eq!(Metadata::of(ladder.here()).unwrap().identity(), root);
        assert_eq!(ladder.ascend().unwrap(), None);
    }

    #[test]
    fn a_directory_that_was_moved_away_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("d/".repeat(40))).unwrap();
        fs::create_dir(place.path().join("elsewhere")).unwrap();
        let mut ladder = standing_on(place.path());
        (1..=40).for_each(|level| descend(&mut ladder, "d", level));
        let fifth = place.path().join("d/".repeat(5));
        fs::rename(fifth, place.path().join("elsewhere/d")).unwrap();
        let failure = (1..=40).find_map(|_| ladder.ascend().err());
        assert_eq!(failure, Some(Errno::STALE));
    }
}
