use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kvm::Noted;

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
    const fn of(kvm_is_usable: bool) -> Self {
        if kvm_is_usable { Self::Kvm } else { Self::Tcg }
    }

    /// As QEMU calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Chooses what runs the processors here: KVM if a guest of our own runs in it.
pub(super) struct Choice {
    kvm: Noted,
    asked: Option<Accelerator>,
}

impl Choice {
    /// For a state folder; `asked` is taken as it is.
    pub(super) fn new(home: &Path, asked: Option<Accelerator>) -> Self {
        Self { kvm: Noted::new(home), asked }
    }

    /// The choice. May block.
    pub(super) fn get(&self) -> Accelerator {
        self.asked.unwrap_or_else(|| Accelerator::of(self.kvm.get().usable))
    }

    /// Tries, whatever was found before; the choice, and a word of why.
    pub(super) fn try_anew(&self) -> (Accelerator, String) {
        if let Some(asked) = self.asked {
            return (asked, "as the configuration asks".to_owned());
        }
        let found = self.kvm.try_anew();
        (Accelerator::of(found.usable), found.verdict)
    }
}
