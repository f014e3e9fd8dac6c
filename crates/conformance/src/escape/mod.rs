//! Programs that try to leave a container, and what the host must not show or suffer meanwhile.

use crate::Case;

/// Every case of the suite.
pub fn all() -> &'static [Case] {
    &[]
}
