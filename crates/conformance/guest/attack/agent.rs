use std::{
    fs::{self, OpenOptions},
    os::unix::net::UnixStream,
};

use super::Log;

/// The agent's descriptors, memory and program.
pub(super) fn attack(log: &mut Log) {
    // The kernel tells root of a user namespace the numbers, and nothing else of them.
    for fd in 0..32 {
        log.refused(format!("follow the agent's descriptor {fd}"), fs::read_link(format!("/proc/1/fd/{fd}")));
        log.refused(format!("reopen the agent's descriptor {fd}"), OpenOptions::new().read(true).open(format!("/proc/1/fd/{fd}")));
        log.refused(format!("connect to the agent's descriptor {fd}"), UnixStream::connect(format!("/proc/1/fd/{fd}")));
    }
    for name in ["root", "cwd", "exe"] {
        log.refused(format!("follow the agent's {name}"), fs::read_link(format!("/proc/1/{name}")));
    }
    for flags in [(true, false), (false, true), (true, true)] {
        let (read, write) = flags;
        log.refused(format!("open the agent's memory ({read}, {write})"), OpenOptions::new().read(read).write(write).open("/proc/1/mem"));
    }
    log.refused("overwrite the agent's program", OpenOptions::new().write(true).open("/proc/1/exe"));
    // A descriptor that was opened for reading is opened again for writing: the way of CVE-2019-5736.
    match fs::File::open("/proc/1/exe") {
        Err(error) => log.refused("open the agent's program", Err::<(), _>(error)),
        Ok(program) => {
            use std::os::fd::AsRawFd;
            let again = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", program.as_raw_fd()));
            log.refused("open the agent's program again for writing", again);
        }
    }
    let mapped = fs::read_dir("/proc/1/map_files").into_iter().flatten().flatten().count();
    log.holds(format!("{mapped} mapped files of the agent are told"), mapped == 0);
    log.refused("the agent's descriptors by their information", fs::read("/proc/1/fdinfo/4"));
    log.refused("the agent's system call", fs::read("/proc/1/syscall"));
    log.refused("the agent's stack", fs::read("/proc/1/stack"));
    for entry in fs::read_dir("/proc/1/task").into_iter().flatten().flatten() {
        log.refused("the memory of a thread of the agent", OpenOptions::new().read(true).open(entry.path().join("mem")));
    }
}

/// Looks for words in every environment that can be read.
pub(super) fn environ(log: &mut Log, needles: &[&str]) {
    let mut read = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(content) = fs::read(entry.path().join("environ")) else { continue };
        read += 1;
        let text = String::from_utf8_lossy(&content).into_owned();
        for needle in needles.iter().filter(|needle| text.contains(**needle)) {
            log.breach(format!("the environment of {}", entry.path().display()), format!("it holds {needle}"));
        }
    }
    log.holds(format!("{read} environments were read"), read > 0);
}
