use std::path::Path;

use xshell::{Shell, cmd};

use crate::{
    backports, lab, macos,
    outcome::{Failure, say},
    schemathesis,
};

/// Debian packages and what each is for.
const PACKAGES: [(&str, &str); 26] = [
    ("git", "clones inside, in tests of what leaves a sandbox"),
    ("curl", "the client inside, in tests of what leaves a sandbox"),
    ("openssl", "the TLS server of those tests"),
    ("iproute2", "the network namespaces of those tests"),
    ("ca-certificates", "what programs inside believe, in those tests"),
    ("uidmap", "newuidmap, for rootless containers with a range of ids"),
    ("e2fsprogs", "mkfs.ext4, for disk limits and the disks of virtual machines"),
    ("python3-minimal", "programs inside the image `host`"),
    ("docker-registry", "a real registry on loopback"),
    ("openssh-server", "a real login on loopback, which the tests start themselves"),
    ("skopeo", "fills that registry"),
    ("docker.io", "the engine of the provider docker, started by the tests themselves"),
    ("bubblewrap", "peer of the benchmarks"),
    ("runc", "peer of the benchmarks"),
    ("slirp4netns", "peer of the benchmarks"),
    ("passt", "peer of the benchmarks"),
    ("squashfs-tools", "root images of virtual machines"),
    ("g++", "libFuzzer"),
    ("qemu-system-x86", "virtual machines; the lab's machine, and on Debian 12 the program that shares files with it"),
    ("busybox-static", "an image of one static program, for that engine and for virtual machines; the lab's first programs"),
    ("mmdebstrap", "makes the image `base` of packages, as `sandbar setup` does"),
    ("cpio", "packs what the lab starts with"),
    ("kmod", "the order of the lab's modules"),
    ("lz4", "unpacks the lab's kernel"),
    ("python3-pip", "fetches Firecracker for the lab"),
    ("python3-venv", "schemathesis, which asks the server"),
];

/// The field of the package database that says whether a package is there.
const STATUS_FORMAT: &str = "${db:Status-Status}";

/// The user that rootless tests run as, with a range of subordinate ids.
pub const TEST_USER: &str = "sandbar-test";

/// Installs what is missing. Without root it says what would be installed, and the tests that need it are ignored.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    let mut missing: Vec<&str> = PACKAGES.iter().map(|(package, _)| *package).filter(|package| !is_installed(shell, package)).collect();
    // Installs packages inside, in tests of what leaves a sandbox. Other sources than the distribution's have it under other names.
    if !Path::new("/usr/bin/npm").exists() {
        missing.push("npm");
    }
    let newer: Vec<&str> =
        backports::PACKAGES.iter().map(|(package, _)| *package).filter(|package| !is_installed(shell, package)).collect();
    let is_root = cmd!(shell, "id -u").quiet().read()? == "0";
    let has_user = cmd!(shell, "id {TEST_USER}").quiet().ignore_stdout().ignore_stderr().run().is_ok();
    if !is_root {
        if !missing.is_empty() || !newer.is_empty() || !has_user {
            let all = [missing, newer].concat().join(" ");
            say(&format!("not root: not installed: {all}; tests that need them are ignored"));
            say("run `cargo xtask setup` as root once to change that");
        }
        return Ok(());
    }
    if !missing.is_empty() {
        if cmd!(shell, "sh -c").arg("command -v apt-get").quiet().ignore_stdout().run().is_err() {
            return Err(Failure::new(format!("no apt-get here; install what corresponds to: {}", missing.join(" "))));
        }
        say(&format!("installing: {}", missing.join(" ")));
        // A third-party source that does not answer must not stop the distribution's own packages.
        let _ = cmd!(shell, "apt-get update -q").quiet().ignore_stdout().run();
        cmd!(shell, "apt-get install -yq --no-install-recommends {missing...}")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .ignore_stdout()
            .run()?;
    }
    if !newer.is_empty() {
        say(&format!("installing from backports: {}", newer.join(" ")));
        // Other distributions have no such suite; what needs it says so.
        if let Err(failure) = backports::install(shell, &newer) {
            say(&format!("not installed, and tests that need it are ignored: {failure}"));
        }
    }
    if !has_user {
        say(&format!("adding the user {TEST_USER}"));
        cmd!(shell, "useradd --system --create-home --shell /usr/sbin/nologin --add-subids-for-system {TEST_USER}").run()?;
    }
    // Other distributions have no such compiler; what needs it says so.
    if let Err(failure) = macos::fetch(shell) {
        say(&format!("the client is not checked for macOS: {failure}"));
    }
    // It comes from a registry that not every machine reaches; what needs it says so.
    if let Err(failure) = schemathesis::fetch(shell) {
        say(&format!("the server is not asked by schemathesis: {failure}"));
    }
    if cfg!(target_arch = "x86_64") {
        lab::materials::fetch(shell)?;
    }
    Ok(())
}

pub fn is_installed(shell: &Shell, package: &str) -> bool {
    cmd!(shell, "dpkg-query --show --showformat={STATUS_FORMAT} {package}")
        .quiet()
        .ignore_stderr()
        .read()
        .is_ok_and(|status| status == "installed")
}
