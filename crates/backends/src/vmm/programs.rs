use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Error, ErrorKind, Result};
use sandbar_guest::{RootImage, Scratch};

use crate::{Distribution, find_program};

/// Refuses a host on which a program is missing that makes a machine's disks, or one of `monitors`: all of them at once, with how to get them here.
///
/// # Errors
/// `Unavailable`.
pub(crate) fn require_programs(provider: &str, monitors: &[&str]) -> Result<()> {
    let monitors = monitors.iter().map(|name| (*name, find_program(name).is_some()));
    let disks = [("sqfstar", RootImage::is_available()), ("mkfs.ext4", Scratch::is_available())];
    let lacking: Vec<&str> = monitors.chain(disks).filter(|(_, is_here)| !is_here).map(|(name, _)| name).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(lacks(&lacking, Distribution::here().how_to_set_up(provider, &lacking)))
}

/// Makes a small disk of each kind, and removes them.
///
/// # Errors
/// Of the programs that make them.
pub(crate) fn try_disks(home: &Path) -> Result<()> {
    let folder = own_folder(home)?;
    let tried = Scratch::make(&folder.join("scratch"), Scratch::LEAST).and_then(|()| RootImage::rehearse(&folder));
    let _ = fs::remove_dir_all(&folder);
    tried
}

fn own_folder(home: &Path) -> Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::from).context("probe", || "no random numbers".to_owned())?;
    let folder = home.join(format!("probe-{:016x}", u64::from_ne_bytes(random)));
    fs::DirBuilder::new().mode(0o700).create(&folder).context("probe", || format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn lacks(programs: &[&str], hint: String) -> Error {
    let names: Vec<&str> =
        programs.iter().map(|name| if *name == "sqfstar" { "sqfstar (squashfs-tools 4.5 or newer)" } else { name }).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    Error::new(ErrorKind::Unavailable, "probe", format!("{} {verb} missing", names.join(" and "))).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_made_and_nothing_of_them_is_left() {
        if !(RootImage::is_available() && Scratch::is_available()) {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        try_disks(home.path()).unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        assert!(try_disks(Path::new("/proc/nowhere")).is_err());
    }

    #[test]
    fn what_is_missing_is_told_at_once_with_the_command_that_gets_it() {
        let error = require_programs("qemu", &["no-such-monitor"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("no-such-monitor"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("no-such-monitor")), "{error}");
        assert_eq!(lacks(&["mkfs.ext4"], String::new()).message(), "mkfs.ext4 is missing");
        assert_eq!(lacks(&["a", "sqfstar"], String::new()).message(), "a and sqfstar (squashfs-tools 4.5 or newer) are missing");
    }
}
