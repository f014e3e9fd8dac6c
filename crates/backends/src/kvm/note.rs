//! What was found, kept in the state folder.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sandbar_core::Probe;
use serde::{Deserialize, Serialize};

use super::Finding;

/// The probe's verdict for a state folder.
///
/// Trying takes milliseconds where KVM works, and most of a minute where it hangs, so what was found is kept until the next boot of the host, or until
/// the device or the user is another one; what may pass by itself is not.
pub(crate) struct Noted {
    note: PathBuf,
    known: OnceLock<Probe>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    circumstances: String,
    usable: bool,
    verdict: String,
    hint: Option<String>,
}

impl Noted {
    /// For a state folder. Touches nothing.
    pub(crate) fn new(home: &Path) -> Self {
        Self { note: home.join("kvm.json"), known: OnceLock::new() }
    }

    /// The verdict: the one that was noted, if that is possible. May block.
    pub(crate) fn get(&self) -> &Probe {
        self.known.get_or_init(|| self.read().unwrap_or_else(|| self.try_anew()))
    }

    /// Tries, whatever was found before.
    pub(crate) fn try_anew(&self) -> Probe {
        let found = super::probe();
        let probe = found.to_probe();
        let Probe { usable, verdict, hint } = probe.clone();
        let note = Note { circumstances: circumstances(), usable, verdict, hint };
        // A state folder that cannot be written costs the next command the same trial.
        let kept = if matches!(found, Finding::Busy | Finding::Failing { .. }) {
            fs::remove_file(&self.note)
        } else {
            serde_json::to_vec(&note).map_err(std::io::Error::from).and_then(|text| {
                let new = self.note.with_extension(format!("new-{}", std::process::id()));
                fs::write(&new, text)?;
                fs::rename(&new, &self.note)
            })
        };
        if let Err(error) = kept {
            tracing::debug!(%error, "what was found of KVM is not kept");
        }
        probe
    }

    fn read(&self) -> Option<Probe> {
        let note: Note = serde_json::from_slice(&fs::read(&self.note).ok()?).ok()?;
        (note.circumstances == circumstances()).then_some(Probe { usable: note.usable, verdict: note.verdict, hint: note.hint })
    }
}

/// Everything that what was found may depend on: this boot, the device, who asks.
fn circumstances() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let device = fs::metadata("/dev/kvm").map_or_else(
        |_| "none".to_owned(),
        |node| format!("{}:{} {:o} {}:{} {}", node.rdev(), node.ino(), node.mode(), node.uid(), node.gid(), node.ctime()),
    );
    let mut groups: Vec<u32> = rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect();
    groups.sort_unstable();
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    format!("boot {} device {device} user {user} group {group} groups {groups:?}", boot.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_kept_for_these_circumstances_only() {
        let home = tempfile::tempdir().unwrap();
        let noted = |circumstances: String| {
            let note = Note { circumstances, usable: true, verdict: "it runs".to_owned(), hint: None };
            fs::write(home.path().join("kvm.json"), serde_json::to_vec(&note).unwrap()).unwrap();
            Noted::new(home.path()).read()
        };
        assert_eq!(noted(circumstances()).map(|probe| (probe.usable, probe.verdict)), Some((true, "it runs".to_owned())));
        assert!(noted("another boot".to_owned()).is_none());
    }
}
