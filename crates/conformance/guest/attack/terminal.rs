use super::Log;
use crate::sys::control;

/// asm-generic/ioctls.h.
const FAKE_INPUT: u64 = 0x5412;
const LINUX_CONSOLE: u64 = 0x541c;
const TAKE_CONSOLE: u64 = 0x541d;

/// What is put into a terminal's input is read by whoever holds it next.
pub(super) fn attack(log: &mut Log) {
    for fd in [0, 1, 2] {
        log.refused(format!("fake input on {fd}"), control(fd, FAKE_INPUT, &mut [b'x']));
        log.refused(format!("the high bits of the request, on {fd}"), control(fd, FAKE_INPUT | 1 << 32, &mut [b'x']));
        // Paste the selection, as a console would.
        log.refused(format!("paste on {fd}"), control(fd, LINUX_CONSOLE, &mut [3, 0, 0, 0]));
        log.refused(format!("take the console by {fd}"), control(fd, TAKE_CONSOLE, &mut [0; 8]));
    }
}
