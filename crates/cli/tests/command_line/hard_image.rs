//! An image with Python and with the lower half of a tree that has everything a layer can hold.

use std::{fs, path::Path, process::Command};

/// What has to be on this host for it: the first is the program inside.
pub const NEEDS: &[&str] = &["/usr/bin/python3.11", "/usr/bin/ldd"];

const TREE: &str = include_str!("../../../conformance/src/hard_tree.py");

/// What Python reads at its start from its library, without `site`.
const LIBRARY: [&str; 11] = [
    "codecs.py",
    "abc.py",
    "io.py",
    "stat.py",
    "_collections_abc.py",
    "genericpath.py",
    "posixpath.py",
    "os.py",
    "encodings/__init__.py",
    "encodings/aliases.py",
    "encodings/utf_8.py",
];

/// Makes it in a folder.
pub fn make(root: &Path) {
    add_program(root, NEEDS[0]);
    fs::create_dir_all(root.join("usr/lib/python3.11/encodings")).unwrap();
    for name in LIBRARY {
        let name = format!("usr/lib/python3.11/{name}");
        fs::copy(Path::new("/").join(&name), root.join(&name)).unwrap();
    }
    fs::create_dir_all(root.join("srv/tree")).unwrap();
    fs::write(root.join("hard_tree.py"), TREE).unwrap();
    let made = Command::new(NEEDS[0])
        .args(["-I", "-S"])
        .arg(root.join("hard_tree.py"))
        .args(["below".as_ref(), root.join("srv/tree").as_os_str()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The words that make the upper half, or look at all of it.
pub fn words(verb: &str) -> [&str; 6] {
    [NEEDS[0], "-I", "-S", "/hard_tree.py", verb, "/srv/tree"]
}

/// What of a look gVisor's kernel can show: it has no extended attributes and no time before 1970, whatever the file has.
pub fn as_gvisor_shows(told: &str) -> String {
    let shown = told.lines().filter(|line| !line.contains("'./new/empty' "));
    shown.map(|line| format!("{}\n", line.rfind(" [").map_or(line, |at| &line[..at]))).collect()
}

/// Compares two looks, line by line.
#[track_caller]
pub fn assert_same(before: &str, after: &str, place: &str) {
    let missing: Vec<&str> = before.lines().filter(|line| !after.contains(line)).collect();
    let new: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    assert!(missing.is_empty() && new.is_empty(), "{place}:\nbefore: {missing:#?}\nafter: {new:#?}");
}

/// Copies a program of this host with its libraries.
pub fn add_program(root: &Path, program: &str) {
    let listed = Command::new("/usr/bin/ldd").arg(program).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let target = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}
