use std::io;

use crate::{say, sys};

/// `TIOCGWINSZ`, asm-generic/ioctls.h.
const GET_SIZE: u64 = 0x5413;

/// Says the terminal's rows and columns.
pub(crate) fn size() -> io::Result<()> {
    let mut buffer = [0u8; 8];
    sys::control(0, GET_SIZE, &mut buffer)?;
    let [rows, columns] = [0, 2].map(|at| u16::from_ne_bytes([buffer[at], buffer[at + 1]]));
    say(&format!("{rows} {columns}"));
    Ok(())
}
