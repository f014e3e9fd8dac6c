//! The command, as a person or a script uses it: the real binary, behind every wall that works here.

#![expect(clippy::unwrap_used, reason = "what a test cannot do, it has to fail of")]

#[path = "../remote/authority.rs"]
mod authority;
mod choices;
mod copies;
mod crowd;
mod datagrams;
mod egress;
mod egress_attacked;
mod egress_everywhere;
mod egress_limits;
mod exits;
mod faults;
mod file_of_checkpoint;
mod gvisor;
mod hard_image;
mod images;
mod life;
mod limits;
mod listings;
mod many;
mod owned;
mod packages;
mod portable;
mod ports;
mod secrets;
mod secrets_asked;
mod secrets_elsewhere;
#[path = "../../../conformance/tests/elsewhere/sshd.rs"]
mod sshd;
mod streams;
mod support;
mod terminals;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    if support::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let cases = [
        exits::CASES,
        streams::CASES,
        terminals::CASES,
        wire::CASES,
        owned::CASES,
        copies::CASES,
        images::CASES,
        listings::CASES,
        life::CASES,
        limits::CASES,
        ports::CASES,
        egress::CASES,
        egress_attacked::CASES,
        egress_everywhere::CASES,
        egress_limits::CASES,
        datagrams::CASES,
        secrets::CASES,
        secrets_asked::CASES,
        secrets_elsewhere::CASES,
        packages::CASES,
        many::CASES,
        crowd::CASES,
        choices::CASES,
        portable::CASES,
        file_of_checkpoint::CASES,
        faults::CASES,
        gvisor::CASES,
    ];
    support::main(&cases.concat())
}
