//! Images from folders, archives, layouts, and a real registry on loopback; hostile ones too.
//!
//! The registry's cases need `docker-registry` and `skopeo`. Without them they are reported as ignored, with the
//! reason; `SANDBAR_REQUIRE=registry` makes that a failure.
#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test: a failed step is its failure")]

mod build;
mod child;
mod hostile;
mod local;
mod proxy;
mod pulls;
mod registry;
mod served;
mod store;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A case that needs nothing.
fn case(name: &str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

/// A case that may find that something it needs is missing, and then says what.
fn case_if(name: &str, missing: Option<String>, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match missing {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => {
            body();
            Ok(Completion::Completed)
        }
    })
}

fn main() -> ExitCode {
    if let Some(status) = child::run() {
        return status;
    }
    let arguments = Arguments::from_args();
    let registries = if arguments.list { Err("only listed".to_owned()) } else { registry::Registries::start() };
    let mut trials = local::cases();
    trials.extend(hostile::cases());
    match registries {
        Ok(registries) => trials.extend(pulls::cases(Some(registries), None)),
        Err(reason) if !arguments.list && required("registry") => {
            trials.push(Trial::test("registry_is_required", move || Err(Failed::from(reason))));
        }
        Err(reason) => trials.extend(pulls::cases(None, Some(reason))),
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn required(name: &str) -> bool {
    std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|required| required.trim() == name))
}
