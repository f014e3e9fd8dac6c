/// Ctrl-P.
const FIRST: u8 = 0x10;
/// Ctrl-Q.
const SECOND: u8 = 0x11;

/// Looks for the two keys that detach, ctrl-p ctrl-q, as `docker attach` has them.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    /// What of `typed` goes on to the command, and whether the keys were typed.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            match (self.held, byte) {
                (true, SECOND) => return (passed, true),
                // A first key after a first key is still a first key; one of them was meant for the command.
                (true, FIRST) => passed.push(FIRST),
                (true, other) => {
                    passed.extend([FIRST, other]);
                    self.held = false;
                }
                (false, FIRST) => self.held = true,
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_in_one_piece_and_in_two() {
        assert_eq!(DetachKeys::default().filter(b"ab\x10\x11cd"), (b"ab".to_vec(), true));
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"\x11"), (vec![], true));
    }

    #[test]
    fn other_keys_pass_with_the_one_that_was_held() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"\x10"), (vec![], false));
        assert_eq!(keys.filter(b"x\x11"), (b"\x10x\x11".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
    }
}
