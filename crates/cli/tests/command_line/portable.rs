//! Checkpoints that leave: as a file, to other state folders, to other users and to other walls.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use rustix::process::Signal;

use crate::{
    hard_image::{self, assert_same},
    images::root_with_a_shell,
    support::{Case, Client, Home, Wall, assert_nothing_left},
};

const PYTHON: &[&str] = hard_image::NEEDS;
const SHELL: &[&str] = &["/bin/sh", "/usr/bin/ldd"];

pub const CASES: &[Case] = &[
    Case::new("portable::a_hard_tree_comes_through_a_file", through_a_file).of_layers().needs(PYTHON),
    Case::new("portable::a_hard_tree_comes_to_every_other_wall", to_other_walls).of_layers().needs(PYTHON),
    Case::new("portable::a_flattened_one_is_an_image_of_one_layer", flattened).of_layers().needs(PYTHON),
    Case::new("portable::without_its_image_it_needs_the_image_there", thin).of_layers().needs(SHELL),
    Case::new("portable::it_goes_through_a_pipe", pipe).of_layers().needs(SHELL),
    Case::new("portable::what_is_bound_to_this_host_is_refused_with_the_way_out", bound).on(&["container-root", "container-rootless"]),
    Case::new("portable::an_interrupted_one_leaves_nothing", interrupted).of_layers().needs(SHELL),
    Case::new("portable::other_tools_read_the_file", other_tools).of_layers().needs(&["/bin/sh", "/usr/bin/ldd", "/usr/bin/skopeo"]),
    Case::new("portable::a_killed_import_leaves_nothing", killed).of_layers().needs(SHELL),
];

/// An image with Python and with the lower half of the tree.
fn hard_image(home: &Home) -> String {
    let root = home.work().join("root");
    hard_image::make(&root);
    home.ok(&["image", "import", root.to_str().unwrap(), "hard"])
}

fn python(home: &Home, id: &str, verb: &str) -> String {
    home.ok(&[&["exec", id, "--"], &hard_image::words(verb)[..]].concat())
}

/// A checkpoint of the tree, and what it looks like.
fn hard_checkpoint(home: &Home) -> (String, String) {
    hard_image(home);
    let id = home.create(&["--image", "hard", "-e", "COLOUR=green", "--name", "origin"]);
    python(home, &id, "above");
    if home.wall.provider == "gvisor" {
        // As long as it runs, its kernel has times and pipes of its own. What is kept is what it shows after a new start.
        home.ok(&["stop", &id]);
        home.ok(&["start", &id]);
    }
    let checkpoint = home.ok(&["checkpoint", &id, "--name", "hard"]);
    let told = python(home, &id, "look");
    assert!(!told.contains("gone") && told.contains("replaced/new") && told.contains("third name"), "{told}");
    (checkpoint, as_shown_by(&home.wall, &told))
}

fn export(home: &Home, options: &[&str], checkpoint: &str) -> String {
    let file = home.work().join("file.tar").to_str().unwrap().to_owned();
    let digest = home.ok(&[&["checkpoint", "export"], options, &[checkpoint, &file]].concat());
    assert!(digest.starts_with("sha256:"), "{digest}");
    // It is its owner's alone; the tests hand it to other users.
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    file
}

/// Removes what an import made, and shows that it has left nothing.
fn remove(home: &Home, checkpoint: &str) {
    home.ok(&["checkpoint", "rm", checkpoint]);
    assert_clean(home);
}

/// Nothing of checkpoints and images is left.
#[track_caller]
pub fn assert_clean(home: &Home) {
    assert_nothing_left(home);
    home.ok(&["gc"]);
    assert_eq!(home.ok(&["checkpoints"]).lines().count(), 1);
    for folder in ["checkpoints", "locks", "images/temporary", "images/layers", "images/blobs/sha256"] {
        let left: Vec<_> = fs::read_dir(home.state().join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

fn through_a_file(home: &Home) {
    let (checkpoint, before) = hard_checkpoint(home);
    let file = export(home, &[], &checkpoint);
    let there = Home::new(&home.wall);
    let arrived = there.json(&["checkpoint", "import", &file, "--json"]);
    assert_eq!((arrived["name"].as_str(), arrived["image"].as_str()), (Some("hard"), Some("hard")), "{arrived}");
    let fork = there.ok(&["fork", "hard"]);
    let look = |home: &Home, fork: &str| as_shown_by(&home.wall, &python(home, fork, "look"));
    assert_same(&before, &look(&there, &fork), "in another state folder");
    assert_eq!(there.ok(&["exec", &fork, "--", PYTHON[0], "-I", "-S", "-c", "import os; print(os.environ['COLOUR'])"]), "green");
    // The same again, of a fork, with two layers of its own.
    there.ok(&["exec", &fork, "--", PYTHON[0], "-I", "-S", "-c", "import os; os.unlink('/srv/tree/kept'); open('/srv/tree/more', 'w')"]);
    let second = there.ok(&["checkpoint", &fork]);
    let looked = look(&there, &fork);
    let file = export(&there, &[], &second);
    there.ok(&["rm", "-f", &fork]);
    there.ok(&["checkpoint", "rm", &second]);
    remove(&there, "hard");
    let back = there.ok(&["checkpoint", "import", &file, "--name", "back"]);
    let fork = there.ok(&["fork", "back"]);
    assert_same(&looked, &look(&there, &fork), "with two layers");
    there.ok(&["rm", "-f", &fork]);
    remove(&there, &back);
    // Into the first state folder, too.
    let arrived = home.json(&["checkpoint", "import", &file, "--json"]);
    let fork = home.ok(&["fork", arrived["id"].as_str().unwrap()]);
    assert_same(&looked, &look(home, &fork), "in the first state folder");
    there.close();
}

fn to_other_walls(home: &Home) {
    let (checkpoint, whole) = hard_checkpoint(home);
    let file = export(home, &[], &checkpoint);
    let scratch = tempfile::Builder::new().prefix("sandbar-test-").tempdir_in("/tmp").unwrap();
    crate::support::open_to_all(scratch.path());
    // Engines keep less than the tree has, and have a test of their own (`docker` of the conformance suite).
    let is_meant = |wall: &Wall| wall.provider != "dangerous-host" && wall.supplies.is_none() && wall.lack().is_none();
    for wall in Wall::all(scratch.path()).into_iter().filter(is_meant) {
        let there = Home::new(&wall);
        let arrived = there.ok(&["checkpoint", "import", &file]);
        let fork = there.ok(&["fork", &arrived, "--on", wall.provider]);
        let shown = |told: &str| as_shown_by(&wall, &as_shown_by(&home.wall, told));
        let (before, after) = (shown(&whole), shown(&python(&there, &fork, "look")));
        let where_ = format!("from {} to {}", home.wall.name, wall.name);
        if has_ids(home, "origin") && has_ids(&there, &fork) {
            assert_same(&before, &after, &where_);
        } else {
            assert_same(&without_owners(&before), &without_owners(&after), &where_);
        }
        there.ok(&["rm", "-f", &fork]);
        remove(&there, &arrived);
        there.close();
        // In the same state folder, without a file.
        if wall.user == home.wall.user && wall.provider != home.wall.provider {
            let fork = home.ok(&["fork", &checkpoint, "--on", wall.provider]);
            let after = shown(&python(home, &fork, "look"));
            assert_same(&before, &after, &format!("forked from {} on {}", home.wall.name, wall.name));
            home.ok(&["rm", "-f", &fork]);
        }
    }
}

/// Whether a sandbox has more than one user.
fn has_ids(home: &Home, id: &str) -> bool {
    let count = "print(sum(int(line.split()[2]) for line in open('/proc/self/uid_map')) > 1)";
    home.ok(&["exec", id, "--", PYTHON[0], "-I", "-S", "-c", count]) == "True"
}

/// What of it a wall's kernel can show.
fn as_shown_by(wall: &Wall, told: &str) -> String {
    if wall.provider == "gvisor" { hard_image::as_gvisor_shows(told) } else { told.to_owned() }
}

/// Where there is one id, everything is root's.
fn without_owners(told: &str) -> String {
    let line = |line: &str| {
        // `'path' 'mode' uid gid …`: the first name may hold anything, but no such end of it.
        let at = line.find("' '").map_or(0, |at| at + 3);
        let (start, rest) = line.split_at(at);
        let mut fields: Vec<&str> = rest.split(' ').collect();
        fields.drain(1..3);
        format!("{start}{}\n", fields.join(" "))
    };
    told.lines().map(line).collect()
}

/// What an image keeps of it without root.
fn as_an_image(told: &str) -> String {
    without_owners(told).replace("[('security.capability', '0100000200200000000000000000000000000000')]", "[]")
}

fn flattened(home: &Home) {
    let (checkpoint, before) = hard_checkpoint(home);
    let file = export(home, &["--flatten"], &checkpoint);
    let there = Home::new(&home.wall);
    let arrived = there.ok(&["checkpoint", "import", &file, "--name", "flat"]);
    let fork = there.ok(&["fork", "flat"]);
    let after = as_shown_by(&home.wall, &python(&there, &fork, "look"));
    if home.wall.user.is_none() {
        assert_same(&before, &after, "flattened");
    } else {
        // It is an image now, and without root everything in images is root's.
        assert_same(&as_an_image(&before), &as_an_image(&after), "flattened");
    }
    there.ok(&["rm", "-f", &fork]);
    remove(&there, &arrived);
    // Also as a plain image, which it is for everybody else.
    let image = there.json(&["image", "import", &file, "--json"]);
    assert_eq!(image["layers"].as_array().unwrap().len(), 1, "{image}");
    there.close();
}

/// A checkpoint of a small image, named `small`, and its image's id.
fn small_checkpoint(home: &Home) -> String {
    let root = home.work().join("root");
    root_with_a_shell(&root);
    let image = home.ok(&["image", "import", root.to_str().unwrap(), "tiny"]);
    let id = home.create(&["--image", "tiny"]);
    home.ok(&["exec", &id, "--", "/bin/sh", "-c", "echo kept > /file"]);
    home.ok(&["checkpoint", &id, "--name", "small"]);
    image
}

fn thin(home: &Home) {
    small_checkpoint(home);
    let whole = fs::metadata(export(home, &[], "small")).unwrap().len();
    let file = export(home, &["--thin"], "small");
    assert!(fs::metadata(&file).unwrap().len() < whole / 4);
    let there = Home::new(&home.wall);
    let refused = there.sandbar(&["checkpoint", "import", &file]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("tiny") && refused.stderr.contains("hint: "), "{refused}");
    assert_clean(&there);
    there.close();
    let arrived = home.json(&["checkpoint", "import", &file, "--json"]);
    // `small` is taken here.
    assert_eq!((&arrived["name"], &arrived["image_was_here"]), (&serde_json::Value::Null, &true.into()), "{arrived}");
    let fork = home.ok(&["fork", arrived["id"].as_str().unwrap()]);
    assert_eq!(home.ok(&["exec", &fork, "--", "/bin/sh", "-c", "read line < /file; echo $line"]), "kept");
    let taken = home.sandbar(&["checkpoint", "import", &file, "--name", "small"]);
    assert!(taken.code == 125 && taken.stderr.contains("taken"), "{taken}");
}

fn pipe(home: &Home) {
    small_checkpoint(home);
    let there = Home::new(&home.wall);
    let exported = home.sandbar(&["checkpoint", "export", "small", "-"]);
    assert_eq!(exported.code, 0, "{exported}");
    let (client, input) = Client::start_with_input(there.command(&["checkpoint", "import", "-"]), &["checkpoint", "import", "-"]);
    crate::support::feed(input, exported.stdout).join().unwrap().unwrap();
    let arrived = client.finish();
    assert_eq!(arrived.code, 0, "{arrived}");
    let fork = there.ok(&["fork", arrived.text().trim()]);
    assert_eq!(there.ok(&["exec", &fork, "--", "/bin/sh", "-c", "read line < /file; echo $line"]), "kept");
    there.ok(&["rm", "-f", &fork]);
    remove(&there, arrived.text().trim());
    there.close();
}

fn bound(home: &Home) {
    let id = home.create(&[]);
    home.ok(&["checkpoint", &id, "--name", "here"]);
    let refused = home.sandbar(&["checkpoint", "export", "here", "/nowhere/file"]);
    assert_eq!(refused.code, 125, "{refused}");
    let file = home.work().join("file");
    let refused = home.sandbar(&["checkpoint", "export", "here", file.to_str().unwrap()]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("`host`") && refused.stderr.contains("--flatten"), "{refused}");
    assert_eq!(fs::read_dir(home.work()).unwrap().count(), 0);
}

fn interrupted(home: &Home) {
    small_checkpoint(home);
    let exported = home.sandbar(&["checkpoint", "export", "small", "-"]).stdout;
    let there = Home::new(&home.wall);
    let args = ["checkpoint", "import", "-"];
    let (client, mut input) = Client::start_with_input(there.command(&args), &args);
    use std::io::Write;
    input.write_all(&exported[..exported.len() / 2]).unwrap();
    crate::support::eventually("the file is being read", || {
        fs::read_dir(there.state().join("images/temporary")).is_ok_and(|mut entries| entries.next().is_some())
    });
    client.signal(Signal::INT);
    let ended = client.finish();
    assert_eq!(ended.code, 130, "{ended}");
    drop(input);
    let left: Vec<_> = fs::read_dir(there.state().join("images/temporary")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_clean(&there);
    there.close();
}

fn other_tools(home: &Home) {
    small_checkpoint(home);
    let file = export(home, &[], "small");
    let inspected = Command::new("/usr/bin/skopeo").args(["inspect", "--config", &format!("oci-archive:{file}")]).output().unwrap();
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    let config: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2, "{config}");
    assert_eq!(config["history"].as_array().unwrap().len(), 2, "{config}");
    // It compares the digests of everything on the way.
    let copy = home.work().join("copy");
    let copied = Command::new("/usr/bin/skopeo")
        .args(["--insecure-policy", "copy", &format!("oci-archive:{file}"), &format!("dir:{}", copy.display())])
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

fn killed(home: &Home) {
    small_checkpoint(home);
    let file = export(home, &[], "small");
    let there = Home::new(&home.wall);
    for step in ["import.unpacked", "import.rows", "import.placed", "import.finished"] {
        let mut command = there.command(&["checkpoint", "import", &file]);
        command.env("SANDBAR_FAULT", step);
        let ended = Client::start(command, &["checkpoint", "import", &file]).finish();
        assert_eq!(ended.code, 137, "{step} was not reached: {ended}");
        there.ok(&["gc"]);
        // The last step is behind the end of the work.
        if step == "import.finished" {
            there.ok(&["checkpoint", "rm", "small"]);
        }
        assert_clean(&there);
    }
    there.close();
}
