//! Whole trees removed.

use crate::person::{as_nobody, is_root};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use sandbar_tree::{Base, ErrorKind, Removal, copy_tree, remove_contents, remove_tree};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn base(path: &Path) -> Base {
    Base::jail(File::open(path).unwrap(), None)
}

#[test]
fn each_kind_of_removal_takes_what_it_says() {
    let place = tempfile::tempdir().unwrap();
    let base = base(place.path());
    fs::create_dir_all(place.path().join("d/e")).unwrap();
    fs::write(place.path().join("f"), "").unwrap();
    let kind = |path: &str, removal| base.remove(path, removal).err().map(|error| error.kind());
    assert_eq!(kind("d", Removal::File), Some(ErrorKind::IsADirectory));
    assert_eq!(kind("d", Removal::EmptyDirectory), Some(ErrorKind::DirectoryNotEmpty));
    assert_eq!(kind("f", Removal::EmptyDirectory), Some(ErrorKind::NotADirectory));
    assert_eq!(kind("missing", Removal::Recursive), Some(ErrorKind::NotFound));
    assert_eq!(kind(".", Removal::Recursive), Some(ErrorKind::InvalidPath));
    assert_eq!(kind("d", Removal::Recursive), None);
    assert_eq!(kind("f", Removal::Recursive), None);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn links_are_removed_and_not_followed() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("outside/d")).unwrap();
    fs::create_dir_all(place.path().join("ws/t")).unwrap();
    symlink("../../outside", place.path().join("ws/t/l")).unwrap();
    symlink(place.path().join("outside"), place.path().join("ws/m")).unwrap();
    let base = base(&place.path().join("ws"));
    base.remove("t", Removal::Recursive).unwrap();
    base.remove("m", Removal::Recursive).unwrap();
    assert!(place.path().join("outside/d").is_dir());
    assert_eq!(fs::read_dir(place.path().join("ws")).unwrap().count(), 0);
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    let mut here = openat(CWD, place.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..2000 {
        mkdirat(&here, &name, Mode::RWXU).unwrap();
        mkdirat(&here, "sibling", Mode::RWXU).unwrap();
        here = openat(&here, &name, OFlags::PATH, Mode::empty()).unwrap();
    }
    drop(here);
    base(place.path()).remove(&name, Removal::Recursive).unwrap();
    remove_contents(File::open(place.path()).unwrap()).unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_of_many_files_is_removed_in_batches() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("d");
    fs::create_dir(&directory).unwrap();
    for number in 0..20_000 {
        rustix::fs::mknodat(CWD, directory.join(number.to_string()), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    }
    remove_tree(File::open(place.path()).unwrap(), "d").unwrap();
    assert!(!directory.exists());
}

#[test]
fn directories_closed_by_their_owner_are_opened() {
    let place = tempfile::tempdir().unwrap();
    as_nobody(place.path(), || {
        let inner = place.path().join("t/closed/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("f"), "").unwrap();
        fs::write(place.path().join("t/g"), "").unwrap();
        fs::set_permissions(&inner, PermissionsExt::from_mode(0o500)).unwrap();
        fs::set_permissions(place.path().join("t/closed"), PermissionsExt::from_mode(0o000)).unwrap();
        fs::set_permissions(place.path().join("t"), PermissionsExt::from_mode(0o500)).unwrap();
        base(place.path()).remove("t", Removal::Recursive).unwrap();
        assert!(!place.path().join("t").exists());
    });
}

#[test]
fn what_resists_is_told_and_the_rest_is_removed() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("t/a/foreign")).unwrap();
    fs::write(place.path().join("t/a/foreign/f"), "").unwrap();
    fs::write(place.path().join("t/a/own"), "").unwrap();
    fs::create_dir(place.path().join("t/z")).unwrap();
    for path in ["t", "t/a", "t/z"] {
        std::os::unix::fs::chown(place.path().join(path), Some(65534), Some(65534)).unwrap();
    }
    as_nobody(place.path(), || {
        let error = base(place.path()).remove("t", Removal::Recursive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.path(), Path::new("t/a/foreign/f"));
    });
    assert!(place.path().join("t/a/foreign/f").exists());
    assert!(!place.path().join("t/a/own").exists() && !place.path().join("t/z").exists());
}

#[test]
fn only_a_single_name_is_taken_for_one() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("a/b")).unwrap();
    for name in ["", ".", "..", "a/b", "/", "a/", "a\0b"] {
        let error = remove_tree(File::open(place.path()).unwrap(), name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPath, "{name:?}");
    }
    assert!(place.path().join("a/b").is_dir());
}

#[test]
fn the_contents_go_and_the_directory_stays() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("a/b")).unwrap();
    fs::write(place.path().join("f"), "").unwrap();
    remove_contents(File::open(place.path()).unwrap()).unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

/// A directory mounted elsewhere, for as long as this lives.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _at_worst_a_leftover = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn what_is_mounted_below_is_neither_removed_nor_copied() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |path: &str| place.path().join(path);
    for directory in ["volume/d", "t/m", "t/n", "copy"] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    fs::write(path("volume/f"), "precious").unwrap();
    // Of the same file system, so that the device number gives nothing away.
    if rustix::mount::mount_bind(path("volume"), path("t/m")).is_err() {
        eprintln!("this fact needs to mount, and was not looked at");
        return;
    }
    let _mounted = Mounted(path("t/m"));
    copy_tree(File::open(path("t")).unwrap(), File::open(path("copy")).unwrap()).unwrap();
    assert!(path("copy/m").is_dir() && !path("copy/m/f").exists());
    let error = base(place.path()).remove("t", Removal::Recursive).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Busy, Path::new("t/m")));
    assert!(!path("t/n").exists());
    assert_eq!(fs::read_to_string(path("volume/f")).unwrap(), "precious");
    assert!(path("volume/d").is_dir());
}
