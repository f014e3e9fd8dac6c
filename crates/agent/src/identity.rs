//! What a memory restore renews: clones of one image must differ where it matters, and know the time.
#![expect(unsafe_code, reason = "crediting entropy is an ioctl without a wrapper")]

use std::{io::Write, os::fd::AsRawFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::CapabilitySets,
    time::{ClockId, Timespec},
};
use sandbar_protocol::{Identity, Renewal, Resumed};
use sandbar_tree::{Access, Base};

use crate::{agent::Agent, settings::Settings};

/// Bytes of a seed that are taken.
const SEED: usize = 32;

/// Takes the new identity, and says what was renewed and what could not be.
pub(crate) fn renew(agent: &Agent, request: &Resumed) -> Renewal {
    let mut renewal = Renewal::default();
    agent.epoch.set(agent.epoch.get().wrapping_add(1));
    renewal.done.push(format!("epoch: {}", agent.epoch.get()));
    note(&mut renewal, "entropy", seed(&request.seed));
    note(&mut renewal, "clock", step_clock(request.now_ns));
    if let Some(config) = &request.config {
        note(
            &mut renewal,
            "configuration",
            Settings::new((**config).clone(), agent.guest.as_ref()).map(|settings| {
                agent.set(settings);
                "taken".to_owned()
            }),
        );
    }
    if let Some(identity) = &request.identity {
        note(&mut renewal, "host name", rename(identity));
        if let Some(hosts) = agent.guest.as_ref().and_then(|guest| guest.hosts.as_ref()) {
            let named = hosts.name(&identity.hostname);
            note(&mut renewal, "table of hosts", named.map(|()| identity.hostname.clone()).map_err(|error| error.to_string()));
        }
        note(&mut renewal, "machine-id", mark(identity));
    }
    renewal
}

fn note(renewal: &mut Renewal, what: &str, outcome: Result<String, String>) {
    match outcome {
        Ok(line) => renewal.done.push(format!("{what}: {line}")),
        Err(line) => renewal.failed.push(format!("{what}: {line}")),
    }
}

/// `struct rand_pool_info` of `random(4)`, with room for a seed.
#[repr(C)]
struct Pool {
    bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; SEED],
}

/// `_IOW('R', 3, int[2])` and `_IO('R', 7)` of `linux/random.h`, as on every architecture with the generic encoding.
const RNDADDENTROPY: u32 = 0x4008_5203;
const RNDRESEEDCRNG: u32 = 0x5207;

fn seed(bytes: &[u8]) -> Result<String, String> {
    let bytes: [u8; SEED] = bytes.try_into().map_err(|_| format!("a seed of {} bytes instead of {SEED}", bytes.len()))?;
    let device = rustix::fs::open(c"/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let device = device.map_err(|errno| format!("cannot open /dev/urandom: {errno}"))?;
    let pool = Pool { bits: (SEED * 8) as libc::c_int, size: SEED as libc::c_int, bytes };
    // SAFETY: the descriptor is open, and the kernel reads a `rand_pool_info` and the bytes that its `size` announces.
    let credited = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) } == 0;
    if !credited {
        // Without the privilege to credit it, it is still mixed in.
        rustix::io::write(&device, &bytes).map_err(|errno| format!("cannot write /dev/urandom: {errno}"))?;
        return Ok("mixed in, not credited".to_owned());
    }
    // SAFETY: this ioctl has no argument.
    let reseeded = unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) } == 0;
    Ok(if reseeded { "credited, generator seeded anew".to_owned() } else { "credited".to_owned() })
}

fn step_clock(now_ns: i64) -> Result<String, String> {
    const SECOND: i64 = 1_000_000_000;
    let before = rustix::time::clock_gettime(ClockId::Realtime);
    let now = Timespec { tv_sec: now_ns.div_euclid(SECOND), tv_nsec: now_ns.rem_euclid(SECOND) as _ };
    rustix::time::clock_settime(ClockId::Realtime, now).map_err(|errno| format!("cannot be set: {errno}"))?;
    let before_ns = i128::from(before.tv_sec) * i128::from(SECOND) + before.tv_nsec as i128;
    Ok(format!("stepped by {:.3} s", (i128::from(now_ns) - before_ns) as f64 / SECOND as f64))
}

fn rename(identity: &Identity) -> Result<String, String> {
    let name = &identity.hostname;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name) {
        return Err(format!("{name:?} is not a host name"));
    }
    with_rights(|| rustix::system::sethostname(name.as_bytes())).map_err(|errno| format!("cannot be set: {errno}"))?;
    match write("/etc/hostname", name) {
        Ok(()) | Err(None) => Ok(name.clone()),
        Err(Some(why)) => Err(format!("set to {name}, but {why}")),
    }
}

/// Does something with all rights that the agent may have. Otherwise it goes without those that would lift its limits.
fn with_rights<T>(work: impl FnOnce() -> T) -> T {
    let own = rustix::thread::capabilities(None).ok();
    if let Some(CapabilitySets { permitted, inheritable, .. }) = own {
        let _ = rustix::thread::set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable });
    }
    let done = work();
    if let Some(own) = own {
        let _ = rustix::thread::set_capabilities(None, own);
    }
    done
}

fn mark(identity: &Identity) -> Result<String, String> {
    let id = &identity.machine_id;
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("{id:?} is not a machine-id"));
    }
    match write("/etc/machine-id", id) {
        Ok(()) => Ok(id.clone()),
        Err(None) => Err("there is no /etc/machine-id".to_owned()),
        Err(Some(why)) => Err(why),
    }
}

/// Writes a line to a file that exists; `None` if it does not.
fn write(path: &str, line: &str) -> Result<(), Option<String>> {
    let why = |error: sandbar_tree::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => None,
        _ => Some(error.to_string()),
    };
    let base = Base::root().map_err(why)?;
    base.stat(path, sandbar_tree::Symlinks::Follow).map_err(why)?;
    let mut file = base.open_file(path, Access::Replace, 0o644).map_err(why)?;
    file.write_all(format!("{line}\n").as_bytes()).map_err(|error| Some(format!("cannot write {path}: {error}")))
}
