#![expect(unsafe_code, reason = "a child in namespaces of its own")]

use std::{
    fs, io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::{
    io::Errno,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::check::{Check, Health};

const NAME: &str = "user-namespaces";

/// Makes a child with a user namespace of its own, and lets it do there what only that namespace's root may.
pub(super) fn check() -> Check {
    verdict(attempt(false), attempt(true))
}

/// Whether a user namespace can be made, and (`use_rights`) whether its root has any rights in it: a security module may leave none.
fn attempt(use_rights: bool) -> io::Result<()> {
    // Nothing is left to do for the program itself; any will do.
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let enter = move || {
        // SAFETY: in a child with one thread, whose files nobody else has.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWUTS) }?;
        if use_rights {
            rustix::system::sethostname(b"sandbar")?;
        }
        // The program would be another one in a test.
        Err(io::Error::from(Errno::CANCELED))
    };
    // SAFETY: only system calls between fork and exec.
    unsafe { command.pre_exec(enter) };
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the child went on, which it cannot")),
    }
}

fn verdict(made: io::Result<()>, used: io::Result<()>) -> Check {
    let is_limited_by = |file: &str, value: &str| fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|text| text.trim() == value);
    match (made, used) {
        (Ok(()), Ok(())) => Check::new(NAME, Health::Good, "a user namespace can be made, and its root has its rights"),
        (Ok(()), Err(error)) => {
            Check::new(NAME, Health::Missing, format!("a user namespace can be made, but its root has no rights: {error}")).with_hint(
                "an AppArmor rule leaves it none (as on Ubuntu since 23.10): `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, \
                 a profile for sandbar with `userns,`, or run sandbar as root",
            )
        }
        (Err(error), _) => {
            let check = Check::new(NAME, Health::Missing, format!("no user namespace can be made: {error}"));
            if is_limited_by("kernel/unprivileged_userns_clone", "0") {
                check.with_hint("`sudo sysctl kernel.unprivileged_userns_clone=1`")
            } else if is_limited_by("user/max_user_namespaces", "0") {
                check.with_hint("`sudo sysctl user.max_user_namespaces=10000`")
            } else {
                check.with_hint(
                    "a container's seccomp filter refuses them, or the kernel has none: run outside of it, or with `--on docker`",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_that_a_security_module_took_are_told_apart_from_no_namespace_at_all() {
        let refused = || Err(io::Error::from(Errno::PERM));
        assert_eq!(verdict(Ok(()), Ok(())).health, Health::Good);
        assert!(verdict(Ok(()), refused()).hint.unwrap().contains("AppArmor"));
        assert!(verdict(refused(), refused()).finding.contains("no user namespace"));
    }

    #[test]
    fn a_limit_that_is_used_up_is_found_by_trying() {
        const INSIDE: &str = "SANDBAR_DOCTOR_TEST_INSIDE";
        const NAME: &str = "doctor::namespaces::tests::a_limit_that_is_used_up_is_found_by_trying";
        if std::env::var_os(INSIDE).is_some() {
            let found = check();
            assert_eq!(found.health, Health::Missing, "{found:?}");
            assert!(found.hint.unwrap().contains("max_user_namespaces"));
            return;
        }
        // Again, inside a user namespace that may have none below it: there trying fails although nothing else is different.
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --exact \"$1\"";
        let mut again = Command::new("unshare");
        again.args(["--user", "--map-root-user", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).arg(NAME);
        let output = again.env(INSIDE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
