//! Sandboxes on another host, by the real command: the other host is this one, with a state folder of its own.
//!
//! | module | what it is about |
//! |---|---|
//! | `world` | two state folders, a server, a login |
//! | `contexts` | names for other hosts |
//! | `http` | over a server on loopback |
//! | `cut` | over one that is gone for a while |
//! | `ways` | what is the same over a server and over a login |
//! | `spoiled` | over one that somebody stands before who does not pass everything on |
//! | `tls`, `authority` | over one that speaks TLS, with an authority of the test's own |
//! | `ssh`, `sshd` | over a real `sshd` on loopback |

#![expect(clippy::unwrap_used, reason = "what a test cannot do, it has to fail of")]

#[path = "../../../conformance/tests/engines/trial.rs"]
mod trial;

mod authority;
mod contexts;
mod cut;
mod http;
mod spoiled;
mod ssh;
#[path = "../../../conformance/tests/elsewhere/sshd.rs"]
mod sshd;
mod tls;
mod ways;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let named = [("contexts", contexts::CASES), ("http", http::CASES), ("http", cut::CASES), ("http", spoiled::CASES), ("tls", tls::CASES)];
    let named = named.into_iter().flat_map(|(module, cases)| {
        cases.iter().map(move |(name, body)| {
            Trial::test(format!("{module}::{name}"), || {
                body();
                Ok(())
            })
        })
    });
    let both_ways = ways::CASES.iter().flat_map(|(name, body)| {
        let over_http = Trial::test(format!("http::{name}"), || {
            ways::over_http(*body);
            Ok(())
        });
        let over_ssh = trial::trial(&format!("ssh::{name}"), "remote-ssh", world::Login::new, |login| ways::over_ssh(&login, *body));
        [over_http, over_ssh]
    });
    let over_ssh =
        ssh::CASES.iter().map(|(name, body)| trial::trial(&format!("ssh::{name}"), "remote-ssh", world::Login::new, |login| body(&login)));
    let statically = trial::trial(
        "ssh::a_program_that_is_linked_statically_runs_there",
        "static",
        || Ok((ssh::static_program()?, world::Login::new()?)),
        |(program, login)| ssh::a_program_that_is_linked_statically_runs_there(&login, &program),
    );
    libtest_mimic::run(&Arguments::from_args(), named.chain(both_ways).chain(over_ssh).chain([statically]).collect()).exit_code()
}
