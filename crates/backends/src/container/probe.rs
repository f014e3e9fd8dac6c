//! Whether containers work here: by making one.

use std::{collections::BTreeMap, fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

use sandbar_core::{Context, Error, ErrorKind, IdRange, ImageKind, Lifetime, NoJournal, Probe, Result, RootSource, SandboxId, SandboxSpec};

use super::{boot::OwnedBoot, info};
use crate::host::{folder, ids::is_root, kernel};

/// A rehearsal takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Any ids do: nothing runs with them.
const IDS: IdRange = IdRange { first: 1_879_048_192, count: 65_536 };

/// Makes a container up to the agent's execution, and says how that went.
///
/// # Errors
/// The same where it was only late: it may go well when the machine has less to do.
pub(super) fn probe(home: &Path) -> Result<Probe, Probe> {
    match rehearse(home, kernel::takes_detached_layers()) {
        Ok(()) => Ok(Probe { usable: true, verdict: info::info().notes.join("; "), hint: None }),
        Err(error) => {
            let probe = Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) };
            if error.kind() == ErrorKind::TimedOut { Err(probe) } else { Ok(probe) }
        }
    }
}

fn rehearse(home: &Path, by_descriptor: bool) -> Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::from).context("probe", || "no random numbers".to_owned())?;
    let id = SandboxId::from_random(random);
    let stage = home.join(format!("probe-{id}"));
    let make = |path: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| Error::io("probe", "cannot write into the state folder", error).with("path", path.display()))
    };
    let (lower, own) = (stage.join("lower"), stage.join("own"));
    let result = make(&lower).and_then(|()| make(&own)).and_then(|()| {
        let root = RootSource {
            kind: ImageKind::Empty,
            layers: vec![lower],
            saved_layers: Vec::new(),
            host: None,
            env: BTreeMap::new(),
            workdir: None,
            user: None,
        };
        let boot = OwnedBoot {
            id,
            spec: SandboxSpec::default(),
            root,
            folder: own,
            generation: 0,
            ids: is_root().then_some(IDS),
            lifetime: Lifetime::Owned,
            journal: Arc::new(NoJournal),
            by_descriptor,
            agent: None,
        };
        boot.rehearse(PATIENCE)
    });
    let _ = folder::remove(&stage);
    result
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn older_kernels_ways_of_mounting_work_too() {
        let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let home = tempfile::Builder::new().prefix("sandbar-probe-").tempdir_in(parent).unwrap();
        for by_descriptor in [kernel::takes_detached_layers(), false] {
            // On a thread of its own, which may end up with mounts of its own.
            let path = home.path().to_owned();
            std::thread::spawn(move || rehearse(&path, by_descriptor)).join().unwrap().unwrap_or_else(|error| panic!("{}", error.chain()));
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        if is_root() {
            // Once more as a plain user, whose child mounts its root itself.
            let nobody = rustix::fs::Uid::from_raw(64_321);
            rustix::fs::chown(home.path(), Some(nobody), None).unwrap();
            let mut again = Command::new("setpriv");
            again.args(["--reuid=64321", "--regid=64321", "--clear-groups"]).arg(std::env::current_exe().unwrap());
            let output = again
                .args(["--exact", "container::probe::tests::older_kernels_ways_of_mounting_work_too"])
                .env("TMPDIR", home.path())
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn a_state_folder_that_cannot_be_written_is_told() {
        let probe = probe(Path::new("/proc/nowhere")).unwrap();
        assert!(!probe.usable && probe.verdict.contains("/proc/nowhere"), "{probe:?}");
    }
}
