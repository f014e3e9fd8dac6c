//! A limit of the writable layer's size.

/// How such a limit is held here, in words.
pub(super) fn holder(asked: bool) -> String {
    if asked { "nothing".to_owned() } else { "not limited".to_owned() }
}
