use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use super::mounts::ROOT;

/// Where the first file system has it: memory, so that the host's name is in no layer.
const FILE: &str = "/hosts";
/// More is no table of hosts.
const MOST: u64 = 64 << 10;
/// What every table begins with, where the image has none.
const USUAL: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// The table of hosts in a guest, which has the guest's own name in it.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    file: Arc<File>,
    /// As the image has it.
    image: Arc<[u8]>,
}

impl Hosts {
    /// Puts the table in the place of the image's; before the root is switched. `None` where there is no place for it.
    pub(super) fn mount() -> Option<Self> {
        let target = format!("{ROOT}/etc/hosts");
        let image = image(&target);
        let make = || -> io::Result<File> {
            let file = File::options().create(true).read(true).write(true).truncate(true).open(FILE)?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            if fs::symlink_metadata(&target).is_err() {
                File::create_new(&target)?;
            }
            rustix::mount::mount_bind(FILE, target.as_str())?;
            Ok(file)
        };
        // Not through a link, which leads elsewhere.
        if !fs::symlink_metadata(Path::new(&target).parent()?).is_ok_and(|etc| etc.is_dir()) {
            return None;
        }
        Some(Self { file: Arc::new(make().ok()?), image: image.into() })
    }

    /// Gives the guest's name an address.
    ///
    /// # Errors
    /// Of the kernel.
    pub(crate) fn name(&self, hostname: &str) -> io::Result<()> {
        let mut text = self.image.to_vec();
        if text.last().is_some_and(|byte| *byte != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(format!("127.0.1.1 {hostname}\n").as_bytes());
        let mut file = &*self.file;
        file.rewind()?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)
    }
}

fn image(path: &str) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let file =
            File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(MOST).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    read().ok().filter(|bytes| !bytes.is_empty()).unwrap_or_else(|| USUAL.into())
}
