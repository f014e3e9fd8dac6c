//! Attempts to leave a container: `cargo test -p sandbar-conformance --test escape [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, escape, run};

mod variants;

const VARIANTS: &[Variant] = &[variants::CONTAINER_ROOT, variants::CONTAINER_ROOTLESS, variants::CONTAINER_ROOTLESS_RANGES];

fn main() -> ExitCode {
    run(VARIANTS, escape::all())
}
