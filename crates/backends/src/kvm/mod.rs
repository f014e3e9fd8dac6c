//! Whether this machine's KVM runs a guest that knows nothing of it: from trying, within a deadline.
//!
//! | module | noun |
//! |---|---|
//! | `finding` | what was found: one case, one sentence, one hint |
//! | `host` | the places where the machine says what it is; a folder of a test may stand in for `/` |
//! | `hypervisor` | what this machine runs in, if it is itself a guest |
//! | `cloud` | whose instance it is, and which of theirs have guests |
//! | `trial` | a machine for one small guest |
//! | `guest` | the program that it runs |
//! | `note` | what was found, kept for the next command |
//!
//! A device that opens and answers every request may still boot nothing: a paravirtual KVM wants kernels made for it, and others hang
//! in their first guest. So the last question is a guest of our own.

mod cloud;
mod finding;
#[cfg(target_arch = "x86_64")]
mod guest;
mod host;
mod hypervisor;
mod note;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod trial;

use std::time::Duration;

pub use cloud::Cloud;
pub use finding::{Absence, Finding};
#[cfg(target_arch = "x86_64")]
pub use guest::Stage;
pub use hypervisor::Hypervisor;
pub(crate) use note::Noted;

/// How long the trial's guest may run. It takes a few milliseconds; under emulation on a busy machine, seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at `/dev/kvm` and tries it. Blocks for some milliseconds, and for the better part of a minute where KVM hangs.
pub fn probe() -> Finding {
    host::Host::here().probe(PATIENCE)
}
