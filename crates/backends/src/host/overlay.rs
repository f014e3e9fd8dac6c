//! As root: the root file system and the volumes as mounts that belong to nobody yet, with the sandbox's ids.
//!
//! Layers keep the sandbox's ids as they are (0 is its root), so all sandboxes share them, whichever range of host ids each of them has:
//! the mount translates.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs, openat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount, open_tree, unmount,
    },
    thread::{UnshareFlags, unshare_unsafe},
};
use sandbar_core::{Context, Error, ErrorKind, Result, Volume};

use super::syscall::{MountAttributes, mount_setattr, with_file_owner};

const OPERATION: &str = "sandbox start";
const HARMLESS: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// An overlay of a sandbox whose mounter is root.
pub(crate) struct RootOverlay<'a> {
    /// The highest first.
    pub(crate) layers: &'a [PathBuf],
    /// The folder with `layer` and `work`.
    pub(crate) folder: &'a Path,
    /// A mount of a file system with `layer` and `work`, in place of the folder.
    pub(crate) disk: Option<OwnedFd>,
    /// The sandbox's user namespace: its maps say how ids translate.
    pub(crate) user_namespace: BorrowedFd<'a>,
    /// The sandbox's root, as the host sees it.
    pub(crate) owner: u32,
    /// Whether what was not written yet may be lost when the machine goes down.
    pub(crate) volatile: bool,
    /// Whether the kernel takes layers that are mounted nowhere (Linux 6.15).
    pub(crate) by_descriptor: bool,
}

impl RootOverlay<'_> {
    /// Mounts it, and attaches it nowhere. What is put into `left` may be closed at any time, but not where somebody waits: the
    /// kernel takes a grace period for each mount that is mounted nowhere.
    ///
    /// # Errors
    /// `Unavailable` where the file system of the state folder cannot translate ids.
    pub(crate) fn mount(mut self, left: &mut Vec<OwnedFd>) -> Result<OwnedFd> {
        let own = match self.disk.take() {
            Some(disk) => disk,
            None => clone_mount(CWD, self.folder, false).context(OPERATION, || format!("cannot open {}", self.folder.display()))?,
        };
        let translate = MountAttributes {
            set: libc::MOUNT_ATTR_IDMAP,
            user_namespace: number(self.user_namespace),
            propagation: libc::MS_PRIVATE,
            clear: 0,
        };
        mount_setattr(own.as_fd(), &translate, false).map_err(|error| cannot_translate(error.into(), self.folder))?;
        let (upper, work) = (open_in(&own, "layer")?, open_in(&own, "work")?);
        let translate = MountAttributes { set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY, ..translate };
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in self.layers {
            let mount = clone_mount(CWD, layer, false).context(OPERATION, || format!("cannot open the layer {}", layer.display()))?;
            mount_setattr(mount.as_fd(), &translate, false).map_err(|error| cannot_translate(error.into(), layer))?;
            layers.push(mount);
        }
        let mounted =
            if self.by_descriptor { self.by_descriptor(&layers, &upper, &work) } else { self.by_scratch(&own, &layers, &upper, &work) };
        let mounted = mounted.and_then(|mount| {
            let read_only = fstatvfs(&mount)?.f_flag.contains(StatVfsMountFlags::RDONLY);
            if read_only { Err(io::Error::other("the kernel cannot use the work folder")) } else { Ok(mount) }
        });
        left.push(own);
        left.extend(layers);
        mounted.context(OPERATION, || "cannot mount the overlay".to_owned())
    }

    fn by_descriptor(&self, layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for layer in layers {
            fsconfig_set_fd(&context, "lowerdir+", layer)?;
        }
        fsconfig_set_fd(&context, "upperdir", upper)?;
        fsconfig_set_fd(&context, "workdir", work)?;
        for (key, value) in OPTIONS {
            fsconfig_set_string(&context, key, value)?;
        }
        if self.volatile {
            fsconfig_set_flag(&context, "volatile")?;
        }
        // Overlay's own files are made by who creates the file system, who must have an id that translates.
        with_file_owner(self.owner, self.owner, || Ok(fsconfig_create(&context)?))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// Before Linux 6.15 the layers must be mounted somewhere, and named by paths: in a mount namespace of this thread, below a folder
    /// that is gone when this returns.
    fn by_scratch(&self, own: &OwnedFd, layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> io::Result<OwnedFd> {
        private_mounts()?;
        let scratch = self.folder.join("scratch");
        std::fs::create_dir_all(&scratch)?;
        let result = (|| {
            mount("tmpfs", &scratch, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=700,size=1m")?;
            let attach = |layer: &OwnedFd, name: &str| {
                let target = scratch.join(name);
                std::fs::create_dir(&target)?;
                io::Result::Ok(move_mount(layer, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
            };
            attach(own, "own")?;
            for (index, layer) in layers.iter().enumerate() {
                attach(layer, &index.to_string())?;
            }
            let path = |layer: &OwnedFd| format!("/proc/self/fd/{}", layer.as_raw_fd());
            let lower: Vec<String> = layers.iter().map(path).collect();
            let mut options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), path(upper), path(work));
            for (key, value) in OPTIONS {
                options.push_str(&format!(",{key}={value}"));
            }
            if self.volatile {
                options.push_str(",volatile");
            }
            let root = scratch.join("root");
            std::fs::create_dir(&root)?;
            let options = std::ffi::CString::new(options)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            with_file_owner(self.owner, self.owner, || Ok(mount("overlay", &root, "overlay", flags, options.as_c_str())?))?;
            clone_mount(CWD, &root, false)
        })();
        let _ = unmount(&scratch, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&scratch);
        result
    }
}

/// No inode index (layers are shared and copied), no metadata-only copies and no redirects (a layer must mean the same wherever it is
/// stacked, and must not reach into others), and inode numbers as they are.
const OPTIONS: [(&str, &str); 4] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"), ("xino", "off")];

/// Mounts of the volumes, in their order. A volume's files have the owners inside that they have outside.
///
/// # Errors
/// `NotFound` for a source that is not there; `Unavailable` for a writable one whose file system cannot translate ids.
pub(crate) fn mount_volumes(volumes: &[Volume], user_namespace: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    volumes.iter().map(|volume| mount_volume(volume, user_namespace)).collect()
}

fn mount_volume(volume: &Volume, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mount = clone_mount(CWD, &volume.source, true)
        .map_err(|error| Error::io(OPERATION, "cannot open the source of a volume", error).with("source", volume.source.display()))?;
    let set = HARMLESS | if volume.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let plain = MountAttributes { set, propagation: libc::MS_PRIVATE, ..MountAttributes::default() };
    let translated = MountAttributes { set: set | libc::MOUNT_ATTR_IDMAP, user_namespace: number(user_namespace), ..plain };
    match mount_setattr(mount.as_fd(), &translated, true) {
        Ok(()) => {}
        // Without translation its files belong to nobody inside: what everybody may read can be read.
        Err(_) if volume.read_only => mount_setattr(mount.as_fd(), &plain, true)
            .map_err(io::Error::from)
            .context(OPERATION, || format!("cannot make {} read-only", volume.source.display()))?,
        Err(error) => {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, "the file system of a writable volume cannot translate user ids")
                .with("source", volume.source.display())
                .with_source(io::Error::from(error))
                .with_hint("ext4, xfs, btrfs and tmpfs can; or mount it read-only: -v SRC:DST:ro"));
        }
    }
    Ok(mount)
}

/// A mount of what is at a path, in no namespace; with `recursive` of all beneath it too.
pub(crate) fn clone_mount(at: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    Ok(open_tree(at, path, flags)?)
}

/// A mount of what is at a path, in no namespace, that cannot be written through and translates no ids.
pub(crate) fn clone_read_only(path: &Path) -> io::Result<OwnedFd> {
    let mount = clone_mount(CWD, path, false)?;
    let set = HARMLESS | libc::MOUNT_ATTR_RDONLY;
    mount_setattr(mount.as_fd(), &MountAttributes { set, propagation: libc::MS_PRIVATE, ..MountAttributes::default() }, false)?;
    Ok(mount)
}

fn open_in(mount: &OwnedFd, name: &'static str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(mount, name, flags, Mode::empty()).map_err(io::Error::from).context(OPERATION, || format!("cannot open the folder {name}"))
}

fn cannot_translate(error: io::Error, path: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, "the file system cannot translate user ids (idmapped mounts)")
        .with("path", path.display())
        .with_source(error)
        .with_hint("SANDBAR_HOME must lie on ext4, xfs, btrfs or tmpfs (Linux 6.3), not on overlay or a network")
}

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
fn number(descriptor: BorrowedFd<'_>) -> u64 {
    descriptor.as_raw_fd() as u64
}

/// Gives this thread mounts of its own, once. Changes on the host still show here, ours never there.
fn private_mounts() -> io::Result<()> {
    thread_local!(static DONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if !DONE.get() {
        private_mounts_now()?;
        DONE.set(true);
    }
    Ok(())
}

#[expect(unsafe_code, reason = "unshare")]
fn private_mounts_now() -> io::Result<()> {
    // SAFETY: neither flag touches descriptors or memory of other threads. This thread is ours alone and never leaves.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    use rustix::mount::MountPropagationFlags as Propagation;
    Ok(mount_change("/", Propagation::DOWNSTREAM | Propagation::REC)?)
}
