//! Any bytes are an archive that stays beneath its directory, or an error.

#![no_main]

use std::fs::{self, File};

use libfuzzer_sys::fuzz_target;
use sandbar_tree::{Limits, unpack_untrusted};

const CANARY: &str = "untouched";

fuzz_target!(|archive: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let (inside, canary) = (folder.path().join("inside"), folder.path().join("canary"));
    fs::create_dir(&inside).expect("the folder can be written");
    fs::write(&canary, CANARY).expect("the folder can be written");
    let limits = Limits { bytes: 1 << 20, entries: 200, ..Limits::default() };
    let _ = unpack_untrusted(archive, File::open(&inside).expect("the folder can be opened"), limits);
    assert_eq!(fs::read_to_string(&canary).expect("the canary is there"), CANARY);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder can be read").count(), 2);
});
