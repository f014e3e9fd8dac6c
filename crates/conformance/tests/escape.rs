//! Attempts to leave a container: `cargo test -p sandbar-conformance --test escape [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, escape, run};

mod variants;

use variants::container;

const VARIANTS: &[Variant] = &[container::ROOT, container::ROOTLESS, container::ROOTLESS_RANGES];

fn main() -> ExitCode {
    run(VARIANTS, escape::all())
}
