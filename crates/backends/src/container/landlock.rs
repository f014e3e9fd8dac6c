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

/// What it does for containers here: a thread that ends at once has itself kept from a folder.
pub(crate) fn check() -> Check {
    if landlock_version() >= REFER
        && let Err(message) = try_domain()
    {
        return Check::new("landlock", Health::Missing, format!("{}, which does not work: {message}", describe()));
    }
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

/// Whether a domain keeps what it should. It is a thread's own, and cannot be left.
fn try_domain() -> std::result::Result<(), String> {
    let kept = || -> std::result::Result<(), String> {
        let ruleset = Ruleset::default().handle_access(AccessFs::ReadDir).and_then(Ruleset::create);
        ruleset.and_then(landlock::RulesetCreated::restrict_self).map_err(|error| error.to_string())?;
        match std::fs::read_dir("/") {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(_) => Err("what a domain forbids can be done in it".to_owned()),
        }
    };
    std::thread::spawn(kept).join().unwrap_or_else(|_| Err("the trial ended early".to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_keeps_its_thread_and_no_other() {
        if landlock_version() >= REFER {
            assert_eq!(try_domain(), Ok(()));
            assert_eq!(check().finding, describe());
        }
        assert!(std::fs::read_dir("/").is_ok());
    }
}
