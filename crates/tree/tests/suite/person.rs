//! Who runs a test: facts that need privilege say so, and facts about its absence shed it.

use rustix::process::{Gid, Uid};
use std::path::Path;

/// Whether this process may give files away and make devices.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("this fact needs root, and was not looked at");
    }
    is_root
}

/// Runs something as an ordinary user who owns the directory: in a thread that gives up root, if there is root to
/// give up. (Only that thread: the kernel keeps ids by thread.)
pub(crate) fn as_nobody<T: Send>(owned: &Path, act: impl FnOnce() -> T + Send) -> T {
    if !rustix::process::geteuid().is_root() {
        return act();
    }
    std::os::unix::fs::chown(owned, Some(65534), Some(65534)).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}
