//! Attempts to leave a container, or gVisor: `cargo test -p sandbar-conformance --test escape [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, escape, run};

#[path = "engines/gvisor.rs"]
mod gvisor;
mod variants;

use variants::container;

const VARIANTS: &[Variant] = &[container::ROOT, container::ROOTLESS, container::ROOTLESS_RANGES, gvisor::ROOT, gvisor::ROOTLESS];

fn main() -> ExitCode {
    run(VARIANTS, escape::all())
}
