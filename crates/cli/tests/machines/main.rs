//! Virtual machines under the command line: a machine that is killed, panics or hangs is told as such, `kill -9` of sandbar at each step of its life
//! leaks nothing, and neither do many lives in a row; a setup is all that the first one needs; what is weaker than it could be says so.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::process::ExitCode;

use libtest_mimic::Arguments;

use world::World;

mod cycles;
mod ends;
mod firecracker;
mod full;
mod images;
mod kills;
mod made;
mod owned;
mod qemu;
mod setup;
mod struck;
#[path = "../../../conformance/tests/engines/trial.rs"]
mod trial;
mod volumes;
mod weaker;
mod world;

/// A fact, and what shows it.
type Case = (&'static str, fn(&World));

/// What is true of every monitor.
const CASES: &[Case] = &[
    ("a_kill_at_any_step_leaks_nothing", kills::leak_nothing),
    ("a_machine_killed_at_any_step_is_told", struck::are_told),
    ("a_machine_that_ends_or_hangs_is_told", ends::are_told),
    ("a_machine_ends_with_the_client_that_owns_it", owned::ends),
    ("many_lives_leave_nothing", cycles::leave_nothing),
    ("an_image_of_memory_stays_as_long_as_it_is_needed", images::are_counted),
    ("a_volume_outlives_who_serves_it", volumes::are_served),
    ("a_full_disk_is_told", full::is_told),
    ("an_image_is_shared_and_a_template_follows_what_it_was_made_of", made::is_shared),
    ("an_image_or_a_kernel_that_came_again_makes_its_template_again", made::is_made_again),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They wait more than they compute. One in a jail does not tell whose it is, but runs in the lab alone, which asks for one at a time.
    arguments.test_threads.get_or_insert(2);
    let trials = CASES.iter().flat_map(|&(name, body)| {
        let qemu = trial::trial(&format!("qemu::{name}"), "qemu-tcg", qemu::world, move |world| body(&world));
        let firecracker =
            trial::trial(&format!("firecracker::{name}"), "firecracker-jailed", firecracker::world, move |world| body(&world));
        [qemu, firecracker]
    });
    let setup = trial::trial("qemu::setup_gets_what_the_next_command_needs", "qemu-tcg", qemu::bare, |world| setup::suffices(&world));
    let weaker = trial::trial("firecracker::a_wall_that_is_weaker_is_told", "firecracker-jailed", firecracker::world, |world| {
        weaker::is_told(&world);
    });
    libtest_mimic::run(&arguments, trials.chain([setup, weaker]).collect()).exit_code()
}
