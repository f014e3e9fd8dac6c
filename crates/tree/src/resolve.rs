//! One path to one descriptor, in one step: openat2 where the kernel has it, the same by hand where it has not.
//!
//! openat2 is missing before Linux 5.6, in gVisor releases before late 2026, and behind old container engines'
//! seccomp filters. The walk by hand holds every directory it came through, so `..` returns to where it came from and
//! never to where a hostile process has moved it, and it reads links as text, so no procfs link is ever jumped through.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::system::{self, HELD, HELD_ITSELF};

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS: u32 = 40;

/// How deep the walk by hand goes; each level holds a descriptor.
const DEPTH: usize = 256;

/// How far a path may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Never above the starting directory: absolute paths and links, and `..` too many, give `EXDEV`.
    Beneath,
    /// Anywhere that this process sees; absolute paths start at its root.
    Anywhere,
}

/// Opens a path. Links of procfs that are not text (`/proc/self/fd/1`) are not followed.
pub(crate) fn open(start: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, reach: Reach) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let at_once = system::open_in_one_step(start, path, flags, mode, reach == Reach::Beneath);
    at_once.unwrap_or_else(|| by_hand(start, path, flags, mode, reach))
}

const STEP: OFlags = HELD_ITSELF.union(OFlags::CLOEXEC);
const HERE: OFlags = HELD.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The same in user space.
fn by_hand(start: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, reach: Reach) -> Result<OwnedFd, Errno> {
    let mut walk = Walk { reach, held: vec![openat(start, ".", HERE, Mode::empty())?], pending: Vec::new(), links: 0 };
    walk.insert(path.as_os_str())?;
    while let Some(name) = walk.pending.pop() {
        match name.as_bytes() {
            b"." => {}
            b".." => walk.up()?,
            _ if walk.pending.is_empty() => {
                if let Some(found) = walk.last(&name, flags, mode)? {
                    return Ok(found);
                }
            }
            _ => walk.step(&name)?,
        }
    }
    // The path ended in `.`, `..` or a slash: what it names is the directory already held.
    if flags.contains(OFlags::CREATE) {
        return Err(Errno::ISDIR);
    }
    openat(walk.here()?, ".", flags, Mode::empty())
}

struct Walk {
    reach: Reach,
    /// The directories from the start to here.
    held: Vec<OwnedFd>,
    /// The names still to go, the next one last.
    pending: Vec<OsString>,
    links: u32,
}

impl Walk {
    fn here(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.held.last().map(AsFd::as_fd).ok_or(Errno::XDEV)
    }

    /// Puts a path before the names still to go.
    fn insert(&mut self, path: &OsStr) -> Result<(), Errno> {
        let bytes = path.as_bytes();
        if bytes.is_empty() {
            return Err(Errno::NOENT);
        }
        if bytes.starts_with(b"/") {
            if self.reach == Reach::Beneath {
                return Err(Errno::XDEV);
            }
            self.held = vec![openat(CWD, "/", HERE, Mode::empty())?];
        }
        // A slash at the end asks for a directory, which is what `.` behind it does.
        if bytes.ends_with(b"/") {
            self.pending.push(OsString::from("."));
        }
        let names = bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        self.pending.extend(names.rev().map(|name| OsStr::from_bytes(name).to_owned()));
        Ok(())
    }

    fn up(&mut self) -> Result<(), Errno> {
        match self.reach {
            Reach::Beneath => {
                self.held.pop();
                self.here().map(drop)
            }
            Reach::Anywhere => {
                let above = openat(self.here()?, "..", HERE, Mode::empty())?;
                self.held = vec![above];
                Ok(())
            }
        }
    }

    /// Goes through one name in the middle of a path.
    fn step(&mut self, name: &OsStr) -> Result<(), Errno> {
        let found = openat(self.here()?, name, STEP, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Directory => {
                if self.held.len() == DEPTH {
                    return Err(Errno::NAMETOOLONG);
                }
                if self.reach == Reach::Anywhere {
                    self.held.clear();
                }
                self.held.push(found);
                Ok(())
            }
            FileType::Symlink => self.follow_held(&found, name),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Opens the last name; `None` if it was a link whose target is now to be walked.
    fn last(&mut self, name: &OsStr, flags: OFlags, mode: Mode) -> Result<Option<OwnedFd>, Errno> {
        let keeps_links = system::names_links(flags) || flags.contains(OFlags::CREATE | OFlags::EXCL);
        let opened = openat(self.here()?, name, system::not_following(flags), mode);
        if keeps_links {
            return opened.map(Some);
        }
        match opened {
            Ok(found) => {
                let is_link = system::holds_links(flags) && FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::Symlink;
                if is_link { self.follow_held(&found, name).map(|()| None) } else { Ok(Some(found)) }
            }
            Err(refused @ (Errno::LOOP | Errno::NOTDIR)) => {
                let target = match readlinkat(self.here()?, name, Vec::new()) {
                    // Not a link after all.
                    Err(Errno::INVAL) => return Err(refused),
                    target => target?.into_bytes(),
                };
                self.follow(target).map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    fn follow_held(&mut self, link: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let target = system::read_link(link.as_fd(), self.here()?, name)?;
        self.follow(target)
    }

    fn follow(&mut self, target: Vec<u8>) -> Result<(), Errno> {
        self.links += 1;
        if self.links > LINKS {
            return Err(Errno::LOOP);
        }
        self.insert(&OsString::from_vec(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Metadata;
    use rustix::fs::{mkdirat, symlinkat};
    use std::fs::{self, File};

    fn planted() -> (tempfile::TempDir, File) {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().join("base");
        fs::create_dir_all(base.join("a/b")).unwrap();
        fs::write(base.join("a/file"), "inside").unwrap();
        fs::write(place.path().join("canary"), "outside").unwrap();
        let directory = File::open(&base).unwrap();
        for (target, name) in [
            ("a/file", "link"),
            ("../link", "a/back"),
            ("b", "a/directory"),
            ("../canary", "escape"),
            ("/etc/passwd", "absolute"),
            ("a/../../canary", "roundabout"),
            ("loop", "loop"),
            ("missing", "dangling"),
            ("a/", "slash"),
        ] {
            symlinkat(target, &directory, name).unwrap();
        }
        (place, directory)
    }

    #[test]
    fn the_walk_by_hand_agrees_with_the_kernel() {
        let (_place, base) = planted();
        let at_once = system::open_in_one_step(base.as_fd(), Path::new("."), OFlags::PATH, Mode::empty(), true);
        assert!(at_once.is_some(), "this test compares with openat2");
        let paths = [
            ".",
            "..",
            "a",
            "a/",
            "a/.",
            "a/..",
            "a/../..",
            "a/../link",
            "a/b/../file",
            "a/file",
            "a/file/",
            "a/file/x",
            "link",
            "link/",
            "a/back",
            "a/directory",
            "a/directory/",
            "a/directory/..",
            "escape",
            "absolute",
            "roundabout",
            "loop",
            "dangling",
            "slash",
            "slash/file",
            "missing",
            "missing/x",
            "/etc/passwd",
            "/",
            "a//b",
            "./a/./b",
        ];
        let read = OFlags::RDONLY | OFlags::NONBLOCK;
        let flag_sets = [
            read,
            OFlags::PATH,
            OFlags::PATH | OFlags::NOFOLLOW,
            read | OFlags::NOFOLLOW,
            read | OFlags::DIRECTORY,
            OFlags::PATH | OFlags::DIRECTORY,
        ];
        for reach in [Reach::Beneath, Reach::Anywhere] {
            for path in paths {
                for flags in flag_sets {
                    let kernel = open(base.as_fd(), Path::new(path), flags, Mode::empty(), reach);
                    let hand = by_hand(base.as_fd(), Path::new(path), flags | OFlags::CLOEXEC, Mode::empty(), reach);
                    let kernel = kernel.map(|found| Metadata::of(found).unwrap().identity());
                    let hand = hand.map(|found| Metadata::of(found).unwrap().identity());
                    assert_eq!(hand, kernel, "{path} {flags:?} {reach:?}");
                }
            }
        }
    }

    #[test]
    fn the_walk_by_hand_creates_like_the_kernel() {
        let create = OFlags::WRONLY | OFlags::CREATE;
        for path in ["new", "dangling", "a/new", "escape", "a/", "link", "loop", "missing/x", "a/../.."] {
            for flags in [create, create | OFlags::EXCL] {
                let (_one, base) = planted();
                let kernel = open(base.as_fd(), Path::new(path), flags, Mode::RUSR, Reach::Beneath);
                let (_other, base) = planted();
                let hand = by_hand(base.as_fd(), Path::new(path), flags, Mode::RUSR, Reach::Beneath);
                assert_eq!(hand.map(drop), kernel.map(drop), "{path} {flags:?}");
            }
        }
    }

    #[test]
    fn the_walk_by_hand_holds_a_bounded_number_of_directories() {
        let place = tempfile::tempdir().unwrap();
        let root = File::open(place.path()).unwrap();
        let mut here = root.try_clone().unwrap();
        for _ in 0..DEPTH + 8 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", HERE, Mode::empty()).unwrap().into();
        }
        let deep = "d/".repeat(DEPTH + 8);
        let found = by_hand(root.as_fd(), Path::new(&deep), HERE, Mode::empty(), Reach::Beneath);
        assert_eq!(found.map(drop), Err(Errno::NAMETOOLONG));
        by_hand(root.as_fd(), Path::new(&deep), HERE, Mode::empty(), Reach::Anywhere).unwrap();
    }

    #[test]
    fn the_walk_by_hand_is_not_led_outside_by_a_race() {
        let place = tempfile::tempdir().unwrap();
        for directory in ["base/a/d", "outside/d"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
            fs::write(place.path().join(directory).join("f"), "").unwrap();
        }
        let base = File::open(place.path().join("base")).unwrap();
        symlinkat("../outside", &base, "link").unwrap();
        let outside = Metadata::of(File::open(place.path().join("outside/d/f")).unwrap()).unwrap().identity();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    rustix::fs::renameat_with(&base, "a", &base, "link", rustix::fs::RenameFlags::EXCHANGE).unwrap();
                }
            });
            let mut opened = 0;
            for path in ["a/d/f", "a/d/../d/f", "link/../a/d/f"].into_iter().cycle().take(6000) {
                let found = by_hand(base.as_fd(), Path::new(path), OFlags::RDONLY, Mode::empty(), Reach::Beneath);
                if let Ok(found) = found {
                    opened += 1;
                    assert_ne!(Metadata::of(found).unwrap().identity(), outside);
                }
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(opened > 0);
        });
    }
}
