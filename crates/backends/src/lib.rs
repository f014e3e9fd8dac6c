//! One folder per provider, and the machine adapter that gives a full handle to any wall.

pub mod machine;
