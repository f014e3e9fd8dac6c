use std::{
    env,
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::{
    child::{self, Child},
    owner,
    runner::{self, Outcome},
    variant::{Availability, Variant},
    world::World,
};
use crate::{Case, Subject};

/// Threads unless `--test-threads` says otherwise: cases wait more than they compute.
const THREADS: usize = 4;

/// `SANDBAR_SHARD=1/3`: every third case from the first on, so that machines can share the work.
const SHARD: &str = "SANDBAR_SHARD";

/// A variant that has been looked at.
enum Ready {
    Here(Arc<Subject>),
    Elsewhere(Child),
    Unavailable(String),
}

/// The program: tests `suite` on `variants`, as `--list`, filters and the rest of the usual arguments say.
pub fn run(variants: &'static [Variant], suite: &'static [Case]) -> ExitCode {
    let world = match World::open() {
        Ok(world) => Arc::new(world),
        Err(error) => return refuse(&format!("the run has no folder: {error}")),
    };
    let mut arguments = Arguments::from_args();
    let threads = *arguments.test_threads.get_or_insert(THREADS);
    let suite = spread(suite);
    if let Some(code) = child::serve(variants, &suite, &world, threads).or_else(|| owner::serve(variants, &world)) {
        return code;
    }
    let suite = match env::var(SHARD).ok().map(|shard| share(&suite, &shard)) {
        None => suite,
        Some(Some(cases)) => cases,
        Some(None) => return refuse(&format!("{SHARD} is like 1/3: which of how many")),
    };
    let mut trials = Vec::new();
    for variant in variants {
        let named = |case: &Case| Trial::test(format!("{}::{}", variant.name, case.name), || Ok(()));
        let wanted: Vec<&'static str> =
            suite.iter().filter(|case| !arguments.is_filtered_out(&named(case))).map(|case| case.name).collect();
        let ready: Arc<OnceLock<Ready>> = Arc::default();
        trials.extend(suite.iter().map(|&case| {
            let (ready, world, wanted) = (Arc::clone(&ready), Arc::clone(&world), wanted.clone());
            Trial::ignorable_test(format!("{}::{}", variant.name, case.name), move || {
                let outcome = match ready.get_or_init(|| prepare(variant, &world, &wanted, threads)) {
                    Ready::Here(subject) => runner::run(subject, case),
                    Ready::Elsewhere(child) => child.outcome(case.name),
                    Ready::Unavailable(reason) => Outcome::Unavailable(reason.clone()),
                };
                completion(variant, outcome)
            })
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(world);
    conclusion.exit_code()
}

/// The cases that wait, spread over the others: beside one another they would leave the machine idle.
fn spread(suite: &'static [Case]) -> Vec<&'static Case> {
    let (waiting, mut spread): (Vec<_>, Vec<_>) = suite.iter().partition(|case| case.waits);
    let gap = spread.len() / (waiting.len() + 1);
    for (index, case) in waiting.into_iter().enumerate() {
        spread.insert(index * (gap + 1), case);
    }
    spread
}

/// A share of the cases, as evenly mixed as the suite is: the neighbours of a slow one are slow.
fn share(suite: &[&'static Case], shard: &str) -> Option<Vec<&'static Case>> {
    let (which, of) = shard.split_once('/')?;
    let (which, of) = (which.parse::<usize>().ok()?, of.parse::<usize>().ok()?);
    (1..=of).contains(&which).then(|| suite.iter().copied().skip(which - 1).step_by(of).collect())
}

fn prepare(variant: &Variant, world: &Arc<World>, wanted: &[&str], threads: usize) -> Ready {
    match availability(variant, world) {
        Availability::Here(subject) => Ready::Here(Arc::from(subject)),
        Availability::Unavailable(reason) => Ready::Unavailable(reason),
        Availability::As(account) => match Child::start(variant, world, &account, wanted, threads) {
            Ok(child) => Ready::Elsewhere(child),
            Err(error) => Ready::Unavailable(format!("no process could be started as {}: {error}", account.name)),
        },
    }
}

/// Looks at a variant from outside of any runtime.
pub(super) fn availability(variant: &Variant, world: &World) -> Availability {
    match runner::runtime(Some(1)) {
        Ok(runtime) => runtime.block_on((variant.prepare)(world)),
        Err(error) => Availability::Unavailable(format!("no runtime: {error}")),
    }
}

fn completion(variant: &Variant, outcome: Outcome) -> Result<Completion, Failed> {
    match outcome {
        Outcome::Passed => Ok(Completion::Completed),
        Outcome::Ignored(reason) => Ok(Completion::ignored_with(reason)),
        Outcome::Unavailable(reason) if variant.is_required() => {
            Err(Failed::from(format!("SANDBAR_REQUIRE asks for {}, which is not available here: {reason}", variant.name)))
        }
        Outcome::Unavailable(reason) => Ok(Completion::ignored_with(reason)),
        Outcome::Failed(message) => Err(Failed::from(message)),
    }
}

#[expect(clippy::print_stderr, reason = "the program's own error, before there is a report")]
pub(super) fn refuse(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
