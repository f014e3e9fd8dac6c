//! Images made to do harm, and damaged ones: refused, and nothing is left.

use std::fs;

use libtest_mimic::Trial;
use sandbar_core::ErrorKind;
use sandbar_runtime::image::{Digest, ImageLimits};

use crate::{
    build::{Image, Layout, Tar, gzip, plain_tree, zstd},
    case,
    store::{Fresh, block},
};

pub(crate) fn cases() -> Vec<Trial> {
    vec![
        case("hostile::names_that_leave_the_layer_are_refused", names_that_leave_the_layer_are_refused),
        case("hostile::links_out_of_the_layer_are_refused_or_harmless", links_out_of_the_layer_are_refused_or_harmless),
        case("hostile::devices_outside_dev_are_refused", devices_outside_dev_are_refused),
        case("hostile::devices_in_dev_are_left_out", devices_in_dev_are_left_out),
        case("hostile::whiteouts_that_reach_outside_are_refused", whiteouts_that_reach_outside_are_refused),
        case("hostile::bombs_are_refused", bombs_are_refused),
        case("hostile::too_many_entries_are_refused", too_many_entries_are_refused),
        case("hostile::a_bad_layer_takes_the_good_ones_before_it_along", a_bad_layer_takes_the_good_ones_before_it_along),
        case("hostile::damaged_blobs_are_told_by_their_digest", damaged_blobs_are_told_by_their_digest),
        case(
            "hostile::content_that_is_not_what_the_configuration_says_is_refused",
            content_that_is_not_what_the_configuration_says_is_refused,
        ),
        case("hostile::documents_that_do_not_agree_are_refused", documents_that_do_not_agree_are_refused),
        case("hostile::a_layout_cannot_lend_files_of_the_host", a_layout_cannot_lend_files_of_the_host),
        case("hostile::what_is_no_image_is_refused", what_is_no_image_is_refused),
    ]
}

/// Imports an archive as a tree and as a layer of a layout; both are refused with this kind, and nothing is left.
fn refused(archive: &[u8], kind: ErrorKind) {
    let fresh = Fresh::new();
    let outside = tempfile::tempdir().unwrap();
    let tar = outside.path().join("tree.tar");
    fs::write(&tar, archive).unwrap();
    let layout = outside.path().join("layout");
    Layout::of(&layout, "t", &Image::new(&[archive.to_vec()]));
    fs::write(outside.path().join("sentinel"), "untouched").unwrap();
    let before = fresh.listing();
    for source in [&tar, &layout] {
        let error = fresh.import(source, Some("bad")).unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert_eq!(fresh.listing(), before);
    }
    assert_eq!(block(fresh.store.resolve(Some("bad"))).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_to_string(outside.path().join("sentinel")).unwrap(), "untouched");
}

fn names_that_leave_the_layer_are_refused() {
    for name in ["../evil", "a/../../evil", "..", "/etc/evil", "a/.."] {
        refused(&Tar::new().file("ok", b"").file(name, b"x").done(), ErrorKind::Corrupt);
    }
}

fn links_out_of_the_layer_are_refused_or_harmless() {
    // Through a link to outside, by a file, a folder, and a hard link.
    for last in [Tar::file as fn(Tar, &str, &[u8]) -> Tar, |tar, name, _| tar.folder(name)] {
        refused(&last(Tar::new().symlink("out", "/tmp"), "out/evil", b"x").done(), ErrorKind::Corrupt);
        refused(&last(Tar::new().symlink("up", ".."), "up/evil", b"x").done(), ErrorKind::Corrupt);
    }
    refused(&Tar::new().hard_link("passwd", "/etc/passwd").done(), ErrorKind::Corrupt);
    refused(&Tar::new().hard_link("passwd", "../../../../etc/passwd").done(), ErrorKind::Corrupt);
    refused(&Tar::new().symlink("out", "/etc").hard_link("passwd", "out/passwd").done(), ErrorKind::Corrupt);
    // A link by itself is what every image has.
    let fresh = Fresh::new();
    let tar = fresh.folder.path().join("t.tar");
    fs::write(&tar, Tar::new().symlink("out", "/etc/shadow").done()).unwrap();
    fresh.import(&tar, Some("links")).unwrap();
    assert!(fs::symlink_metadata(fresh.root("links").layers[0].join("out")).unwrap().is_symlink());
}

fn devices_outside_dev_are_refused() {
    for name in ["null", "./usr/null", "devices/null", "usr/dev/null"] {
        refused(&Tar::new().device(name).done(), ErrorKind::Corrupt);
    }
}

fn devices_in_dev_are_left_out() {
    let fresh = Fresh::new();
    let tar = fresh.folder.path().join("t.tar");
    fs::write(&tar, Tar::new().folder("./dev/").device("./dev/null").device("dev/net/tun").file("./dev/file", b"x").done()).unwrap();
    fresh.import(&tar, Some("devices")).unwrap();
    let tree = fresh.root("devices").layers[0].clone();
    assert!(tree.join("dev/file").exists());
    assert!(!tree.join("dev/null").exists() && !tree.join("dev/net/tun").exists());
}

fn whiteouts_that_reach_outside_are_refused() {
    for name in ["../.wh.evil", ".wh...", ".wh..", ".wh.", "a/.wh.b/c"] {
        refused(&Tar::new().file("ok", b"").file(name, b"").done(), ErrorKind::Corrupt);
    }
    refused(&Tar::new().symlink("out", "/tmp").file("out/.wh.evil", b"").done(), ErrorKind::Corrupt);
    refused(&Tar::new().folder("a/").symlink("a/.wh.b", "/etc").done(), ErrorKind::Corrupt);
}

fn bombs_are_refused() {
    let limits = ImageLimits { free_bytes: 1 << 20, expansion: 20, ..ImageLimits::default() };
    let tree = Tar::new().file("zeros", &vec![0; 16 << 20]).done();
    // The same, but the zeros are padding behind the end of the archive: nothing of it is ever written.
    let mut padded = Tar::new().file("ok", b"").done();
    padded.resize(16 << 20, 0);
    for bomb in [gzip(&tree), zstd(&tree), gzip(&padded), zstd(&padded)] {
        let mut fresh = Fresh::new();
        fresh.store = fresh.store.with_limits(limits);
        let tar = fresh.folder.path().join("bomb");
        fs::write(&tar, bomb).unwrap();
        let before = fresh.listing();
        let error = fresh.import(&tar, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.chain());
        assert_eq!(fresh.listing(), before);
    }
}

fn too_many_entries_are_refused() {
    let mut fresh = Fresh::new();
    fresh.store = fresh.store.with_limits(ImageLimits { layer_entries: 3, ..ImageLimits::default() });
    let tar = fresh.folder.path().join("t.tar");
    fs::write(&tar, plain_tree()).unwrap();
    assert_eq!(fresh.import(&tar, None).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    assert_eq!(fresh.layers(), 0);
}

fn a_bad_layer_takes_the_good_ones_before_it_along() {
    let fresh = Fresh::new();
    let good = plain_tree();
    let bad = Tar::new().file("../evil", b"x").done();
    let path = fresh.folder.path().join("layout");
    let layout = Layout::of(&path, "t", &Image::new(&[good.clone(), bad]));
    assert_eq!(fresh.import(&layout.path, None).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(fresh.layers(), 0);
    // But not when another image has them.
    let tar = fresh.folder.path().join("t.tar");
    fs::write(&tar, good).unwrap();
    fresh.import(&tar, Some("good")).unwrap();
    assert_eq!(fresh.import(&layout.path, None).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(fresh.read("good", "hello"), b"hello\n");
}

fn damaged_blobs_are_told_by_their_digest() {
    let fresh = Fresh::new();
    let path = fresh.folder.path().join("layout");
    let layout = Layout::of(&path, "t", &Image::new(&[plain_tree()]));
    let before = fresh.listing();
    for entry in fs::read_dir(path.join("blobs/sha256")).unwrap() {
        let blob = entry.unwrap().path();
        let good = fs::read(&blob).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        for bad in [bad, good[..good.len() - 1].to_vec(), Vec::new()] {
            fs::write(&blob, bad).unwrap();
            let error = fresh.import(&layout.path, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
            assert!(error.chain().contains("digest"), "{}", error.chain());
            assert_eq!(fresh.listing(), before);
        }
        fs::remove_file(&blob).unwrap();
        assert_eq!(fresh.import(&layout.path, None).unwrap_err().kind(), ErrorKind::Corrupt);
        fs::write(&blob, good).unwrap();
    }
    fresh.import(&layout.path, None).unwrap();
}

fn content_that_is_not_what_the_configuration_says_is_refused() {
    let fresh = Fresh::new();
    let mut image = Image::new(&[plain_tree()]);
    image.diff_ids = vec![Digest::of(b"something else")];
    let layout = Layout::of(&fresh.folder.path().join("layout"), "t", &image);
    let before = fresh.listing();
    assert_eq!(fresh.import(&layout.path, None).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(fresh.listing(), before);
}

fn documents_that_do_not_agree_are_refused() {
    let fresh = Fresh::new();
    let mut image = Image::new(&[plain_tree()]);
    image.diff_ids.push(Digest::of(b"one more"));
    let layout = Layout::of(&fresh.folder.path().join("one"), "t", &image);
    assert_eq!(fresh.import(&layout.path, None).unwrap_err().kind(), ErrorKind::Corrupt);
    let mut image = Image::new(&[plain_tree()]);
    image.architecture = "s390x".to_owned();
    let layout = Layout::of(&fresh.folder.path().join("two"), "t", &image);
    assert_eq!(fresh.import(&layout.path, None).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(fresh.layers(), 0);
}

fn a_layout_cannot_lend_files_of_the_host() {
    let fresh = Fresh::new();
    let outside = fresh.folder.path().join("outside.tar");
    fs::write(&outside, gzip(&plain_tree())).unwrap();
    let image = Image::new(&[plain_tree()]);
    let layout = Layout::of(&fresh.folder.path().join("layout"), "t", &image);
    let blob = layout.blob_path(&Digest::of(&image.blobs[0]));
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(&outside, &blob).unwrap();
    fresh.import(&layout.path, None).unwrap_err();
    let tar = fresh.folder.path().join("layout.tar");
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &layout.path).unwrap();
    fs::write(&tar, builder.into_inner().unwrap()).unwrap();
    fresh.import(&tar, None).unwrap_err();
    assert_eq!(fresh.layers(), 0);
}

fn what_is_no_image_is_refused() {
    let fresh = Fresh::new();
    let file = fresh.folder.path().join("file");
    for (content, kind) in [
        (&b""[..], ErrorKind::Corrupt),
        (b"hello", ErrorKind::Corrupt),
        (&[b'x'; 4096], ErrorKind::Corrupt),
        (b"BZh91AY&SY", ErrorKind::Unsupported),
        (&gzip(b"hello"), ErrorKind::Corrupt),
        (&gzip(&plain_tree())[..100], ErrorKind::Corrupt),
        (&plain_tree()[..1024], ErrorKind::Corrupt),
    ] {
        fs::write(&file, content).unwrap();
        let error = fresh.import(&file, None).unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
    }
    assert_eq!(fresh.import(&fresh.folder.path().join("missing"), None).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fresh.import("/dev/null".as_ref(), None).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(fresh.layers(), 0);
}
