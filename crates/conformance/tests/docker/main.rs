//! What becomes of sandboxes when their engine is killed, restarted, gone, full, broken, or shared with others; images and checkpoints that come from it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod between;
mod broken;
#[path = "../engines/busybox.rs"]
mod busybox;
mod case;
mod each_request;
#[path = "../engines/engine.rs"]
mod engine;
mod engine_gone;
mod full;
#[path = "../../../cli/tests/command_line/hard_image.rs"]
mod hard_image;
mod missing;
mod others;
mod portable;
mod pulled;
#[path = "../../../runtime/tests/image/served.rs"]
mod served;
#[path = "../engines/trial.rs"]
mod trial;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let cases = [broken::CASES, each_request::CASES, engine_gone::CASES, full::CASES, others::CASES, portable::CASES, pulled::CASES];
    let missing = Trial::test("missing::what_is_missing_is_told", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(missing::what_is_missing_is_told());
        Ok(())
    });
    let trials = cases.into_iter().flatten().map(case::Case::trial).chain([missing]).collect();
    let mut arguments = Arguments::from_args();
    // Engines that were killed take their time to come back, and nobody has to do anything meanwhile.
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, trials).exit_code()
}
