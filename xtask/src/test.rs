use std::{env, thread};

use xshell::{Shell, cmd};

use crate::{
    failures::told_again,
    in_lab::{self, WALLS},
    lab, macos,
    outcome::{Failure, Step, all, say},
    schemathesis,
};

/// What this machine must be able to run when continuous integration says so.
const REQUIRED_IN_CI: &str = "fake,dangerous-host,container-root,container-rootless,container-rootless-ranges,gvisor-root,gvisor-rootless,docker-runc,docker-runsc,qemu-tcg,qemu-plain-user,remote-http,remote-ssh,registry,lab,macos,schemathesis";

/// Builds and runs every test of the workspace, and those that need a working `/dev/kvm` once more in the lab.
///
/// What `SANDBAR_REQUIRE` names must run; without it, nothing must, or all that continuous integration can run.
pub fn run(shell: &Shell, filter: Option<&str>, in_ci: bool) -> Result<(), Failure> {
    let required = match env::var("SANDBAR_REQUIRE") {
        Ok(required) => required,
        Err(_) if in_ci || env::var("CI").is_ok_and(|value| value == "true") => REQUIRED_IN_CI.to_owned(),
        Err(_) => String::new(),
    };
    // The static program takes minutes to build, so whoever has built it asks for its test.
    let known = || REQUIRED_IN_CI.split(',').chain(WALLS.split(',')).chain(["static"]);
    if let Some(unknown) = required.split(',').find(|name| !name.is_empty() && known().all(|known| known != *name)) {
        let known: Vec<_> = known().collect();
        return Err(Failure::new(format!("SANDBAR_REQUIRE: nothing is called {unknown}; there are {}", known.join(", "))));
    }
    say(&format!("required: {}", if required.is_empty() { "nothing (what cannot run here is ignored)" } else { &required }));
    let is_required = |wanted| required.split(',').any(|name| name == wanted);
    let workspace = || {
        let filter = filter.as_slice();
        let tests = cmd!(shell, "cargo test --workspace --no-fail-fast -- {filter...}").env("SANDBAR_REQUIRE", &required);
        told_again(&mut tests.into()).map(drop)
    };
    let (lab, macos, asked) = (is_required("lab"), is_required("macos"), is_required("schemathesis"));
    // Beside the tests, which wait as often as they compute.
    let client = filter.is_none().then(|| thread::spawn(move || for_macos(macos)));
    let mut steps: Vec<Step<'_>> = vec![("workspace", Box::new(workspace))];
    if let Some(client) = client {
        steps.push(("schemathesis", Box::new(move || asked_or_told(shell, asked))));
        steps.push(("lab", Box::new(move || in_lab_or_told(shell, lab))));
        let told = || client.join().unwrap_or_else(|_| Err(Failure::new("its thread panicked")));
        steps.push(("the client for macOS", Box::new(told)));
    }
    all(steps)
}

/// The client of other hosts, compiled for macOS.
fn for_macos(required: bool) -> Result<(), Failure> {
    let shell = Shell::new()?;
    if !required && let Err(failure) = macos::fetch(&shell) {
        say(&format!("not checked for macOS: {failure}"));
        return Ok(());
    }
    macos::run(&shell)
}

/// The server, asked for everything that its document has.
fn asked_or_told(shell: &Shell, required: bool) -> Result<(), Failure> {
    if !required && let Err(failure) = schemathesis::fetch(shell) {
        say(&format!("the server is not asked by schemathesis: {failure}"));
        return Ok(());
    }
    schemathesis::run(shell)
}

/// What needs KVM, where it works.
fn in_lab_or_told(shell: &Shell, required: bool) -> Result<(), Failure> {
    if !required && let Err(failure) = lab::ready(shell) {
        say(&format!("not run in the lab: {failure}"));
        return Ok(());
    }
    in_lab::run(shell)
}
