//! Single paths, in a jail and from the root.

use crate::person::{as_nobody, is_root};
use sandbar_tree::{Access, Base, ErrorKind, Kind, Removal, Result, Symlinks};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct Place {
    outer: tempfile::TempDir,
    base: Base,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("ws");
        fs::create_dir(&inner).unwrap();
        fs::write(outer.path().join("canary"), "outside").unwrap();
        let base = Base::jail(File::open(&inner).unwrap(), Some(inner));
        Self { outer, base }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.outer.path().join("ws").join(path)
    }

    fn canary_is_untouched(&self) {
        assert_eq!(fs::read_to_string(self.outer.path().join("canary")).unwrap(), "outside");
        assert_eq!(fs::read_dir(self.outer.path()).unwrap().count(), 2);
    }
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("this should have failed").kind()
}

fn write(base: &Base, path: &str, access: Access, text: &str) -> Result<()> {
    base.open_file(path, access, 0o644)?.write_all(text.as_bytes()).unwrap();
    Ok(())
}

fn read(base: &Base, path: impl AsRef<Path>) -> Result<String> {
    let mut text = String::new();
    base.open_file(path, Access::Read, 0)?.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn files_are_created_replaced_extended_and_read() {
    let place = Place::new();
    assert_eq!(kind(read(&place.base, "f")), ErrorKind::NotFound);
    write(&place.base, "f", Access::CreateNew, "a long text").unwrap();
    assert_eq!(kind(write(&place.base, "f", Access::CreateNew, "")), ErrorKind::AlreadyExists);
    write(&place.base, "f", Access::Replace, "short").unwrap();
    write(&place.base, "f", Access::Append, "er").unwrap();
    assert_eq!(read(&place.base, "f").unwrap(), "shorter");
    place.base.open_file("g", Access::Append, 0o600).unwrap();
    assert_eq!(place.base.stat("g", Symlinks::Follow).unwrap().mode, 0o600);
}

#[test]
fn nothing_leaves_a_jail() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    symlink("../canary", place.path("escape")).unwrap();
    symlink("..", place.path("up")).unwrap();
    symlink("/etc", place.path("etc")).unwrap();
    symlink("/proc/self/root", place.path("magic")).unwrap();
    let base = &place.base;
    for path in ["..", "../canary", "d/../../canary", "escape", "up/canary", "etc/passwd", "/etc/passwd", "/", "magic/etc/passwd"] {
        assert_eq!(kind(read(base, path)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(write(base, path, Access::Replace, "x")), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.stat(path, Symlinks::Follow)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.chmod(path, 0o777)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.read_dir(path)), ErrorKind::PermissionDenied, "{path}");
    }
    for path in ["../x", "up/x", "etc/x", "/x", "d/../../x"] {
        assert_eq!(kind(base.make_dir(path, false, 0o755)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.make_dir(path, true, 0o755)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.symlink("t", path)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.rename("d", path, true)), ErrorKind::PermissionDenied, "{path}");
        assert_eq!(kind(base.remove(path, Removal::Recursive)), ErrorKind::PermissionDenied, "{path}");
    }
    let error = read(base, "../canary").unwrap_err();
    assert_eq!(error.to_string(), r#"cannot open "../canary": path leaves the workspace"#);
    place.canary_is_untouched();
}

#[test]
fn links_that_stay_inside_are_followed() {
    let place = Place::new();
    fs::create_dir_all(place.path("a/b")).unwrap();
    fs::write(place.path("a/f"), "text").unwrap();
    symlink("a/b", place.path("l")).unwrap();
    assert_eq!(read(&place.base, "l/../f").unwrap(), "text");
    symlink("new", place.path("dangling")).unwrap();
    assert_eq!(kind(write(&place.base, "dangling", Access::CreateNew, "")), ErrorKind::AlreadyExists);
    write(&place.base, "dangling", Access::Replace, "through").unwrap();
    assert_eq!(read(&place.base, "new").unwrap(), "through");
}

#[test]
fn the_jails_own_absolute_path_is_stripped() {
    let place = Place::new();
    fs::write(place.path("f"), "text").unwrap();
    assert_eq!(read(&place.base, place.path("f")).unwrap(), "text");
    assert_eq!(place.base.stat(place.path(""), Symlinks::Follow).unwrap().kind, Kind::Directory);
    let sibling = place.outer.path().join("ws2");
    assert_eq!(kind(read(&place.base, sibling)), ErrorKind::PermissionDenied);
    assert_eq!(kind(read(&place.base, place.path("../canary"))), ErrorKind::PermissionDenied);
}

#[test]
fn empty_paths_and_nul_bytes_are_told_apart_from_missing_files() {
    let place = Place::new();
    let nul = Path::new(OsStr::from_bytes(b"a\0b"));
    assert_eq!(kind(place.base.stat("", Symlinks::Keep)), ErrorKind::InvalidPath);
    assert_eq!(kind(place.base.stat(nul, Symlinks::Keep)), ErrorKind::InvalidPath);
    assert_eq!(kind(place.base.symlink(nul, "l")), ErrorKind::InvalidPath);
    for path in [".", "..", "a/..", "a/.", "a/./"] {
        assert_eq!(kind(place.base.open_parent(path)), ErrorKind::InvalidPath, "{path}");
    }
    let (_, name) = place.base.open_parent("a/").unwrap();
    assert_eq!(name, "a");
}

#[test]
fn only_regular_files_are_opened_and_nothing_blocks() {
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("pipe"), 0o600.into()).unwrap();
    fs::create_dir(place.path("d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    for access in [Access::Read, Access::Replace, Access::Append] {
        assert_eq!(kind(place.base.open_file("pipe", access, 0)), ErrorKind::Unsupported);
        assert_eq!(kind(place.base.open_file("socket", access, 0)), ErrorKind::Unsupported);
        assert_eq!(kind(place.base.open_file("d", access, 0)), ErrorKind::IsADirectory);
    }
    assert_eq!(kind(Base::root().unwrap().open_file("/dev/null", Access::Replace, 0)), ErrorKind::Unsupported);
}

#[test]
fn kernel_interfaces_are_read_and_never_written() {
    let place = Place::new();
    symlink("/proc/self/comm", place.path("planted")).unwrap();
    let root = Base::root().unwrap();
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    assert!(read(&root, "/proc/self/status").unwrap().contains("Name:"));
    for access in [Access::Replace, Access::Append] {
        assert_eq!(kind(root.open_file(place.path("planted"), access, 0o644)), ErrorKind::PermissionDenied);
    }
    assert_eq!(kind(root.chmod("/proc/self/comm", 0o777)), ErrorKind::PermissionDenied);
    assert_eq!(kind(root.make_dir("/proc/x", false, 0o755)), ErrorKind::PermissionDenied);
    assert_eq!(kind(root.make_dir("/proc/x/y", true, 0o755)), ErrorKind::PermissionDenied);
    assert_eq!(kind(root.remove("/proc/self", Removal::Recursive)), ErrorKind::PermissionDenied);
    assert_eq!(fs::read_to_string("/proc/self/comm").unwrap(), comm);
}

#[test]
fn the_root_takes_relative_paths_from_its_working_directory() {
    let place = Place::new();
    let base = Base::root_at(File::open(place.path("")).unwrap());
    write(&base, "f", Access::CreateNew, "text").unwrap();
    assert_eq!(read(&base, place.path("f")).unwrap(), "text");
    assert_eq!(read(&base, "../canary").unwrap(), "outside");
    assert_eq!(kind(base.open_file("/proc/self/fd/0", Access::Read, 0)), ErrorKind::Symlink);
}

#[test]
fn directories_are_made_with_and_without_parents() {
    let place = Place::new();
    let base = &place.base;
    assert_eq!(kind(base.make_dir("a/b/c", false, 0o755)), ErrorKind::NotFound);
    base.make_dir("a/b/c", true, 0o700).unwrap();
    base.make_dir("a/b/c", true, 0o755).unwrap();
    base.make_dir("a/x/../y/z", true, 0o755).unwrap();
    base.make_dir(place.path("own/absolute"), true, 0o755).unwrap();
    base.make_dir(".", true, 0o755).unwrap();
    assert!(place.path("a/y/z").is_dir() && place.path("own/absolute").is_dir());
    assert_eq!(base.stat("a/b", Symlinks::Keep).unwrap().mode, 0o700);
    assert_eq!(kind(base.make_dir("a", false, 0o755)), ErrorKind::AlreadyExists);
    fs::write(place.path("f"), "").unwrap();
    assert_eq!(kind(base.make_dir("f", true, 0o755)), ErrorKind::NotADirectory);
    assert_eq!(kind(base.make_dir("f/g", true, 0o755)), ErrorKind::NotADirectory);
    symlink("nowhere", place.path("dangling")).unwrap();
    assert_eq!(kind(base.make_dir("dangling/x", true, 0o755)), ErrorKind::NotFound);
}

#[test]
fn renaming_replaces_only_if_asked() {
    let place = Place::new();
    let base = &place.base;
    fs::write(place.path("a"), "a").unwrap();
    fs::write(place.path("b"), "b").unwrap();
    assert_eq!(kind(base.rename("a", "b", false)), ErrorKind::AlreadyExists);
    base.rename("a", "b", true).unwrap();
    assert_eq!(read(base, "b").unwrap(), "a");
    assert_eq!(kind(base.rename("a", "c", true)), ErrorKind::NotFound);
    fs::create_dir_all(place.path("d/e")).unwrap();
    fs::create_dir(place.path("f")).unwrap();
    assert_eq!(kind(base.rename("f", "d", true)), ErrorKind::DirectoryNotEmpty);
    base.rename("b", "f/b", false).unwrap();
    assert_eq!(read(base, "f/b").unwrap(), "a");
}

#[test]
fn links_are_described_or_followed_as_asked() {
    let place = Place::new();
    let base = &place.base;
    fs::write(place.path("f"), "12345").unwrap();
    base.symlink("f", "l").unwrap();
    base.symlink("/anywhere/at/all", "m").unwrap();
    assert_eq!(base.stat("l", Symlinks::Keep).unwrap().kind, Kind::Symlink);
    assert_eq!(base.stat("l", Symlinks::Follow).unwrap().size, 5);
    assert_eq!(base.read_link("m").unwrap(), Path::new("/anywhere/at/all"));
    assert_eq!(kind(base.read_link("f")), ErrorKind::Unsupported);
    base.chmod("l", 0o4750).unwrap();
    assert_eq!(fs::metadata(place.path("f")).unwrap().permissions().mode() & 0o7777, 0o4750);
}

#[test]
fn a_closed_file_can_still_be_opened_up_by_its_owner() {
    let place = Place::new();
    fs::write(place.path("f"), "").unwrap();
    as_nobody(&place.path(""), || {
        fs::create_dir(place.path("d")).unwrap();
        place.base.chmod("d", 0).unwrap();
        assert_eq!(kind(place.base.read_dir("d")), ErrorKind::PermissionDenied);
        place.base.chmod("d", 0o700).unwrap();
        assert_eq!(place.base.read_dir("d").unwrap().count(), 0);
    });
}

#[test]
fn owners_are_changed_of_links_or_of_their_targets() {
    let place = Place::new();
    fs::write(place.path("f"), "").unwrap();
    symlink("f", place.path("l")).unwrap();
    assert_eq!(kind(place.base.chown("f", Some(u32::MAX), None, Symlinks::Follow)), ErrorKind::Unsupported);
    if !is_root() {
        return;
    }
    place.base.chown("l", Some(11), None, Symlinks::Keep).unwrap();
    place.base.chown("l", Some(22), Some(33), Symlinks::Follow).unwrap();
    assert_eq!(fs::symlink_metadata(place.path("l")).unwrap().uid(), 11);
    let target = fs::metadata(place.path("f")).unwrap();
    assert_eq!((target.uid(), target.gid()), (22, 33));
}

#[test]
fn a_listing_describes_links_and_does_not_follow_them() {
    let place = Place::new();
    fs::write(place.path("f"), "123").unwrap();
    symlink("../canary", place.path("l")).unwrap();
    fs::create_dir(place.path("d")).unwrap();
    let mut entries: Vec<_> = place.base.read_dir(".").unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let seen: Vec<_> = entries.iter().map(|entry| (entry.name.to_str().unwrap(), entry.metadata.kind, entry.target.clone())).collect();
    assert_eq!(seen, [("d", Kind::Directory, None), ("f", Kind::File, None), ("l", Kind::Symlink, Some(PathBuf::from("../canary")))]);
    assert_eq!(entries[1].metadata.size, 3);
}
