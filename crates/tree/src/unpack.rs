//! A tar stream, written by anybody, made into a tree beneath a directory.

mod options;
mod site;

pub use options::{Limits, Owner, UnpackOptions, Unpacked, Whiteouts};

use crate::archive::Archive;
use crate::entry_path::{EntryPath, OPAQUE, WHITEOUT};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Kind;
use crate::record::{Record, RecordKind};
use crate::xattr::OverlayNamespace;
use rustix::fd::AsFd;
use site::Site;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

/// Unpacks a tar stream (ustar, GNU or PAX) into a directory, which may hold things already.
///
/// - Nothing outside the directory is touched, whatever the archive says and whatever others do to the directory
///   meanwhile: names that are absolute or contain `..` are refused ([`ErrorKind::Refused`]), and no symbolic link is
///   ever followed, neither one of the archive nor one that was there before. A link in the place of a parent is
///   refused; so is a hard link that leads over one.
/// - Later entries replace earlier ones and what was there before, a directory included; a directory replaces anything
///   else, and is merged with a directory. Missing parents are made (mode 0755 less the umask).
/// - Devices, setuid and setgid, capabilities, owners and overlay marks are taken only as the options say; other
///   attributes than `user.*` never are.
/// - A directory's owner, mode and time are set last, so a closed directory still gets its contents; one that was
///   there before and has an entry is opened up meanwhile.
/// - What exceeds the limits is refused before it is written ([`ErrorKind::LimitExceeded`]). A stream without its end
///   marker is [`ErrorKind::Malformed`]; so is every damage. GNU sparse entries are [`ErrorKind::Unsupported`].
///
/// Reading stops at the end marker: whoever hashes the stream reads the rest. After an error the directory holds what
/// was unpacked so far, and is best thrown away.
pub fn unpack(stream: impl Read, into: impl AsFd, options: &UnpackOptions) -> Result<Unpacked> {
    let mut archive = Archive::new(stream, options.limits);
    let mut site = Site::new(into.as_fd(), options)?;
    let mut unpacked = Unpacked::default();
    while let Some(record) = archive.next()? {
        let path = EntryPath::parse(&record.path, &options.limits)?;
        unpacked.entries += 1;
        match role(&path, &record, options.whiteouts)? {
            Role::Entry => entry(&mut site, &mut archive, &path, &record, &mut unpacked)?,
            Role::Whiteout { before, hidden } => site.whiteout(before, hidden)?,
            Role::Opaque { before, namespace } => site.opaque(before, namespace)?,
            Role::Obsolete => unpacked.markers_skipped += 1,
        }
    }
    unpacked.attributes_skipped = site.finish()?;
    Ok(unpacked)
}

/// Unpacks an archive held in memory as the strictest options do: no owners, devices, special bits or marks. For
/// fuzzing, and for small archives of strangers.
pub fn unpack_untrusted(archive: &[u8], into: impl AsFd, limits: Limits) -> Result<Unpacked> {
    let options = UnpackOptions { whiteouts: Whiteouts::Refuse, limits, ..UnpackOptions::default() };
    unpack(archive, into, &options)
}

fn entry<Input: Read>(
    site: &mut Site<'_>,
    archive: &mut Archive<Input>,
    path: &EntryPath,
    record: &Record,
    unpacked: &mut Unpacked,
) -> Result<()> {
    let shown = path.to_path();
    let Some((before, name)) = path.split() else {
        return match record.kind {
            RecordKind::Thing(Kind::Directory) => site.root(record),
            _ => Err(Error::new(ErrorKind::Refused, "unpack", shown, "the root is not a directory")),
        };
    };
    match record.kind {
        RecordKind::Thing(Kind::Directory) => site.directory(path, before, name, record),
        RecordKind::Thing(Kind::File) => {
            unpacked.files += 1;
            unpacked.bytes += record.size;
            site.file(&shown, before, name, record, archive)
        }
        RecordKind::Thing(Kind::Symlink) => site.symlink(&shown, before, name, record),
        RecordKind::Thing(Kind::CharDevice { .. } | Kind::BlockDevice { .. }) if is_left_out(before, site.options()) => {
            unpacked.devices_skipped += 1;
            Ok(())
        }
        RecordKind::Thing(kind) => site.special(&shown, before, name, record, kind),
        RecordKind::HardLink => {
            let target = EntryPath::parse(&record.link, &site.options().limits)?;
            if matches!(site.options().whiteouts, Whiteouts::Oci(_)) && target.names().iter().any(|name| marked(name)) {
                return Err(Error::new(ErrorKind::Refused, "unpack", shown, "hard link to a whiteout"));
            }
            site.hard_link(&shown, before, name, &target)
        }
    }
}

/// Whether devices in this directory are left out.
fn is_left_out(before: &[OsString], options: &UnpackOptions) -> bool {
    before.first().is_some_and(|first| options.devices_left_out_of.is_some_and(|folder| first == folder))
}

/// What an entry is for.
enum Role<'path> {
    Entry,
    Whiteout {
        before: &'path [OsString],
        hidden: &'path OsStr,
    },
    Opaque {
        before: &'path [OsString],
        namespace: OverlayNamespace,
    },
    /// A leftover of AUFS that no reader of OCI layers acts on.
    Obsolete,
}

fn role<'path>(path: &'path EntryPath, record: &Record, whiteouts: Whiteouts) -> Result<Role<'path>> {
    let refuse = |reason| Err(Error::new(ErrorKind::Refused, "unpack", path.to_path(), reason));
    let Some((before, name)) = path.split() else { return Ok(Role::Entry) };
    let namespace = match whiteouts {
        Whiteouts::Literal => return Ok(Role::Entry),
        Whiteouts::Refuse if path.names().iter().any(|name| marked(name)) => {
            return refuse("names that begin with `.wh.` are whiteouts, which are refused here");
        }
        Whiteouts::Refuse => return Ok(Role::Entry),
        Whiteouts::Oci(namespace) => namespace,
    };
    let is_aufs = |name: &OsStr| name.as_bytes().starts_with(b".wh..wh.") && name.as_bytes() != OPAQUE;
    if path.names().iter().any(|name| is_aufs(name)) {
        return Ok(Role::Obsolete);
    }
    if before.iter().any(|name| marked(name)) {
        return refuse("a whiteout has entries below it");
    }
    let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) else { return Ok(Role::Entry) };
    if record.kind != RecordKind::Thing(Kind::File) {
        return refuse("a whiteout is not a plain file");
    }
    if name.as_bytes() == OPAQUE {
        return Ok(Role::Opaque { before, namespace });
    }
    match hidden {
        b"" | b"." | b".." => refuse("a whiteout hides nothing that has a name"),
        _ => Ok(Role::Whiteout { before, hidden: OsStr::from_bytes(hidden) }),
    }
}

fn marked(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT)
}
