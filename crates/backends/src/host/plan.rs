//! A list of steps for a child, while it is being made.

use std::{
    ffi::{CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use sandbar_core::{Error, ErrorKind, Result};

use super::{
    folder::{LAYER, WORK},
    step::{CHANNEL, Failure, Planned, Step},
};

/// Attributes of a mount that nothing can be written through.
pub(crate) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Attributes of a mount whose set-user-ID bits and device nodes do nothing.
pub(crate) const HARMLESS: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// An overlay to be mounted in a user namespace.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// The highest first.
    pub(crate) layers: Vec<PathBuf>,
    /// The folder with `layer` and `work`.
    pub(crate) folder: PathBuf,
    /// Whether the kernel takes descriptors of layers (Linux 6.13).
    pub(crate) by_descriptor: bool,
    /// Whether it may lose what was not written yet when the machine goes down.
    pub(crate) volatile: bool,
}

/// Builds a plan: gives out the numbers of descriptors, and keeps the steps in their order.
pub(crate) struct Builder {
    /// So far.
    pub(crate) steps: Vec<Planned>,
    /// The highest number given out.
    pub(crate) next: i32,
}

impl Builder {
    /// With room for this many steps.
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps: Vec::with_capacity(steps), next: CHANNEL }
    }

    /// Adds a step without which the sandbox cannot be made.
    pub(crate) fn add(&mut self, step: Step) {
        self.steps.push(Planned { step, failure: Failure::Fatal });
    }

    /// Adds a step whose failure means something else.
    pub(crate) fn add_or(&mut self, step: Step, failure: Failure) {
        self.steps.push(Planned { step, failure });
    }

    /// A number for a descriptor.
    pub(crate) fn number(&mut self) -> i32 {
        self.next += 1;
        self.next
    }

    /// Several.
    pub(crate) fn numbers(&mut self, count: usize) -> Vec<i32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// Mounts an overlay, and gives the number of its descriptor and whether the mount is attached somewhere by then (at its folder).
    ///
    /// # Errors
    /// `InvalidInput` for a path with a NUL.
    pub(crate) fn add_overlay(&mut self, overlay: Overlay) -> Result<(i32, bool)> {
        let root = self.number();
        if overlay.by_descriptor {
            let mut options = vec![
                (c"userxattr".to_owned(), CString::default()),
                (c"index".to_owned(), c"off".to_owned()),
                (c"xino".to_owned(), c"off".to_owned()),
            ];
            if overlay.volatile {
                options.push((c"volatile".to_owned(), CString::default()));
            }
            let layers = overlay.layers.iter().map(|layer| path_string(layer)).collect::<Result<_>>()?;
            self.add(Step::Overlay { layers, folder: path_string(&overlay.folder)?, options, to: root });
            return Ok((root, false));
        }
        let (upper, work) = (overlay.folder.join(LAYER), overlay.folder.join(WORK));
        let (mut layers, mut names) = (Vec::new(), Vec::new());
        for layer in overlay.layers.iter().chain([&upper, &work]) {
            let number = self.number();
            layers.push((path_string(layer)?, number));
            names.push(format!("/proc/self/fd/{number}"));
        }
        let (folders, own) = names.split_at(overlay.layers.len());
        let volatile = if overlay.volatile { ",volatile" } else { "" };
        let options =
            format!("lowerdir={},upperdir={},workdir={},userxattr,index=off,xino=off{volatile}", folders.join(":"), own[0], own[1]);
        let target = path_string(&overlay.folder)?;
        self.add(Step::ClassicOverlay { layers, options: c_string(&options)?, target, to: root });
        Ok((root, true))
    }
}

/// `mount`.
pub(crate) fn mount(source: &str, kind: &str, target: &str, flags: u64, options: &str) -> Step {
    Step::Mount { source: known(source), target: known(target), kind: known(kind), flags, options: known(options) }
}

/// A clone of what is at an absolute path of the old root.
///
/// # Errors
/// `InvalidInput` for a path with a NUL.
pub(crate) fn clone_old(old: i32, source: &Path, attributes: u64, to: i32) -> Result<Step> {
    let below = source.strip_prefix("/").unwrap_or(source);
    // A volume may be the host's root itself.
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    Ok(Step::CloneOld { old, source: path_string(below)?, attributes, to })
}

/// `/etc/hosts`: the names of the sandbox and of its loopback device.
pub(crate) fn hosts_file(hostname: &str) -> Vec<u8> {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n").into_bytes()
}

/// A text of somebody else's.
///
/// # Errors
/// `InvalidInput` when it has a NUL.
pub(crate) fn c_string(text: impl AsRef<OsStr>) -> Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| Error::new(ErrorKind::InvalidInput, "sandbox start", "a name has a NUL"))
}

/// A path of somebody else's.
///
/// # Errors
/// As [`c_string`].
pub(crate) fn path_string(path: &Path) -> Result<CString> {
    c_string(path)
}

/// A text of this program's own, which has no NUL.
pub(crate) fn known(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
