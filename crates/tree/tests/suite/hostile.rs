//! Archives that mean harm.

use crate::snapshot::{names, snapshot};
use crate::tarball::{Tarball, header};
use proptest::prelude::*;
use sandbar_tree::{ErrorKind, Kind, Limits, UnpackOptions, unpack, unpack_untrusted};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// A directory to unpack into, with a canary beside it.
struct Place {
    outer: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("into")).unwrap();
        fs::create_dir(outer.path().join("outside")).unwrap();
        fs::write(outer.path().join("outside/canary"), "outside").unwrap();
        Self { outer }
    }

    fn destination(&self) -> PathBuf {
        self.outer.path().join("into")
    }

    fn unpack(&self, archive: impl Read) -> Result<(), ErrorKind> {
        self.unpack_with(archive, &UnpackOptions::default())
    }

    fn unpack_with(&self, archive: impl Read, options: &UnpackOptions) -> Result<(), ErrorKind> {
        let outside = snapshot(&self.outer.path().join("outside"));
        let result = unpack(archive, File::open(self.destination()).unwrap(), options);
        assert_eq!(snapshot(&self.outer.path().join("outside")), outside);
        assert_eq!(fs::read_dir(self.outer.path()).unwrap().count(), 2);
        result.map(drop).map_err(|error| error.kind())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.destination().join(path)).unwrap()
    }
}

fn refused(archive: Tarball) {
    assert_eq!(Place::new().unpack(archive.done().as_slice()), Err(ErrorKind::Refused));
}

fn malformed(archive: Vec<u8>) {
    assert_eq!(Place::new().unpack(archive.as_slice()), Err(ErrorKind::Malformed));
}

#[test]
fn an_absolute_name_is_refused() {
    refused(Tarball::new().file("/etc/passwd", "x"));
    refused(Tarball::new().directory("/"));
    refused(Tarball::new().pax(&[("path", b"/etc/passwd")]).file("a", "x"));
}

#[test]
fn a_name_with_two_dots_is_refused_wherever_they_are() {
    for name in ["..", "../a", "a/../b", "a/..", "./../a", "a/../../outside/canary"] {
        refused(Tarball::new().file(name, "x"));
        refused(Tarball::new().directory(name));
        refused(Tarball::new().pax(&[("path", name.as_bytes())]).file("a", "x"));
        refused(Tarball::new().entry(EntryType::GNULongName, "././@LongLink", "", name.as_bytes()).file("a", "x"));
    }
}

#[test]
fn a_symlink_parent_is_refused() {
    for target in ["../outside", "/etc", ".", "b"] {
        refused(Tarball::new().directory("b").symlink("a", target).file("a/canary", "x"));
        refused(Tarball::new().directory("b").symlink("a", target).directory("a/d"));
        refused(Tarball::new().directory("b").symlink("a", target).symlink("a/l", "x"));
        refused(Tarball::new().directory("b/c").symlink("b/c/a", target).file("b/c/a/d/canary", "x"));
    }
}

#[test]
fn a_symlink_that_was_there_before_is_not_followed_either() {
    let place = Place::new();
    symlink("../outside", place.destination().join("a")).unwrap();
    assert_eq!(place.unpack(Tarball::new().file("a/canary", "x").done().as_slice()), Err(ErrorKind::Refused));
}

#[test]
fn a_directory_entry_replaces_a_symlink_and_then_has_contents() {
    let place = Place::new();
    symlink("../outside", place.destination().join("a")).unwrap();
    place.unpack(Tarball::new().directory("a").file("a/canary", "x").done().as_slice()).unwrap();
    assert_eq!(place.read("a/canary"), "x");
}

#[test]
fn a_file_replaces_a_symlink_and_does_not_write_through_it() {
    let place = Place::new();
    place.unpack(Tarball::new().symlink("a", "../outside/canary").file("a", "x").done().as_slice()).unwrap();
    assert_eq!(place.read("a"), "x");
}

#[test]
fn a_directory_replaced_by_a_symlink_is_not_remembered_as_a_directory() {
    refused(Tarball::new().file("a/one", "1").symlink("a", "../outside").file("a/canary", "x"));
    refused(Tarball::new().file("a/b/one", "1").symlink("a", "..").file("a/b/two", "x"));
}

#[test]
fn hard_links_lead_nowhere_outside() {
    refused(Tarball::new().hard_link("a", "../outside/canary"));
    refused(Tarball::new().hard_link("a", "/etc/passwd"));
    refused(Tarball::new().symlink("s", "../outside").hard_link("a", "s/canary"));
    refused(Tarball::new().directory("d").hard_link("a", "d"));
    refused(Tarball::new().hard_link("a", "."));
    malformed(Tarball::new().hard_link("a", "missing").done());
    malformed(Tarball::new().hard_link("a", "a").done());
    malformed(Tarball::new().hard_link("a", "").done());
}

#[test]
fn a_hard_link_to_a_symlink_names_the_link_and_writing_to_it_replaces_it() {
    let place = Place::new();
    let archive = Tarball::new().symlink("s", "../outside/canary").hard_link("a", "s").file("a", "x").done();
    place.unpack(archive.as_slice()).unwrap();
    assert_eq!(place.read("a"), "x");
    assert!(place.destination().join("s").is_symlink());
}

#[test]
fn a_file_over_a_hard_link_leaves_the_other_name_alone() {
    let place = Place::new();
    place.unpack(Tarball::new().file("a", "1").hard_link("b", "a").hard_link("b", "a").file("b", "2").done().as_slice()).unwrap();
    assert_eq!((place.read("a"), place.read("b")), ("1".into(), "2".into()));
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let place = Place::new();
    let archive = Tarball::new()
        .file("a", "1")
        .file("a", "2")
        .file("d/e/f", "x")
        .file("d", "was a directory")
        .file("f", "was a file")
        .file("f/g", "has a parent now")
        .symlink("l", "x")
        .directory("l")
        .directory("kept")
        .file("kept/x", "x")
        .directory("kept")
        .done();
    place.unpack(archive.as_slice()).unwrap();
    assert_eq!(place.read("a"), "2");
    assert_eq!(place.read("d"), "was a directory");
    assert_eq!(place.read("f/g"), "has a parent now");
    assert_eq!(place.read("kept/x"), "x");
    assert!(fs::symlink_metadata(place.destination().join("l")).unwrap().is_dir());
}

#[test]
fn devices_are_refused_unless_asked_for() {
    refused(Tarball::new().device("null", 1, 3));
    refused(Tarball::new().device("whiteout", 0, 0));
}

#[test]
fn devices_below_one_folder_can_be_left_out() {
    let unpacked = |tarball: Tarball| {
        let place = tempfile::tempdir().unwrap();
        let options = UnpackOptions { devices_left_out_of: Some("dev"), ..UnpackOptions::default() };
        let done = unpack(tarball.done().as_slice(), File::open(place.path()).unwrap(), &options);
        done.map(|unpacked| (unpacked.devices_skipped, place.path().join("dev").exists()))
    };
    assert_eq!(unpacked(Tarball::new().directory("dev/").device("./dev/null", 1, 3).device("dev/net/tun", 10, 200)).unwrap(), (2, true));
    for name in ["null", "dev", "usr/dev/null", "devices/null", "dev/../null"] {
        assert_eq!(unpacked(Tarball::new().device(name, 1, 3)).unwrap_err().kind(), ErrorKind::Refused, "{name}");
    }
}

#[test]
fn the_root_is_a_directory_or_refused() {
    refused(Tarball::new().symlink("./", "../outside"));
    refused(Tarball::new().hard_link(".", "a"));
    Place::new().unpack(Tarball::new().directory("./").done().as_slice()).unwrap();
}

#[test]
fn overlay_marks_of_a_stranger_are_dropped() {
    let place = Place::new();
    let archive = Tarball::new()
        .pax(&[
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.user.mine", b"kept"),
        ])
        .directory("d")
        .done();
    place.unpack(archive.as_slice()).unwrap();
    let attributes = &snapshot(&place.destination())[Path::new("d")].attributes;
    assert_eq!(attributes.keys().collect::<Vec<_>>(), [&b"user.mine".to_vec()]);
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let limit = |limits, archive: Tarball| {
        let place = Place::new();
        let options = UnpackOptions { limits, ..UnpackOptions::default() };
        assert_eq!(place.unpack_with(archive.done().as_slice(), &options), Err(ErrorKind::LimitExceeded));
        names(&snapshot(&place.destination())).len()
    };
    let limits = Limits { bytes: 1000, entries: 3, name: 10, path: 30 };
    assert_eq!(limit(limits, Tarball::new().file("a", &"x".repeat(1001))), 1);
    assert_eq!(limit(limits, Tarball::new().file("a", &"x".repeat(600)).file("b", &"x".repeat(600))), 2);
    let claim = header(EntryType::Regular, "a", "", u64::MAX >> 2);
    assert_eq!(limit(limits, Tarball::new().raw(claim, b"")), 1);
    assert_eq!(limit(limits, Tarball::new().file("a", "").file("b", "").file("c", "").file("d", "")), 4);
    assert_eq!(limit(limits, Tarball::new().file("elevenbytes", "")), 1);
    assert_eq!(limit(limits, Tarball::new().file("a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a", "")), 1);
    let sizes = Limits { bytes: u64::MAX, ..limits };
    assert_eq!(limit(sizes, Tarball::new().raw(header(EntryType::XHeader, "x", "", 1 << 40), b"")), 1);
    assert_eq!(limit(sizes, Tarball::new().raw(header(EntryType::GNULongName, "x", "", 1 << 40), b"")), 1);
    let chain = (0..20).fold(Tarball::new(), |archive, _| archive.pax(&[("comment", b"x")]));
    assert_eq!(limit(sizes, chain.file("a", "")), 1);
}

#[test]
fn a_huge_size_in_a_pax_record_is_no_way_around_the_limit() {
    let place = Place::new();
    let archive = Tarball::new().pax(&[("size", b"18446744073709551615")]).file("a", "x").done();
    assert_eq!(place.unpack(archive.as_slice()), Err(ErrorKind::LimitExceeded));
}

#[test]
fn damage_is_noticed() {
    let whole = Tarball::new().file("a", "content").file("b", "content").done();
    malformed(Vec::new());
    malformed(vec![b'x'; 2048]);
    malformed(Tarball::new().file("a", "content").cut());
    for cut in [100, 511, 512, 513, 1000, 1024, 1600, 2047] {
        malformed(whole[..cut].to_vec());
    }
    for flipped in [0, 100, 124, 148, 156] {
        let mut archive = whole.clone();
        archive[flipped] ^= 1;
        malformed(archive);
    }
    let mut gap = Tarball::new().file("a", "x").cut();
    gap.extend_from_slice(&[0; 512]);
    gap.extend_from_slice(&Tarball::new().file("b", "x").done());
    malformed(gap);
    malformed(Tarball::new().pax(&[("path", b"x")]).done());
    malformed(Tarball::new().pax(&[("path", b"a\0b")]).file("a", "").done());
    malformed(Tarball::new().pax(&[("path", b"")]).file("a", "").done());
    malformed(Tarball::new().pax(&[("size", b"-1")]).file("a", "").done());
    malformed(Tarball::new().symlink("a", "").done());
}

#[test]
fn a_single_empty_block_at_the_very_end_will_do() {
    let mut archive = Tarball::new().file("a", "x").cut();
    archive.extend_from_slice(&[0; 512]);
    Place::new().unpack(archive.as_slice()).unwrap();
}

#[test]
fn unusual_types_are_refused_by_name_and_not_misread() {
    for kind in [b'S', b'V', b'M', b'D', b'N', 255] {
        let archive = Tarball::new().entry(EntryType::new(kind), "a", "", b"").done();
        assert_eq!(Place::new().unpack(archive.as_slice()), Err(ErrorKind::Unsupported));
    }
    let archive = Tarball::new().pax(&[("GNU.sparse.major", b"1")]).file("a", "").done();
    assert_eq!(Place::new().unpack(archive.as_slice()), Err(ErrorKind::Unsupported));
}

#[test]
fn old_archives_are_read() {
    let place = Place::new();
    let old = |name: &str, size: u64| {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o700);
        header.set_size(size);
        header.as_old_mut().linkflag[0] = 0;
        header
    };
    let archive = Tarball::new().raw(old("d/", 0), b"").raw(old("d/f", 1), b"x").done();
    place.unpack(archive.as_slice()).unwrap();
    assert_eq!(place.read("d/f"), "x");
}

#[test]
fn a_closed_directory_still_gets_its_contents() {
    let place = Place::new();
    let mut closed = header(EntryType::Directory, "d/", "", 0);
    closed.set_mode(0o500);
    let archive = Tarball::new().raw(closed.clone(), b"").file("d/f", "x").directory("d/e").done();
    crate::person::as_nobody(&place.destination(), || place.unpack(archive.as_slice()).unwrap());
    let facts = snapshot(&place.destination());
    assert_eq!(facts[Path::new("d")].mode, 0o500);
    assert_eq!(facts[Path::new("d")].mtime.seconds, 1_000_000_000);
    assert_eq!(facts[Path::new("d/e")].kind, Kind::Directory);
}

#[test]
fn an_id_that_no_file_can_have_is_malformed() {
    let options = UnpackOptions { owner: sandbar_tree::Owner::Keep, ..UnpackOptions::default() };
    for uid in ["4294967295", "4294967296"] {
        let archive = Tarball::new().pax(&[("uid", uid.as_bytes())]).file("a", "").done();
        assert_eq!(Place::new().unpack_with(archive.as_slice(), &options), Err(ErrorKind::Malformed));
    }
}

#[derive(Clone, Debug)]
enum Step {
    File(String),
    Directory(String),
    Symlink(String, String),
    HardLink(String, String),
    Fifo(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "a", "b", ".", "..", "", "outside", "canary"]);
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        path().prop_map(Step::File),
        path().prop_map(Step::Directory),
        (path(), prop_oneof![path(), Just("../outside".into()), Just("../outside/canary".into())])
            .prop_map(|(name, target)| Step::Symlink(name, target)),
        (path(), path()).prop_map(|(name, target)| Step::HardLink(name, target)),
        path().prop_map(Step::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_entries_touches_the_outside(steps in prop::collection::vec(step(), 1..25)) {
        let place = Place::new();
        // One archive a step: what is refused must not end the attack.
        for step in steps {
            let archive = match &step {
                Step::File(name) => Tarball::new().file(name, "harm"),
                Step::Directory(name) => Tarball::new().directory(name),
                Step::Symlink(name, target) => Tarball::new().symlink(name, target),
                Step::HardLink(name, target) => Tarball::new().hard_link(name, target),
                Step::Fifo(name) => Tarball::new().entry(EntryType::Fifo, name, "", b""),
            };
            // The outcome is the archive's business; `unpack` here checks the outside.
            let _outcome = place.unpack(archive.done().as_slice());
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_touch_the_outside(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        fix_checksums in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let mut archive = Tarball::new()
            .directory("d")
            .pax(&[("path", b"d/long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"v")])
            .file("x", "content")
            .entry(EntryType::GNULongName, "././@LongLink", "", b"d/gnu\0")
            .symlink("y", "../outside")
            .hard_link("h", "d/long")
            .done();
        for (index, byte) in damage {
            let place = index.index(archive.len());
            archive[place] = byte;
        }
        if fix_checksums {
            for block in archive.chunks_mut(512).filter(|block| block[257..262] == *b"ustar") {
                let mut header = tar::Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let limits = Limits { bytes: 1 << 20, entries: 100, ..Limits::default() };
        for archive in [archive, noise] {
            let place = Place::new();
            let outside = snapshot(&place.outer.path().join("outside"));
            let _outcome = unpack_untrusted(&archive, File::open(place.destination()).unwrap(), limits);
            prop_assert_eq!(snapshot(&place.outer.path().join("outside")), outside);
            prop_assert_eq!(fs::read_dir(place.outer.path()).unwrap().count(), 2);
        }
    }
}
