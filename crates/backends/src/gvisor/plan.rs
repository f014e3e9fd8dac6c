//! The order of things: which steps make a sandbox, from `clone3` to `runsc`.

use std::path::{Path, PathBuf};

use sandbar_core::{Error, ErrorKind, HostImage, Lifetime, Result, Volume};

use super::{
    bundle::{AGENT, BUNDLE, CONFIG, HOSTS, IMAGE, ROOT, WIRE, volume},
    engine::STATE,
};
use crate::host::{
    ids::Ids,
    plan::{Builder, HARMLESS, Overlay, READ_ONLY, c_string, clone_old, known, mount, path_string},
    seccomp,
    step::{Arguments, CHANNEL, Failure, MOST_DESCRIPTORS, Planned, Step},
};

const INERT: u64 = libc::MS_NOSUID | libc::MS_NODEV;
/// What the first process sees as its root is put together here: every host has this folder, and nothing in it is needed.
const SCRATCH: &str = "/sys";
/// The first descriptor that `runsc` does not inherit.
const FIRST_CLOSED: i32 = 3;

/// What a plan is made from.
pub(super) struct Outline<'a> {
    pub(super) ids: &'a Ids,
    pub(super) channel: i32,
    /// The overlay, if the child mounts it itself: a plain user can do so in the child's namespaces only. Root sends it.
    pub(super) overlay: Option<Overlay>,
    pub(super) agent: &'a Path,
    pub(super) host: Option<&'a HostImage>,
    pub(super) volumes: &'a [Volume],
    /// The folder of a checkpoint's memory.
    pub(super) image: Option<&'a Path>,
    /// Files to be made, with what is in them.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// The arguments of `runsc`.
    pub(super) arguments: Vec<String>,
    /// v1 control groups to join.
    pub(super) groups: usize,
    /// Whether there is `/dev/kvm` to be had.
    pub(super) kvm: bool,
    pub(super) lifetime: Lifetime,
    pub(super) open_files: u64,
}

/// What is mounted beside the root: from where on the host, to where, and how.
struct Piece {
    source: PathBuf,
    target: String,
    is_folder: bool,
    attributes: u64,
}

/// The pieces, in the order in which the parent sends those it mounts itself: the agent, the checkpoint's memory, the volumes.
fn pieces(outline: &Outline<'_>) -> Vec<Piece> {
    let agent =
        Piece { source: outline.agent.to_owned(), target: format!("{AGENT}/program"), is_folder: false, attributes: HARMLESS | READ_ONLY };
    let image = outline.image.map(|path| Piece {
        source: path.to_owned(),
        target: IMAGE.to_owned(),
        is_folder: true,
        attributes: HARMLESS | READ_ONLY,
    });
    let volumes = outline.volumes.iter().enumerate().map(|(index, wanted)| Piece {
        source: wanted.source.clone(),
        target: volume(index),
        is_folder: wanted.source.is_dir(),
        attributes: HARMLESS | if wanted.read_only { READ_ONLY } else { 0 },
    });
    [agent].into_iter().chain(image).chain(volumes).collect()
}

/// The steps. The parent has to send two messages: with the first /dev/null, twice what the engine says goes to, /dev/null twice, and the
/// root if the parent is root; with the second the program, then, if the parent is root, the pieces, then the groups.
///
/// # Errors
/// `InvalidInput` for a name with a NUL, or too many volumes.
pub(super) fn plan(outline: Outline<'_>) -> Result<Vec<Planned>> {
    let mut plan = Builder::new(96);
    let pieces = pieces(&outline);
    let sent_root = outline.overlay.is_none().then(|| plan.number());
    let first: Vec<i32> = (0..CHANNEL).chain(sent_root).collect();
    let program = plan.number();
    let sent = plan.numbers(if outline.ids.is_root() { pieces.len() } else { 0 });
    let groups = plan.numbers(outline.groups);
    let second: Vec<i32> = (program..=plan.next).collect();
    if second.len() > MOST_DESCRIPTORS {
        return Err(Error::new(ErrorKind::InvalidInput, "gvisor start", "too many volumes").with("most", MOST_DESCRIPTORS - 16));
    }
    // Above all that is received, since the kernel gives the lowest number that is free.
    let (old, scratch) = (plan.number(), plan.number());
    let cloned = plan.numbers(if outline.ids.is_root() { 0 } else { pieces.len() });
    let devices: Vec<&str> = ["/dev/null"].into_iter().chain(outline.kvm.then_some("/dev/kvm")).collect();
    let (proc, device_mounts) = (plan.number(), plan.numbers(devices.len()));
    let host_folders = outline.host.map_or(&[][..], |host| &host.folders);
    let host_mounts = plan.numbers(host_folders.len());

    plan.add(Step::KeepOnly(outline.channel));
    plan.add(Step::NewSession);
    plan.add(Step::Unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS));
    plan.add_or(Step::NewKeyring, Failure::Ignored);
    plan.add(Step::Receive(first));
    plan.add(Step::BecomeRoot { groups: outline.ids.groups_may_change() });
    plan.add(Step::ClearUmask);
    plan.add(Step::OpenPath { path: c"/".to_owned(), to: old });
    // Before everything that leaves descriptors open.
    plan.add(Step::Receive(second));

    // What is taken from the host's tree, while that is still the root.
    let root = match outline.overlay {
        Some(overlay) => plan.add_overlay(overlay)?.0,
        None => sent_root.unwrap_or(-1),
    };
    for (piece, to) in pieces.iter().zip(&cloned) {
        plan.add(clone_old(old, &piece.source, piece.attributes, *to)?);
    }
    plan.add(clone_old(old, Path::new("/proc"), 0, proc)?);
    for (device, to) in devices.iter().zip(&device_mounts) {
        plan.add(clone_old(old, Path::new(device), 0, *to)?);
    }
    for (folder, to) in host_folders.iter().zip(&host_mounts) {
        plan.add(clone_old(old, folder, HARMLESS | READ_ONLY, *to)?);
    }
    plan.add(mount("tmpfs", "tmpfs", SCRATCH, INERT, "mode=755,size=16m"));
    plan.add(Step::OpenPath { path: known(SCRATCH), to: scratch });
    plan.add(Step::ChangeRoot { root: scratch, attached: true });
    plan.add(Step::DropOldRoot);

    // From here on no path leads to the host, whatever links the sandbox's layers have.
    for (folder, mode) in [
        ("/proc", 0o755),
        ("/dev", 0o755),
        // Where the sentry makes the empty root that it locks itself into.
        ("/tmp", 0o1777),
        (STATE, 0o700),
        (BUNDLE, 0o755),
        (ROOT, 0o755),
        (AGENT, 0o700),
        (WIRE, 0o700),
    ] {
        plan.add(Step::MakeFolder { path: known(folder), mode });
    }
    plan.add(Step::Attach { mount: proc, target: known("/proc") });
    for (device, mount) in devices.iter().zip(&device_mounts) {
        plan.add(Step::MakeFile(known(device)));
        plan.add(Step::Attach { mount: *mount, target: known(device) });
    }
    plan.add(Step::Attach { mount: root, target: known(ROOT) });
    for (folder, mount) in host_folders.iter().zip(&host_mounts) {
        let mut path = Path::new(ROOT).as_os_str().to_owned();
        path.push(folder);
        let target = c_string(&path)?;
        plan.add(Step::MakeFolder { path: target.clone(), mode: 0o755 });
        plan.add(Step::RequireFolder(target.clone()));
        plan.add(Step::Attach { mount: *mount, target });
    }
    // Of a size that no sandbox can use to fill the host's memory.
    plan.add(mount("tmpfs", "tmpfs", WIRE, INERT | libc::MS_NOEXEC, "mode=700,size=64k,nr_inodes=64"));
    for (piece, mount) in pieces.iter().zip(sent.iter().chain(&cloned)) {
        let path = known(&piece.target);
        plan.add(if piece.is_folder { Step::MakeFolder { path, mode: 0o755 } } else { Step::MakeFile(path) });
        plan.add(Step::Attach { mount: *mount, target: path_string(Path::new(&piece.target))? });
    }
    for (path, content) in outline.files {
        plan.add(Step::Replace { path: known(&path), content });
    }

    for group in groups {
        plan.add(Step::JoinGroup(group));
    }
    plan.add(Step::Limit { resource: libc::RLIMIT_CORE as _, value: 0 });
    plan.add(Step::Limit { resource: libc::RLIMIT_NOFILE as _, value: outline.open_files });
    plan.add(Step::NoNewPrivileges);
    if outline.volumes.iter().any(|volume| !volume.read_only) {
        // Files there belong to the host's users, and no mount of ours keeps the host from taking them for what they say. The sentry and the gofer make
        // them, and inherit this.
        plan.add(Step::Filter(seccomp::filter_of_special_bits()));
    }
    if outline.lifetime == Lifetime::Owned {
        // After the last change of ids, which clears it. A parent that died before shows as the end of the channel below.
        plan.add(Step::DieWithParent);
    }
    // Until here nothing has run that could make anything. Only when the ledger knows the process does it go on.
    plan.add(Step::Wait);
    plan.add(Step::UnblockSignals);
    let arguments = outline.arguments.iter().map(c_string).collect::<Result<_>>()?;
    plan.add(Step::Execute { program, arguments: Arguments::new(arguments), inherits: FIRST_CLOSED });
    Ok(plan.steps)
}

/// The files that every sandbox has beside what is mounted.
pub(super) fn files(specification: Vec<u8>, agent: Vec<u8>, hosts: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    vec![(CONFIG.to_owned(), specification), (format!("{AGENT}/config"), agent), (HOSTS.to_owned(), hosts)]
}
