//! Every case on every provider: `cargo test -p sandbar-conformance --test providers [FILTER]`.

use std::process::ExitCode;

use sandbar_conformance::{Variant, case, run, stay_on_loopback};

mod elsewhere;
mod engines;
mod machines;
mod unwalled;
mod variants;

use elsewhere::{http, ssh};
use engines::{docker, gvisor};
use machines::{firecracker, qemu};
use unwalled::{dangerous_host, fake};
use variants::container;

const VARIANTS: &[Variant] = &[
    fake::FAKE,
    dangerous_host::ORDINARY,
    dangerous_host::PLAIN_USER,
    container::ROOT,
    container::ROOTLESS,
    container::ROOTLESS_RANGES,
    gvisor::ROOT,
    gvisor::ROOTLESS,
    docker::RUNC,
    docker::RUNSC,
    qemu::TCG,
    qemu::PLAIN_USER,
    qemu::KVM,
    firecracker::JAILED,
    firecracker::PLAIN_USER,
    http::CONTAINER,
    ssh::CONTAINER,
];

fn main() -> ExitCode {
    if let Some(code) = elsewhere::serve() {
        return code;
    }
    stay_on_loopback();
    let code = run(VARIANTS, case::all());
    ssh::end();
    code
}
