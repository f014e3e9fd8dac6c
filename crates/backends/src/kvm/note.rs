//! What was found, kept in the state folder.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sandbar_core::Probe;
use serde::{Deserialize, Serialize};

use super::Finding;

/// The probe's verdict for a state folder.
///
/// Trying takes milliseconds where KVM works, and most of a minute where it hangs, so what was found is kept until the next boot of the host, or until
/// the device or the user is another one; what may pass by itself is kept for this process alone. A trial anew replaces all of it.
pub(crate) struct Noted {
    note: PathBuf,
    known: Mutex<Option<Note>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    circumstances: String,
    usable: bool,
    verdict: String,
    hint: Option<String>,
}

impl Noted {
    /// For a state folder. Touches nothing.
    pub(crate) fn new(home: &Path) -> Self {
        Self { note: home.join("kvm.json"), known: Mutex::default() }
    }

    /// The verdict: the one that was noted, if that is possible. May block.
    pub(crate) fn get(&self) -> Probe {
        // Held meanwhile, so that it is tried once for all who want to know.
        let mut known = self.known();
        let now = circumstances();
        let holds = known.take().filter(|note| note.circumstances == now);
        let note = holds.or_else(|| self.read(&now)).unwrap_or_else(|| self.keep(&super::probe(), now));
        known.insert(note).to_probe()
    }

    /// Tries, whatever was found before. What is found holds from now on.
    pub(crate) fn try_anew(&self) -> Probe {
        let now = circumstances();
        self.learn(&super::probe(), now)
    }

    fn learn(&self, found: &Finding, circumstances: String) -> Probe {
        let note = self.keep(found, circumstances);
        self.known().insert(note).to_probe()
    }

    fn known(&self) -> MutexGuard<'_, Option<Note>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, found: &Finding, circumstances: String) -> Note {
        let Probe { usable, verdict, hint } = found.to_probe();
        let note = Note { circumstances, usable, verdict, hint };
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
        note
    }

    fn read(&self, circumstances: &str) -> Option<Note> {
        let note: Note = serde_json::from_slice(&fs::read(&self.note).ok()?).ok()?;
        (note.circumstances == circumstances).then_some(note)
    }
}

impl Note {
    fn to_probe(&self) -> Probe {
        Probe { usable: self.usable, verdict: self.verdict.clone(), hint: self.hint.clone() }
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
            Noted::new(home.path()).read(&super::circumstances())
        };
        assert_eq!(noted(circumstances()).map(|note| (note.usable, note.verdict)), Some((true, "it runs".to_owned())));
        assert!(noted("another boot".to_owned()).is_none());
    }

    #[test]
    fn who_knows_a_verdict_already_learns_what_a_later_trial_has_found() {
        let home = tempfile::tempdir().unwrap();
        let noted = Noted::new(home.path());
        for found in [Finding::NotKvm, Finding::Usable, Finding::Busy, Finding::Usable] {
            let told = noted.learn(&found, circumstances());
            assert_eq!((told.usable, noted.get().verdict), (found == Finding::Usable, told.verdict), "{found:?}");
            // The next process finds it too, but not what may pass by itself.
            let kept = Noted::new(home.path()).read(&circumstances());
            assert_eq!(kept.map(|note| note.usable), (found != Finding::Busy).then_some(told.usable), "{found:?}");
        }
    }

    #[test]
    fn what_was_found_in_other_circumstances_is_known_no_more() {
        let home = tempfile::tempdir().unwrap();
        let noted = Noted::new(home.path());
        noted.learn(&Finding::NotKvm, "another device".to_owned());
        let note = Note { circumstances: circumstances(), usable: true, verdict: "it runs".to_owned(), hint: None };
        fs::write(home.path().join("kvm.json"), serde_json::to_vec(&note).unwrap()).unwrap();
        assert!(noted.get().usable);
    }
}
