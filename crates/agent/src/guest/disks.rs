use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::Path,
    time::{Duration, Instant},
};

use prost::Message;
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags},
};
use sandbar_protocol::{AgentConfig, CONFIG_DISK_MAGIC, DiskRole, GuestDisk, MAX_MESSAGE};

use super::mounts::{ROOT, mount};

/// The first disk.
const CONFIG: &str = "/dev/vda";
/// How long the kernel may take to find its disks.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(2);
/// Where layers and the writable disk are mounted, before the root is made of them.
const LAYERS: &str = "/layers";
const SCRATCH: &str = "/scratch";

/// Reads the configuration from the first disk.
pub(super) fn config() -> Result<AgentConfig, String> {
    wait_for(CONFIG)?;
    let read = || -> io::Result<Vec<u8>> {
        let mut disk = File::open(CONFIG)?;
        let mut mark = [0; CONFIG_DISK_MAGIC.len()];
        disk.read_exact(&mut mark)?;
        let mut length = [0; 4];
        disk.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if mark != *CONFIG_DISK_MAGIC || length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not marked as such"));
        }
        let mut bytes = vec![0; length];
        disk.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| format!("cannot read the configuration from the first disk: {error}"))?;
    AgentConfig::decode(bytes.as_slice()).map_err(|error| format!("the configuration is malformed: {error}"))
}

/// Puts the root together from the disks behind the first; its upper folder.
pub(super) fn mount_root(disks: &[GuestDisk]) -> Result<OwnedFd, String> {
    if disks.len() > 24 {
        return Err("there are more disks than letters".to_owned());
    }
    let mut layers = Vec::new();
    let mut scratch = None;
    let mut volumes = Vec::new();
    for (disk, letter) in disks.iter().zip('b'..='z') {
        let device = format!("/dev/vd{letter}");
        wait_for(&device)?;
        match disk.role() {
            DiskRole::Layer => {
                let at = format!("{LAYERS}/{}", layers.len());
                mount(&device, &at, "squashfs", MountFlags::RDONLY, "")?;
                // The topmost comes first in overlayfs's list.
                layers.insert(0, at);
            }
            DiskRole::Scratch => {
                // Nothing is written that nobody needs: the file behind it takes what is written.
                mount(&device, SCRATCH, "ext4", MountFlags::NOATIME, "noinit_itable")?;
                scratch = Some(SCRATCH);
            }
            DiskRole::Volume => volumes.push((device, disk.target.clone())),
            DiskRole::Unknown => {}
        }
    }
    if scratch.is_none() || layers.is_empty() {
        return Err("there is no disk with an image, or none to write on".to_owned());
    }
    let (upper, work) = (format!("{SCRATCH}/upper"), format!("{SCRATCH}/work"));
    prepare(&layers[0], &upper, &work).map_err(|error| format!("cannot prepare the writable disk: {error}"))?;
    // Nothing that only this kernel would understand: the layer must be of use elsewhere.
    let options = format!("lowerdir={},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off", layers.join(":"));
    mount("overlay", ROOT, "overlay", MountFlags::empty(), &options)?;
    let opened = rustix::fs::open(&upper, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|errno| format!("cannot open the writable layer: {errno}"))?;
    for (device, target) in volumes {
        let target = format!("{ROOT}/{}", String::from_utf8_lossy(&target));
        mount(&device, &target, "squashfs", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")?;
    }
    // The overlay and the descriptor hold what they need.
    for at in layers.iter().map(String::as_str).chain([SCRATCH]) {
        rustix::mount::unmount(at, UnmountFlags::DETACH).map_err(|errno| format!("cannot detach {at}: {errno}"))?;
    }
    Ok(opened)
}

/// The folders that an overlay writes into; the upper one is like the root that it lies over.
fn prepare(lower: &str, upper: &str, work: &str) -> io::Result<()> {
    if fs::exists(work)? {
        // What a kernel that went down in the middle left there.
        fs::remove_dir_all(work)?;
    }
    fs::create_dir(work)?;
    if !fs::exists(upper)? {
        let like = fs::metadata(lower)?;
        fs::create_dir(upper)?;
        fs::set_permissions(upper, fs::Permissions::from_mode(like.mode() & 0o7777))?;
        chown(upper, Some(like.uid()), Some(like.gid()))?;
    }
    Ok(())
}

fn wait_for(device: &str) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !Path::new(device).exists() {
        if Instant::now() > end {
            return Err(format!("the machine has no disk {device}: is its driver among the modules?"));
        }
        // Nothing tells of it without a daemon.
        std::thread::sleep(LOOK);
    }
    Ok(())
}
