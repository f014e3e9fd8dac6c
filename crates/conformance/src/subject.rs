use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use sandbar_core::{Claim, FeatureSet, IdRange, RootSource, SandboxId, SandboxProvider};

/// Facts of a subject that are not features of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// `/bin/sh` and the POSIX utilities are inside, and static programs can be executed.
    Shell,
    /// Processes inside are processes of this host, seen in its `/proc`.
    HostProcesses,
    /// System calls inside are answered by this host's kernel: what is done to that one is done to the host.
    SharedKernel,
    /// Its kernel runs on a machine of its own, whose devices are all that is between it and the host.
    OwnMachine,
    /// The sandbox has a root file system of its own: absolute paths are its own, `/tmp` exists.
    OwnRoot,
    /// Its kernel has `/dev/tty`, and tells the group in the foreground of a terminal of what happens there.
    JobControl,
    /// Its agent can be ended from outside: a process of this host, or [`Subject::crash`].
    Crash,
    /// What it started ends with it even when its agent was ended from outside.
    NoOrphans,
    /// File calls are confined to the workspace, since there is no root file system of its own.
    Workspace,
    /// The disk is that of this host and large files are no burden.
    LargeFiles,
    /// It is on another host, which is this one in tests, and which decides itself about what leaves.
    Elsewhere,
    /// A fork stacks a layer of its own on those of its checkpoint.
    Layers,
    /// Restore and fork really copy a file system (xattrs, links, whiteouts).
    RealFiles,
}

impl Reach {
    pub(crate) const fn missing(self) -> &'static str {
        match self {
            Self::Shell => "needs a real shell",
            Self::JobControl => "its kernel has no /dev/tty and tells no foreground group of a terminal's changes",
            Self::HostProcesses => "its processes are not processes of this host",
            Self::SharedKernel => "its kernel is its own",
            Self::OwnMachine => "it has no machine of its own",
            Self::Crash => "its agent cannot be ended from outside",
            Self::NoOrphans => "without a control group, nothing says whose the processes of an agent were that is gone",
            Self::OwnRoot => "it has no root file system of its own",
            Self::Workspace => "its file calls are not confined to a workspace",
            Self::LargeFiles => "large files are tested on another variant",
            Self::Elsewhere => "this host decides about what leaves it",
            Self::Layers => "its forks are copies",
            Self::RealFiles => "needs a real file system",
        }
    }
}

/// The claims of every provider of a build.
pub type Claims = Arc<[Claim]>;

/// Ends the agent of a sandbox; `false` when there is none.
pub type Crash = Box<dyn Fn(&SandboxId) -> bool + Send + Sync>;

/// A part of the suite.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The names of cases, or only their first parts.
    pub names: &'static [&'static str],
    /// Why the others are not run.
    pub reason: &'static str,
}

/// A provider as it is tested here.
pub struct Subject {
    /// The variant's name: `container-root`.
    pub name: String,
    /// The provider, wrapped in [`Checked`](sandbar_core::Checked).
    pub provider: Arc<dyn SandboxProvider>,
    /// The claims of every provider of this build.
    pub claims: Claims,
    /// What its sandboxes begin from.
    pub root: RootSource,
    /// A folder of this run: sandboxes, checkpoints and volumes are made in it.
    pub folder: PathBuf,
    /// Host ids to carve ranges of 65536 from, when the provider wants them.
    pub ids: Option<IdPool>,
    /// What else is true of it.
    pub reach: Vec<Reach>,
    /// Ends the agent of a sandbox, where it is no process of this host.
    pub crash: Option<Crash>,
    /// Where only a part is tested: which cases, and why not the others.
    pub only: Option<Part>,
    /// Bytes of memory of sandboxes for which a case asks for none: for walls to which the usual size is a burden here.
    pub memory: Option<u64>,
    /// How many times the deadlines of cases it has: a second for every step of a sandbox's life adds up.
    pub patience: u32,
    /// Worker threads of each case's runtime; `None` is a current-thread runtime. The contract holds on both.
    pub threads: Option<usize>,
}

impl Subject {
    /// What is claimed here.
    pub fn features(&self) -> FeatureSet {
        self.provider.info().features
    }
}

/// Ids of the host that belong to nobody, given out in ranges of 65536.
pub struct IdPool(AtomicU32);

/// Ids of one sandbox: what `/etc/subuid` gives to one user.
const RANGE: u32 = 65536;
/// Far above the ids that distributions and directories give out, below 2^31 as some tools want it.
const FIRST: u32 = 0x4000_0000;
/// Ranges before the pool begins anew; no run makes as many at once.
const RANGES: u32 = 8192;

impl IdPool {
    /// A fresh pool.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn take(&self) -> IdRange {
        let index = self.0.fetch_add(1, Ordering::Relaxed) % RANGES;
        IdRange { first: FIRST + index * RANGE, count: RANGE }
    }
}

impl Default for IdPool {
    fn default() -> Self {
        Self::new()
    }
}
