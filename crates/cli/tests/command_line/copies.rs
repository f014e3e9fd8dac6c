//! `cp`, both ways.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use crate::support::{Case, Client, Home, feed};

pub const CASES: &[Case] = &[
    Case::new("copies::files_keep_content_mode_and_time", files),
    Case::new("copies::any_name_will_do", names),
    Case::new("copies::trees_come_back_as_they_went", trees),
    Case::new("copies::folders_go_inside_and_contents_go_into", inside),
    Case::new("copies::what_is_missing_or_in_the_way_is_refused", refused),
    Case::new("copies::links_are_links_unless_followed", links),
    Case::new("copies::archives_on_standard_input_and_output", archives).needs(&["/usr/bin/tar"]),
    Case::new("copies::nothing_half_there_after_a_failure", half),
];

/// Where the sandbox's user may write, and no other test does: `dangerous-host` takes paths of its workspace only.
fn base(home: &Home) -> &'static str {
    if home.wall.provider == "container" { "/root/" } else { "" }
}

fn give(home: &Home, path: &Path) {
    home.wall.hand_over(path);
}

fn files(home: &Home) {
    let (id, work, base) = (home.create(&[]), home.work(), base(home));
    let source = work.join("source");
    let data: Vec<u8> = (0..8_000_000u32).map(|number| (number / 7) as u8).collect();
    fs::write(&source, &data).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o754)).unwrap();
    let time = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 123_456_789 };
    let file = fs::File::options().write(true).open(&source).unwrap();
    rustix::fs::futimens(&file, &rustix::fs::Timestamps { last_access: time, last_modification: time }).unwrap();
    give(home, &source);
    home.ok(&["cp", source.to_str().unwrap(), &format!("{id}:{base}copy")]);
    assert_eq!(home.shell(&id, &format!("stat -c '%a %Y %s' {base}copy")), "754 1600000000 8000000");
    let back = work.join("back");
    home.ok(&["cp", &format!("{id}:{base}copy"), back.to_str().unwrap()]);
    let metadata = fs::metadata(&back).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (0o754, 1_600_000_000, 123_456_789));
    assert!(fs::read(&back).unwrap() == data);
    // Onto an existing file, by either side.
    fs::write(&source, "new").unwrap();
    home.ok(&["cp", source.to_str().unwrap(), &format!("{id}:{base}copy")]);
    home.ok(&["cp", &format!("{id}:{base}copy"), back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&back).unwrap(), "new");
}

fn names(home: &Home) {
    let (id, work, base) = (home.create(&[]), home.work(), base(home));
    for name in ["with space", "new\nline", "-dash", "co:lon", "é ü", "quo'te\"", "back\\slash"] {
        let source = work.join(name);
        fs::write(&source, name).unwrap();
        give(home, &source);
        home.ok(&["cp", source.to_str().unwrap(), &format!("{id}:{base}{name}")]);
        fs::remove_file(&source).unwrap();
        home.ok(&["cp", &format!("{id}:{base}{name}"), work.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&source).unwrap(), name);
    }
    // Relative paths are taken from where each side is.
    let source = work.join("relative");
    fs::write(&source, "here").unwrap();
    give(home, &source);
    let args = ["cp".to_owned(), "relative".to_owned(), format!("{id}:there")];
    let mut command = home.command(&args);
    command.current_dir(&work);
    let copied = Client::start(command, &args).finish();
    assert_eq!(copied.code, 0, "{copied}");
    assert_eq!(home.shell(&id, "cat there"), "here");
}

/// Path, kind, mode and content or target of everything.
fn describe(root: &Path) -> BTreeMap<String, (String, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let (kind, content) = if metadata.is_symlink() {
                ("link", fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else if metadata.is_dir() {
                folders.push(path.clone());
                ("directory", Vec::new())
            } else {
                ("file", fs::read(&path).unwrap())
            };
            let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 };
            found.insert(name, (kind.to_owned(), mode, content));
        }
    }
    found
}

fn tree(home: &Home) -> std::path::PathBuf {
    let root = home.work().join("tree");
    fs::create_dir_all(root.join("a/b c/d")).unwrap();
    fs::write(root.join("a/file"), "one").unwrap();
    fs::write(root.join("a/b c/new\nline"), "two").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::set_permissions(root.join("a/file"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("a/b c/d"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("file", root.join("a/link")).unwrap();
    symlink("/no/such/thing", root.join("broken")).unwrap();
    for name in ["", "a", "a/b c", "a/b c/d", "a/file", "a/b c/new\nline", "empty"] {
        give(home, &root.join(name));
    }
    root
}

fn trees(home: &Home) {
    let (id, root, base) = (home.create(&[]), tree(home), base(home));
    home.ok(&["cp", root.to_str().unwrap(), &format!("{id}:{base}copy")]);
    let back = home.work().join("back");
    home.ok(&["cp", &format!("{id}:{base}copy"), back.to_str().unwrap()]);
    assert_eq!(describe(&back), describe(&root));
    if home.wall.provider == "container" {
        assert_eq!(home.shell(&id, "stat -c %u:%g /root/copy/a/file"), "0:0");
    }
    if let Some((uid, _)) = home.wall.user {
        assert_eq!(fs::metadata(back.join("a/file")).unwrap().uid(), uid);
    }
}

fn inside(home: &Home) {
    let (id, root, base) = (home.create(&[]), tree(home), base(home));
    let listed = |path: &str| home.shell(&id, &format!("ls -A {base}{path}"));
    home.shell(&id, &format!("mkdir {base}there {base}into"));
    home.ok(&["cp", root.to_str().unwrap(), &format!("{id}:{base}there")]);
    assert_eq!(listed("there"), "tree");
    home.ok(&["cp", &format!("{}/.", root.display()), &format!("{id}:{base}into")]);
    assert_eq!(listed("into"), "a\nbroken\nempty");
    home.ok(&["cp", root.join("empty").to_str().unwrap(), &format!("{id}:{base}there/")]);
    assert_eq!(listed("there"), "empty\ntree");

    let back = home.work().join("back");
    fs::create_dir(&back).unwrap();
    give(home, &back);
    home.ok(&["cp", &format!("{id}:{base}there/tree"), back.to_str().unwrap()]);
    assert_eq!(describe(&back.join("tree")), describe(&root));
    home.ok(&["cp", &format!("{id}:{base}there/tree/."), back.to_str().unwrap()]);
    fs::remove_dir_all(back.join("tree")).unwrap();
    assert_eq!(describe(&back), describe(&root));
}

fn refused(home: &Home) {
    let (id, root, base) = (home.create(&[]), tree(home), base(home));
    home.shell(&id, &format!("mkdir -p {base}dir/empty/full; echo x > {base}file"));
    let file = root.join("empty");
    let file = file.to_str().unwrap();
    let inside = |path: &str| format!("{id}:{base}{path}");
    let outside = |path: &str| home.work().join(path).display().to_string();
    let cases = [
        (file.to_owned(), inside("no/such/name")),
        (file.to_owned(), inside("no-such-folder/")),
        (file.to_owned(), inside("file/")),
        (file.to_owned(), inside("dir")),
        (root.display().to_string(), inside("file")),
        (root.display().to_string(), inside("no/such/name")),
        (outside("missing"), inside("dir")),
        (inside("missing"), outside("")),
        (inside("file"), outside("no/such/name")),
        (inside("file"), outside("no-such-folder/")),
        (inside("dir"), file.to_owned()),
        (inside("file"), inside("other")),
    ];
    for (from, to) in cases {
        let refused = home.sandbar(&["cp", &from, &to]);
        assert_eq!(refused.code, 125, "{refused}");
    }
    assert_eq!(home.shell(&id, &format!("cat {base}file; ls -A {base}dir/empty")), "x\nfull");
}

fn links(home: &Home) {
    let (id, root, base) = (home.create(&[]), tree(home), base(home));
    let link = root.join("a/link");
    home.ok(&["cp", link.to_str().unwrap(), &format!("{id}:{base}link")]);
    assert_eq!(home.shell(&id, &format!("readlink {base}link")), "file");
    home.ok(&["cp", "-L", link.to_str().unwrap(), &format!("{id}:{base}followed")]);
    assert_eq!(home.shell(&id, &format!("cat {base}followed; test -L {base}followed || echo no link")), "oneno link");
    // A copy onto a link goes through it, as writing would.
    home.shell(&id, &format!("cd {base}.; echo old > target; ln -s target through"));
    home.ok(&["cp", root.join("a/file").to_str().unwrap(), &format!("{id}:{base}through")]);
    assert_eq!(home.shell(&id, &format!("cat {base}target; readlink {base}through")), "onetarget");
    let back = home.work().join("back");
    home.ok(&["cp", &format!("{id}:{base}link"), back.to_str().unwrap()]);
    assert_eq!(fs::read_link(&back).unwrap(), Path::new("file"));
    home.ok(&["cp", "-L", &format!("{id}:{base}through"), &format!("{}/", home.work().display())]);
    assert_eq!(fs::read_to_string(home.work().join("through")).unwrap(), "one");
}

fn archives(home: &Home) {
    let (id, root, base) = (home.create(&[]), tree(home), base(home));
    let packed = std::process::Command::new("/usr/bin/tar").args(["c", "-C", root.to_str().unwrap(), "."]).output().unwrap().stdout;
    home.shell(&id, &format!("mkdir {base}into"));
    let args = ["cp".to_owned(), "-".to_owned(), format!("{id}:{base}into")];
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    feed(input, packed).join().unwrap().unwrap();
    let copied = client.finish();
    assert_eq!(copied.code, 0, "{copied}");

    let out = home.sandbar(&["cp", &format!("{id}:{base}into"), "-"]);
    assert_eq!(out.code, 0, "{out}");
    let back = home.work().join("back");
    fs::create_dir(&back).unwrap();
    let mut unpack = std::process::Command::new("/usr/bin/tar")
        .args(["x", "-C", back.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut unpack.stdin.take().unwrap(), &out.stdout).unwrap();
    assert!(unpack.wait().unwrap().success());
    assert_eq!(describe(&back.join("into")), describe(&root));

    let args = ["cp".to_owned(), "-".to_owned(), format!("{id}:{base}into")];
    let (client, input) = Client::start_with_input(home.command(&args), &args);
    feed(input, b"this is no archive at all".repeat(100)).join().unwrap().unwrap();
    assert_eq!(client.finish().code, 125);
}

fn half(home: &Home) {
    let (id, base) = (home.create(&[]), base(home));
    home.shell(&id, &format!("mkdir {base}dir; echo x > {base}dir/a; echo y > {base}dir/b"));
    let work = home.work();
    fs::create_dir_all(work.join("dir/b/in-the-way")).unwrap();
    let before = describe(&work);
    // Its own is a directory where the sandbox has a file.
    let refused = home.sandbar(&["cp", &format!("{id}:{base}dir"), work.to_str().unwrap()]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(work.join("dir/b/in-the-way").is_dir());
    assert!(describe(&work).keys().all(|name| before.contains_key(name) || name == "dir/a"), "{:?}", describe(&work));
}
