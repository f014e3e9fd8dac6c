//! Images of this machine's own files.

use std::{fs, path::Path};

use crate::{
    hard_image::add_program,
    support::{Case, Home},
};

const WALLS: &[&str] = &["container", "container-rootless", "gvisor", "gvisor-rootless"];

pub const CASES: &[Case] = &[
    Case::new("images::a_folder_is_imported_used_listed_and_removed", folder).on(WALLS).needs(&["/bin/sh", "/usr/bin/ldd"]),
    Case::new("images::what_is_no_image_is_refused", refused),
];

/// A root file system with nothing but a shell in it.
pub fn root_with_a_shell(root: &Path) {
    add_program(root, "/bin/sh");
    fs::write(root.join("mark"), "from the image").unwrap();
}

fn folder(home: &Home) {
    let root = home.work().join("root");
    root_with_a_shell(&root);
    let id = home.ok(&["image", "import", root.to_str().unwrap(), "tiny"]);
    assert!(id.starts_with("sha256:"), "{id}");
    let listed = home.json(&["image", "ls", "--json"]);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["names"][0].as_str()), (Some(id.as_str()), Some("tiny:latest")));
    let table = home.ok(&["image", "ls"]);
    let short = table.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    for reference in ["tiny", short, id.as_str()] {
        let line = "read line < /mark; echo $line; echo written > /mark";
        let run = home.sandbar(&home.run_args(&["--image", reference], &["/bin/sh", "-c", line]));
        assert_eq!((run.code, run.text().as_str()), (0, "from the image\n"), "{run}");
    }
    home.ok(&["image", "rm", "tiny"]);
    assert_eq!(home.ok(&["image", "ls"]).lines().count(), 1);
    let gone = home.sandbar(&home.run_args(&["--image", "tiny"], &["/bin/sh"]));
    assert_eq!(gone.code, 125, "{gone}");
    assert!(gone.stderr.contains("tiny"), "{gone}");
}

fn refused(home: &Home) {
    let file = home.work().join("file");
    fs::write(&file, "no archive").unwrap();
    for args in [&["import", file.to_str().unwrap()][..], &["import", "/no/such/path"], &["rm", "no-such-image"], &["rm", "host"]] {
        let refused = home.sandbar(&[&["image"], args].concat());
        assert_eq!(refused.code, 125, "{refused}");
        assert!(refused.stderr.contains("error: "), "{refused}");
    }
    assert_eq!(home.ok(&["image", "ls"]).lines().count(), 1);
}
