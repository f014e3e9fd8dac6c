#![expect(unsafe_code, reason = "loading a module has no safe wrapper")]

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::Path,
};

/// Where the first file system has them, and in which order they load.
const FOLDER: &str = "/modules";
const ORDER: &str = "/modules/order";

/// Loads what the first file system has, and gives its memory back. What cannot be loaded is told on the console: the step that needs it
/// will fail, and a module for another monitor's devices need not work.
pub(super) fn load() {
    // Without the list everything is built in.
    let order = fs::read_to_string(ORDER).unwrap_or_default();
    for name in order.lines().filter(|name| !name.contains('/')) {
        let path = Path::new(FOLDER).join(name);
        if let Err(error) = load_one(&path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            crate::start::complain(&format!("cannot load the module {name}: {error}"));
        }
    }
    let _ = fs::remove_dir_all(FOLDER);
}

fn load_one(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open, and the parameters are an empty string that outlives the call.
    let loaded = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if loaded == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
