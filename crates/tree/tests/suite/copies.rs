//! Trees copied and weighed.

use crate::person::is_root;
use crate::snapshot::{set_attribute, snapshot};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use sandbar_tree::{Copied, ErrorKind, copy_tree, measure};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

fn directory(path: &Path) -> File {
    File::open(path).unwrap()
}

#[test]
fn a_copy_is_the_same_with_its_marks_and_links() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = from.path();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/f"), "12345").unwrap();
    fs::hard_link(root.join("a/f"), root.join("a/b/c/g")).unwrap();
    symlink("anywhere", root.join("l")).unwrap();
    fs::hard_link(root.join("l"), root.join("m")).unwrap();
    mknodat(CWD, root.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    set_attribute(&root.join("a"), b"user.overlay.opaque", b"y");
    set_attribute(&root.join("a/f"), b"user.large", &[b'v'; 600]);
    set_attribute(root, b"user.of the root", b"v");
    let before = snapshot(root);
    let copied = copy_tree(directory(root), directory(to.path())).unwrap();
    assert_eq!(copied, Copied { entries: 9, files: 1, bytes: 5 });
    assert_eq!(snapshot(to.path()), before);
}

#[test]
fn owners_devices_and_trusted_marks_are_copied_as_root() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = from.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("f"), "x").unwrap();
    symlink("anywhere", root.join("l")).unwrap();
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RWXO, makedev(1, 3)).unwrap();
    set_attribute(&root.join("d"), b"trusted.overlay.opaque", b"y");
    set_attribute(&root.join("l"), b"trusted.overlay.origin", b"o");
    set_attribute(&root.join("null"), b"trusted.overlay.origin", b"o");
    for name in ["d", "f", "l", "null", "."] {
        std::os::unix::fs::lchown(root.join(name), Some(70_001), Some(70_002)).unwrap();
    }
    set_attribute(&root.join("f"), b"security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    copy_tree(directory(root), directory(to.path())).unwrap();
    assert_eq!(snapshot(to.path()), snapshot(root));
}

#[test]
fn holes_stay_holes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = File::create(from.path().join("f")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"middle", 500 << 20).unwrap();
    copy_tree(directory(from.path()), directory(to.path())).unwrap();
    let copy = File::open(to.path().join("f")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), 1 << 30);
    assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
    let mut middle = [0; 6];
    copy.read_exact_at(&mut middle, 500 << 20).unwrap();
    assert_eq!(&middle, b"middle");
}

#[test]
fn a_copy_crosses_file_systems() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    fs::write(from.path().join("f"), vec![7; 5_000_000]).unwrap();
    let file = File::create(from.path().join("sparse")).unwrap();
    file.set_len(50 << 20).unwrap();
    file.write_all_at(b"end", (50 << 20) - 3).unwrap();
    assert_ne!(from.path().metadata().unwrap().dev(), to.path().metadata().unwrap().dev(), "this fact needs two file systems");
    copy_tree(directory(from.path()), directory(to.path())).unwrap();
    assert_eq!(snapshot(to.path()), snapshot(from.path()));
    assert!(fs::metadata(to.path().join("sparse")).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_tree_deeper_than_any_path_is_copied_and_weighed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut here: std::os::fd::OwnedFd = directory(from.path()).into();
    let name = "d".repeat(200);
    for _ in 0..300 {
        rustix::fs::mkdirat(&here, &name, Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    let copied = copy_tree(directory(from.path()), directory(to.path())).unwrap();
    assert_eq!(copied.entries, 300);
    assert_eq!(measure(directory(to.path())).unwrap().entries, 300);
    // `TempDir` itself cannot remove such a tree.
    for place in [&from, &to] {
        sandbar_tree::remove_contents(directory(place.path())).unwrap();
    }
}

#[test]
fn only_an_empty_directory_elsewhere_is_copied_to() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kind = |to: &Path| copy_tree(directory(from.path()), directory(to)).unwrap_err().kind();
    fs::write(to.path().join("f"), "").unwrap();
    assert_eq!(kind(to.path()), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(from.path()), ErrorKind::InvalidPath);
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    assert_eq!(kind(&from.path().join("a/b")), ErrorKind::InvalidPath);
}

#[test]
fn sockets_are_left_out() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("s")).unwrap();
    assert_eq!(copy_tree(directory(from.path()), directory(to.path())).unwrap(), Copied::default());
}

#[test]
fn a_weight_counts_linked_files_once_and_holes_only_as_seen() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("d/f"), vec![1; 10_000]).unwrap();
    fs::hard_link(place.path().join("d/f"), place.path().join("g")).unwrap();
    File::create(place.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
    symlink("d", place.path().join("l")).unwrap();
    let measured = measure(directory(place.path())).unwrap();
    assert_eq!(measured.entries, 4);
    assert_eq!(measured.apparent, 10_000 + (1 << 30));
    assert!((10_000..1 << 20).contains(&measured.allocated), "{measured:?}");
}
