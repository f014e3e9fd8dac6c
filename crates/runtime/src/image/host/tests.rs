use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    time::Instant,
};

use super::*;

struct Fake {
    folder: tempfile::TempDir,
    paths: Paths,
}

impl Fake {
    /// A small host with an `/etc` full of things that nobody shall see.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path().join("images"));
        fs::create_dir_all(paths.host()).unwrap();
        fs::create_dir_all(paths.temporary()).unwrap();
        let fake = Self { folder, paths };
        for name in ["usr/bin", "usr/lib", "lib32", "etc/ssl/private", "etc/ssl/certs", "etc/ssh", "etc/alternatives", "etc/perl/Net"] {
            fs::create_dir_all(fake.host().join(name)).unwrap();
        }
        fs::set_permissions(fake.host().join("etc/ssl/private"), fs::Permissions::from_mode(0o710)).unwrap();
        symlink("usr/bin", fake.host().join("bin")).unwrap();
        for (name, content) in [
            ("shadow", "root:$6$secret"),
            ("passwd", "alice:x:1000:"),
            ("machine-id", "0123"),
            ("environment", "TOKEN=secret"),
            ("profile", "export TOKEN=secret"),
            ("ssh/ssh_host_rsa_key", "secret"),
            ("ssl/private/host.key", "secret"),
            ("ssl/certs/ca.pem", "certificate"),
            ("ssl/certs/server.pem", "-----BEGIN RSA PRIVATE KEY-----\nsecret"),
            ("ssl/certs/server.key", "secret"),
            ("perl/closed.pl", "secret"),
            ("perl/Net/libnet.cfg", "open"),
            ("os-release", "ID=fake"),
            ("ld.so.cache", "cache"),
        ] {
            fake.write(name, content);
        }
        fs::set_permissions(fake.host().join("etc/perl/closed.pl"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/usr/bin/vim", fake.host().join("etc/alternatives/editor")).unwrap();
        symlink("/home/alice/secret/bin/x", fake.host().join("etc/alternatives/x")).unwrap();
        fake
    }

    fn host(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.host().join("etc").join(name), content).unwrap();
    }

    fn root(&self) -> RootSource {
        root_from(&self.paths, &self.host()).unwrap()
    }
}

fn contents(folder: &Path, each: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            each(&path, b"");
            contents(&path, each);
        } else if metadata.is_symlink() {
            each(&path, fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes());
        } else {
            each(&path, &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn the_skeleton_holds_what_is_allowed_and_no_secret() {
    let fake = Fake::new();
    let tree = fake.root().layers[0].clone();
    contents(&tree, &mut |path, content| {
        let text = String::from_utf8_lossy(content);
        assert!(!text.contains("secret") && !text.contains("alice"), "{}: {text}", path.display());
    });
    for name in ["shadow", "ssh", "machine-id", "environment", "ssl/private", "ssl/certs/server.pem", "perl/closed.pl", "alternatives/x"] {
        assert!(fs::symlink_metadata(tree.join("etc").join(name)).is_err(), "{name}");
    }
    for name in
        ["ssl/certs/ca.pem", "perl/Net/libnet.cfg", "os-release", "ld.so.cache", "hosts", "nsswitch.conf", "mtab", "alternatives/editor"]
    {
        assert!(fs::symlink_metadata(tree.join("etc").join(name)).is_ok(), "{name}");
    }
    assert!(fs::read_to_string(tree.join("etc/passwd")).unwrap().starts_with("root:x:0:0:"));
}

#[test]
fn the_root_has_mount_points_links_and_writable_folders() {
    let fake = Fake::new();
    let root = fake.root();
    let tree = &root.layers[0];
    assert_eq!(root.host.unwrap().folders, [Path::new("/lib32"), Path::new("/usr")]);
    assert_eq!(fs::read_link(tree.join("bin")).unwrap(), Path::new("usr/bin"));
    for (name, mode) in
        [("", 0o755), ("usr", 0o755), ("lib32", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("proc", 0o555)]
    {
        assert_eq!(fs::metadata(tree.join(name)).unwrap().mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn an_unchanged_host_gives_the_same_skeleton_without_reading_it_again() {
    let fake = Fake::new();
    let first = fake.root();
    let inode = fs::metadata(&first.layers[0]).unwrap().ino();
    assert_eq!(fake.root(), first);
    assert_eq!(fs::metadata(&first.layers[0]).unwrap().ino(), inode);
}

#[test]
fn a_changed_host_gives_another_skeleton_and_the_old_one_stays_while_it_is_in_use() {
    let fake = Fake::new();
    let first = fake.root();
    fake.write("ld.so.cache", "other");
    let second = fake.root();
    assert_ne!(first.kind, second.kind);
    let ImageKind::Host { fingerprint } = first.kind else { panic!("{:?}", first.kind) };
    assert_eq!(outdated(&fake.paths, &BTreeSet::from([fingerprint])).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(outdated(&fake.paths, &BTreeSet::new()).unwrap(), [first.layers[0].parent().unwrap()]);
}

#[test]
fn new_entries_and_changes_in_place_are_noticed() {
    let fake = Fake::new();
    let first = fake.root();
    fake.write("timezone", "UTC");
    let second = fake.root();
    assert_ne!(first.kind, second.kind);
    // The same length, so that only the times tell.
    fake.write("ssl/certs/ca.pem", "CERTIFICATE");
    assert_ne!(fake.root().kind, second.kind);
    // What is not shown does not matter, though its folder changed.
    let third = fake.root();
    fake.write("shadow.new", "x");
    assert_eq!(fake.root().kind, third.kind);
}

#[test]
fn a_skeleton_of_an_earlier_boot_is_written_anew() {
    let fake = Fake::new();
    let first = fake.root();
    let skeleton = first.layers[0].parent().unwrap().to_owned();
    fs::write(first.layers[0].join("etc/hosts"), "").unwrap();
    fs::write(skeleton.join("boot"), "earlier").unwrap();
    fs::remove_file(fake.paths.host_stamp()).unwrap();
    assert_eq!(fake.root(), first);
    assert!(fs::read_to_string(first.layers[0].join("etc/hosts")).unwrap().contains("localhost"));
    assert_eq!(fs::read_dir(fake.paths.temporary()).unwrap().count(), 0);
}

#[test]
fn a_missing_skeleton_is_made_again() {
    let fake = Fake::new();
    let first = fake.root();
    fs::remove_dir_all(first.layers[0].parent().unwrap()).unwrap();
    assert_eq!(fake.root(), first);
    assert!(first.layers[0].join("etc/hosts").exists());
}

#[test]
fn this_host_has_a_skeleton_without_its_secrets_and_quickly() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::new(folder.path().to_owned());
    fs::create_dir_all(paths.host()).unwrap();
    fs::create_dir_all(paths.temporary()).unwrap();
    let begun = Instant::now();
    let first = root(&paths).unwrap();
    let made = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(root(&paths).unwrap(), first);
    println!("made in {made:?}, found in {:?}", begun.elapsed());
    let tree = &first.layers[0];
    for name in ["shadow", "gshadow", "ssh", "machine-id", "sudoers", "ssl/private", "environment", "apt", "pip.conf", "npmrc"] {
        assert!(fs::symlink_metadata(tree.join("etc").join(name)).is_err(), "{name}");
    }
    contents(tree, &mut |path, content| {
        assert!(!content.windows(16).any(|window| window == b"PRIVATE KEY-----"), "{}", path.display());
    });
    let ImageKind::Host { fingerprint } = &first.kind else { panic!("{:?}", first.kind) };
    assert_eq!(existing(&paths, fingerprint).unwrap(), first);
    assert_eq!(existing(&paths, "../..").unwrap_err().kind(), ErrorKind::NotFound);
}
