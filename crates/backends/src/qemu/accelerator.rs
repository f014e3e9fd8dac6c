use std::path::Path;

use crate::{kvm::Noted, options::Accelerator};

impl Accelerator {
    const fn of(kvm_is_usable: bool) -> Self {
        if kvm_is_usable { Self::Kvm } else { Self::Tcg }
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
