use std::{env, fs, io};

use crate::{say, sys};

/// Makes directories within one another, deeper than a path can say.
pub(crate) fn deep(levels: u64) -> io::Result<()> {
    fs::create_dir("deep")?;
    env::set_current_dir("deep")?;
    for _ in 0..levels {
        let name = "a-name-of-twenty-one-";
        fs::create_dir(name)?;
        env::set_current_dir(name)?;
    }
    fs::write("bottom", "reached")
}

/// Says the value of an extended attribute.
pub(crate) fn xattr(path: &str, name: &str) -> io::Result<()> {
    say(&String::from_utf8_lossy(&sys::xattr(path, name)?));
    Ok(())
}
