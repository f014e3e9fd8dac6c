use crate::{
    number, ready,
    sys::{raw, text},
};

/// `AT_FDCWD`, fcntl.h.
pub(crate) const HERE: usize = -100isize as usize;
/// `RENAME_EXCHANGE`, linux/fs.h.
const EXCHANGE: usize = 2;

/// Exchanges two paths without end.
pub(crate) fn swap(left: &str, right: &str) {
    let (left, right) = (text(left), text(right));
    ready();
    loop {
        let _ = raw(number::RENAMEAT2, [HERE, left.as_ptr() as usize, HERE, right.as_ptr() as usize, EXCHANGE, 0]);
    }
}
