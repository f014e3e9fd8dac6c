use rustix::{
    fs::{Mode, OFlags},
    process::{Resource, Rlimit},
};
use sandbar_protocol::AgentConfig;

use super::{Group, Guest, Hosts, Wire, disks, kernel_modules, mounts, wire};

/// The kernel's own limit is 4096: less than an agent may have connections.
const OPEN_FILES: u64 = 1 << 20;

/// Makes a sandbox of a machine that has just been started.
///
/// # Errors
/// The step that failed, in one sentence.
pub(crate) fn boot() -> Result<(AgentConfig, Wire, Guest), String> {
    mounts::first()?;
    kernel_modules::load();
    let config = disks::config()?;
    let guest = config.guest.as_ref().ok_or("the configuration is not a guest's")?;
    let upper = disks::mount_root(&guest.disks)?;
    mounts::loopback()?;
    if !guest.hostname.is_empty() {
        rustix::system::sethostname(guest.hostname.as_bytes()).map_err(|errno| format!("cannot set the host name: {errno}"))?;
    }
    let hosts = Hosts::mount();
    if let Some(hosts) = &hosts {
        hosts.name(&guest.hostname).map_err(|error| format!("cannot write the table of hosts: {error}"))?;
    }
    // Before the root is switched, while no name leads into an image that strangers made.
    let wire = wire::open(guest.wire())?;
    mounts::switch_root()?;
    let group = Group::make();
    let limit = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    // Where the kernel's own is lower, it stays.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    inherit_null()?;
    Ok((config, wire, Guest { upper: upper.into(), group, hosts }))
}

/// The console is not a terminal of any command.
fn inherit_null() -> Result<(), String> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    null.and_then(rustix::stdio::dup2_stdin).map_err(|errno| format!("cannot open /dev/null: {errno}"))
}
