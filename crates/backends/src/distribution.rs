//! Which distribution this host is, and the command by which it installs a program.

use std::fs;

/// A program, and the package that has it, as each family of distributions calls it. `None` where no package has it, or one that is too old.
///
/// Debian's, Fedora's, Red Hat's, Arch's, openSUSE's and Alpine's. Red Hat's QEMU is `/usr/libexec/qemu-kvm` alone, its squashfs-tools has no `sqfstar` before
/// release 10, and it has Podman in Docker's place.
const PACKAGES: [(&str, [Option<&str>; 6]); 5] = [
    (
        "qemu-system-x86_64",
        [Some("qemu-system-x86"), Some("qemu-system-x86"), None, Some("qemu-system-x86"), Some("qemu-x86"), Some("qemu-system-x86_64")],
    ),
    ("sqfstar", [Some("squashfs-tools"), Some("squashfs-tools"), None, Some("squashfs-tools"), Some("squashfs"), Some("squashfs-tools")]),
    ("mkfs.ext4", [Some("e2fsprogs"); 6]),
    ("dockerd", [Some("docker.io"), Some("moby-engine"), None, Some("docker"), Some("docker"), Some("docker")]),
    (
        "ssh",
        [
            Some("openssh-client"),
            Some("openssh-clients"),
            Some("openssh-clients"),
            Some("openssh"),
            Some("openssh-clients"),
            Some("openssh-client"),
        ],
    ),
];

/// Distributions with the same packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Debian,
    Fedora,
    RedHat,
    Arch,
    Suse,
    Alpine,
}

impl Family {
    fn install(self) -> &'static str {
        match self {
            Self::Debian => "apt-get install",
            Self::Fedora | Self::RedHat => "dnf install",
            Self::Arch => "pacman -S",
            Self::Suse => "zypper install",
            Self::Alpine => "apk add",
        }
    }

    fn package(self, program: &str) -> Option<&'static str> {
        let (_, packages) = PACKAGES.iter().find(|(name, _)| *name == program)?;
        packages[self as usize]
    }
}

/// A distribution, as it says itself (os-release(5)). Of none that is known, everything is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// `debian`, `fedora` …
    pub id: String,
    /// Those that it is made from or like, the nearest first.
    pub like: Vec<String>,
    /// The release: `12`, `24.04`; empty where there are none.
    pub version: String,
    /// The release's name: `bookworm`; empty where it has none.
    pub codename: String,
}

impl Distribution {
    /// This host's.
    pub fn here() -> Self {
        let read = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(path).ok());
        Self::parse(&read.unwrap_or_default())
    }

    /// What an `os-release` says.
    pub fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.map(unquoted).unwrap_or_default()
        };
        Self {
            id: value("ID"),
            like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
            version: value("VERSION_ID"),
            codename: value("VERSION_CODENAME"),
        }
    }

    /// What its user does to get programs: the command where it is known, and the programs' names otherwise.
    pub fn how_to_install(&self, programs: &[&str]) -> String {
        let family = self.family();
        let mut packages: Vec<&str> = Vec::new();
        let mut unknown: Vec<&str> = Vec::new();
        for program in programs {
            match family.and_then(|family| family.package(program)) {
                Some(package) if !packages.contains(&package) => packages.push(package),
                Some(_) => {}
                None => unknown.push(program),
            }
        }
        let command = family.filter(|_| !packages.is_empty()).map(|family| format!("as root: {} {}", family.install(), packages.join(" ")));
        let by_hand = (!unknown.is_empty()).then(|| format!("install what has {}", unknown.join(" and ")));
        // A command that somebody copies ends where it ends.
        by_hand.into_iter().chain(command).collect::<Vec<_>>().join("; ")
    }

    /// The same for a provider's programs, with the command of sandbar's own where that knows the packages.
    pub fn how_to_set_up(&self, provider: &str, programs: &[&str]) -> String {
        let by_hand = self.how_to_install(programs);
        // Ubuntu has a kernel and its modules in packages of their own.
        let is_known = match provider {
            "qemu" | "firecracker" => self.id == "debian",
            _ => matches!(self.id.as_str(), "debian" | "ubuntu"),
        };
        if is_known { format!("sandbar setup {provider}, or {by_hand}") } else { by_hand }
    }

    fn family(&self) -> Option<Family> {
        let names = || std::iter::once(self.id.as_str()).chain(self.like.iter().map(String::as_str));
        let is_red_hat = names().any(|name| matches!(name, "rhel" | "centos" | "amzn"));
        names().find_map(|name| match name {
            "debian" | "ubuntu" => Some(Family::Debian),
            "rhel" | "centos" | "amzn" => Some(Family::RedHat),
            "fedora" if is_red_hat => Some(Family::RedHat),
            "fedora" => Some(Family::Fedora),
            "arch" => Some(Family::Arch),
            "suse" | "opensuse" => Some(Family::Suse),
            "alpine" => Some(Family::Alpine),
            _ => None,
        })
    }
}

/// A value as a shell would take it: os-release(5) has it quoted with either, and five characters escaped.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    if let Some(plain) = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        return plain.to_owned();
    }
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let mut characters = value.chars();
    std::iter::from_fn(|| match characters.next()? {
        '\\' => characters.next(),
        other => Some(other),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
    const UBUNTU: &str = "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\n";
    const MINT: &str = "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_ID=\"22\"\nVERSION_CODENAME=wilma\n";
    const FEDORA: &str = "NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=42\nVERSION_CODENAME=\"\"\n";
    const ROCKY: &str = "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.5\"\n";
    const AMAZON: &str = "NAME=\"Amazon Linux\"\nID=\"amzn\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"2023\"\n";
    const ARCH: &str = "NAME='Arch Linux'\nID=arch\nBUILD_ID=rolling\n";
    const MANJARO: &str = "ID=manjaro\nID_LIKE='arch'\n";
    const LEAP: &str = "NAME=\"openSUSE Leap\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.6\"\n";
    const ALPINE: &str = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.22.0\n";
    const NIX: &str = "NAME=NixOS\nID=nixos\nVERSION_ID=\"25.05\"\n";

    #[test]
    fn each_family_has_its_own_command_and_names() {
        for (release, command) in [
            (DEBIAN, "as root: apt-get install qemu-system-x86 squashfs-tools e2fsprogs"),
            (MINT, "as root: apt-get install qemu-system-x86 squashfs-tools e2fsprogs"),
            (FEDORA, "as root: dnf install qemu-system-x86 squashfs-tools e2fsprogs"),
            (ARCH, "as root: pacman -S qemu-system-x86 squashfs-tools e2fsprogs"),
            (MANJARO, "as root: pacman -S qemu-system-x86 squashfs-tools e2fsprogs"),
            (LEAP, "as root: zypper install qemu-x86 squashfs e2fsprogs"),
            (ALPINE, "as root: apk add qemu-system-x86_64 squashfs-tools e2fsprogs"),
        ] {
            let said = Distribution::parse(release).how_to_install(&["qemu-system-x86_64", "sqfstar", "mkfs.ext4"]);
            assert_eq!(said, command, "{release}");
        }
    }

    #[test]
    fn what_a_distribution_has_no_package_for_is_named_as_a_program() {
        for release in [ROCKY, AMAZON] {
            let said = Distribution::parse(release).how_to_install(&["qemu-system-x86_64", "mkfs.ext4"]);
            assert_eq!(said, "install what has qemu-system-x86_64; as root: dnf install e2fsprogs", "{release}");
        }
        for release in [NIX, "", "ID=\nID_LIKE=\n", "no release at all"] {
            let said = Distribution::parse(release).how_to_install(&["sqfstar", "mkfs.ext4"]);
            assert_eq!(said, "install what has sqfstar and mkfs.ext4", "{release}");
        }
        assert_eq!(Distribution::parse(DEBIAN).how_to_install(&["runsc"]), "install what has runsc");
    }

    #[test]
    fn sandbar_offers_itself_where_it_knows_the_packages() {
        let said = |release| Distribution::parse(release).how_to_set_up("qemu", &["sqfstar"]);
        assert_eq!(said(DEBIAN), "sandbar setup qemu, or as root: apt-get install squashfs-tools");
        assert_eq!(said(ALPINE), "as root: apk add squashfs-tools");
        let docker = Distribution::parse(UBUNTU).how_to_set_up("docker", &["dockerd"]);
        assert_eq!(docker, "sandbar setup docker, or as root: apt-get install docker.io");
        for release in [UBUNTU, MINT] {
            assert_eq!(said(release), "as root: apt-get install squashfs-tools", "its kernels have no modules with them");
        }
        assert_eq!(said(NIX), "install what has sqfstar");
    }

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        let read = Distribution::parse(
            "# ID=commented\nID='single'\nVERSION_ID=\"1\\\"2\\$\"\n  VERSION_CODENAME=plain  \nID_LIKE=\"a  b\"\nNOT_ID=other\n",
        );
        assert_eq!(read.id, "single");
        assert_eq!(read.version, "1\"2$");
        assert_eq!(read.codename, "plain");
        assert_eq!(read.like, ["a", "b"]);
        // The last one counts, as in a shell.
        assert_eq!(Distribution::parse("ID=first\nID=last\n").id, "last");
    }

    #[test]
    fn every_program_has_a_name_in_debian_which_the_walls_are_tested_on() {
        for (program, packages) in PACKAGES {
            assert!(packages[Family::Debian as usize].is_some(), "{program}");
        }
    }
}
