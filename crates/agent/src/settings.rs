//! What the configuration means here.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets},
};
use sandbar_protocol::AgentConfig;
use sandbar_tree::Base;

use crate::{
    child::Rules,
    files::path,
    guest::{Entry, Group, Guest},
    users::{self, User},
};

/// What a sandbox is: changed as a whole, when it is resumed from a template.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: AgentConfig,
    pub(crate) rules: Arc<Rules>,
    pub(crate) base: Arc<Base>,
    /// Who owns the files that are put, unless the request says otherwise.
    pub(crate) file_owner: (u32, u32),
}

impl Settings {
    /// Reads a configuration, makes the working directory, limits a guest's group.
    pub(crate) fn new(config: AgentConfig, guest: Option<&Guest>) -> Result<Self, String> {
        let rules = rules(&config, guest)?;
        let user = config.user.as_ref().and_then(|user| users::resolve(user).ok()).unwrap_or_else(users::own);
        let base = base(&config, &user)?;
        if let Some(boot) = &config.guest
            && guest.is_some_and(|guest| guest.group.is_some())
        {
            Group::limit(&boot.limits.unwrap_or_default());
        }
        Ok(Self { config, rules: Arc::new(rules), base: Arc::new(base), file_owner: (user.uid, user.gid) })
    }
}

fn rules(config: &AgentConfig, guest: Option<&Guest>) -> Result<Rules, String> {
    let own = rustix::process::getrlimit(Resource::Nofile);
    let wanted = config.open_files.map_or(own, |limit| Rlimit { current: Some(limit), maximum: Some(limit) });
    let open_files = within(wanted, own);
    // The agent itself holds a few for each connection.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum });
    let processes = config
        .processes
        .map(|limit| within(Rlimit { current: Some(limit), maximum: Some(limit) }, rustix::process::getrlimit(Resource::Nproc)));
    let kept = config.capabilities.map(CapabilitySet::from_bits_retain);
    let unbound = kept.map_or(Ok(Vec::new()), unbound)?;
    kept.map_or(Ok(()), use_only)?;
    Ok(Rules {
        open_files,
        processes,
        oom_score_adj: (config.oom_score_adj != 0).then(|| config.oom_score_adj.to_string().into_bytes()),
        unbound,
        kept,
        dies_with_agent: !config.init,
        group: guest
            .and_then(|guest| guest.group.as_ref())
            .map(|group| Entry::new(group, config.guest.as_ref().and_then(|boot| boot.limits.as_ref()))),
    })
}

/// No limit is raised over the hard one that this process has.
fn within(wanted: Rlimit, own: Rlimit) -> Rlimit {
    let least = |first: Option<u64>, second: Option<u64>| match (first, second) {
        (Some(first), Some(second)) => Some(first.min(second)),
        (limit, None) | (None, limit) => limit,
    };
    Rlimit { current: least(wanted.current, own.maximum), maximum: least(wanted.maximum, own.maximum) }
}

/// With one of these the kernel lets a process pass its limit of processes.
const LIFTING: CapabilitySet = CapabilitySet::SYS_RESOURCE.union(CapabilitySet::SYS_ADMIN);

/// Goes without rights that the commands do not have and that would lift the agent's own limits, until it needs them. What makes a command another user's,
/// and takes rights from it, stays.
fn use_only(kept: CapabilitySet) -> Result<(), String> {
    let own = rustix::thread::capabilities(None).map_err(|errno| format!("cannot read its capabilities: {errno}"))?;
    let effective = own.effective.difference(LIFTING.difference(kept));
    rustix::thread::set_capabilities(None, CapabilitySets { effective, ..own })
        .map_err(|errno| format!("cannot lay down capabilities: {errno}"))
}

/// What is to be taken out of the bounding set.
fn unbound(kept: CapabilitySet) -> Result<Vec<CapabilitySet>, String> {
    let own = rustix::thread::capabilities(None).map_err(|errno| format!("cannot read its capabilities: {errno}"))?;
    if !own.effective.contains(CapabilitySet::SETPCAP) {
        // It cannot change the bounding set; that is no loss if it has nothing to hand down.
        let surplus = own.permitted.difference(kept);
        return if surplus.is_empty() {
            Ok(Vec::new())
        } else {
            Err(format!("cannot drop capabilities {:#x} without CAP_SETPCAP", surplus.bits()))
        };
    }
    let each = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let is_bound = |capability: &CapabilitySet| rustix::thread::capability_is_in_bounding_set(*capability) == Ok(true);
    Ok(each.filter(|capability| !kept.contains(*capability)).filter(is_bound).collect())
}

/// Where paths of file calls are resolved. The working directory is made if it is missing.
fn base(config: &AgentConfig, user: &User) -> Result<Base, String> {
    if let Some(workdir) = &config.workdir {
        make_workdir(path(workdir), user).map_err(|error| format!("cannot make the working directory {:?}: {error}", path(workdir)))?;
    }
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    if let Some(jail) = &config.jail {
        let jail = path(jail);
        let directory = open(jail).map_err(|errno| format!("cannot open the workspace {jail:?}: {errno}"))?;
        let base = Base::jail(directory, Some(PathBuf::from(jail)));
        return Ok(match &config.workdir {
            Some(workdir) => base.with_working_directory(path(workdir)),
            None => base,
        });
    }
    let home = user.entry.as_ref().map(|entry| path(&entry.home));
    let workdir = config.workdir.as_ref().map(|workdir| path(workdir)).or(home).unwrap_or(Path::new("/"));
    match open(workdir).or_else(|_| open(Path::new("/"))) {
        Ok(directory) => Ok(Base::root_at(directory)),
        Err(errno) => Err(format!("cannot open the root directory: {errno}")),
    }
}

/// Makes what is missing of a path, for the user.
fn make_workdir(path: &Path, user: &User) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists()).collect();
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        chown(directory, Some(user.uid), Some(user.gid)).or_else(|error| if user.uid == 0 { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}
