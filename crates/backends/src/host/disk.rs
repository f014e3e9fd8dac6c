//! A limit of the writable layer's size, as root: the layer lies on a file system of its own, in a sparse file of the folder.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, openat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen},
};
use sandbar_core::{Context, Error, ErrorKind, Journal, Resource, Result};

use super::{
    folder::{LAYER, WORK},
    ids::is_root,
    syscall::loop_device,
};
use crate::Distribution;

const OPERATION: &str = "sandbox disk";
/// The file behind it, in the generation's folder.
const IMAGE: &str = "disk.img";
/// Where distributions put it.
const MKFS: [&str; 3] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"];
/// How long the kernel may take to give a device back after the last mount is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether such a limit can be held here.
pub(crate) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| is_root() && mkfs().is_some() && Path::new("/dev/loop-control").exists())
}

/// How such a limit is held here, in words.
pub(crate) fn holder(asked: bool) -> String {
    match (asked, is_available()) {
        (true, true) => "loop device",
        (false, true) => "not limited (loop device)",
        (_, false) => "cannot be limited here: needs root, mkfs.ext4 and loop devices",
    }
    .to_owned()
}

/// The file of a generation's file system, if it has one.
pub(crate) fn image(folder: &Path) -> Option<PathBuf> {
    Some(folder.join(IMAGE)).filter(|path| path.exists())
}

/// Bytes that a file system takes on the disk.
pub(crate) fn occupied(image: &Path) -> io::Result<u64> {
    Ok(fs::metadata(image)?.blocks() * 512)
}

/// Mounts the file system of a generation, attached nowhere, with an empty work folder; makes it first if there is none.
///
/// # Errors
/// `Unsupported` without `mkfs.ext4` or loop devices.
pub(crate) fn prepare(folder: &Path, bytes: u64, journal: &Arc<dyn Journal>) -> Result<OwnedFd> {
    let image = folder.join(IMAGE);
    if !image.exists() {
        // Under another name until it is whole.
        let new = folder.join("disk.new");
        make(&new, bytes)?;
        fs::rename(&new, &image).context(OPERATION, || "cannot name the disk".to_owned())?;
    }
    journal.intend(&Resource::Loop { backing: image.clone() })?;
    let mount = mount(&image)?;
    for (name, mode) in [(LAYER, 0o755), (WORK, 0o700)] {
        match mkdirat(&mount, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) if name == WORK => {
                sandbar_tree::remove_tree(&mount, WORK)
                    .map_err(|error| Error::io(OPERATION, "cannot empty the work folder", error.into()))?;
                mkdirat(&mount, name, Mode::from_raw_mode(mode))
                    .map_err(io::Error::from)
                    .context(OPERATION, || "cannot make the work folder".to_owned())?;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io(OPERATION, format!("cannot make the folder {name}"), errno.into())),
        }
    }
    Ok(mount)
}

/// The writable layer on a file system that may be mounted elsewhere too: the kernel then shows the same one.
///
/// # Errors
/// Of the kernel.
pub(crate) fn layer(image: &Path) -> Result<OwnedFd> {
    let mount = mount(image)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&mount, LAYER, flags, Mode::empty()).map_err(io::Error::from).context(OPERATION, || "the disk has no writable layer".to_owned())
}

/// Releases the device of a generation, if it has one. Its last mount is gone, or about to go.
///
/// # Errors
/// As [`detach`], or of the journal.
pub(crate) fn release(folder: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
    let Some(image) = image(folder) else { return Ok(()) };
    detach(&image)?;
    journal.forget(&Resource::Loop { backing: image })
}

/// Waits until the kernel has given back the device behind an image, after its last mount; takes it away if it was never mounted.
///
/// # Errors
/// `TimedOut`.
pub(crate) fn detach(image: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(50);
    while let Some(device) = device_of(image).context(OPERATION, || "cannot look for the loop device".to_owned())? {
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::TimedOut, OPERATION, "the loop device is still in use").with("device", device.display()));
        }
        // It goes by itself with the last mount, and nothing tells when.
        if let Ok(device) = File::open(&device) {
            loop_device::detach(device.as_fd());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

fn mkfs() -> Option<&'static Path> {
    MKFS.iter().map(Path::new).find(|path| path.exists())
}

fn make(path: &Path, bytes: u64) -> Result<()> {
    let program = mkfs().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, OPERATION, "mkfs.ext4 is missing").with_hint(Distribution::here().how_to_install(&["mkfs.ext4"]))
    })?;
    let file = File::create(path).and_then(|file| file.set_len(bytes));
    file.context(OPERATION, || format!("cannot make {}", path.display()))?;
    // Without a journal, which would take a good part of a small disk: what is not synchronised may be lost in a power failure.
    let output = Command::new(program)
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .context(OPERATION, || format!("cannot run {}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Internal, OPERATION, "mkfs.ext4 failed").with_source(io::Error::other(said)))
}

/// Mounts an image, attached nowhere, on the device that has it or on a new one.
fn mount(image: &Path) -> Result<OwnedFd> {
    let known = device_of(image).context(OPERATION, || "cannot look for the loop device".to_owned())?;
    let (device, held) = match known {
        // Held open, it stays when its other mounts go.
        Some(path) => {
            let held = File::open(&path).context(OPERATION, || format!("cannot open {}", path.display()))?;
            (path, held)
        }
        None => attach(image).context(OPERATION, || "cannot attach a loop device".to_owned())?,
    };
    let mounted = (|| {
        let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", &device)?;
        fsconfig_create(&context)?;
        io::Result::Ok(fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        )?)
    })();
    drop(held);
    mounted.context(OPERATION, || format!("cannot mount {}", device.display()))
}

fn attach(image: &Path) -> io::Result<(PathBuf, File)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let image = File::options().read(true).write(true).open(image)?;
    loop {
        let path = PathBuf::from(format!("/dev/loop{}", loop_device::free(control.as_fd())?));
        let device = File::options().read(true).write(true).open(&path)?;
        match loop_device::attach(device.as_fd(), image.as_raw_fd()) {
            Ok(()) => return Ok((path, device)),
            // Somebody else was quicker.
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The device that has this file behind it.
fn device_of(image: &Path) -> io::Result<Option<PathBuf>> {
    let image = match image.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        let Some(text) = name.to_str().filter(|text| text.starts_with("loop")) else { continue };
        // Written by the kernel as a path and a line feed. A device without a file has no such file.
        if fs::read_to_string(format!("/sys/block/{text}/loop/backing_file"))
            .is_ok_and(|line| Path::new(line.trim_end_matches('\n')) == image)
        {
            return Ok(Some(Path::new("/dev").join(text)));
        }
    }
    Ok(None)
}
