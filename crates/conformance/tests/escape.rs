//! Attempts to leave a sandbox: `cargo test -p sandbar-conformance --test escape [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, escape, run, stay_on_loopback};

mod engines {
    pub mod busybox;
    pub mod gvisor;
}
mod machines {
    pub mod attacked;
    mod stock;
}
mod variants;

use engines::gvisor;
use machines::attacked;
use variants::container;

const VARIANTS: &[Variant] =
    &[container::ROOT, container::ROOTLESS, container::ROOTLESS_RANGES, gvisor::ROOT, gvisor::ROOTLESS, attacked::TCG, attacked::JAILED];

fn main() -> ExitCode {
    stay_on_loopback();
    run(VARIANTS, escape::all())
}
