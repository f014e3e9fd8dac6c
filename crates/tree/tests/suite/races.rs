//! Directories that a hostile thread swaps for links meanwhile: whatever the outcome, the outside stays as it was.

use crate::snapshot::{Snapshot, snapshot};
use crate::tarball::Tarball;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sandbar_tree::{Access, Base, PackOptions, Removal, Symlinks, UnpackOptions, copy_tree, measure, pack, unpack};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const ROUNDS: usize = 400;

/// A workspace in which `a` is now a directory, now a link to the outside, and what is outside.
struct Arena {
    place: tempfile::TempDir,
    before: Snapshot,
}

impl Arena {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        fs::create_dir_all(root.join("outside/d")).unwrap();
        fs::write(root.join("outside/f"), "canary").unwrap();
        fs::write(root.join("outside/d/g"), "canary").unwrap();
        fs::create_dir(root.join("ws")).unwrap();
        symlink("../outside", root.join("ws/link")).unwrap();
        let before = snapshot(&root.join("outside"));
        let arena = Self { place, before };
        arena.furnish(&arena.base());
        arena
    }

    fn ws(&self) -> PathBuf {
        self.place.path().join("ws")
    }

    /// Puts back what an operation may have taken; it too must not be led outside.
    fn furnish(&self, base: &Base) {
        let _outcomes =
            (base.make_dir("a/d", true, 0o755), base.open_file("a/d/g", Access::CreateNew, 0o644), base.symlink("../outside", "link"));
    }

    fn base(&self) -> Base {
        Base::jail(File::open(self.ws()).unwrap(), None)
    }

    /// Runs an operation again and again while another thread swaps `a` and `link`; the outside must not notice.
    fn fight(&self, act: impl FnMut(&Base, &Path)) {
        self.swap_during(act);
        assert_eq!(self.outside(), self.before);
    }

    fn outside(&self) -> Snapshot {
        snapshot(&self.place.path().join("outside"))
    }

    fn swap_during(&self, mut act: impl FnMut(&Base, &Path)) {
        let over = AtomicBool::new(false);
        let base = self.base();
        let (a, link) = (self.ws().join("a"), self.ws().join("link"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _may_be_missing = renameat_with(CWD, &a, CWD, &link, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..ROUNDS {
                act(&base, &self.ws());
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn a_careless_program_is_led_outside_by_this_race() {
    let arena = Arena::new();
    arena.swap_during(|_, ws| {
        let _outcome = fs::write(ws.join("a/harm"), "harm");
    });
    assert_ne!(arena.outside(), arena.before, "the race is not one, and the facts below say nothing");
}

#[test]
fn opening_writes_nothing_outside() {
    let arena = Arena::new();
    arena.fight(|base, _| {
        for path in ["a/f", "a/d/g", "a/d/../new"] {
            for access in [Access::Replace, Access::Append, Access::CreateNew] {
                if let Ok(mut file) = base.open_file(path, access, 0o644) {
                    file.write_all(b"harm").unwrap();
                }
            }
        }
    });
}

#[test]
fn changing_names_and_modes_changes_nothing_outside() {
    let arena = Arena::new();
    arena.fight(|base, _| {
        let _outcomes = (
            base.rename("a/d/g", "a/d/h", true),
            base.rename("a/d/h", "a/d/g", false),
            base.make_dir("a/d/x/y", true, 0o700),
            base.symlink("harm", "a/harm"),
            base.chmod("a/d/g", 0o777),
            base.chown("a/d", Some(1), Some(1), Symlinks::Follow),
            base.remove("a/f", Removal::File),
        );
    });
}

#[test]
fn removing_removes_nothing_outside() {
    let arena = Arena::new();
    arena.fight(|base, _| {
        arena.furnish(base);
        let _outcomes = (base.remove("a/d", Removal::Recursive), base.remove("a", Removal::Recursive));
    });
}

#[test]
fn unpacking_writes_nothing_outside() {
    let arena = Arena::new();
    let archive = Tarball::new()
        .file("a/f", "harm")
        .directory("a")
        .directory("a/d")
        .file("a/d/g", "harm")
        .symlink("a/d/l", "harm")
        .hard_link("a/d/h", "a/d/g")
        .file("a/new/f", "harm")
        .done();
    arena.fight(|_, ws| {
        let _outcome = unpack(archive.as_slice(), File::open(ws).unwrap(), &UnpackOptions::default());
    });
}

#[test]
fn packing_and_copying_take_nothing_from_outside() {
    let arena = Arena::new();
    fs::write(arena.place.path().join("outside/secret"), "CANARY-CONTENT").unwrap();
    let arena = Arena { before: snapshot(&arena.place.path().join("outside")), ..arena };
    let mut taken = Vec::new();
    arena.fight(|base, ws| {
        let _outcome = pack(base, ".", &mut taken, &PackOptions::default());
        let _outcome = pack(base, "a", &mut taken, &PackOptions::default());
        let copy = tempfile::tempdir().unwrap();
        let _outcome = copy_tree(File::open(ws).unwrap(), File::open(copy.path()).unwrap());
        assert!(!copy.path().join("a/secret").is_file() || copy.path().join("a").is_symlink());
        let _outcome = measure(File::open(ws).unwrap());
    });
    assert!(!taken.windows(14).any(|window| window == b"CANARY-CONTENT"));
}
