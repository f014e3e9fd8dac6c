//! What an overlay of several layers shows, packed without mounting one.

use crate::person::is_root;
use crate::snapshot::{Snapshot, names, set_attribute, snapshot};
use crate::tarball::Tarball;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sandbar_tree::{
    Below, ErrorKind, MergeOptions, OverlayNamespace, Owner, PackOptions, PackWhiteouts, Packed, Result, Shown, UnpackOptions, Whiteouts,
    pack_merged, unpack,
};
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn merged(layers: &[PathBuf], shown: &[Shown]) -> Result<(Vec<u8>, Packed)> {
    let pack = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
    merged_as(layers, &MergeOptions { shown, pack, ..MergeOptions::default() })
}

fn merged_as(layers: &[PathBuf], options: &MergeOptions<'_>) -> Result<(Vec<u8>, Packed)> {
    let layers: Vec<OwnedFd> = layers.iter().map(|layer| open(layer)).collect();
    let mut archive = Vec::new();
    pack_merged(&layers, options, &mut archive).map(|packed| (archive, packed))
}

fn unpacked(archive: &[u8], into: &Path) -> Snapshot {
    let owner = if rustix::process::geteuid().is_root() { Owner::Keep } else { Owner::Ignore };
    unpack(archive, File::open(into).unwrap(), &UnpackOptions { owner, set_id: true, ..UnpackOptions::default() }).unwrap();
    snapshot(into)
}

/// Layers with everything that one may do to those below it.
fn layers(place: &Path) -> Vec<PathBuf> {
    let archives = [
        Tarball::new()
            .file("kept/low", "1")
            .file("changed", "1")
            .file("removed", "1")
            .file("gone/below/file", "1")
            .file("replaced/old", "1")
            .file("folder to file/x", "1")
            .file("file to folder", "1")
            .file("twice/a", "1")
            .file("back", "1"),
        Tarball::new()
            .file("kept/high", "2")
            .file("changed", "2")
            .file(".wh.removed", "")
            .file(".wh.gone", "")
            .file("replaced/.wh..wh..opq", "")
            .file("replaced/new", "2")
            .file("folder to file", "2")
            .file("file to folder/y", "2")
            .file("twice/.wh.a", "")
            .file(".wh.back", ""),
        Tarball::new().file("kept/top", "3").file("replaced/top", "3").file("twice/a", "3").file("back", "3").file("gone/anew", "3"),
    ];
    let options = UnpackOptions { whiteouts: Whiteouts::Oci(OverlayNamespace::User), ..UnpackOptions::default() };
    let unpack_into = |(number, archive): (usize, Tarball)| {
        let path = place.join(format!("layer-{number}"));
        fs::create_dir(&path).unwrap();
        unpack(archive.done().as_slice(), File::open(&path).unwrap(), &options).unwrap();
        path
    };
    archives.into_iter().enumerate().map(unpack_into).collect()
}

#[test]
fn upper_layers_hide_replace_and_add() {
    let place = tempfile::tempdir().unwrap();
    let layers = layers(place.path());
    set_attribute(&layers[2].join("kept/top"), b"user.mark", b"x");
    fs::set_permissions(layers[2].join("kept"), Permissions::from_mode(0o751)).unwrap();
    fs::hard_link(layers[0].join("kept/low"), layers[0].join("kept/link")).unwrap();
    symlink("anywhere", layers[1].join("kept/soft")).unwrap();
    let (archive, packed) = merged(&layers, &[]).unwrap();
    assert_eq!((packed.changed, packed.left_out), (0, 0));
    let into = place.path().join("into");
    fs::create_dir(&into).unwrap();
    let facts = unpacked(&archive, &into);
    let expected = [
        ".",
        "back",
        "changed",
        "file to folder",
        "file to folder/y",
        "folder to file",
        "gone",
        "gone/anew",
        "kept",
        "kept/high",
        "kept/link",
        "kept/low",
        "kept/soft",
        "kept/top",
        "replaced",
        "replaced/new",
        "replaced/top",
        "twice",
        "twice/a",
    ];
    assert_eq!(names(&facts), expected.map(str::as_bytes));
    for (path, content) in [("back", "3"), ("changed", "2"), ("twice/a", "3"), ("folder to file", "2"), ("kept/low", "1")] {
        assert_eq!(facts[Path::new(path)].content, content.as_bytes(), "{path}");
    }
    assert_eq!(facts[Path::new("kept")].mode, 0o751);
    assert_eq!(facts[Path::new("kept/top")].attributes[&b"user.mark"[..]], b"x");
    assert_eq!(facts[Path::new("kept/low")].same_as, Path::new("kept/link"));
}

#[test]
fn it_is_what_the_kernels_overlay_shows() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let layers = layers(place.path());
    let (into, mounted) = (place.path().join("into"), place.path().join("mounted"));
    fs::create_dir(&into).unwrap();
    fs::create_dir(&mounted).unwrap();
    let lower: Vec<String> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={},userxattr", lower.join(":"))).unwrap();
    mount("overlay", &mounted, "overlay", MountFlags::RDONLY, options.as_c_str()).unwrap();
    let shown = snapshot(&mounted);
    unmount(&mounted, UnmountFlags::DETACH).unwrap();
    assert_eq!(unpacked(&merged(&layers, &[]).unwrap().0, &into), shown);
}

#[test]
fn layers_that_became_one_do_to_those_below_what_they_did() {
    let place = tempfile::tempdir().unwrap();
    let layers = layers(place.path());
    let into = place.path().join("into");
    fs::create_dir(&into).unwrap();
    let whole = unpacked(&merged(&layers, &[]).unwrap().0, &into);
    let oci = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
    let (archive, _) = merged_as(&layers[1..], &MergeOptions { below: Below::Layers, pack: oci, ..MergeOptions::default() }).unwrap();
    let (one, again) = (place.path().join("one"), place.path().join("again"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&again).unwrap();
    let options = UnpackOptions { whiteouts: Whiteouts::Oci(OverlayNamespace::User), ..UnpackOptions::default() };
    unpack(archive.as_slice(), File::open(&one).unwrap(), &options).unwrap();
    assert_eq!(unpacked(&merged(&[layers[0].clone(), one], &[]).unwrap().0, &again), whole);
    // In overlayfs's own form the same directories are marked.
    let (archive, _) = merged_as(&layers[1..], &MergeOptions { below: Below::Layers, ..MergeOptions::default() }).unwrap();
    let marks = archive.windows(24).filter(|window| *window == b"trusted.overlay.opaque=y").count();
    assert_eq!(marks, 2, "`replaced` and `gone`");
}

#[test]
fn owners_are_told_or_everything_is_roots() {
    let place = tempfile::tempdir().unwrap();
    let layer = place.path().join("layer");
    fs::create_dir_all(layer.join("folder")).unwrap();
    fs::write(layer.join("folder/file"), "x").unwrap();
    fs::hard_link(layer.join("folder/file"), layer.join("link")).unwrap();
    for name in ["folder", "folder/file"] {
        // Only root may give files away; others see their own id become root's.
        let _ = chown(layer.join(name), Some(1234), Some(2345));
    }
    let own = layer.join("folder").metadata().unwrap();
    let owners = |as_root| {
        let pack = PackOptions { as_root, ..PackOptions::default() };
        let (archive, _) = merged_as(std::slice::from_ref(&layer), &MergeOptions { pack, ..MergeOptions::default() }).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        let of = |entry: tar::Entry<'_, _>| (entry.header().uid().unwrap(), entry.header().gid().unwrap());
        entries.map(of).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(owners(false).contains(&(own.uid().into(), own.gid().into())));
    assert_eq!(owners(true), [(0, 0)].into());
}

#[test]
fn of_a_shown_directory_only_what_is_for_everybody_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let (layer, host, into) = (place.path().join("layer"), place.path().join("host"), place.path().join("into"));
    for folder in [&layer, &host, &into] {
        fs::create_dir(folder).unwrap();
    }
    fs::create_dir_all(layer.join("usr/of-the-layer")).unwrap();
    fs::write(layer.join("file"), "layer").unwrap();
    fs::create_dir_all(host.join("open/below")).unwrap();
    fs::create_dir(host.join("closed")).unwrap();
    fs::write(host.join("closed/secret"), "x").unwrap();
    fs::write(host.join("secret"), "x").unwrap();
    fs::write(host.join("program"), "x").unwrap();
    symlink("program", host.join("link")).unwrap();
    mknodat(CWD, host.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for (path, mode) in [("closed", 0o700), ("secret", 0o640), ("program", 0o6755), ("open", 0o755), ("open/below", 0o755), ("", 0o755)] {
        fs::set_permissions(host.join(path), Permissions::from_mode(mode)).unwrap();
    }
    set_attribute(&host.join("program"), b"user.mark", b"x");
    let shown = Shown { name: "usr".into(), directory: open(&host) };
    let (archive, packed) = merged(&[layer], &[shown]).unwrap();
    assert_eq!(packed.left_out, 3);
    let facts = unpacked(&archive, &into);
    assert_eq!(names(&facts), [&b"."[..], b"file", b"usr", b"usr/link", b"usr/open", b"usr/open/below", b"usr/program"]);
    let program = &facts[Path::new("usr/program")];
    assert_eq!((program.mode, program.attributes.len()), (0o755, 0));
    fs::set_permissions(host.join("closed"), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let marked = place.path().join("marked");
    fs::create_dir_all(&marked).unwrap();
    fs::write(marked.join(".wh.name"), "").unwrap();
    assert_eq!(merged(&[marked], &[]).unwrap_err().kind(), ErrorKind::Unsupported);
    let redirected = place.path().join("redirected");
    fs::create_dir_all(redirected.join("folder")).unwrap();
    set_attribute(&redirected.join("folder"), b"user.overlay.redirect", b"/etc");
    assert_eq!(merged(&[redirected], &[]).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_whiteout_in_the_lowest_layer_shows_nothing() {
    let place = tempfile::tempdir().unwrap();
    mknodat(CWD, place.path().join("gone"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
    let (archive, packed) = merged(&[place.path().to_owned()], &[]).unwrap();
    assert_eq!(packed.entries, 1);
    assert!(!archive.windows(4).any(|window| window == b"gone"));
}
