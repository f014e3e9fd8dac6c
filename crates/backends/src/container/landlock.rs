//! The Landlock domain that agent and workloads share: a second wall behind namespaces and the filter.

use std::os::fd::OwnedFd;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, Scope};
use sandbar_core::{Error, ErrorKind, Result};

use super::plan::Domain;
use crate::{
    doctor::{Check, Health},
    host::syscall::landlock_version,
};

/// Rename and link across folders are refused in every domain unless they are named (Linux 5.19). Before that no domain can be had that
/// leaves ordinary work alone.
const REFER: u32 = 2;
/// The first version that knows of `ioctl` on devices.
const DEVICE_CONTROL: u32 = 5;
/// The first version that knows of scopes: abstract sockets and signals.
const SCOPES: u32 = 6;

/// A new ruleset: no device nodes are made; devices are controlled only below `/dev`; abstract sockets and signals stay inside.
/// `None` where the kernel has no (or too old a) Landlock.
///
/// # Errors
/// `Unavailable` when the kernel has it and refuses.
pub(super) fn domain() -> Result<Option<(OwnedFd, Domain)>> {
    let version = landlock_version();
    if version < REFER {
        return Ok(None);
    }
    let created = Ruleset::default()
        .handle_access(AccessFs::Refer | AccessFs::MakeChar | AccessFs::MakeBlock)
        .and_then(|ruleset| ruleset.handle_access(AccessFs::IoctlDev))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "container start", "cannot make a Landlock ruleset").with_source(error))?;
    let domain = Domain { everywhere: AccessFs::Refer as u64, devices: (version >= DEVICE_CONTROL).then_some(AccessFs::IoctlDev as u64) };
    Ok(Option::<OwnedFd>::from(created).map(|ruleset| (ruleset, domain)))
}

/// What it does for containers here.
pub(crate) fn check() -> Check {
    let (health, hint) = match landlock_version() {
        version if version < REFER => (
            Health::Missing,
            Some("a kernel since 5.19 that was built with it and started with it (`lsm=landlock,…`) adds this second wall"),
        ),
        version if version < SCOPES => (Health::Limited, Some("a kernel since 6.12 also keeps abstract sockets and signals inside")),
        _ => (Health::Good, None),
    };
    let check = Check::new("landlock", health, describe());
    match hint {
        Some(hint) => check.with_hint(hint),
        None => check,
    }
}

/// In words, for the provider's notes.
pub(super) fn describe() -> String {
    match landlock_version() {
        0 => "no Landlock".to_owned(),
        version if version < REFER => {
            format!("Landlock {version} (not used: before version {REFER} it refuses every move between folders)")
        }
        version if version < SCOPES => format!("Landlock {version}, without scopes"),
        version => format!("Landlock {version}"),
    }
}
