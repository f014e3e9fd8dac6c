//! The modules that a guest needs, by name, with what they need in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};

use super::{
    compression::{MOST_MODULE, decompress},
    modinfo::{ModuleInfo, canonical},
};

const OPERATION: &str = "kernel import";

/// Everything that is of use in a guest, in the order in which it is loaded as far as needs do not say otherwise.
const WANTED: [&str; 26] = [
    // The buses and devices that monitors have.
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    // The root: a read-only image below, a writable disk above. ext4 asks for its checksum by an alias, which nobody resolves there.
    "crc32c_generic",
    "squashfs",
    "erofs",
    "ext4",
    "overlay",
    // Volumes, which the host serves through the agent.
    "fuse",
    // Egress through the agent: redirection, by the packet filter or by the older one.
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_chain_nat",
    "nft_redir",
    "nft_tproxy",
    "nft_ct",
    "nft_reject_inet",
    "nft_compat",
    "xt_REDIRECT",
    "iptable_nat",
    // Tunnels of whoever is inside.
    "tun",
    // A guest in a guest, and checksums that file systems of others want.
    "libcrc32c",
    "crc16",
];

/// What a guest cannot do without, built in or not.
const NEEDED: [&str; 4] = ["virtio_blk", "squashfs", "ext4", "overlay"];

/// Most modules of one kernel; distributions have about 4,000.
const MOST_MODULES: usize = 50_000;
/// Most that all modules of a guest hold together.
const MOST_BYTES: usize = 256 << 20;

/// The modules for one guest, in the order in which they are to be loaded.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    pub(crate) loaded: Vec<Module>,
    /// What of the wanted is neither a module nor known to be built in.
    pub(crate) missing: Vec<String>,
}

/// One module, decompressed.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Modules {
    /// Picks from the modules below a folder (`/lib/modules/RELEASE`, or one that holds it).
    ///
    /// # Errors
    /// `InvalidInput` when they are of another kernel than `release`; `Unavailable` when something is missing that a guest needs;
    /// `Corrupt` for what is no module.
    pub(crate) fn pick(folder: &Path, release: &str) -> Result<Self> {
        let nested = folder.join(release);
        let folder = if nested.is_dir() { nested } else { folder.to_owned() };
        let found = find(&folder)?;
        let built_in = built_in(&folder);
        let mut modules = Self::default();
        let mut known = BTreeSet::new();
        let mut bytes = 0;
        for name in WANTED {
            if !found.contains_key(name) {
                if !built_in.contains(name) {
                    modules.missing.push(name.to_owned());
                }
                continue;
            }
            modules.load(name, &found, &built_in, release, &mut known, &mut bytes)?;
        }
        if let Some(needed) = NEEDED.into_iter().find(|needed| modules.missing.iter().any(|missing| missing == needed)) {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("the kernel has no {needed}, which a guest needs"))
                .with("modules", folder.display())
                .with_hint("give --modules the folder of this very kernel: /lib/modules/RELEASE; of Debian, the kernel's .deb has both"));
        }
        Ok(modules)
    }

    /// Adds a module after those that it needs.
    fn load(
        &mut self,
        name: &str,
        found: &BTreeMap<String, PathBuf>,
        built_in: &BTreeSet<String>,
        release: &str,
        known: &mut BTreeSet<String>,
        bytes: &mut usize,
    ) -> Result<()> {
        // Marked before what it needs, so that a circle (which no honest kernel has) ends.
        if !known.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = found.get(name) else {
            return if built_in.contains(name) {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Unavailable, OPERATION, "a module that another one needs is missing").with("module", name))
            };
        };
        let file = fs::read(path).context(OPERATION, || format!("cannot read {}", path.display()))?;
        let plain = decompress(&file, MOST_MODULE).map_err(|error| error.with("module", path.display()))?;
        let info = ModuleInfo::read(&plain, name)?;
        if info.release != release {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the modules are of another kernel")
                .with("kernel", release)
                .with("module", format!("{name} of {}", info.release)));
        }
        for wanted in info.wants.iter().filter(|wanted| found.contains_key(*wanted)) {
            self.load(wanted, found, built_in, release, known, bytes)?;
        }
        for needed in &info.needs {
            self.load(needed, found, built_in, release, known, bytes)?;
        }
        *bytes += plain.len();
        if *bytes > MOST_BYTES {
            return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, "the modules are larger than those of any kernel"));
        }
        self.loaded.push(Module { name: name.to_owned(), bytes: plain });
        Ok(())
    }
}

/// All modules below a folder, by their names. Symbolic links (`build`, `source`) are not followed.
fn find(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).context(OPERATION, || format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.context(OPERATION, || format!("cannot list {}", folder.display()))?;
            let kind = entry.file_type().context(OPERATION, || format!("cannot look at {}", entry.path().display()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Some(name) = entry.file_name().to_str().and_then(module_name)
            {
                found.insert(name, entry.path());
            }
            if found.len() > MOST_MODULES || folders.len() > MOST_MODULES {
                return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, "there are more modules than any kernel has")
                    .with("folder", folder.display()));
            }
        }
    }
    Ok(found)
}

/// The name of a module's file, if it is one.
fn module_name(file: &str) -> Option<String> {
    let stem = [".xz", ".zst", ".gz"].iter().find_map(|suffix| file.strip_suffix(suffix)).unwrap_or(file);
    stem.strip_suffix(".ko").map(canonical)
}

/// What the kernel has built in, as far as its folder says.
fn built_in(folder: &Path) -> BTreeSet<String> {
    let list = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    list.lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a `.modinfo` and nothing else.
    fn module(lines: &[&str]) -> Vec<u8> {
        let info = lines.iter().flat_map(|line| [line.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        (file[16], file[18], file[20], file[52], file[58]) = (1, 62, 1, 64, 64);
        let (info_at, names_at) = (file.len(), file.len() + info.len());
        file.extend_from_slice(&info);
        file.extend_from_slice(names);
        let table = file.len() as u64;
        file[40..48].copy_from_slice(&table.to_le_bytes());
        (file[60], file[62]) = (3, 2);
        file.extend_from_slice(&[0; 64]);
        for (name, at, size) in [(1_u32, info_at, info.len()), (10, names_at, names.len())] {
            let mut section = [0; 64];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[4] = 1;
            section[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&section);
        }
        file
    }

    fn folder(modules: &[(&str, &str)], built_in: &[&str]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("kernel/drivers")).unwrap();
        for (name, needs) in modules {
            let plain = module(&["license=GPL", &format!("depends={needs}"), "vermagic=6.1.0 SMP mod_unload"]);
            fs::write(home.path().join(format!("kernel/drivers/{name}.ko.zst")), zstd::encode_all(plain.as_slice(), 1).unwrap()).unwrap();
        }
        let list: String = built_in.iter().map(|name| format!("kernel/fs/{name}.ko\n")).collect();
        fs::write(home.path().join("modules.builtin"), list).unwrap();
        home
    }

    fn names(modules: &Modules) -> Vec<&str> {
        modules.loaded.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let home =
            folder(&[("virtio_blk", "virtio-ring,virtio"), ("virtio-ring", "virtio"), ("virtio", "")], &["squashfs", "ext4", "overlay"]);
        let modules = Modules::pick(home.path(), "6.1.0").unwrap();
        assert_eq!(names(&modules), ["virtio", "virtio_ring", "virtio_blk"]);
        assert!(modules.missing.contains(&"nf_tables".to_owned()));
    }

    #[test]
    fn a_circle_ends_and_other_kernels_modules_are_refused() {
        let home = folder(&[("virtio_blk", "virtio"), ("virtio", "virtio_blk")], &["squashfs", "ext4", "overlay"]);
        assert_eq!(names(&Modules::pick(home.path(), "6.1.0").unwrap()), ["virtio", "virtio_blk"]);
        assert_eq!(Modules::pick(home.path(), "6.2.0").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_missing_is_told() {
        let home = folder(&[("virtio_blk", "")], &["squashfs", "ext4"]);
        assert!(Modules::pick(home.path(), "6.1.0").unwrap_err().message().contains("overlay"));
        let home = folder(&[("virtio_blk", "virtio")], &["squashfs", "ext4", "overlay"]);
        assert!(Modules::pick(home.path(), "6.1.0").unwrap_err().to_string().contains("virtio"));
        fs::write(home.path().join("kernel/drivers/virtio.ko"), "no module").unwrap();
        assert_eq!(Modules::pick(home.path(), "6.1.0").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
