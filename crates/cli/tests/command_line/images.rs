//! Images of this machine's own files.

use std::{fs, path::Path};

use crate::{
    hard_image::add_program,
    support::{Case, Home, Registry, Terminal},
};

const WALLS: &[&str] = &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless"];

pub const CASES: &[Case] = &[
    Case::new("images::a_folder_is_imported_used_listed_and_removed", folder).on(WALLS).needs(&["/bin/sh", "/usr/bin/ldd"]),
    Case::new("images::what_is_no_image_is_refused", refused),
    Case::new("images::a_reference_is_pulled_from_a_registry_and_used", pulled)
        .on(&["container-root", "container-rootless"])
        .needs(Registry::NEEDS),
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

fn pulled(home: &Home) {
    let root = home.work().join("root");
    root_with_a_shell(&root);
    home.ok(&["image", "import", root.to_str().unwrap(), "tiny"]);
    let id = home.create(&["--image", "tiny"]);
    home.ok(&["exec", &id, "--", "/bin/sh", "-c", "echo from the sandbox > /mark"]);
    let checkpoint = home.ok(&["checkpoint", &id]);
    let archive = home.work().join("mine.tar");
    home.ok(&["checkpoint", "export", &checkpoint, archive.to_str().unwrap()]);
    let registry = Registry::start();
    let reference = registry.push(&archive, "mine");
    // A script hears the id alone; a person sees how far it is.
    let mut pull = Terminal::start(home, &["image", "pull", &reference], 24, 120);
    let code = pull.wait();
    let shown = pull.shown();
    assert!(code == 0 && shown.contains("sha256:"), "{code}: {shown}");
    let again = home.ok(&["image", "pull", &reference]);
    assert!(shown.contains(&again) && again.starts_with("sha256:") && again.lines().count() == 1, "{again}");
    let line = ["/bin/sh", "-c", "read line < /mark; echo $line"];
    let run = home.sandbar(&home.run_args(&["--image", &reference], &line));
    assert_eq!((run.code, run.text().as_str()), (0, "from the sandbox\n"), "{run}");
    let missing = home.sandbar(&["image", "pull", &format!("{}/no-such:t", registry.address())]);
    assert!(missing.code == 125 && missing.stderr.contains("no-such"), "{missing}");
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
