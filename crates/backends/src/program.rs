//! Programs of this host that are not sandbar's own.

use std::{env, path::PathBuf};

/// Where a program is: on `PATH`, or where programs usually are, which a plain user's `PATH` does not say of all of them.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|path| path.is_absolute() && path.is_file())
}
