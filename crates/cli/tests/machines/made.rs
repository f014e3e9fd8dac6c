use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use crate::world::{World, kernel};

/// What one sandbox may take on the disk before it has written anything: an empty file system, in which it will write. Bytes.
const LITTLE: u64 = 8 << 20;

/// Sandboxes of one image have one root image, and those that were forked from one memory have one memory. Each has its own template when the kernel, the
/// image or the monitor is another, and goes on when that is removed.
pub fn is_shared(world: &World) {
    let first = world.create();
    let second = world.create();
    let base = [first.as_str(), &second].map(|id| files_of(machine(world, id)));
    let image = world.image();
    assert!(base.iter().all(|files| files.contains(&image)), "{image:?} of {base:?}");
    for id in [&first, &second] {
        let own = occupied(&world.state().join("sandboxes").join(id));
        assert!(own < LITTLE, "a new sandbox has {own} bytes of its own");
        has_for_itself(world, id, memory(world, "templates"));
    }
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &first]);
    let forks = [(); 2].map(|()| world.ok(&["fork", &checkpoint]));
    let saved = memory(world, "checkpoints");
    for fork in &forks {
        has_for_itself(world, fork, saved);
    }
    for id in forks.iter().chain([&second]) {
        world.ok(&["rm", "-f", id]);
    }

    let templates = || templates(world);
    let of_first = templates();
    assert_eq!(of_first.len(), 1);
    world.import("other", "/other");
    let creation = ["create", "--on", world.monitor.name, "--image", "other", "--memory", "64M"];
    let other = world.ok(&creation);
    assert_eq!(world.ok(&["exec", &other, "--", "cat", "/other"]), "other");
    assert_eq!(templates().len(), 2, "for another image");
    world.ok(&["rm", "-f", &other]);
    for template in &of_first {
        world.ok(&["template", "rm", template]);
    }
    assert_eq!(world.ok(&["exec", &first, "--", "echo", "here"]), "here", "its template is removed");
    world.ok(&["rm", "-f", &first]);

    let (kernel, modules) = another_kernel(world);
    world.ok(&["kernel", "import", &kernel, "--modules", &modules, "--name", "another"]);
    let before = templates();
    let id = world.ok(&creation);
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/other"]), "other", "on another kernel");
    assert!(templates().is_superset(&before) && templates().len() == before.len() + 1, "for another kernel: {before:?}, {:?}", templates());
    world.ok(&["rm", "-f", &id]);

    let before = templates();
    let path = another_monitor(world);
    let created = world.command(&creation).env("PATH", path).output().unwrap();
    assert!(created.status.success(), "{created:?}");
    let id = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/other"]), "other", "under another file of the monitor");
    assert_eq!(templates().len(), before.len() + 1, "for another file of the monitor: {before:?}");
    world.ok(&["rm", "-f", &id]);
}

/// What a template was made with may go, and come again with the same content: then sandboxes begin as before, several at a time too, from a template that
/// is made again where it has to be, and so they do when it is damaged. Those that run do not notice, and one that was stopped is saved.
pub fn is_made_again(world: &World) {
    let build: Vec<&str> = ["template", "build"].into_iter().chain(world.creation().into_iter().skip(1)).collect();
    world.ok(&build);
    assert_eq!(world.ok(&["ls", "-q"]), "", "what a template was built with");
    let built = only_template(world);
    let first = world.create();
    assert_eq!(only_template(world), built, "a sandbox of its kind begins from it");
    world.ok(&["rm", "-f", &first]);

    world.ok(&["image", "rm", "busybox"]);
    world.ok(&["gc"]);
    assert!(templates(world).is_empty(), "of an image that is gone");
    world.import("busybox", "/name");
    let creating = [(); 3].map(|()| world.command(&world.creation()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let created = creating.map(|child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "the image is here again: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    });
    let goes_on = |id: &str, when: &str| assert_eq!(world.ok(&["exec", id, "--", "cat", "/name"]), "busybox", "{when}");
    created.iter().for_each(|id| goes_on(id, "the image is here again"));
    let [stopped, running, other] = created;
    world.ok(&["rm", "-f", &other]);
    world.ok(&["exec", &stopped, "--", "sh", "-c", "echo kept > /kept"]);
    world.ok(&["stop", &stopped]);

    let begins = |when: &str| {
        let id = world.create();
        goes_on(&id, when);
        goes_on(&running, when);
        world.ok(&["rm", "-f", &id]);
        world.ok(&["gc"]);
        only_template(world)
    };
    let kernels: serde_json::Value = serde_json::from_str(&world.ok(&["kernel", "ls", "--json"])).unwrap();
    world.ok(&["kernel", "rm", kernels[0]["name"].as_str().unwrap()]);
    world.import_kernel(&[]);
    let before = begins("the kernel is here again");
    world.ok(&["kernel", "rm", kernels[0]["name"].as_str().unwrap()]);
    world.import_kernel(&["--name", "renamed"]);
    let saved = world.ok(&["checkpoint", &stopped]);
    let renamed = begins("the kernel has another name");
    assert_ne!(renamed, before, "that one names the kernel that is gone");
    let fork = world.ok(&["fork", &saved]);
    assert_eq!(world.ok(&["exec", &fork, "--", "cat", "/kept"]), "kept", "of a sandbox whose kernel is gone");
    world.ok(&["rm", "-f", &fork]);

    let image = world.files("root-images", |name| name.ends_with(".squashfs"));
    fs::remove_file(&image[0]).unwrap();
    let anew = begins("the disk of its image is made again");
    assert!(anew.0 == renamed.0 && anew.1 != renamed.1, "{renamed:?} knows another disk: {anew:?}");
    fs::write(world.state().join("templates").join(&anew.0).join("template.json"), "").unwrap();
    assert!(templates(world).is_empty(), "of a damaged one nothing is told");
    assert_eq!(begins("its template was damaged").0, anew.0);
}

fn templates(world: &World) -> BTreeSet<String> {
    let told: serde_json::Value = serde_json::from_str(&world.ok(&["template", "ls", "--json"])).unwrap();
    told.as_array().unwrap().iter().map(|template| template["id"].as_str().unwrap().to_owned()).collect()
}

/// The only one, and when it was made.
fn only_template(world: &World) -> (String, SystemTime) {
    let all = templates(world);
    assert_eq!(all.len(), 1, "{all:?}");
    let id = all.into_iter().next().unwrap();
    let made = fs::metadata(world.state().join("templates").join(&id).join("template.json")).unwrap().modified().unwrap();
    (id, made)
}

/// The only file of saved memory in a folder of the state.
fn memory(world: &World, folder: &str) -> u64 {
    let memories = world.files(folder, |name| matches!(name, "ram.img" | "memory"));
    assert_eq!(memories.len(), 1, "{memories:?}");
    fs::metadata(&memories[0]).unwrap().ino()
}

/// What a sandbox changes of the memory that it began from, nobody else sees.
fn has_for_itself(world: &World, id: &str, saved: u64) {
    let maps = fs::read_to_string(format!("/proc/{}/maps", machine(world, id))).unwrap();
    let way_of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(4)?.parse() == Ok(saved)).then(|| words[1].to_owned())
    };
    let ways: BTreeSet<String> = maps.lines().filter_map(way_of).collect();
    assert!(!ways.is_empty() && ways.iter().all(|way| way.ends_with('p')), "the memory {saved} is mapped as {ways:?}: {maps}");
}

/// The same program, as an installation of another version would come: with this `PATH`.
fn another_monitor(world: &World) -> String {
    let folder = world.state().parent().unwrap().join("monitor");
    fs::create_dir(&folder).unwrap();
    if world.monitor.name == "firecracker" {
        let config = world.state().join("sandbar.toml");
        let text = fs::read_to_string(&config).unwrap();
        let named = text.lines().find_map(|line| line.strip_prefix("firecracker = ")).unwrap().trim_matches('"').to_owned();
        for program in ["firecracker", "jailer"] {
            fs::copy(Path::new(&named).with_file_name(program), folder.join(program)).unwrap();
        }
        fs::write(&config, text.replace(&named, folder.join("firecracker").to_str().unwrap())).unwrap();
    } else {
        // With its firmware where it was.
        symlink("/usr/bin/qemu-system-x86_64", folder.join("qemu-system-x86_64")).unwrap();
    }
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// The machine of one sandbox.
fn machine(world: &World, id: &str) -> u32 {
    let told = world.inspect(id).to_string();
    let all: Vec<u32> =
        world.processes().into_iter().filter(|(_, name)| name.starts_with(world.monitor.name)).map(|(pid, _)| pid).collect();
    let of_it = |pid: &&u32| {
        let says = |name: &str| fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(id));
        let place = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        says("cmdline") || place.display().to_string().contains(id)
    };
    let found: Vec<u32> = all.iter().filter(of_it).copied().collect();
    assert_eq!(found.len(), 1, "{all:?}: {told}");
    found[0]
}

/// The regular files that a process has open.
fn files_of(pid: u32) -> BTreeSet<(u64, u64)> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    files.filter_map(|file| fs::metadata(file.path()).ok()).filter(fs::Metadata::is_file).map(|file| (file.dev(), file.ino())).collect()
}

/// Bytes on the disk that nothing else has: in a jail files that are shared have a name of their own.
fn occupied(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => occupied(&entry.path()),
            Ok(kind) if kind.is_file() => {
                let file = entry.metadata().unwrap();
                if file.nlink() == 1 { file.blocks() * 512 } else { 0 }
            }
            _ => 0,
        })
        .sum()
}

/// A compressed kernel as distributions ship it, and modules that are not quite those of the first: one is missing that a guest can do without.
fn another_kernel(world: &World) -> (String, String) {
    let folder = world.state().join("another");
    let known = kernel().unwrap();
    let ok = |program: &str, arguments: &[&Path]| assert!(Command::new(program).args(arguments).status().unwrap().success());
    let (kernel, modules) = if std::env::var_os("SANDBAR_LAB").is_some() {
        // An emulated machine would take minutes to unpack it.
        ok("cp", &[Path::new("-a"), &known.join("modules"), &folder]);
        (known.join("vmlinux"), folder)
    } else {
        ok("dpkg-deb", &[Path::new("-x"), &known.join("package.deb"), &folder]);
        (only(&folder.join("boot"), "vmlinuz"), only(&folder.join("lib/modules"), ""))
    };
    fs::remove_file(modules.join("kernel/drivers/net/tun.ko")).unwrap();
    (kernel.display().to_string(), modules.display().to_string())
}

fn only(folder: &Path, prefix: &str) -> PathBuf {
    let all: Vec<_> =
        fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].path()
}
