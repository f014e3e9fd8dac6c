//! Images from this machine's files, and the store's own duties.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    thread,
};

use libtest_mimic::Trial;
use sandbar_core::{ErrorKind, ImageKind, User};
use sandbar_runtime::image::{Digest, ImageStore};

use crate::{
    build::{Image, Layout, Tar, docker_archive, gzip, noise, plain_tree, zstd},
    case, case_if, child,
    store::{Fresh, block},
};

pub(crate) fn cases() -> Vec<Trial> {
    vec![
        case("host::the_default_image_is_the_host", the_default_image_is_the_host),
        case("local::a_tar_is_one_image_however_it_is_compressed", a_tar_is_one_image_however_it_is_compressed),
        case("local::a_folder_keeps_modes_links_and_times", a_folder_keeps_modes_links_and_times),
        case("local::equal_folders_are_one_image", equal_folders_are_one_image),
        case("local::a_layout_gives_layers_and_defaults", a_layout_gives_layers_and_defaults),
        case("local::a_layout_may_be_a_tar", a_layout_may_be_a_tar),
        case("local::a_tag_says_which_image_of_several", a_tag_says_which_image_of_several),
        case("local::the_manifest_of_this_platform_is_taken", the_manifest_of_this_platform_is_taken),
        case("local::an_archive_of_docker_save_keeps_its_names", an_archive_of_docker_save_keeps_its_names),
        case("local::whiteouts_become_those_of_overlayfs", whiteouts_become_those_of_overlayfs),
        case("local::a_plain_tree_that_begins_like_an_archive_is_a_tree", a_plain_tree_that_begins_like_an_archive_is_a_tree),
        case("local::two_imports_at_once_make_one_layer", two_imports_at_once_make_one_layer),
        case("local::names_are_moved_and_ids_found_by_prefix", names_are_moved_and_ids_found_by_prefix),
        case("local::bad_names_are_refused_before_any_work", bad_names_are_refused_before_any_work),
        case("local::a_removed_image_goes_with_its_own_layers_only", a_removed_image_goes_with_its_own_layers_only),
        case("local::what_is_in_use_outlives_its_image", what_is_in_use_outlives_its_image),
        case("local::nothing_is_collected_while_somebody_works", nothing_is_collected_while_somebody_works),
        case("local::a_missing_layer_is_told", a_missing_layer_is_told),
        case("local::the_store_is_closed_to_others", the_store_is_closed_to_others),
        case("local::a_current_thread_runtime_will_do", a_current_thread_runtime_will_do),
        case_if("local::a_plain_user_has_images_too", child::no_other_user(), a_plain_user_has_images_too),
        case_if("local::a_full_disk_is_told_and_nothing_left", child::no_disk(), a_full_disk_is_told_and_nothing_left),
    ]
}

fn write(fresh: &Fresh, name: &str, content: &[u8]) -> std::path::PathBuf {
    let path = fresh.folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn the_default_image_is_the_host() {
    let fresh = Fresh::new();
    let root = block(fresh.store.resolve(None)).unwrap();
    assert!(matches!(root.kind, ImageKind::Host { .. }));
    assert!(root.host.as_ref().unwrap().folders.contains(&"/usr".into()));
    assert_eq!(block(fresh.store.resolve(Some("host"))).unwrap(), root);
    assert_eq!(block(fresh.store.root_of(&root.kind)).unwrap(), root);
    assert!(root.env["PATH"].contains("/usr/bin"));
    let missing = ImageKind::Host { fingerprint: "0".repeat(32) };
    assert_eq!(block(fresh.store.root_of(&missing)).unwrap_err().kind(), ErrorKind::NotFound);
    // Neither is it an image among others, nor does anybody else get its name.
    assert_eq!(block(fresh.store.list()).unwrap(), []);
    assert_eq!(block(fresh.store.remove("host", || Ok(Vec::new()))).unwrap_err().kind(), ErrorKind::InvalidInput);
    let kept = root.clone();
    let collected = block(fresh.store.collect(|| Ok(vec![kept]))).unwrap();
    assert_eq!(collected.skeletons, 0);
}

fn a_tar_is_one_image_however_it_is_compressed() {
    let fresh = Fresh::new();
    let tree = plain_tree();
    let plain = fresh.import(&write(&fresh, "a.tar", &tree), Some("plain")).unwrap();
    let gzipped = fresh.import(&write(&fresh, "b.tar.gz", &gzip(&tree)), Some("gzipped:v1")).unwrap();
    let zstd = fresh.import(&write(&fresh, "c.tar.zst", &zstd(&tree)), None).unwrap();
    assert_eq!((plain.id, gzipped.id), (zstd.id, zstd.id));
    assert_eq!(zstd.names, ["gzipped:v1", "plain:latest"]);
    assert_eq!(zstd.layers, [Digest::of(&tree)]);
    assert_eq!(zstd.bytes, 16);
    assert_eq!(fresh.layers(), 1);
    assert_eq!(fresh.read("plain", "hello"), b"hello\n");
    let root = fresh.root("plain");
    assert_eq!(root.kind, ImageKind::Layers { digest: plain.id.to_string() });
    assert_eq!(fs::read_link(root.layers[0].join("bin/sh")).unwrap(), Path::new("tool"));
}

fn a_folder_keeps_modes_links_and_times() {
    let fresh = Fresh::new();
    let folder = fresh.folder.path().join("root");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(folder.join("bin/tool"), "x").unwrap();
    fs::set_permissions(folder.join("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(folder.join("bin/tool"), folder.join("bin/same")).unwrap();
    symlink("/outside", folder.join("link")).unwrap();
    fs::create_dir(folder.join("tmp")).unwrap();
    fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
    fresh.import(&folder, Some("tree")).unwrap();
    let tree = fresh.root("tree").layers[0].clone();
    let (tool, same) = (fs::metadata(tree.join("bin/tool")).unwrap(), fs::metadata(tree.join("bin/same")).unwrap());
    assert_eq!((tool.ino(), tool.mode() & 0o7777), (same.ino(), 0o4755));
    assert_eq!(tool.mtime_nsec(), fs::metadata(folder.join("bin/tool")).unwrap().mtime_nsec());
    assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("/outside"));
    assert_eq!(fs::metadata(tree.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(&tree).unwrap().mode() & 0o7777, 0o750);
}

fn equal_folders_are_one_image() {
    let fresh = Fresh::new();
    let folder = fresh.folder.path().join("root");
    fs::create_dir(&folder).unwrap();
    for name in 0..50 {
        fs::write(folder.join(name.to_string()), noise(name, 1000)).unwrap();
    }
    let first = fresh.import(&folder, None).unwrap();
    assert_eq!(fresh.import(&folder, None).unwrap().id, first.id);
    fs::write(folder.join("7"), "changed").unwrap();
    assert_ne!(fresh.import(&folder, None).unwrap().id, first.id);
    assert_eq!(fresh.layers(), 2);
}

fn a_layout_gives_layers_and_defaults() {
    let fresh = Fresh::new();
    let upper = Tar::new().file("hello", b"changed\n").done();
    let mut image = Image::new(&[plain_tree(), upper]);
    image.config = r#"{"Env": ["A=1"], "WorkingDir": "/srv", "User": "33:44", "Entrypoint": ["tool"], "Cmd": ["-v"]}"#.to_owned();
    image.blobs[1] = zstd(&Tar::new().file("hello", b"changed\n").done());
    let mut layout = Layout::new(&fresh.folder.path().join("layout"));
    let id = layout.add("v1", &image);
    let summary = fresh.import(&layout.path, Some("app")).unwrap();
    assert_eq!(summary.id, id);
    assert_eq!(summary.layers, image.diff_ids);
    assert_eq!((summary.entrypoint, summary.cmd), (vec!["tool".to_owned()], vec!["-v".to_owned()]));
    let root = fresh.root("app");
    assert_eq!(root.layers.len(), 2);
    assert_eq!((root.env["A"].as_str(), root.workdir.as_deref()), ("1", Some("/srv")));
    assert_eq!(root.user, Some(User::Id { uid: 33, gid: Some(44) }));
    assert_eq!(fresh.read("app", "hello"), b"changed\n");
    assert_eq!(fs::read(root.layers[0].join("hello")).unwrap(), b"hello\n");
    // By the digest of its manifest, as `NAME@DIGEST`.
    assert_eq!(fresh.root(&format!("app@{}", summary.manifest.unwrap())), root);
}

fn a_layout_may_be_a_tar() {
    let fresh = Fresh::new();
    let layout = Layout::of(&fresh.folder.path().join("layout"), "t", &Image::new(&[plain_tree()]));
    let folder = fresh.import(&layout.path, None).unwrap();
    for (name, content) in [("l.tar", layout.archive()), ("l.tar.gz", gzip(&layout.archive()))] {
        assert_eq!(fresh.import(&write(&fresh, name, &content), None).unwrap().id, folder.id);
    }
    assert_eq!(fs::read_dir(fresh.path("temporary")).unwrap().count(), 0);
}

fn a_tag_says_which_image_of_several() {
    let fresh = Fresh::new();
    let mut layout = Layout::new(&fresh.folder.path().join("layout"));
    layout.add("one", &Image::new(&[Tar::new().file("a", b"1").done()]));
    layout.add("two", &Image::new(&[Tar::new().file("a", b"2").done()]));
    let error = fresh.import(&layout.path, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("one, two"), "{error}");
    let tagged = |tag: &str| fresh.folder.path().join(format!("layout:{tag}"));
    fresh.import(&tagged("two"), Some("x")).unwrap();
    assert_eq!(fresh.read("x", "a"), b"2");
    assert_eq!(fresh.import(&tagged("three"), None).unwrap_err().kind(), ErrorKind::NotFound);
    // A tree has no tags.
    let tar = write(&fresh, "t.tar", &plain_tree());
    assert_eq!(fresh.import(&tar.with_file_name("t.tar:x"), None).unwrap_err().kind(), ErrorKind::InvalidInput);
}

fn the_manifest_of_this_platform_is_taken() {
    let fresh = Fresh::new();
    let mut other = Image::new(&[Tar::new().file("a", b"other").done()]);
    other.architecture = "s390x".to_owned();
    let ours = Image::new(&[Tar::new().file("a", b"ours").done()]);
    let mut layout = Layout::new(&fresh.folder.path().join("layout"));
    layout.add_platforms("t", &[other, ours]);
    fresh.import(&layout.path, Some("x")).unwrap();
    assert_eq!(fresh.read("x", "a"), b"ours");
}

fn an_archive_of_docker_save_keeps_its_names() {
    let fresh = Fresh::new();
    // What is here keeps its name, and nobody is taken for the host.
    let taken = fresh.import(&write(&fresh, "t.tar", &Tar::new().file("a", b"").done()), Some("taken")).unwrap();
    let tags = ["debian:12", "r.example/debian:12", "taken:latest", "host:latest", "BAD"];
    let archive = write(&fresh, "saved.tar", &docker_archive(&plain_tree(), &tags));
    let image = fresh.import(&archive, None).unwrap();
    assert_eq!(image.names, ["debian:12", "r.example/debian:12"]);
    assert_eq!(fresh.root("taken").kind, ImageKind::Layers { digest: taken.id.to_string() });
    assert_eq!(image.cmd, ["sh"]);
    // Both of its layers are the same one, which overlayfs takes once.
    assert_eq!(fresh.root("debian:12").layers.len(), 1);
    let named = fresh.import(&archive.with_file_name("saved.tar:12"), Some("other")).unwrap();
    assert_eq!(named.id, image.id);
}

fn whiteouts_become_those_of_overlayfs() {
    let fresh = Fresh::new();
    let upper = Tar::new().file(".wh.hello", b"").folder("bin/").file("bin/.wh..wh..opq", b"").file("bin/new", b"x").done();
    let layout = Layout::of(&fresh.folder.path().join("layout"), "t", &Image::new(&[plain_tree(), upper]));
    fresh.import(&layout.path, Some("x")).unwrap();
    let layer = &fresh.root("x").layers[1];
    let whiteout = fs::symlink_metadata(layer.join("hello")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let names: Vec<u8> = {
        let mut buffer = vec![0; 4096];
        let length = rustix::fs::listxattr(layer.join("bin"), &mut buffer[..]).unwrap();
        buffer[..length].to_vec()
    };
    assert!(String::from_utf8_lossy(&names).contains("overlay.opaque"), "{names:?}");
    assert!(!layer.join("bin/.wh..wh..opq").exists());
}

fn a_plain_tree_that_begins_like_an_archive_is_a_tree() {
    let fresh = Fresh::new();
    let tar = write(&fresh, "t.tar", &Tar::new().folder("blobs/").file("blobs/x", b"x").file("etc", b"").done());
    fresh.import(&tar, Some("x")).unwrap();
    assert_eq!(fresh.read("x", "blobs/x"), b"x");
}

fn two_imports_at_once_make_one_layer() {
    let fresh = Fresh::new();
    let tar = write(&fresh, "t.tar", &Tar::new().file("a", &noise(1, 1 << 20)).done());
    let ids: Vec<_> = thread::scope(|scope| {
        let imports: Vec<_> = (0..8)
            .map(|number| {
                let (tar, home) = (&tar, fresh.folder.path());
                scope.spawn(move || {
                    // A store of its own each, as another process has.
                    let store = ImageStore::open(home).unwrap();
                    block(store.import(tar, Some(&format!("n{number}")))).unwrap().id
                })
            })
            .collect();
        imports.into_iter().map(|import| import.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(fresh.layers(), 1);
    assert_eq!(block(fresh.store.list()).unwrap()[0].names.len(), 8);
    assert_eq!(fs::read_dir(fresh.path("temporary")).unwrap().count(), 0);
}

fn names_are_moved_and_ids_found_by_prefix() {
    let fresh = Fresh::new();
    let one = fresh.import(&write(&fresh, "1.tar", &Tar::new().file("a", b"1").done()), Some("x")).unwrap();
    let two = fresh.import(&write(&fresh, "2.tar", &Tar::new().file("a", b"2").done()), Some("x")).unwrap();
    assert_eq!(fresh.read("x", "a"), b"2");
    for reference in [one.id.to_string(), one.id.hex(), one.id.hex()[..8].to_owned(), one.id.to_string()[..15].to_owned()] {
        assert_eq!(fresh.read(&reference, "a"), b"1", "{reference}");
    }
    let listed = block(fresh.store.list()).unwrap();
    assert_eq!(listed.iter().map(|image| (image.id, image.names.len())).collect::<Vec<_>>(), [(one.id, 0), (two.id, 1)]);
    let error = block(fresh.store.resolve(Some("debian"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().is_some());
}

fn bad_names_are_refused_before_any_work() {
    let fresh = Fresh::new();
    let tar = write(&fresh, "t.tar", &plain_tree());
    let pinned = format!("x@{}", Digest::of(b""));
    for name in ["host", "host:v1", "UPPER", "", "a b", &pinned] {
        assert_eq!(fresh.import(&tar, Some(name)).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
    }
    assert_eq!(fresh.layers(), 0);
}

fn a_removed_image_goes_with_its_own_layers_only() {
    let fresh = Fresh::new();
    let base = plain_tree();
    let mut layout = Layout::new(&fresh.folder.path().join("layout"));
    layout.add("t", &Image::new(&[base.clone(), Tar::new().file("a", b"1").done()]));
    let image = fresh.import(&layout.path, Some("app")).unwrap();
    fresh.import(&layout.path, Some("app:other")).unwrap();
    fresh.import(&write(&fresh, "base.tar", &base), Some("base")).unwrap();
    assert_eq!(fresh.layers(), 2);
    // A name of two: nothing else goes.
    let removed = block(fresh.store.remove("app", || Ok(Vec::new()))).unwrap();
    assert!(removed.named && removed.collected.layers == 0);
    // By id, with all names.
    let removed = block(fresh.store.remove(&image.id.to_string(), || Ok(Vec::new()))).unwrap();
    assert_eq!((removed.names.as_slice(), removed.named, removed.in_use), (&["app:other".to_owned()][..], false, false));
    assert_eq!((removed.collected.layers, removed.collected.bytes), (1, 1));
    assert_eq!(fresh.layers(), 1);
    assert_eq!(fresh.read("base", "hello"), b"hello\n");
    assert_eq!(block(fresh.store.remove("app", || Ok(Vec::new()))).unwrap_err().kind(), ErrorKind::NotFound);
    block(fresh.store.remove("base", || Ok(Vec::new()))).unwrap();
    assert_eq!((fresh.layers(), fs::read_dir(fresh.path("blobs/sha256")).unwrap().count()), (0, 0));
}

fn what_is_in_use_outlives_its_image() {
    let fresh = Fresh::new();
    let tar = write(&fresh, "t.tar", &plain_tree());
    fresh.import(&tar, Some("x")).unwrap();
    let root = fresh.root("x");
    let used = root.clone();
    let removed = block(fresh.store.remove("x", move || Ok(vec![used]))).unwrap();
    assert!(removed.in_use);
    assert_eq!(block(fresh.store.resolve(Some("x"))).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(block(fresh.store.list()).unwrap(), []);
    assert_eq!(block(fresh.store.root_of(&root.kind)).unwrap(), root);
    assert!(root.layers[0].join("hello").exists());
    // Importing it again makes it visible again.
    fresh.import(&tar, Some("y")).unwrap();
    assert_eq!(fresh.root("y"), root);
    block(fresh.store.remove("y", || Ok(Vec::new()))).unwrap();
    assert_eq!(fresh.layers(), 0);
    assert_eq!(block(fresh.store.root_of(&root.kind)).unwrap_err().kind(), ErrorKind::NotFound);
}

fn nothing_is_collected_while_somebody_works() {
    let fresh = Fresh::new();
    fresh.import(&write(&fresh, "t.tar", &plain_tree()), Some("x")).unwrap();
    let pin = block(fresh.store.pin()).unwrap();
    let removed = block(fresh.store.remove("x", || panic!("must not be asked"))).unwrap();
    assert!(removed.collected.busy);
    assert_eq!(fresh.layers(), 1);
    drop(pin);
    assert_eq!(block(fresh.store.collect(|| Ok(Vec::new()))).unwrap().layers, 1);
    assert_eq!(fresh.layers(), 0);
}

fn a_missing_layer_is_told() {
    let fresh = Fresh::new();
    let tar = write(&fresh, "t.tar", &plain_tree());
    let image = fresh.import(&tar, Some("x")).unwrap();
    fs::remove_dir_all(fresh.path("layers").join(image.layers[0].hex()).join("fs")).unwrap();
    let error = block(fresh.store.resolve(Some("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    fresh.import(&tar, Some("x")).unwrap();
    assert_eq!(fresh.read("x", "hello"), b"hello\n");
}

fn the_store_is_closed_to_others() {
    let fresh = Fresh::new();
    assert_eq!(fs::metadata(fresh.path("")).unwrap().mode() & 0o7777, 0o700);
}

fn a_current_thread_runtime_will_do() {
    let fresh = Fresh::new();
    let tar = write(&fresh, "t.tar", &plain_tree());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fresh.store.import(&tar, Some("x"))).unwrap();
    runtime.block_on(fresh.store.resolve(Some("x"))).unwrap();
}

fn a_plain_user_has_images_too() {
    let folder = tempfile::tempdir().unwrap();
    child::open_to_all(folder.path());
    let upper = Tar::new()
        .file(".wh.hello", b"")
        .closed_folder("closed/")
        .file("closed/x", b"x")
        .folder("bin/")
        .file("bin/.wh..wh..opq", b"")
        .done();
    let layout = Layout::of(&folder.path().join("layout"), "t", &Image::new(&[plain_tree(), upper]));
    let home = folder.path().join("home");
    let wrapper = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"];
    let paths = [home.to_str().unwrap(), layout.path.to_str().unwrap()];
    let id = child::output(&wrapper, ["import", paths[0], paths[1]]);
    assert!(id.starts_with("sha256:"), "{id}");
    let store = ImageStore::open(&home).unwrap();
    let root = block(store.resolve(Some("child"))).unwrap();
    let layer = &root.layers[1];
    for name in ["hello", "closed", "closed/x", "bin"] {
        assert_eq!(fs::symlink_metadata(layer.join(name)).unwrap().uid(), 1234, "{name}");
    }
    assert!(fs::symlink_metadata(layer.join("hello")).unwrap().file_type().is_char_device());
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(layer.join("bin"), "user.overlay.opaque", &mut value).unwrap(), 1);
    assert_eq!(fs::metadata(layer.join("closed")).unwrap().mode() & 0o7777, 0);
}

fn a_full_disk_is_told_and_nothing_left() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let tar = folder.path().join("t.tar");
    fs::write(&tar, Tar::new().file("small", b"x").file("large", &noise(1, 8 << 20)).done()).unwrap();
    let wrapper = child::with_disk(&home, 4);
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    // The child's own word, and nothing in the lists of what is left.
    assert_eq!(child::output(&wrapper, ["import", home.to_str().unwrap(), tar.to_str().unwrap()]), "resource_exhausted");
}
