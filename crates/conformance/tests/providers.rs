//! Every case on every provider: `cargo test -p sandbar-conformance --test providers [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, case, run};

mod variants;

const VARIANTS: &[Variant] = &[variants::FAKE, variants::DANGEROUS_HOST];

fn main() -> ExitCode {
    run(VARIANTS, case::all())
}
