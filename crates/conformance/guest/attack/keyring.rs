use super::{Log, syscalls::FILTERED};
use crate::{
    number::{ADD_KEY, KEYCTL, REQUEST_KEY},
    sys::{raw, text},
};

/// Keyrings are not divided by namespaces: a key of the host would be found.
pub(super) fn attack(log: &mut Log) {
    let (kind, name, value) = (text("user"), text("sandbar-conformance"), text("x"));
    // KEY_SPEC_SESSION_KEYRING and KEY_SPEC_USER_KEYRING, linux/keyctl.h.
    for (ring, keyring) in [("session", -3isize as usize), ("user", -4isize as usize)] {
        let arguments = [kind.as_ptr() as usize, name.as_ptr() as usize, value.as_ptr() as usize, 1, keyring, 0];
        log.refused_as(format!("add_key to the {ring} keyring"), raw(ADD_KEY, arguments), &FILTERED);
        // KEYCTL_GET_KEYRING_ID, KEYCTL_READ, KEYCTL_DESCRIBE.
        for operation in [0, 11, 6] {
            let outcome = raw(KEYCTL, [operation, keyring, 0, 0, 0, 0]);
            log.refused_as(format!("keyctl {operation} of the {ring} keyring"), outcome, &FILTERED);
        }
    }
    let outcome = raw(REQUEST_KEY, [kind.as_ptr() as usize, name.as_ptr() as usize, 0, 0, 0, 0]);
    log.refused_as("request_key", outcome, &FILTERED);
    // KEYCTL_JOIN_SESSION_KEYRING.
    log.refused_as("join a session keyring", raw(KEYCTL, [1, name.as_ptr() as usize, 0, 0, 0, 0]), &FILTERED);
}
