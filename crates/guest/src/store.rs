use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::io::Errno;
use sandbar_core::{Context as _, Error, ErrorKind, Result, check_name};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    cpio::Cpio,
    modules::{Module, Modules},
    package,
    staging::Staging,
    vmlinux::Vmlinux,
};

const OPERATION: &str = "kernel import";
/// The most that a file may be that is given as a kernel: a plain one with its symbols.
const MOST_FILE: u64 = 1 << 30;
/// The files of one kernel.
const ELF: &str = "vmlinux";
const ORIGINAL: &str = "vmlinuz";
const MODULES: &str = "modules.cpio";
const SUMMARY: &str = "kernel.json";

/// The kernels of one state folder: `kernels/NAME/`. Any number of processes may use it; a kernel is complete as soon as it has its name.
#[derive(Debug, Clone)]
pub struct KernelStore {
    folder: PathBuf,
}

/// What is known of a kernel without reading it.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSummary {
    /// Its name in the store.
    pub name: String,
    /// As `uname -r` says.
    pub release: String,
    /// `sha256:…` of the kernel and its modules.
    pub digest: String,
    /// The modules that a guest loads, in their order.
    pub modules: Vec<String>,
    /// What would be of use in a guest and was neither among the modules nor known to be built in.
    pub missing: Vec<String>,
    /// Whether QEMU can load the ELF form.
    pub pvh: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it came, milliseconds since 1970.
    pub added_ms: u64,
}

/// A kernel to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What is known of it.
    pub summary: KernelSummary,
    folder: PathBuf,
}

impl Kernel {
    /// The ELF kernel: what Firecracker boots, and QEMU if [`KernelSummary::pvh`].
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join(ELF)
    }

    /// What QEMU boots: the ELF kernel if it can, else the file as it was imported.
    pub fn for_qemu(&self) -> PathBuf {
        let original = self.folder.join(ORIGINAL);
        if self.summary.pvh || !original.exists() { self.vmlinux() } else { original }
    }

    /// The modules, as an archive for the first file system.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join(MODULES)
    }

    /// The kernel's own folder, for what is made from it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl KernelStore {
    /// The store in a state folder. Touches nothing.
    pub fn new(home: &Path) -> Self {
        Self { folder: home.join("kernels") }
    }

    /// Takes in a kernel: a bzImage or an ELF file with the folder of its modules (`None`: everything that a guest needs is built in),
    /// or a Debian package, which has both. Its name is the release unless one is given. Blocks for seconds.
    ///
    /// # Errors
    /// `Corrupt` for what is no kernel or no package; `Unavailable` when a module is missing that a guest needs; `InvalidInput` for
    /// modules of another kernel; `AlreadyExists` when the name is another kernel's.
    pub fn import(&self, file: &Path, modules: Option<&Path>, name: Option<&str>) -> Result<KernelSummary> {
        name.map_or(Ok(()), check_name)?;
        let staging = Staging::new(&self.folder)?;
        let unpacked = staging.path().join("package");
        let (file, modules) = if package::is_package(file) {
            if modules.is_some() {
                return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "a package has its modules with it: leave --modules out"));
            }
            fs::create_dir(&unpacked).context(OPERATION, || format!("cannot make {}", unpacked.display()))?;
            let (kernel, modules) = package::unpack(file, &unpacked)?;
            (kernel, Some(modules))
        } else {
            (file.to_owned(), modules.map(Path::to_owned))
        };
        let original = read(&file)?;
        let kernel = Vmlinux::extract(&original).map_err(|error| error.with("file", file.display()))?;
        let modules = modules.map_or(Ok(Modules::default()), |folder| Modules::pick(&folder, &kernel.release))?;
        let made = staging.path().join("kernel");
        fs::create_dir(&made).context(OPERATION, || format!("cannot make {}", made.display()))?;
        let archive = archive(&modules.loaded).context(OPERATION, || "cannot pack the modules".to_owned())?;
        let digest = Sha256::new().chain_update(&kernel.elf).chain_update(&archive).finalize();
        let mut files = vec![(ELF, kernel.elf.as_slice()), (MODULES, archive.as_slice())];
        if original != kernel.elf {
            files.push((ORIGINAL, &original));
        }
        let summary = KernelSummary {
            name: name.unwrap_or(&kernel.release).replace('+', "-"),
            release: kernel.release,
            digest: format!("sha256:{}", hex::encode(digest)),
            modules: modules.loaded.into_iter().map(|module| module.name).collect(),
            missing: modules.missing,
            pvh: kernel.pvh,
            bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
            added_ms: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        };
        let json = serde_json::to_vec_pretty(&summary)
            .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the summary cannot be written as JSON").with_source(error))?;
        files.push((SUMMARY, &json));
        for (name, bytes) in files {
            write(&made.join(name), bytes)?;
        }
        self.publish(&made, summary)
    }

    /// All kernels, the newest last.
    ///
    /// # Errors
    /// Of the file system. What is damaged is left out.
    pub fn list(&self) -> Result<Vec<KernelSummary>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("kernel", || format!("cannot list {}", self.folder.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| !name.starts_with('.'));
        let mut found: Vec<_> = names.filter_map(|name| self.summary(&name)).collect();
        found.sort_by(|one, other| (one.added_ms, &one.name).cmp(&(other.added_ms, &other.name)));
        Ok(found)
    }

    /// The kernel that guests boot: the newest.
    ///
    /// # Errors
    /// `Unavailable` when there is none, with how to get one.
    pub fn newest(&self) -> Result<Kernel> {
        let newest = self.list()?.pop().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "kernel", "there is no kernel for virtual machines").with_hint(
                "sandbar setup qemu gets the distribution's; or: sandbar kernel import /boot/vmlinuz-RELEASE --modules /lib/modules/RELEASE",
            )
        })?;
        let folder = self.folder.join(&newest.name);
        Ok(Kernel { summary: newest, folder })
    }

    /// Removes a kernel. Guests that run keep it; those that are started next boot the newest of the others.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let missing = || Error::new(ErrorKind::NotFound, "kernel", "there is no such kernel").with("name", name);
        check_name(name).map_err(|_| missing())?;
        let staging = Staging::new(&self.folder)?;
        match fs::rename(self.folder.join(name), staging.path().join("removed")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            moved => moved.context("kernel", || format!("cannot remove {name}")),
        }
    }

    fn summary(&self, name: &str) -> Option<KernelSummary> {
        let text = fs::read(self.folder.join(name).join(SUMMARY)).ok()?;
        let summary = serde_json::from_slice::<KernelSummary>(&text).ok()?;
        Some(KernelSummary { name: name.to_owned(), ..summary })
    }

    fn publish(&self, made: &Path, summary: KernelSummary) -> Result<KernelSummary> {
        check_name(&summary.name)?;
        match fs::rename(made, self.folder.join(&summary.name)) {
            Ok(()) => Ok(summary),
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTEMPTY | Errno::EXIST)) => match self.summary(&summary.name)
            {
                Some(known) if known.digest == summary.digest => Ok(known),
                _ => Err(Error::new(ErrorKind::AlreadyExists, OPERATION, "there is another kernel of this name")
                    .with("name", &summary.name)
                    .with_hint("give it another one with --name, or remove that one: sandbar kernel rm NAME")),
            },
            Err(error) => Err(error).context(OPERATION, || format!("cannot keep the kernel {}", summary.name)),
        }
    }
}

/// The modules and the order in which they load, as the agent's boot expects them.
fn archive(modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut cpio = Cpio::new(Vec::new());
    cpio.folder("modules", 0o700)?;
    let order: String = modules.iter().map(|module| format!("{}.ko\n", module.name)).collect();
    cpio.file("modules/order", 0o600, order.as_bytes())?;
    for module in modules {
        cpio.file(&format!("modules/{}.ko", module.name), 0o600, &module.bytes)?;
    }
    cpio.finish()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).context(OPERATION, unreadable)?;
    if !metadata.is_file() || metadata.len() > MOST_FILE {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "this is no kernel: not a file, or larger than any")
            .with("file", path.display()));
    }
    fs::read(path).context(OPERATION, unreadable)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // A name that survives a crash must not outlive the content.
    let written = File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.context(OPERATION, || format!("cannot write {}", path.display()))
}
