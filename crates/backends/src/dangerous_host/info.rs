use std::{
    ffi::CString,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, waitid},
};
use sandbar_core::{Claim, Feature, FeatureSet, Isolation, LimitReport, Probe, ProviderInfo, SandboxSpec};

use super::{
    Host,
    spawn::{Spawn, Spawned},
};
use crate::machine::process::wait_for_exit;

/// The provider's name.
pub(crate) const NAME: &str = "dangerous-host";

/// What it can do at best; where no control group can be made, it cannot pause.
const FEATURES: [Feature; 11] = [
    Feature::Pty,
    Feature::Watch,
    Feature::ExposePort,
    Feature::Pause,
    Feature::StopStart,
    Feature::DiskCheckpoint,
    Feature::Restore,
    Feature::Fork,
    Feature::Stats,
    Feature::LimitOpenFiles,
    Feature::NetworkOpen,
];

/// The provider's claim at its best.
pub fn claim() -> Claim {
    Claim { provider: NAME, features: FEATURES.into_iter().collect() }
}

pub(super) fn info(groups: Option<&Path>) -> ProviderInfo {
    let features: FeatureSet = claim().features;
    let note = match groups {
        Some(folder) => format!("processes are held by a control group in {}", folder.display()),
        None => "no control group can be made here: processes are found by their descent and ended by signals; those that outlive a \
                 crashed agent are not found, and pausing is not offered"
            .to_owned(),
    };
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::None,
        features: if groups.is_some() { features } else { features.without(Feature::Pause) },
        description: "no wall at all: processes of this host in a workspace folder, with a filtered environment".to_owned(),
        notes: vec!["commands have every right of the user that runs sandbar, and the host's network".to_owned(), note],
    }
}

/// Starts the agent without a configuration, with which it ends at once.
pub(super) fn probe(host: &Host) -> Probe {
    match try_agent(host) {
        Ok(()) => Probe { usable: true, verdict: "the agent starts; there is no wall".to_owned(), hint: None },
        Err((verdict, hint)) => Probe { usable: false, verdict, hint },
    }
}

fn try_agent(host: &Host) -> Result<(), (String, Option<String>)> {
    let path = host.agent.path().map_err(|error| (error.chain(), error.hint().map(str::to_owned)))?;
    start_and_end(path).map_err(|error| {
        let hint = "the state folder must not lie on a file system that is mounted noexec";
        (format!("the agent {} cannot be started: {error}", path.display()), Some(hint.to_owned()))
    })
}

fn start_and_end(path: &Path) -> io::Result<()> {
    let program = CString::new(path.as_os_str().as_bytes())?;
    let (config, _) = pipe_with(PipeFlags::CLOEXEC)?;
    let listener = config.try_clone()?;
    let spawn = Spawn { program, folder: c"/".to_owned(), cgroup: None, config, listener };
    let Spawned { held, .. } = spawn.spawn()?;
    if !wait_for_exit(&held, Duration::from_secs(2))? {
        rustix::process::pidfd_send_signal(&held, rustix::process::Signal::KILL)?;
    }
    waitid(WaitId::PidFd(held.as_fd()), WaitIdOptions::EXITED)?;
    Ok(())
}

pub(super) fn limits(spec: &SandboxSpec) -> Vec<LimitReport> {
    let report = |limit: &str, value: Option<u64>, by: &str| LimitReport { limit: limit.to_owned(), value, enforced_by: by.to_owned() };
    let nothing = "nothing: dangerous-host has no wall";
    let open_files = spec.limits.open_files;
    vec![
        report("memory", None, nothing),
        report("cpu", None, nothing),
        report("pids", None, nothing),
        report("disk", None, nothing),
        report("open-files", open_files, if open_files.is_some() { "rlimit" } else { "the host's own limit" }),
    ]
}
