use std::{
    env,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, exit},
};

/// Set where it has been done.
const DONE: &str = "SANDBAR_TEST_LOOPBACK";
/// In the lab there is no other network.
const LAB: &str = "SANDBAR_LAB";
const NEEDS: [&str; 2] = ["/usr/bin/unshare", "/sbin/ip"];

/// Has a program of tests go on in a network namespace with loopback alone, so that no packet of it leaves this host, whatever is wrong. Called first in
/// `main`: the program is begun anew. Without root, or what it takes (which is said), the tests run in the host's network.
#[expect(clippy::print_stderr, reason = "it speaks to whoever runs the tests")]
pub fn stay_on_loopback() {
    if !rustix::process::geteuid().is_root() || [DONE, LAB].iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    if let Some(missing) = NEEDS.iter().find(|program| !Path::new(program).exists()) {
        eprintln!("in this host's network: {missing} is not here");
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut command = Command::new(NEEDS[0]);
    command.args(["--net", "--", "sh", "-c", "/sbin/ip link set lo up && exec \"$0\" \"$@\""]).arg(program).args(env::args_os().skip(1));
    let error = command.env(DONE, "1").exec();
    eprintln!("cannot leave this host's network: {error}");
    exit(1);
}
