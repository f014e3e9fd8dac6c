//! Trees packed and unpacked again.

use crate::person::is_root;
use crate::snapshot::{names, set_attribute, snapshot};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use sandbar_tree::{Base, ErrorKind, Limits, Owner, PackOptions, Packed, UnpackOptions, copy_tree, pack, remove_contents, unpack};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn base(path: &Path) -> Base {
    Base::jail(File::open(path).unwrap(), None)
}

fn packed(path: &Path) -> (Vec<u8>, Packed) {
    let mut archive = Vec::new();
    let report = pack(&base(path), ".", &mut archive, &PackOptions::default()).unwrap();
    (archive, report)
}

/// Everything kept that this process may keep.
fn faithful() -> UnpackOptions {
    let is_root = rustix::process::geteuid().is_root();
    UnpackOptions {
        owner: if is_root { Owner::Keep } else { Owner::Ignore },
        devices: true,
        set_id: true,
        capabilities: true,
        ..UnpackOptions::default()
    }
}

fn touch(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn everything_that_an_archive_can_hold_survives() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = from.path();
    let long = "n".repeat(255);
    let deep = root.join(&long).join(&long).join("x");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), vec![7; 100_000]).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"odd\n=\xff name")), "odd").unwrap();
    symlink("t".repeat(300), root.join("long link")).unwrap();
    symlink("nowhere", root.join("link")).unwrap();
    fs::hard_link(deep.join("f"), root.join("z hard")).unwrap();
    fs::hard_link(root.join("link"), root.join("z hard link to a link")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    set_attribute(&root.join("empty"), b"user.binary", b"\0\n\xff=");
    set_attribute(&root.join("empty"), b"user.none", b"");
    set_attribute(&deep, b"user.of a directory", &[b'v'; 2000]);
    fs::set_permissions(root.join("empty"), Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(&deep, Permissions::from_mode(0o1500)).unwrap();
    touch(&root.join("empty"), -5, 250_000_000);
    touch(&root.join("link"), 1, 1);
    touch(&root.join("pipe"), 8_589_934_593, 0);
    touch(&deep, 99, 999_999_999);
    touch(root, 77, 0);

    let (archive, report) = packed(root);
    assert_eq!((report.sockets, report.changed, report.attributes_skipped), (1, 0, 0));
    let unpacked = unpack(archive.as_slice(), File::open(to.path()).unwrap(), &faithful()).unwrap();
    assert_eq!((unpacked.entries, unpacked.attributes_skipped), (report.entries, 0));
    assert_eq!((unpacked.files, unpacked.bytes), (report.files, report.bytes));
    fs::remove_file(root.join("socket")).unwrap();
    touch(root, 77, 0);
    assert_eq!(snapshot(to.path()), snapshot(root));
    assert_eq!(packed(to.path()).0, archive);
    // What an ordinary user has closed, `TempDir` cannot remove.
    for place in [&from, &to] {
        remove_contents(File::open(place.path()).unwrap()).unwrap();
    }
}

#[test]
fn owners_devices_and_capabilities_survive_as_root() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = from.path().join("f");
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(4_000_000_000)).unwrap();
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, effective; it holds the byte 0x0a no less than others.
    let capability = [1, 0, 0, 2, 0, 4, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_attribute(&file, b"security.capability", &capability);
    mknodat(CWD, from.path().join("null"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).unwrap();
    mknodat(CWD, from.path().join("gone"), FileType::CharacterDevice, Mode::RUSR, 0).unwrap();
    mknodat(CWD, from.path().join("disk"), FileType::BlockDevice, Mode::RUSR, rustix::fs::makedev(4000, 1_000_000)).unwrap();
    let (archive, _) = packed(from.path());
    unpack(archive.as_slice(), File::open(to.path()).unwrap(), &faithful()).unwrap();
    assert_eq!(snapshot(to.path()), snapshot(from.path()));
}

#[test]
fn untrusting_options_drop_owners_special_bits_and_capabilities() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("f"), "x").unwrap();
    if is_root() {
        std::os::unix::fs::chown(from.path().join("f"), Some(1234), Some(1234)).unwrap();
        set_attribute(&from.path().join("f"), b"security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    fs::set_permissions(from.path().join("f"), Permissions::from_mode(0o6755)).unwrap();
    let (archive, _) = packed(from.path());
    unpack(archive.as_slice(), File::open(to.path()).unwrap(), &UnpackOptions::default()).unwrap();
    let fact = &snapshot(to.path())[Path::new("f")];
    assert_eq!(fact.mode, 0o755);
    assert_eq!(fact.owner.0, rustix::process::geteuid().as_raw());
    assert!(fact.attributes.is_empty());
}

#[test]
fn fixed_owners_hold_for_made_parents_too() {
    if !is_root() {
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let archive = crate::tarball::Tarball::new().file("a/b", "x").symlink("a/l", "b").directory("c/d").done();
    let options = UnpackOptions { owner: Owner::Fixed { uid: 11, gid: 22 }, ..UnpackOptions::default() };
    unpack(archive.as_slice(), File::open(to.path()).unwrap(), &options).unwrap();
    for (path, fact) in snapshot(to.path()).iter().filter(|(path, _)| *path != Path::new(".")) {
        assert_eq!(fact.owner, (11, 22), "{path:?}");
    }
}

#[test]
fn a_single_file_is_packed_under_its_name_and_a_link_as_a_link() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("d")).unwrap();
    fs::write(from.path().join("d/f"), "x").unwrap();
    symlink("d", from.path().join("l")).unwrap();
    for (path, expected) in [("d/f", &[".", "f"][..]), ("l", &[".", "l"]), ("l/.", &[".", "f"]), ("d", &[".", "f"])] {
        let to = tempfile::tempdir_in(to.path()).unwrap();
        let mut archive = Vec::new();
        let options = PackOptions { root_entry: false, ..PackOptions::default() };
        pack(&base(from.path()), path, &mut archive, &options).unwrap();
        unpack(archive.as_slice(), File::open(to.path()).unwrap(), &faithful()).unwrap();
        assert_eq!(names(&snapshot(to.path())), expected.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
    }
}

#[test]
fn a_path_too_long_for_any_archive_is_an_error_that_says_so() {
    let from = tempfile::tempdir().unwrap();
    let mut here: std::os::fd::OwnedFd = File::open(from.path()).unwrap().into();
    for _ in 0..25 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&here, &name, Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    let error = pack(&base(from.path()), ".", io::sink(), &PackOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
}

/// Changes a file's size when part of it has been read.
struct Meddling<'path> {
    archive: Vec<u8>,
    file: &'path Path,
    size: u64,
}

impl Write for Meddling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.archive.extend_from_slice(bytes);
        if self.archive.len() > 100_000 {
            File::options().write(true).open(self.file)?.set_len(self.size)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_size_meanwhile_gives_a_whole_archive_and_is_told() {
    for size in [100, 1_500_000] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = from.path().join("f");
        fs::write(&file, vec![7; 1_000_000]).unwrap();
        fs::write(from.path().join("g"), "after").unwrap();
        let mut output = Meddling { archive: Vec::new(), file: &file, size };
        let report = pack(&base(from.path()), ".", &mut output, &PackOptions::default()).unwrap();
        assert_eq!((report.changed, report.changed_paths), (1, vec![PathBuf::from("f")]));
        unpack(output.archive.as_slice(), File::open(to.path()).unwrap(), &UnpackOptions::default()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("g")).unwrap(), "after");
        let unpacked = fs::read(to.path().join("f")).unwrap();
        assert_eq!(unpacked.len(), 1_000_000);
        assert_eq!(unpacked[999_999], if size == 100 { 0 } else { 7 });
    }
}

#[derive(Clone, Debug)]
enum Plant {
    File { content: Vec<u8>, mode: u32, attribute: Option<Vec<u8>> },
    Directory { mode: u32 },
    Symlink { target: OsString },
    HardLink { to: usize },
    Fifo,
}

fn name() -> impl Strategy<Value = OsString> {
    prop_oneof![
        4 => "[a-c]".prop_map(OsString::from),
        1 => "[ -.0-~]{1,30}".prop_map(OsString::from),
        1 => prop::collection::vec(prop_oneof![1u8..=b'.', b'0'..=255], 1..120).prop_map(OsString::from_vec),
        1 => (90usize..=255).prop_map(|length| OsString::from("n".repeat(length))),
    ]
    .prop_filter("dots are no names", |name| name != "." && name != "..")
}

fn plant() -> impl Strategy<Value = Plant> {
    prop_oneof![
        3 => (prop::collection::vec(any::<u8>(), 0..2000), 0o400u32..0o7777, prop::option::of(prop::collection::vec(any::<u8>(), 0..100)))
            .prop_map(|(content, mode, attribute)| Plant::File { content, mode: mode | 0o400, attribute }),
        3 => (0u32..0o7777).prop_map(|mode| Plant::Directory { mode: mode | 0o500 }),
        1 => prop::collection::vec(1u8..=255, 1..300).prop_map(|target| Plant::Symlink { target: OsString::from_vec(target) }),
        1 => any::<prop::sample::Index>().prop_map(|to| Plant::HardLink { to: to.index(64) }),
        1 => Just(Plant::Fifo),
    ]
}

type Garden = Vec<(usize, OsString, Plant, i64, u32)>;

/// Grows a tree: each plant in one of the directories so far; names that are taken are passed over.
fn grow(root: &Path, garden: &Garden) {
    let mut directories = vec![root.to_owned()];
    let mut others = Vec::new();
    let mut modes = Vec::new();
    let mut times = Vec::new();
    let mut taken = BTreeSet::new();
    for (place, name, plant, seconds, nanoseconds) in garden {
        let path = directories[place % directories.len()].join(name);
        if path.as_os_str().len() > 3000 || !taken.insert(path.clone()) {
            continue;
        }
        match plant {
            Plant::File { content, mode, attribute } => {
                fs::write(&path, content).unwrap();
                if let Some(value) = attribute {
                    set_attribute(&path, b"user.some", value);
                }
                fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
                others.push(path.clone());
            }
            Plant::Directory { mode } => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
                modes.push((path.clone(), *mode));
            }
            Plant::Symlink { target } => {
                symlink(target, &path).unwrap();
                others.push(path.clone());
            }
            Plant::HardLink { to } => match others.get(to % others.len().max(1)) {
                Some(target) => fs::hard_link(target, &path).unwrap(),
                None => continue,
            },
            Plant::Fifo => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
        }
        times.push((path, *seconds, *nanoseconds));
    }
    for (path, seconds, nanoseconds) in times {
        touch(&path, seconds, nanoseconds);
    }
    for (path, mode) in modes.into_iter().rev() {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

fn garden() -> impl Strategy<Value = Garden> {
    prop::collection::vec((0usize..64, name(), plant(), -2_000_000_000i64..4_000_000_000, 0u32..1_000_000_000), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_the_same_after_packing_unpacking_and_copying(garden in garden()) {
        let place = tempfile::tempdir().unwrap();
        let [from, to, copy] = ["from", "to", "copy"].map(|name| place.path().join(name));
        for path in [&from, &to, &copy] {
            fs::create_dir(path).unwrap();
        }
        grow(&from, &garden);
        let before = snapshot(&from);
        let (archive, report) = packed(&from);
        prop_assert_eq!(report.changed, 0);
        let limits = Limits { bytes: 1 << 30, entries: report.entries, ..Limits::default() };
        let options = UnpackOptions { limits, ..faithful() };
        unpack(archive.as_slice(), File::open(&to).unwrap(), &options).unwrap();
        prop_assert_eq!(snapshot(&to), before.clone());
        prop_assert_eq!(packed(&to).0, archive.clone());
        // Once more over what is there: the same.
        unpack(archive.as_slice(), File::open(&to).unwrap(), &options).unwrap();
        prop_assert_eq!(snapshot(&to), before.clone());
        copy_tree(File::open(&from).unwrap(), File::open(&copy).unwrap()).unwrap();
        prop_assert_eq!(snapshot(&copy), before);
        // What an ordinary user has closed, `TempDir` cannot remove.
        remove_contents(File::open(place.path()).unwrap()).unwrap();
    }
}
