//! Any path stays in its jail: what it opens, makes, renames or removes lies beneath, also through the planted links.

#![no_main]

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
};

use libfuzzer_sys::fuzz_target;
use sandbar_tree::{Access, Base, Removal};

const CANARY: &str = "untouched";

fuzz_target!(|bytes: &[u8]| {
    let mut halves = bytes.splitn(2, |byte| *byte == b'\n');
    let path = |part: Option<&[u8]>| Path::new(OsStr::from_bytes(part.unwrap_or(b"x"))).to_owned();
    let (one, two) = (path(halves.next()), path(halves.next()));

    let folder = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    for path in [&inside, &outside, &inside.join("a")] {
        fs::create_dir(path).expect("the folder can be written");
    }
    fs::write(outside.join("canary"), CANARY).expect("the folder can be written");
    symlink(&outside, inside.join("l")).expect("a link can be made");
    symlink("../outside", inside.join("a/m")).expect("a link can be made");

    let base = Base::jail(File::open(&inside).expect("the folder can be opened"), Some(inside.clone()));
    let _ = base.make_dir(&one, true, 0o755);
    if let Ok(file) = base.open_file(&one, Access::Read, 0) {
        let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).expect("an open file has a path");
        assert!(path.starts_with(&inside), "{one:?} opened {path:?}");
    }
    let _ = base.open_file(&two, Access::Replace, 0o644);
    let _ = base.rename(&one, &two, true);
    let _ = base.remove(&two, Removal::Recursive);
    assert_eq!(fs::read_to_string(outside.join("canary")).expect("the canary is there"), CANARY);
    assert_eq!(fs::read_dir(&outside).expect("the folder can be read").count(), 1);
});
