//! Getting what a provider lacks on this machine, with the distribution's own packages.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::geteuid;
use sandbar_backends::{Distribution, find_program};
use sandbar_core::{Context, Error, ErrorKind, Isolation, Result};

use crate::{Runtime, choice::begins_with_base, released, root::BASE, system};

mod runsc;
mod source;

pub use source::PackageSource;

const OPERATION: &str = "setup";
/// What the image `base` has beyond the distribution's smallest system.
const BASE_PACKAGES: &str = "ca-certificates,procps,python3-minimal";
/// What makes a root file system of packages.
const BUILDER: &str = "mmdebstrap";

/// The packages of each provider's engine, as Debian and its descendants call them, with the program that shows that one is there.
const ENGINES: [(&str, &str, &str); 6] = [
    ("docker", "docker.io", "dockerd"),
    ("firecracker", "squashfs-tools", "sqfstar"),
    ("firecracker", "e2fsprogs", "mkfs.ext4"),
    ("qemu", "qemu-system-x86", "qemu-system-x86_64"),
    ("qemu", "squashfs-tools", "sqfstar"),
    ("qemu", "e2fsprogs", "mkfs.ext4"),
];
/// The provider whose engine has to be of some newness.
const GVISOR: &str = "gvisor";
/// Shows that Python's installer of packages is there.
const PIP: &str = "/usr/lib/python3/dist-packages/pip";
/// What depends on the newest kernel for virtual machines, and on the newest for any: the first that the distribution has is taken.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-amd64"];

/// One thing that a setup does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupStep {
    /// Installs packages of the distribution.
    Packages(Vec<&'static str>),
    /// Installs packages of a suite that is no source of this machine, whose sources stay as they are.
    Backports {
        /// Their names.
        packages: Vec<&'static str>,
        /// The suite.
        suite: String,
        /// Where it comes from.
        source: PackageSource,
    },
    /// Gets Firecracker's released programs.
    Firecracker,
    /// Makes the image `base` of the distribution's packages, from the machine's own package sources.
    BaseImage {
        /// The distribution's release.
        suite: String,
        /// Files with package sources.
        sources: Vec<PathBuf>,
    },
    /// Takes in the kernel of a package of the distribution, which is not installed.
    Kernel(String),
}

impl SetupStep {
    /// The command that it runs, as a shell would take it.
    pub fn describe(&self) -> String {
        match self {
            Self::Packages(names) => format!("apt-get install --yes --no-install-recommends {}", names.join(" ")),
            Self::Backports { packages, suite, source } => runsc::describe(packages, suite, source),
            Self::Firecracker => released::describe(),
            Self::BaseImage { suite, sources } => {
                let sources: Vec<String> = sources.iter().map(|path| path.display().to_string()).collect();
                format!(
                    "{BUILDER} --variant=minbase --include={BASE_PACKAGES} {suite} base.tar {}; sandbar image import base.tar {BASE}",
                    sources.join(" ")
                )
            }
            Self::Kernel(package) => format!("apt-get download {package}; sandbar kernel import {package}_*.deb"),
        }
    }
}

impl Runtime {
    /// What would have to be done here so that a provider can be used; nothing when it lacks nothing.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `Unsupported` where the distribution is not known to have the packages.
    pub async fn plan_setup(&self, provider: &str) -> Result<Vec<SetupStep>> {
        let info = self.provider(provider)?.info();
        let features = info.features;
        let mut packages: Vec<&'static str> = Vec::new();
        let mut lacking: Vec<&str> = Vec::new();
        for (name, package, program) in ENGINES {
            if name == provider && find_program(program).is_none() && !self.provider(provider)?.probe().await.usable {
                packages.push(package);
                lacking.push(program);
            }
        }
        let firecracker =
            (provider == "firecracker" && find_program("firecracker").is_none() && self.config().firecracker.firecracker.is_none())
                .then_some(SetupStep::Firecracker);
        if firecracker.is_some() && !Path::new(PIP).exists() {
            packages.push("python3-pip");
        }
        let runsc = if provider == GVISOR && self.lacks_runsc().await? { Some(runsc::step()?) } else { None };
        let base = if begins_with_base(&features) && self.images().resolve(Some(BASE)).await.is_err() {
            if find_program(BUILDER).is_none() {
                packages.push(BUILDER);
            }
            let (suite, sources) = distribution()?;
            Some(SetupStep::BaseImage { suite, sources })
        } else {
            None
        };
        let kernel = match info.isolation {
            Isolation::Vm if self.kernels().newest().is_err() => Some(SetupStep::Kernel(kernel_package().await?)),
            _ => None,
        };
        if (runsc.is_some() || !packages.is_empty()) && find_program("apt-get").is_none() {
            let error = Error::new(ErrorKind::Unsupported, OPERATION, "sandbar installs packages of Debian and its descendants alone");
            return Err(match lacking.is_empty() {
                true => error.with_hint(format!("install what corresponds to Debian's {}", packages.join(" "))),
                false => error.with_hint(Distribution::here().how_to_install(&lacking)),
            });
        }
        let packages = (!packages.is_empty()).then_some(SetupStep::Packages(packages));
        Ok(packages.into_iter().chain(runsc).chain(firecracker).chain(kernel).chain(base).collect())
    }

    /// Whether there is no `runsc`, or one that is too old, and none was named. The provider is not asked: it would remember what it found.
    async fn lacks_runsc(&self) -> Result<bool> {
        let options = self.config().gvisor.clone();
        let lacks = tokio::task::spawn_blocking(move || system::lacks_runsc(&options)).await;
        lacks.map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "looking for runsc panicked").with_source(error))
    }

    /// Does one step of a plan. What the programs say goes to standard error.
    ///
    /// # Errors
    /// `PermissionDenied` without root where packages are to be installed; `Unavailable` when a program fails.
    pub async fn set_up(&self, step: &SetupStep) -> Result<()> {
        match step {
            SetupStep::Packages(_) | SetupStep::Backports { .. } if !geteuid().is_root() => {
                Err(Error::new(ErrorKind::PermissionDenied, OPERATION, "only root may install packages")
                    .with_hint(format!("as root: {}", step.describe())))
            }
            SetupStep::Backports { packages, suite, source } => {
                let folder = self.images().temporary().await?;
                runsc::install(folder.path(), packages, suite, source).await
            }
            SetupStep::Packages(names) => {
                // An index that is old names versions that are gone.
                let mut update = Command::new("apt-get");
                update.args(["update", "--quiet"]);
                run(update).await.unwrap_or_else(|error| tracing::warn!(error = %error.chain(), "the package index may be old"));
                let mut install = Command::new("apt-get");
                install
                    .args(["install", "--quiet", "--yes", "--no-install-recommends"])
                    .args(names)
                    .env("DEBIAN_FRONTEND", "noninteractive");
                run(install).await
            }
            SetupStep::Firecracker => {
                let folder = self.images().temporary().await?;
                released::install(folder.path()).await
            }
            SetupStep::BaseImage { suite, sources } => {
                let folder = self.images().temporary().await?;
                self.make_base(&folder.path().join("base.tar"), suite, sources).await
            }
            SetupStep::Kernel(package) => {
                let folder = self.images().temporary().await?;
                self.get_kernel(folder.path(), package).await
            }
        }
    }

    async fn get_kernel(&self, folder: &Path, package: &str) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.args(["download", "--quiet", package]).current_dir(folder);
        run(command).await?;
        let mut files = fs::read_dir(folder).context(OPERATION, || format!("cannot list {}", folder.display()))?.flatten();
        let file = files.find(|file| file.path().extension().is_some_and(|extension| extension == "deb"));
        let file = file.ok_or_else(|| Error::new(ErrorKind::Unavailable, OPERATION, "apt-get left no package").with("package", package))?;
        self.import_kernel(file.path(), None, None).await.map(drop)
    }

    async fn make_base(&self, tar: &Path, suite: &str, sources: &[PathBuf]) -> Result<()> {
        let mut command = Command::new(BUILDER);
        command
            .args(["--quiet", "--variant=minbase"])
            .arg(format!("--include={BASE_PACKAGES}"))
            .arg(suite)
            .arg(tar)
            .args(sources)
            .env("LC_ALL", "C.UTF-8");
        run(command).await?;
        self.images().import(tar, Some(BASE)).await.map(drop)
    }
}

/// Runs a program to its end.
pub(crate) async fn run(mut command: Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let said = std::io::stderr().as_fd().try_clone_to_owned().context(OPERATION, || "cannot use standard error".to_owned())?;
    command.stdin(Stdio::null()).stdout(Stdio::from(said));
    let ended = tokio::task::spawn_blocking(move || command.status()).await;
    let ended = ended.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let status = ended.context(OPERATION, || format!("cannot run {name}"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("{name} failed")).with("status", status))
}

/// The package of the newest kernel that the distribution has.
async fn kernel_package() -> Result<String> {
    let ask = || KERNELS.iter().find_map(|name| newest(name));
    let found = tokio::task::spawn_blocking(ask).await.ok().flatten();
    found.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, OPERATION, "this distribution is not known to have a kernel's package that can be taken apart")
            .with_hint("take in any: sandbar kernel import /boot/vmlinuz-$(uname -r) --modules /lib/modules/$(uname -r)")
    })
}

/// What a name stands for that only depends on the newest.
fn newest(name: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", name]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    dependency(&String::from_utf8_lossy(&output.stdout))
}

fn dependency(text: &str) -> Option<String> {
    let mut packages = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.find(|package| package.starts_with("linux-image-")).map(str::to_owned)
}

/// The release of the distribution, and its package sources.
fn distribution() -> Result<(String, Vec<PathBuf>)> {
    let unknown = || {
        Error::new(ErrorKind::Unsupported, OPERATION, "the image `base` is made of Debian's packages, and this is no Debian")
            .with_hint(format!("get any other as it: sandbar image import PATH {BASE}"))
    };
    let Distribution { id, codename: suite, .. } = Distribution::here();
    if !matches!(id.as_str(), "debian" | "ubuntu") || suite.is_empty() {
        return Err(unknown());
    }
    let listed = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sources: Vec<PathBuf> = listed.chain([PathBuf::from("/etc/apt/sources.list")]).filter(|path| has_suite(path, &suite)).collect();
    sources.sort();
    if sources.is_empty() { Err(unknown()) } else { Ok((suite, sources)) }
}

/// Whether a file has sources of this release. Those of third parties have releases of their own.
fn has_suite(path: &Path, suite: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| line.split_whitespace().any(|word| word == suite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn third_parties_are_no_source_of_the_distribution() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("own.sources"), folder.path().join("other.list"));
        fs::write(&own, "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n").unwrap();
        fs::write(&other, "# bookworm\ndeb https://example.invalid/node_20.x nodistro main\n").unwrap();
        assert!(has_suite(&own, "bookworm"));
        assert!(!has_suite(&other, "bookworm"));
    }

    #[test]
    fn the_newest_kernel_is_what_its_name_depends_on() {
        let told = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-44-cloud-amd64\n  Suggests: x\n";
        assert_eq!(dependency(told).as_deref(), Some("linux-image-6.1.0-44-cloud-amd64"));
        assert_eq!(dependency("linux-image-amd64\n  Depends: linux-base\n"), None);
    }

    #[test]
    fn a_step_is_shown_as_the_command_it_is() {
        let step = SetupStep::BaseImage { suite: "bookworm".to_owned(), sources: vec!["/etc/apt/sources.list".into()] };
        assert!(step.describe().contains("mmdebstrap") && step.describe().contains("/etc/apt/sources.list"));
        assert!(SetupStep::Packages(vec!["docker.io"]).describe().ends_with("docker.io"));
    }
}
