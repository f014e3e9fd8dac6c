//! The order of things: which steps make a sandbox, from `clone3` to the agent.

use std::{
    ffi::{CString, OsString},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use sandbar_core::{Error, ErrorKind, HostImage, Lifetime, Result, Volume};
use sandbar_protocol::{CONFIG_FD, LISTEN_FD};

use super::devices;
use crate::host::{
    capabilities,
    ids::Ids,
    network::Network,
    plan::{Builder, HARMLESS, Overlay, READ_ONLY, c_string, clone_old, hosts_file, known, mount, path_string},
    seccomp,
    step::{Arguments, CHANNEL, Failure, MOST_DESCRIPTORS, Planned, Step},
};

const INERT: u64 = HARMLESS | libc::MOUNT_ATTR_NOEXEC;
const MOUNT_HARMLESS: u64 = libc::MS_NOSUID | libc::MS_NODEV;
const MOUNT_INERT: u64 = MOUNT_HARMLESS | libc::MS_NOEXEC;

/// What of /proc and /sys tells about the host and not about the sandbox (as Docker masks it). What Docker masks or makes read-only beside
/// these, the host's root alone may read or write: it owns them, and no id inside is the host's root.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// The names of the sandbox and of its loopback device, and where they are written first.
const HOSTS: &str = "/etc/hosts";
const HOSTS_SOURCE: &str = "/dev/.hosts";
/// An empty folder that nobody can write into, for masks: a mount point of every sysfs.
const EMPTY: &str = "/sys/fs/cgroup";

/// What the child does about its root file system.
#[derive(Debug)]
pub(super) enum Root {
    /// The parent, which is root, sends it as a mount, and /dev as another.
    Sent,
    /// The child mounts the overlay itself.
    Made(Overlay),
}

/// What a Landlock ruleset allows where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Domain {
    /// Below `/`.
    pub(super) everywhere: u64,
    /// Below `/dev`, if the kernel knows of it.
    pub(super) devices: Option<u64>,
}

/// What a plan is made from.
pub(super) struct Outline<'a> {
    pub(super) ids: &'a Ids,
    pub(super) channel: i32,
    pub(super) hostname: &'a str,
    pub(super) root: Root,
    /// The agent's file, if the child opens it itself: a plain user can make mounts in there only.
    pub(super) agent: Option<&'a Path>,
    pub(super) host: Option<&'a HostImage>,
    pub(super) volumes: &'a [Volume],
    /// Bytes of /dev/shm.
    pub(super) shared_memory: u64,
    /// v1 control groups to join.
    pub(super) groups: usize,
    pub(super) landlock: Option<Domain>,
    pub(super) lifetime: Lifetime,
    pub(super) open_files: u64,
    /// Whether the agent redirects what leaves. It gives up what it needs for that by itself, before the first command.
    pub(super) redirects: bool,
    /// Whether another process makes the network namespace meanwhile: with one processor that gains nothing.
    pub(super) network_beside: bool,
    /// Ends with success instead of executing the agent.
    pub(super) rehearsal: bool,
}

/// The steps. The parent has to send two messages: with the first, /dev/null five times and the root if it is [`Root::Sent`];
/// with the second the agent's configuration, its listener and its program, /dev if the root was sent, the Landlock ruleset if
/// any, the volumes if the parent is root, the groups.
///
/// # Errors
/// `InvalidInput` for a name with a NUL, a volume at `/`, or too many volumes.
pub(super) fn plan(outline: Outline<'_>) -> Result<Vec<Planned>> {
    let mut plan = Builder::new(128);
    let sent_root = matches!(outline.root, Root::Sent).then(|| plan.number());
    let first: Vec<i32> = (0..CHANNEL).chain(sent_root).collect();
    let (config, listener, agent) = (plan.number(), plan.number(), plan.number());
    let dev = sent_root.map(|_| plan.number());
    let ruleset = outline.landlock.map(|domain| (plan.number(), domain));
    let volumes = plan.numbers(if outline.ids.is_root() { outline.volumes.len() } else { 0 });
    let groups = plan.numbers(outline.groups);
    let second: Vec<i32> = (config..=plan.next).collect();
    if second.len() > MOST_DESCRIPTORS {
        return Err(invalid("too many volumes").with("most", MOST_DESCRIPTORS - 16));
    }
    // Above all that is received, since the kernel gives the lowest number that is free.
    let old = plan.number();
    let cloned = plan.numbers(if outline.ids.is_root() { 0 } else { outline.volumes.len() });
    let network = outline.network_beside.then(|| (plan.number(), plan.number()));

    // What needs no ids yet, while the parent writes the maps and prepares the root.
    plan.add(Step::KeepOnly(outline.channel));
    plan.add(Step::NewSession);
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if let Some((channel, process)) = network {
        plan.add(Step::BeginNetwork(Network::new(channel, process)));
        plan.add(Step::Unshare(namespaces));
    } else {
        plan.add(Step::Unshare(namespaces | libc::CLONE_NEWNET));
        plan.add(Step::LoopbackUp);
    }
    plan.add(Step::HostName(c_string(&outline.hostname[..outline.hostname.floor_char_boundary(63)])?));
    plan.add(Step::DomainName(c"(none)".to_owned()));
    plan.add_or(Step::NewKeyring, Failure::Ignored);

    // The root, while the parent prepares the rest.
    plan.add(Step::Receive(first));
    plan.add(Step::BecomeRoot { groups: outline.ids.groups_may_change() });
    plan.add(Step::ClearUmask);
    plan.add(Step::OpenPath { path: c"/".to_owned(), to: old });
    let mut receive_second = Some(Step::Receive(second));
    match (outline.root, sent_root) {
        (Root::Made(overlay), _) => {
            // Before the overlay, which leaves descriptors open.
            receive_second.take().into_iter().for_each(|step| plan.add(step));
            if let Some(path) = outline.agent {
                plan.add(Step::OpenProgram { path: path_string(path)?, to: agent });
            }
            let (root, attached) = plan.add_overlay(overlay)?;
            plan.add(Step::ChangeRoot { root, attached });
        }
        (Root::Sent, root) => plan.add(Step::ChangeRoot { root: root.unwrap_or(-1), attached: false }),
    }
    plan.add_proc();
    for folder in outline.host.map_or(&[][..], |host| &host.folders) {
        plan.add_host_folder(old, folder)?;
    }
    receive_second.into_iter().for_each(|step| plan.add(step));
    plan.add(Step::Inherit { from: config, to: CONFIG_FD });
    plan.add(Step::Inherit { from: listener, to: LISTEN_FD });
    for group in groups {
        plan.add(Step::JoinGroup(group));
    }
    plan.add(Step::Unshare(libc::CLONE_NEWCGROUP));
    match dev {
        Some(mount) => plan.add(Step::Attach { mount, target: known("/dev") }),
        None => plan.add_dev(old, outline.shared_memory),
    }
    plan.add_terminals(outline.ids.count());
    if let Some((channel, _)) = network {
        plan.add(Step::JoinNetwork(channel));
    }
    plan.add_sys(outline.ids.count());
    plan.add_masks();
    plan.add(Step::MakeFolder { path: c"/tmp".to_owned(), mode: 0o1777 });
    for (volume, to) in outline.volumes.iter().zip(&cloned) {
        let attributes = HARMLESS | if volume.read_only { READ_ONLY } else { 0 };
        plan.add(clone_old(old, &volume.source, attributes, *to)?);
    }
    plan.add(Step::DropOldRoot);
    // From here on no path leads out of the new root, whatever links its layers have.
    plan.add_hosts(outline.hostname);
    for (volume, mount) in outline.volumes.iter().zip(volumes.iter().chain(&cloned)) {
        plan.add_mount_point(&volume.source, &volume.target)?;
        plan.add(Step::Attach { mount: *mount, target: path_string(&volume.target)? });
    }

    plan.add(Step::Limit { resource: libc::RLIMIT_CORE as _, value: 0 });
    plan.add(Step::Limit { resource: libc::RLIMIT_NOFILE as _, value: outline.open_files });
    for capability in capabilities::dropped().filter(|number| !(outline.redirects && capabilities::REDIRECTING.contains(number))) {
        plan.add(Step::DropCapability(capability));
    }
    plan.add(Step::NoNewPrivileges);
    if outline.lifetime == Lifetime::Owned {
        // After the last change of ids, which clears it. A parent that died before shows as the end of the channel below.
        plan.add(Step::DieWithParent);
    }
    if let Some((ruleset, domain)) = ruleset {
        plan.add(Step::LandlockAllow { ruleset, path: c"/".to_owned(), accesses: domain.everywhere });
        if let Some(accesses) = domain.devices {
            plan.add(Step::LandlockAllow { ruleset, path: c"/dev".to_owned(), accesses });
        }
        plan.add(Step::LandlockEnforce(ruleset));
    }
    if let Some((_, process)) = network {
        plan.add(Step::EndNetwork(process));
    }
    let writes_to_the_host = outline.volumes.iter().any(|volume| !volume.read_only);
    plan.add(Step::Filter(if writes_to_the_host { seccomp::filter_without_special_bits() } else { seccomp::filter() }));
    // Until here nothing of the sandbox's has run. Only when the ledger knows the process does it go on.
    plan.add(Step::Wait);
    plan.add(Step::UnblockSignals);
    let arguments = Arguments::new(vec![c"sandbar-agent".to_owned()]);
    plan.add(if outline.rehearsal { Step::Exit } else { Step::Execute { program: agent, arguments, inherits: CHANNEL } });
    Ok(plan.steps)
}

impl Builder {
    fn mount(&mut self, kind: &str, target: &str, flags: u64, options: &str, failure: Failure) {
        self.add_or(mount(kind, kind, target, flags, options), failure);
    }

    fn add_proc(&mut self) {
        for folder in ["/proc", "/sys", "/dev"] {
            self.add(Step::MakeFolder { path: known(folder), mode: 0o755 });
            self.add(Step::RequireFolder(known(folder)));
        }
        self.mount("proc", "/proc", MOUNT_INERT, "", Failure::Fatal);
    }

    fn add_sys(&mut self, ids: u32) {
        // Where the host's own /sys is not wholly visible, ours may not be either.
        let empty = mount("tmpfs", "tmpfs", "/sys", MOUNT_INERT | libc::MS_RDONLY, "size=0,mode=555");
        self.mount("sysfs", "/sys", MOUNT_INERT | libc::MS_RDONLY, "", Failure::Instead(Box::new(empty)));
        // Every user inside may bind every port and ping: there is nobody else on this loopback device.
        for (name, line) in [("ip_unprivileged_port_start", "0".to_owned()), ("ping_group_range", format!("0 {}", ids - 1))] {
            let path = known(&format!("/proc/sys/net/ipv4/{name}"));
            self.add_or(Step::Write { path, line: known(&line) }, Failure::Ignored);
        }
    }

    /// The host's own folder, with everything mounted beneath it.
    fn add_host_folder(&mut self, old: i32, folder: &Path) -> Result<()> {
        let target = path_string(folder)?;
        let mut source = OsString::from(format!("/proc/self/fd/{old}"));
        source.push(folder);
        self.add(Step::MakeFolder { path: target.clone(), mode: 0o755 });
        self.add(Step::RequireFolder(target.clone()));
        let (kind, options) = (CString::default(), CString::default());
        self.add(Step::Mount { source: c_string(source)?, target: target.clone(), kind, flags: libc::MS_BIND | libc::MS_REC, options });
        self.add(Step::Seal { path: target, attributes: READ_ONLY | HARMLESS });
        Ok(())
    }

    fn add_dev(&mut self, old: i32, shared_memory: u64) {
        let options: Vec<String> = devices::options(shared_memory).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.mount("tmpfs", "/dev", libc::MS_NOSUID | libc::MS_NOEXEC, &options.join(","), Failure::Fatal);
        for (device, ..) in devices::DEVICES {
            let (path, source) = (format!("/dev/{device}"), format!("/proc/self/fd/{old}/dev/{device}"));
            self.add(Step::MakeFile(known(&path)));
            self.add(mount(&source, "", &path, libc::MS_BIND, ""));
        }
        for (name, target) in devices::LINKS {
            self.add(Step::Symlink { target: known(target), path: known(&format!("/dev/{name}")) });
        }
        for (name, mode) in devices::FOLDERS {
            self.add(Step::MakeFolder { path: known(&format!("/dev/{name}")), mode });
        }
    }

    fn add_terminals(&mut self, ids: u32) {
        // The group `tty` of every distribution, where there is one.
        let group = if ids > 5 { ",gid=5" } else { "" };
        let options = format!("newinstance,ptmxmode=0666,mode=0620{group}");
        self.mount("devpts", "/dev/pts", libc::MS_NOSUID | libc::MS_NOEXEC, &options, Failure::Fatal);
    }

    fn add_masks(&mut self) {
        for (path, is_folder) in masked() {
            let (source, failure) = if *is_folder {
                // Where /sys is empty, there is no such folder.
                let empty = mount("tmpfs", "tmpfs", path, MOUNT_INERT | libc::MS_RDONLY, "size=0,mode=555");
                (EMPTY, Failure::Instead(Box::new(empty)))
            } else {
                ("/dev/null", Failure::Fatal)
            };
            // With /sys itself empty, so is everything in it.
            let failure = if path.starts_with("/sys/") { Failure::Ignored } else { failure };
            self.add_or(mount(source, "", path, libc::MS_BIND, ""), failure);
        }
        // Parts of it belong to the owner of the namespaces, who is inside.
        self.add(mount("/proc/sys", "", "/proc/sys", libc::MS_BIND | libc::MS_REC, ""));
        self.add(Step::Seal { path: known("/proc/sys"), attributes: READ_ONLY | INERT });
    }

    /// So that the sandbox's own name has an address; as container engines do, anew at every start, and before the volumes, one
    /// of which may be in its place. A mount, since to write it through the overlay would take as long as a fifth of the whole
    /// start. An image may have no /etc.
    fn add_hosts(&mut self, hostname: &str) {
        self.add_or(Step::MakeFile(known(HOSTS)), Failure::Ignored);
        self.add(Step::Replace { path: known(HOSTS_SOURCE), content: hosts_file(hostname) });
        self.add_or(mount(HOSTS_SOURCE, "", HOSTS, libc::MS_BIND, ""), Failure::Ignored);
        // The mount keeps the file.
        self.add(Step::Unlink(known(HOSTS_SOURCE)));
    }

    /// What a volume is mounted on: made if missing, with the folders above it.
    fn add_mount_point(&mut self, source: &Path, target: &Path) -> Result<()> {
        let mut path = PathBuf::from("/");
        let mut above: Vec<PathBuf> = Vec::new();
        for component in target.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => {
                    path.push(name);
                    above.push(path.clone());
                }
                _ => return Err(invalid("the path of a volume inside must not have '.' or '..'").with("target", target.display())),
            }
        }
        let Some(last) = above.pop() else { return Err(invalid("a volume cannot take the place of the root")) };
        for folder in above {
            self.add(Step::MakeFolder { path: path_string(&folder)?, mode: 0o755 });
        }
        let path = path_string(&last)?;
        self.add(if source.is_dir() { Step::MakeFolder { path, mode: 0o755 } } else { Step::MakeFile(path) });
        Ok(())
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "container start", message)
}

/// Those of [`MASKED`] that this kernel has and that everybody may read, and whether they are folders. Looked for once.
fn masked() -> &'static [(&'static str, bool)] {
    static FOUND: OnceLock<Vec<(&'static str, bool)>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let readable = |path| std::fs::metadata(path).ok().filter(|found| found.mode() & 0o004 != 0);
        MASKED.into_iter().filter_map(|path| Some((path, readable(path)?.is_dir()))).collect()
    })
}
