//! OCI whiteouts and overlayfs's marks.

use crate::person::is_root;
use crate::snapshot::{attributes, names, set_attribute, snapshot};
use crate::tarball::Tarball;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sandbar_tree::{
    Base, ErrorKind, Kind, OverlayNamespace, PackOptions, PackWhiteouts, Result, UnpackOptions, Unpacked, Whiteouts, pack, unpack,
};
use std::fs::{self, File};
use std::path::Path;
use tar::EntryType;

const WHITEOUT: Kind = Kind::CharDevice { major: 0, minor: 0 };

fn layer(into: &Path, archive: Tarball) -> Result<Unpacked> {
    // `user.overlay.*` needs no privilege, and neither does making a whiteout since Linux 5.8.
    let options = UnpackOptions { whiteouts: Whiteouts::Oci(OverlayNamespace::User), ..UnpackOptions::default() };
    unpack(archive.done().as_slice(), File::open(into).unwrap(), &options)
}

fn is_opaque(path: &Path) -> bool {
    attributes(path).get(&b"user.overlay.opaque"[..]).is_some_and(|value| value == b"y")
}

fn packed(path: &Path, options: &PackOptions) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    pack(&Base::jail(File::open(path).unwrap(), None), ".", &mut archive, options).map(|_| archive)
}

const OCI: PackOptions = PackOptions { whiteouts: PackWhiteouts::Oci, overlay_attributes: false, root_entry: true, as_root: false };

#[test]
fn whiteouts_become_devices_and_opaque_markers_attributes() {
    let place = tempfile::tempdir().unwrap();
    layer(place.path(), Tarball::new().file("a/.wh.gone", "").file("b/.wh..wh..opq", "").file("b/new", "x")).unwrap();
    let facts = snapshot(place.path());
    assert_eq!(facts[Path::new("a/gone")].kind, WHITEOUT);
    assert!(is_opaque(&place.path().join("b")));
    assert_eq!(names(&facts), [&b"."[..], b"a", b"a/gone", b"b", b"b/new"]);
}

#[test]
fn the_root_itself_may_be_opaque() {
    let place = tempfile::tempdir().unwrap();
    layer(place.path(), Tarball::new().file(".wh..wh..opq", "")).unwrap();
    assert!(is_opaque(place.path()));
}

#[test]
fn a_whiteout_hides_the_layers_below_and_not_its_own() {
    for directory_first in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let archive = Tarball::new();
        let archive = if directory_first {
            archive.file("d/f", "x").file(".wh.d", "").file("g", "x").file(".wh.g", "")
        } else {
            archive.file(".wh.d", "").file("d/f", "x").file(".wh.g", "").file("g", "x")
        };
        layer(place.path(), archive).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("d/f")).unwrap(), "x");
        assert!(is_opaque(&place.path().join("d")), "what lower layers have in `d` is hidden");
        assert_eq!(fs::read_to_string(place.path().join("g")).unwrap(), "x");
    }
    let place = tempfile::tempdir().unwrap();
    layer(place.path(), Tarball::new().file(".wh.d", "").directory("d")).unwrap();
    assert!(is_opaque(&place.path().join("d")));
}

#[test]
fn whiteouts_with_odd_names_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", ".wh.../x", ".wh.x/y", "a/.wh.x/y"] {
        let place = tempfile::tempdir().unwrap();
        let error = layer(place.path(), Tarball::new().file(name, "")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}");
        assert_eq!(names(&snapshot(place.path())), [b"."], "{name}");
    }
}

#[test]
fn whiteouts_that_are_not_plain_files_are_refused() {
    let place = tempfile::tempdir().unwrap();
    for archive in [
        Tarball::new().directory(".wh.a"),
        Tarball::new().symlink(".wh.a", "x"),
        Tarball::new().symlink(".wh..wh..opq", "x"),
        Tarball::new().file("f", "").hard_link(".wh.a", "f"),
        Tarball::new().file(".wh.a", "").hard_link("f", ".wh.a"),
        Tarball::new().entry(EntryType::Fifo, ".wh.a", "", b""),
    ] {
        assert_eq!(layer(place.path(), archive).unwrap_err().kind(), ErrorKind::Refused);
    }
}

#[test]
fn a_whiteout_through_a_symlink_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    let [into, outside] = ["into", "outside"].map(|name| outer.path().join(name));
    fs::create_dir(&into).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "").unwrap();
    let before = snapshot(&outside);
    for name in ["a/.wh.canary", "a/.wh..wh..opq"] {
        let error = layer(&into, Tarball::new().symlink("a", "../outside").file(name, "")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    assert_eq!(snapshot(&outside), before);
}

#[test]
fn leftovers_of_aufs_are_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let archive = Tarball::new().directory(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "").file("f", "");
    assert_eq!(layer(place.path(), archive).unwrap().markers_skipped, 3);
    assert_eq!(names(&snapshot(place.path())), [&b"."[..], b"f"]);
}

#[test]
fn outside_of_layers_the_mark_is_a_name_or_refused() {
    let place = tempfile::tempdir().unwrap();
    let archive = Tarball::new().file(".wh.a", "text").done();
    unpack(archive.as_slice(), File::open(place.path()).unwrap(), &UnpackOptions::default()).unwrap();
    assert_eq!(fs::read_to_string(place.path().join(".wh.a")).unwrap(), "text");
    let options = UnpackOptions { whiteouts: Whiteouts::Refuse, ..UnpackOptions::default() };
    let error = unpack(archive.as_slice(), File::open(place.path()).unwrap(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn an_upper_layer_is_packed_for_oci_and_comes_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("d/e")).unwrap();
    fs::write(from.path().join("d/f"), "x").unwrap();
    set_attribute(&from.path().join("d/e"), b"user.overlay.opaque", b"y");
    set_attribute(&from.path().join("d/f"), b"user.overlay.origin", b"o");
    let longest = "n".repeat(255);
    for name in ["gone", &longest] {
        mknodat(CWD, from.path().join("d").join(name), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }
    let archive = packed(from.path(), &OCI).unwrap();
    let mut entries: Vec<_> = tar::Archive::new(archive.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
        .collect();
    entries.sort();
    let marked = format!("d/.wh.{longest}");
    assert_eq!(entries, ["./", "d/", "d/.wh.gone", &marked, "d/e/", "d/e/.wh..wh..opq", "d/f"]);

    let options = UnpackOptions { whiteouts: Whiteouts::Oci(OverlayNamespace::User), ..UnpackOptions::default() };
    unpack(archive.as_slice(), File::open(to.path()).unwrap(), &options).unwrap();
    assert!(is_opaque(&to.path().join("d/e")) && !is_opaque(&to.path().join("d")));
    assert_eq!(snapshot(to.path())[Path::new("d/gone")].kind, WHITEOUT);
    assert_eq!(snapshot(to.path())[Path::new("d").join(longest).as_path()].kind, WHITEOUT);
    assert!(attributes(&to.path().join("d/f")).is_empty());
}

#[test]
fn what_an_oci_layer_cannot_say_is_unsupported() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    set_attribute(&place.path().join("d"), b"user.overlay.redirect", b"/e");
    assert_eq!(packed(place.path(), &OCI).unwrap_err().kind(), ErrorKind::Unsupported);
    packed(place.path(), &PackOptions::default()).unwrap();
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join(".wh.f"), "").unwrap();
    assert_eq!(packed(place.path(), &OCI).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn overlay_attributes_travel_only_if_both_sides_ask() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("d")).unwrap();
    set_attribute(&from.path().join("d"), b"user.overlay.opaque", b"y");
    let asked = PackOptions { overlay_attributes: true, ..PackOptions::default() };
    for (options, take, expected) in [(asked, true, true), (asked, false, false), (PackOptions::default(), true, false)] {
        let to = tempfile::tempdir().unwrap();
        let archive = packed(from.path(), &options).unwrap();
        let options = UnpackOptions { overlay_attributes: take, ..UnpackOptions::default() };
        unpack(archive.as_slice(), File::open(to.path()).unwrap(), &options).unwrap();
        assert_eq!(is_opaque(&to.path().join("d")), expected);
    }
}

#[test]
fn trusted_marks_are_made_as_root() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let options = UnpackOptions { whiteouts: Whiteouts::Oci(OverlayNamespace::Trusted), ..UnpackOptions::default() };
    let archive = Tarball::new().file("d/.wh..wh..opq", "").done();
    unpack(archive.as_slice(), File::open(place.path()).unwrap(), &options).unwrap();
    assert_eq!(attributes(&place.path().join("d"))[&b"trusted.overlay.opaque".to_vec()], b"y");
}
