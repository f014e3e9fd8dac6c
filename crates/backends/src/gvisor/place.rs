//! One sandbox as the host sees it: its processes, whether they live, their end.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sandbar_core::{Context, Error, Journal, LimitReport, Result, SandboxStats};
use serde::{Deserialize, Serialize};

use super::bundle::ROOT;
use crate::{
    host::{
        cgroup::{self, Groups},
        disk, lingering,
        offspring::{self, Life},
        syscall::Ended,
    },
    machine::{
        Facts,
        process::{HostProcess, ProcessStat, wait_for_exit},
        saving::SaveNote,
    },
};

/// How long a process may take to end once it is killed, and everything with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a process that is ending may take to have ended.
const MOMENT: Duration = Duration::from_millis(200);
/// What starting a process takes of the memory inside, at most: half a MiB was seen, besides what the process itself does.
const START: u64 = 2 << 20;
/// How long the sentry may take to give back the memory of what was ended, and how often it is looked at.
const RELEASE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(2));
/// In the generation's folder: the sandbox was paused by `runsc`, where no control group can freeze it.
const PAUSED: &str = "paused";

/// Where one sandbox runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The sandbox's id, by which `runsc` knows it.
    pub(super) id: String,
    /// Its first process: `runsc run`.
    pub(super) process: HostProcess,
    /// What that one has started: the sentry and the gofer. Without any one of them the sandbox is dead.
    pub(super) engine: Vec<HostProcess>,
    /// The generation's folder.
    pub(super) folder: PathBuf,
    pub(super) groups: Groups,
    /// As they were set up.
    pub(super) limits: Vec<LimitReport>,
}

impl Place {
    pub(super) fn facts(&self) -> Facts {
        if let Life::Gone(ended) = offspring::life(&self.process) {
            return Facts::Gone(self.why(ended));
        }
        if self.engine.iter().any(|process| process.is_ending() || !process.is_alive()) {
            // It has lost its kernel; the first process ends because of it, and may say how.
            return Facts::Gone(self.why(offspring::wait(&self.process, MOMENT)));
        }
        if cgroup::is_frozen(&self.groups) || self.is_paused() {
            return Facts::Frozen;
        }
        // Nobody of us stops one of these two (a freezer and a pause look otherwise): nothing inside runs, and nothing answers.
        if self.engine.iter().any(HostProcess::is_stopped) {
            return Facts::Gone("the sentry hangs: a signal has stopped it".to_owned());
        }
        Facts::Alive
    }

    /// Waits, for a second at most, until there is memory to start a process. What was ended for want of it has its memory until the sentry
    /// has noticed; if another is started meanwhile, the kernel may end the process of the host that it is made from, and the sandbox with it.
    pub(super) async fn wait_for_memory(&self) {
        let (patience, pause) = RELEASE;
        let begun = Instant::now();
        while self.groups.confined_room().is_some_and(|room| room < START) && begun.elapsed() < patience {
            tokio::time::sleep(pause).await;
        }
    }

    fn why(&self, ended: Option<Ended>) -> String {
        let out_of_memory = if self.groups.ran_out_of_memory() { " (the sandbox ran out of memory)" } else { "" };
        match ended {
            Some(Ended::Signalled(signal)) => format!("runsc was ended by signal {signal}{out_of_memory}"),
            // What `runsc run` says of a sentry that was killed.
            Some(Ended::Exited(128)) => format!("the sentry was ended{out_of_memory}"),
            Some(Ended::Exited(code)) => format!("the agent ended with code {code}{out_of_memory}"),
            None => format!("the sentry is gone{out_of_memory}"),
        }
    }

    /// Whether `runsc` has paused it.
    pub(super) fn is_paused(&self) -> bool {
        self.folder.join(PAUSED).exists()
    }

    /// Says that `runsc` is about to pause it.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn note_pause(&self) -> Result<()> {
        fs::write(self.folder.join(PAUSED), "").context("freeze", || "cannot note the pause".to_owned())
    }

    /// Says that it is not paused any more.
    pub(super) fn forget_pause(&self) {
        let _ = fs::remove_file(self.folder.join(PAUSED));
    }

    /// Who saves it with memory.
    pub(super) fn note(&self) -> SaveNote {
        SaveNote::of(&self.folder)
    }

    pub(super) fn halt(&self, journal: &Arc<dyn Journal>) -> Result<()> {
        // A disk of its own is not shared with anybody, and its device must be given back.
        if disk::image(&self.folder).is_none() {
            lingering::hold(&self.folder, &self.process, ROOT);
        }
        // A v1 freezer holds even the killed; in a frozen v2 group a signal to kill works.
        if cgroup::is_frozen(&self.groups) {
            let _ = cgroup::thaw(&self.groups);
        }
        self.forget_pause();
        self.note().remove();
        end_process(&self.process)?;
        journal.forget(&self.process.resource("agent"))?;
        self.groups.release(journal)?;
        disk::release(&self.folder, journal)
    }

    pub(super) fn stats(&self, disk: u64) -> SandboxStats {
        SandboxStats {
            memory_bytes: self.groups.memory(),
            cpu_micros: self.groups.cpu_micros(),
            // The group counts the sentry's threads; how many processes there are inside, only the agent can say.
            pids: None,
            memory_limit_bytes: self.limit("memory"),
            disk_bytes: Some(disk),
            disk_limit_bytes: self.limit("disk"),
            ..SandboxStats::default()
        }
    }

    fn limit(&self, name: &str) -> Option<u64> {
        self.limits.iter().find(|report| report.limit == name)?.value
    }
}

/// The children of a process.
pub(super) fn children(process: &HostProcess) -> Vec<HostProcess> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<HostProcess> = pids
        .filter_map(|pid| {
            let stat = ProcessStat::read(pid).ok()?;
            (stat.parent == process.pid && stat.state != 'Z').then_some(HostProcess { pid, start_time: stat.start_time })
        })
        .collect();
    found.sort_by_key(|child| child.pid);
    found
}

/// The sentry and the gofer of a first process, by the names that they give themselves.
pub(super) fn engine_of(process: &HostProcess) -> Vec<HostProcess> {
    let all = children(process);
    let is_named = |child: &&HostProcess| fs::read(format!("/proc/{}/cmdline", child.pid)).is_ok_and(|line| line.starts_with(b"runsc-"));
    let named: Vec<HostProcess> = all.iter().filter(is_named).copied().collect();
    if named.is_empty() { all } else { named }
}

/// The host's processes that run the code of those inside, the first first. The sentry makes each from that one, except the agent's own, the
/// second after a start; a load makes many.
pub(super) fn runners(engine: &[HostProcess]) -> Vec<HostProcess> {
    let mut found: Vec<HostProcess> = engine.iter().flat_map(children).collect();
    found.sort_by_key(|process| (process.start_time, process.pid));
    found
}

/// Sees to it that, when memory runs out, the kernel ends a process of the sandbox and never its sentry: those that are given, and what
/// descends from them. Best effort: where they cannot be written to, the kernel takes the largest, which is rarely the sentry.
pub(super) fn prefer(runners: &[HostProcess]) {
    for process in runners {
        let _ = fs::write(format!("/proc/{}/oom_score_adj", process.pid), "1000");
    }
}

/// Ends the first process of a sandbox and what it has started, and waits until they are gone. The sentry and the gofer have asked for
/// their own end with their parent's, and the sentry's processes for theirs with the sentry's; but no later boot may meet them.
pub(super) fn end_process(process: &HostProcess) -> Result<()> {
    let begun = Instant::now();
    // Stopped, it starts nothing any more.
    let _ = process.signal(Signal::STOP);
    let held: Vec<_> = children(process).into_iter().filter_map(|child| Some((child, child.open().ok()??))).collect();
    process.kill(PATIENCE).map_err(|error| Error::io("halt", "cannot end runsc", error).with("pid", process.pid))?;
    for (child, held) in held {
        let _ = child.signal(Signal::KILL);
        let left = PATIENCE.saturating_sub(begun.elapsed());
        if !wait_for_exit(&held, left).context("halt", || "cannot wait for the sentry".to_owned())? {
            return Err(Error::new(sandbar_core::ErrorKind::TimedOut, "halt", "the sentry does not end").with("pid", child.pid));
        }
    }
    offspring::forget(process);
    Ok(())
}
