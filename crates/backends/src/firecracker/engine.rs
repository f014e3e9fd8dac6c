use std::{
    env, fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Error, ErrorKind, IdRange, Probe, Result};

use super::{FirecrackerOptions, version::Version};
use crate::find_program;

const OPERATION: &str = "firecracker";
/// What names the programs, before `PATH` is asked.
const VARIABLE: &str = "FIRECRACKER_PATH";
const JAILER_VARIABLE: &str = "JAILER_PATH";

/// The programs that make machines here.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    /// Firecracker, without links on the way: the jailer takes its name for the jail's.
    pub(super) program: PathBuf,
    /// The jailer, where machines are made in jails.
    pub(super) jailer: Option<PathBuf>,
}

impl Engine {
    /// Finds them. Executes nothing.
    ///
    /// # Errors
    /// `Unavailable` without Firecracker, or without a jail that is asked for.
    pub(super) fn find(options: &FirecrackerOptions) -> Result<Self> {
        Self::find_as(options, is_root())
    }

    /// The same, for a user who is root, or is not.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(super) fn find_as(options: &FirecrackerOptions, is_root: bool) -> Result<Self> {
        let program = options.firecracker.clone().or_else(|| named(VARIABLE)).or_else(|| find_program("firecracker"));
        let missing = || Error::new(ErrorKind::Unavailable, OPERATION, "firecracker is missing");
        let hint = "put the programs `firecracker` and `jailer` of a release (1.12 or newer) into /usr/local/bin, or name them: FIRECRACKER_PATH, JAILER_PATH";
        let program = program.ok_or_else(|| missing().with_hint(hint))?;
        let program =
            fs::canonicalize(&program).map_err(|error| missing().with_source(error).with("path", program.display()).with_hint(hint))?;
        let jailer = if options.jail.unwrap_or(is_root) { jailer(options, &program) } else { None };
        if options.jail == Some(true) && (jailer.is_none() || !is_root) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                "the configuration asks for a jail, which needs root and the jailer",
            )
            .with_hint("or leave `jail` out of the section [firecracker]"));
        }
        Ok(Self { program, jailer })
    }

    /// The user of a sandbox's jail; `None` where it gets none.
    pub(super) fn jail_user(&self, ids: Option<IdRange>) -> Option<u32> {
        self.jailer.as_ref().and(ids).map(|ids| ids.first)
    }

    /// Asks Firecracker. Blocks for some milliseconds.
    ///
    /// # Errors
    /// `Unavailable` when it does not say, or is too old.
    pub(super) fn version(&self) -> Result<Version> {
        Version::of(&self.program)
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn jailer(options: &FirecrackerOptions, program: &Path) -> Option<PathBuf> {
    let beside = || Some(program.with_file_name("jailer")).filter(|path| path.is_file());
    options.jailer.clone().or_else(|| named(JAILER_VARIABLE)).or_else(beside).or_else(|| find_program("jailer"))
}

/// Whether KVM runs machines here.
///
/// # Errors
/// `Unavailable`, in the words of the KVM probe.
pub(super) fn require_kvm(found: &Probe) -> Result<()> {
    let Probe { usable, verdict, hint } = found;
    if *usable {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unavailable, OPERATION, verdict.clone());
    Err(match hint {
        Some(hint) => error.with_hint(hint.clone()),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_with_its_path() {
        let options = FirecrackerOptions { firecracker: Some("/nonexistent/firecracker".into()), ..FirecrackerOptions::default() };
        let error = Engine::find(&options).unwrap_err();
        assert!(error.chain().contains("/nonexistent/firecracker"), "{}", error.chain());
        assert!(error.hint().is_some_and(|hint| hint.contains("FIRECRACKER_PATH")));
    }

    #[test]
    fn a_jail_that_is_asked_for_is_not_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("firecracker");
        fs::write(&program, "").unwrap();
        let options =
            |jailer: Option<&str>, jail| FirecrackerOptions { firecracker: Some(program.clone()), jailer: jailer.map(PathBuf::from), jail };
        assert!(Engine::find(&options(Some("/bin/true"), Some(false))).unwrap().jailer.is_none());
        let jailed = |is_root| Engine::find_as(&options(Some("/bin/true"), Some(true)), is_root);
        let ids = IdRange { first: 7, count: 1 };
        let engine = jailed(true).unwrap();
        assert_eq!((engine.jail_user(Some(ids)), engine.jail_user(None)), (Some(7), None));
        assert!(jailed(false).is_err());
    }
}
