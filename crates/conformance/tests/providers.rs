//! Every case on every provider: `cargo test -p sandbar-conformance --test providers [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, case, run};

mod variants;

const VARIANTS: &[Variant] = &[
    variants::FAKE,
    variants::DANGEROUS_HOST,
    variants::DANGEROUS_HOST_PLAIN,
    variants::CONTAINER_ROOT,
    variants::CONTAINER_ROOTLESS,
    variants::CONTAINER_ROOTLESS_RANGES,
];

fn main() -> ExitCode {
    run(VARIANTS, case::all())
}
