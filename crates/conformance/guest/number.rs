//! Numbers of system calls: asm/unistd_64.h for x86-64, asm-generic/unistd.h for arm64.

use std::ffi::c_long;

macro_rules! numbers {
    ($($name:ident = $x86_64:literal, $arm64:literal;)*) => {
        $(pub(crate) const $name: c_long = if cfg!(target_arch = "x86_64") { $x86_64 } else { $arm64 };)*
    };
}

numbers! {
    RENAMEAT2 = 316, 276;
}
