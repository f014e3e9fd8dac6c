use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::kvm;

/// What runs a machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The host's own, by KVM.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accelerator {
    /// As QEMU calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Chooses what runs the processors here: KVM if a guest of our own runs in it.
///
/// Trying takes milliseconds where KVM works, and most of a minute where it hangs, so what was found is kept in the state folder until the next
/// boot of the host, or until the device is another one.
pub(super) struct Choice {
    note: PathBuf,
    asked: Option<Accelerator>,
    made: OnceLock<Accelerator>,
}

/// What was found, and where.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    circumstances: String,
    usable: bool,
}

impl Choice {
    /// For a state folder; `asked` is taken as it is.
    pub(super) fn new(home: &Path, asked: Option<Accelerator>) -> Self {
        Self { note: home.join("kvm.json"), asked, made: OnceLock::new() }
    }

    /// The choice. May block.
    pub(super) fn get(&self) -> Accelerator {
        *self.made.get_or_init(|| self.asked.or_else(|| self.noted()).unwrap_or_else(|| self.try_anew().0))
    }

    /// Tries, whatever was found before; the choice, and a word of why.
    pub(super) fn try_anew(&self) -> (Accelerator, String) {
        if let Some(asked) = self.asked {
            return (asked, "as the configuration asks".to_owned());
        }
        let found = kvm::probe();
        let note = Note { circumstances: circumstances(), usable: found.is_usable() };
        // A state folder that cannot be written costs the next command the same trial.
        let written = serde_json::to_vec(&note).map_err(std::io::Error::from).and_then(|text| {
            let new = self.note.with_extension(format!("new-{}", std::process::id()));
            fs::write(&new, text)?;
            fs::rename(&new, &self.note)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "what was found of KVM is not kept");
        }
        (if note.usable { Accelerator::Kvm } else { Accelerator::Tcg }, found.to_string())
    }

    fn noted(&self) -> Option<Accelerator> {
        let note: Note = serde_json::from_slice(&fs::read(&self.note).ok()?).ok()?;
        (note.circumstances == circumstances()).then_some(if note.usable { Accelerator::Kvm } else { Accelerator::Tcg })
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
    let user = rustix::process::geteuid().as_raw();
    format!("boot {} device {device} user {user} groups {groups:?}", boot.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_kept_for_these_circumstances_only() {
        let home = tempfile::tempdir().unwrap();
        let note = |circumstances: String| {
            let text = serde_json::to_vec(&Note { circumstances, usable: true }).unwrap();
            fs::write(home.path().join("kvm.json"), text).unwrap();
            Choice::new(home.path(), None).noted()
        };
        assert_eq!(note(circumstances()), Some(Accelerator::Kvm));
        assert_eq!(note("another boot".to_owned()), None);
        assert_eq!(Choice::new(home.path(), Some(Accelerator::Tcg)).get(), Accelerator::Tcg);
    }
}
