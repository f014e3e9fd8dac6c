#![expect(unsafe_code, reason = "the kernel's view of its clock")]

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::check::{Check, Health};

const NAME: &str = "clock";
/// A file may be of the next moment where clocks of two machines differ a little.
const SLACK: Duration = Duration::from_secs(60);

/// Compares the clock with what cannot lie in its future, and asks the kernel whether anything keeps it right.
pub(super) fn check() -> Check {
    verdict(SystemTime::now(), own_age(), is_kept())
}

fn verdict(now: SystemTime, program: Option<SystemTime>, kept: Option<bool>) -> Check {
    let set = "set it: `sudo timedatectl set-ntp true`, or by an NTP client such as chrony";
    if program.is_some_and(|program| program > now + SLACK) {
        return Check::new(NAME, Health::Missing, "the clock is behind: this program was written in its future").with_hint(set);
    }
    match kept {
        // Virtual machines often have theirs from the host, and nobody says so.
        Some(false) => {
            Check::new(NAME, Health::Limited, "the clock looks right, and nothing says that it is kept right (no NTP)").with_hint(set)
        }
        Some(true) => Check::new(NAME, Health::Good, "the clock is kept right by NTP"),
        None => Check::new(NAME, Health::Good, "the clock looks right"),
    }
}

/// When this program was written.
fn own_age() -> Option<SystemTime> {
    fs::metadata("/proc/self/exe").and_then(|file| file.modified()).ok()
}

/// Whether the kernel was told that its clock is right; `None` where it does not say.
fn is_kept() -> Option<bool> {
    // SAFETY: with no mode set the call only reads, into a structure on the stack.
    let state = unsafe {
        let mut clock = std::mem::zeroed::<libc::timex>();
        (libc::adjtimex(&raw mut clock) != -1).then_some(clock.status)
    }?;
    Some(state & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_programs_own_birth_is_behind() {
        let program = SystemTime::now();
        assert_eq!(verdict(program - Duration::from_secs(86_400), Some(program), Some(true)).health, Health::Missing);
        assert_eq!(verdict(program, Some(program), Some(true)).health, Health::Good);
        assert_eq!(verdict(program, Some(program), Some(false)).health, Health::Limited);
    }
}
