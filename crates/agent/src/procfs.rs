use std::{collections::HashSet, fs};

use rustix::process::{Pid, PidfdFlags, Signal};

/// Most processes that are looked at.
const LIMIT: usize = 1 << 16;
/// `PF_KTHREAD`, among the flags of `proc_pid_stat(5)`: a thread of the kernel.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// A line of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) pid: i32,
    parent: i32,
    pub(crate) is_zombie: bool,
    /// Whether it is a thread of the kernel, which a machine shows among its processes.
    pub(crate) is_of_the_kernel: bool,
    /// Clock ticks, with those of children that it reaped.
    pub(crate) ticks: u64,
    /// Clock ticks between boot and its start.
    start: u64,
    /// Resident pages.
    pub(crate) pages: u64,
}

impl Row {
    fn parse(text: &str) -> Option<Self> {
        let pid = text.split_once(' ')?.0.parse().ok()?;
        // The name is in parentheses and may hold anything, parentheses too.
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let is_zombie = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        // Field 9, and from field 14 on: utime stime cutime cstime.
        let mut fields = fields.skip(4);
        let is_of_the_kernel = fields.next()?.parse::<u32>().is_ok_and(|flags| flags & KERNEL_THREAD != 0);
        let mut fields = fields.skip(4);
        let mut ticks = 0_u64;
        for _ in 0..4 {
            ticks = ticks.saturating_add(fields.next()?.parse().ok()?);
        }
        let mut fields = fields.skip(4);
        let start = fields.next()?.parse().ok()?;
        let pages = fields.nth(1)?.parse().unwrap_or(0);
        Some(Self { pid, parent, is_zombie, is_of_the_kernel, ticks, start, pages })
    }

    /// Its parent's number.
    pub(crate) const fn parent(&self) -> i32 {
        self.parent
    }

    fn read(pid: i32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    /// Signals this very process, not one that has its number meanwhile.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        if Self::read(self.pid).is_some_and(|now| now.start == self.start) {
            let _ = rustix::process::pidfd_send_signal(held, signal);
        }
    }
}

/// One process.
pub(crate) fn of(pid: i32) -> Option<Row> {
    Row::read(pid)
}

/// Every process that can be seen, up to a limit.
pub(crate) fn all() -> Vec<Row> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(|entry| number(entry.ok()?)).filter_map(Row::read).take(LIMIT).collect()
}

/// Those that descend from `ancestor`, without itself.
pub(crate) fn descendants(ancestor: i32) -> Vec<Row> {
    let rows = all();
    let mut found = HashSet::from([ancestor]);
    loop {
        let before = found.len();
        found.extend(rows.iter().filter(|row| found.contains(&row.parent)).map(|row| row.pid).collect::<Vec<_>>());
        if found.len() == before {
            break;
        }
    }
    rows.into_iter().filter(|row| row.pid != ancestor && found.contains(&row.pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_trap() {
        let text = "42 (a) R 1 (b) S 7 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 555 1000 77 18446744073709551615 1\n";
        let row = Row::parse(text).unwrap();
        assert_eq!(row, Row { pid: 42, parent: 7, is_zombie: false, is_of_the_kernel: false, ticks: 100, start: 555, pages: 77 });
        let worker = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 3 0 0 18446744073709551615 0\n";
        assert!(Row::parse(worker).unwrap().is_of_the_kernel);
        for broken in ["", "42", "42 (x", "42 (x) R", "x (x) R 1 1 1 1"] {
            assert_eq!(Row::parse(broken), None);
        }
    }

    #[test]
    fn this_process_is_seen() {
        let own = rustix::process::getpid().as_raw_pid();
        assert!(all().iter().any(|row| row.pid == own && row.pages > 0));
        assert!(!descendants(own).iter().any(|row| row.pid == own));
    }
}
