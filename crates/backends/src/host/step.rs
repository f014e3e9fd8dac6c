//! What the child does between `clone3` and the agent's first instruction, one step at a time.
#![expect(unsafe_code, reason = "the child shares its parent's memory and must not touch the C library: only raw system calls")]

use std::ffi::{CStr, CString, c_long};

use rustix::io::Errno;

use super::{
    network,
    syscall::{MountAttributes, syscall},
};

/// The child's descriptor of the channel to its parent. Below it are what the agent inherits: 0 to 2, its configuration, its listener.
pub(crate) const CHANNEL: i32 = 5;
/// Most descriptors that a unix socket carries in one message (`SCM_MAX_FD`).
pub(crate) const MOST_DESCRIPTORS: usize = 253;

/// One step. Everything it needs was prepared by the parent; it allocates nothing.
#[derive(Debug)]
pub(crate) enum Step {
    /// Makes this descriptor the [`CHANNEL`], and closes all others: a copy of somebody else's channel would keep that one open.
    KeepOnly(i32),
    /// A session of its own: no controlling terminal, so no TIOCSTI into one.
    NewSession,
    /// A session keyring of its own.
    NewKeyring,
    /// New namespaces.
    Unshare(i32),
    /// The host name.
    HostName(CString),
    /// The NIS domain name, which is the host's otherwise.
    DomainName(CString),
    /// Sets the loopback device up.
    LoopbackUp,
    /// Makes the network namespace, with its loopback device up, in another process meanwhile. See `network`.
    BeginNetwork(network::Network),
    /// Enters the namespace that comes on this channel.
    JoinNetwork(i32),
    /// Waits for the end of that process, which shares our parent's memory and must not see the agent.
    EndNetwork(i32),
    /// Gives an open descriptor the number under which the agent inherits it.
    Inherit { from: i32, to: i32 },
    /// Waits for a message and takes the descriptors that come with it; they must become these numbers.
    Receive(Vec<i32>),
    /// Waits for a message.
    Wait,
    /// Becomes id 0 of the user namespace; `groups` also leaves all supplementary groups.
    BecomeRoot { groups: bool },
    /// Joins the control group whose file of threads this is. See `cgroups`.
    JoinGroup(i32),
    /// Files are made with exactly the mode asked for.
    ClearUmask,
    /// Opens a path as it is before the change of root, under this number.
    OpenPath { path: CString, to: i32 },
    /// Opens a program under this number, in a mount of its own that cannot be written through.
    OpenProgram { path: CString, to: i32 },
    /// Mounts an overlay of these folders (lowest last, as the kernel wants them) over `layer` and `work` in another, and opens it under
    /// this number.
    Overlay { layers: Vec<CString>, folder: CString, options: Vec<(CString, CString)>, to: i32 },
    /// The same by `mount`, for kernels that take no descriptors: `options` name the layers by `/proc/self/fd`.
    ClassicOverlay { layers: Vec<(CString, i32)>, options: CString, target: CString, to: i32 },
    /// Puts the mount over `/` and makes it the root; the old root lies on top of it, and `..` at the root leads there.
    ChangeRoot { root: i32, attached: bool },
    /// Takes the old root away.
    DropOldRoot,
    /// A folder, with its parents made by steps of their own. One that exists is no error.
    MakeFolder { path: CString, mode: u32 },
    /// An empty file. One that exists is no error.
    MakeFile(CString),
    /// A symbolic link.
    Symlink { target: CString, path: CString },
    /// `mount`.
    Mount { source: CString, target: CString, kind: CString, flags: u64, options: CString },
    /// Changes the attributes of the mount at a path.
    Seal { path: CString, attributes: u64 },
    /// Clones the mount at `source` below the old root, and all beneath it, to be attached later.
    CloneOld { old: i32, source: CString, attributes: u64, to: i32 },
    /// Fails unless this is a folder and no symbolic link leads to it: as long as the old root lies on top of the new one, a link of a
    /// hostile layer with `..` would lead to the host.
    RequireFolder(CString),
    /// Mounts a detached mount.
    Attach { mount: i32, target: CString },
    /// Writes a line to an existing file.
    Write { path: CString, line: CString },
    /// Makes a file, or replaces what it says.
    Replace { path: CString, content: Vec<u8> },
    /// Removes a name.
    Unlink(CString),
    /// A resource limit, soft and hard.
    Limit { resource: u32, value: u64 },
    /// Takes a capability out of the bounding set.
    DropCapability(u32),
    /// Execution never gives more rights.
    NoNewPrivileges,
    /// Killed when the thread that cloned it ends.
    DieWithParent,
    /// Allows these accesses below a path to a Landlock ruleset.
    LandlockAllow { ruleset: i32, path: CString, accesses: u64 },
    /// Enforces a Landlock ruleset.
    LandlockEnforce(i32),
    /// Installs a seccomp filter.
    Filter(&'static [libc::sock_filter]),
    /// Lets signals through again.
    UnblockSignals,
    /// Executes what a descriptor refers to, with an empty environment, and only the descriptors below `inherits` open.
    Execute { program: i32, arguments: Arguments, inherits: i32 },
    /// Ends with success: the last step of a rehearsal.
    Exit,
}

/// The arguments of a program, the first its name.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// What the addresses point to.
    #[expect(dead_code, reason = "it is there to be pointed to")]
    texts: Vec<CString>,
    /// As the kernel wants them: the last is 0.
    addresses: Vec<usize>,
}

impl Arguments {
    pub(crate) fn new(texts: Vec<CString>) -> Self {
        let addresses = texts.iter().map(|argument| text(argument)).chain([0]).collect();
        Self { texts, addresses }
    }
}

/// A step, and what its failure means.
#[derive(Debug)]
pub(crate) struct Planned {
    /// What to do.
    pub(crate) step: Step,
    /// Whether the sandbox is as good without it.
    pub(crate) failure: Failure,
}

/// What the failure of a step means.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The sandbox cannot be made.
    Fatal,
    /// Nothing.
    Ignored,
    /// This is done in its place.
    Instead(Box<Step>),
}

/// Why a plan was not followed to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The parent has closed the channel: it is dead, or has given up.
    Abandoned,
    /// The step at this index failed.
    Failed(u32, Errno),
}

/// Follows the plan. Comes back only when it cannot be followed.
pub(crate) fn follow(plan: &[Planned]) -> Stopped {
    let mut index = 0;
    for planned in plan {
        let result = match (take(&planned.step), &planned.failure) {
            (Err(_), Failure::Ignored) => Ok(Taken::Done),
            (Err(_), Failure::Instead(other)) => take(other),
            (result, _) => result,
        };
        match result {
            Ok(Taken::Done) => {}
            Ok(Taken::Abandoned) => return Stopped::Abandoned,
            Err(errno) => return Stopped::Failed(index, errno),
        }
        index += 1;
    }
    Stopped::Failed(index, Errno::NOEXEC)
}

/// Tells the parent which step failed, and ends.
pub(crate) fn end(stopped: Stopped) -> ! {
    if let Stopped::Failed(index, errno) = stopped {
        let report = [index.to_ne_bytes(), errno.raw_os_error().to_ne_bytes()];
        let _ = call(libc::SYS_sendto, [CHANNEL as usize, report.as_ptr() as usize, 8, libc::MSG_NOSIGNAL as usize, 0, 0]);
    }
    exit(1)
}

pub(crate) fn exit(code: usize) -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [code]);
    }
}

enum Taken {
    Done,
    Abandoned,
}

/// A system call whose arguments are numbers, C strings of the plan, or structures on this stack that outlive it.
pub(crate) fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    // SAFETY: every pointer given here comes from a live reference; none of these calls keeps one or frees memory.
    unsafe { syscall(number, arguments) }
}

pub(crate) fn text(string: &CStr) -> usize {
    string.as_ptr() as usize
}

pub(crate) const HERE: usize = libc::AT_FDCWD as usize;
const EMPTY: &CStr = c"";

fn take(step: &Step) -> Result<Taken, Errno> {
    match step {
        Step::KeepOnly(channel) => {
            if *channel == CHANNEL {
                call(libc::SYS_fcntl, [CHANNEL as usize, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize])?;
            } else {
                call(libc::SYS_dup3, [*channel as usize, CHANNEL as usize, libc::O_CLOEXEC as usize])?;
            }
            call(libc::SYS_close_range, [0, CHANNEL as usize - 1, 0])?;
            call(libc::SYS_close_range, [CHANNEL as usize + 1, u32::MAX as usize, 0])?;
        }
        Step::NewSession => drop(call(libc::SYS_setsid, [])?),
        Step::NewKeyring => drop(call(libc::SYS_keyctl, [libc::KEYCTL_JOIN_SESSION_KEYRING as usize, 0])?),
        Step::Unshare(flags) => drop(call(libc::SYS_unshare, [*flags as usize])?),
        Step::HostName(name) => drop(call(libc::SYS_sethostname, [text(name), name.count_bytes()])?),
        Step::DomainName(name) => drop(call(libc::SYS_setdomainname, [text(name), name.count_bytes()])?),
        Step::BeginNetwork(network) => network::begin(network)?,
        Step::LoopbackUp => network::loopback_up()?,
        Step::JoinNetwork(channel) => network::join(*channel)?,
        Step::EndNetwork(process) => network::end(*process)?,
        Step::Inherit { from, to } => drop(call(libc::SYS_dup3, [*from as usize, *to as usize, 0])?),
        Step::Receive(wanted) => return receive(wanted),
        Step::Wait => return receive(&[]),
        Step::BecomeRoot { groups } => {
            if *groups {
                call(libc::SYS_setgroups, [0, 0])?;
            }
            call(libc::SYS_setresgid, [0, 0, 0])?;
            call(libc::SYS_setresuid, [0, 0, 0])?;
        }
        Step::JoinGroup(threads) => drop(call(libc::SYS_write, [*threads as usize, text(c"0"), 1])?),
        Step::ClearUmask => drop(call(libc::SYS_umask, [0])?),
        Step::OpenPath { path, to } => open_as(path, *to)?,
        Step::OpenProgram { path, to } => {
            let mount = call(libc::SYS_open_tree, [HERE, text(path), OPEN_TREE])?;
            set_attributes(mount, EMPTY, libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
            renumber(mount, *to)?;
        }
        Step::Overlay { layers, folder, options, to } => overlay(layers, folder, options, *to)?,
        Step::ClassicOverlay { layers, options, target, to } => {
            for (layer, number) in layers {
                open_as(layer, *number)?;
            }
            let flags = libc::MS_NODEV | libc::MS_NOSUID;
            call(libc::SYS_mount, [text(c"overlay"), text(target), text(c"overlay"), flags as usize, text(options)])?;
            open_as(target, *to)?;
        }
        Step::ChangeRoot { root, attached } => {
            if !attached {
                let flags = libc::MOVE_MOUNT_F_EMPTY_PATH as usize;
                call(libc::SYS_move_mount, [*root as usize, text(EMPTY), HERE, text(c"/"), flags])?;
            }
            call(libc::SYS_fchdir, [*root as usize])?;
            call(libc::SYS_pivot_root, [text(c"."), text(c".")])?;
        }
        Step::DropOldRoot => {
            // The old root lies on top of the new one: "." begins at the new one and ends at what is mounted there last.
            call(libc::SYS_umount2, [text(c"."), libc::MNT_DETACH as usize])?;
            call(libc::SYS_chdir, [text(c"/")])?;
        }
        Step::MakeFolder { path, mode } => ignore_existing(call(libc::SYS_mkdirat, [HERE, text(path), *mode as usize]))?,
        Step::MakeFile(path) => {
            let mode = (libc::S_IFREG | 0o666) as usize;
            ignore_existing(call(libc::SYS_mknodat, [HERE, text(path), mode, 0]))?;
        }
        Step::Symlink { target, path } => drop(call(libc::SYS_symlinkat, [text(target), HERE, text(path)])?),
        Step::Mount { source, target, kind, flags, options } => {
            call(libc::SYS_mount, [text(source), text(target), text(kind), *flags as usize, text(options)])?;
        }
        Step::Seal { path, attributes } => set_attributes(HERE, path, 0, *attributes)?,
        Step::CloneOld { old, source, attributes, to } => clone_old(*old, source, *attributes, *to)?,
        Step::RequireFolder(path) => {
            let how = [(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64, 0, libc::RESOLVE_NO_SYMLINKS];
            close(call(libc::SYS_openat2, [HERE, text(path), how.as_ptr() as usize, size_of_val(&how)])?);
        }
        Step::Attach { mount, target } => attach(*mount as usize, target)?,
        Step::Write { path, line } => write(path, line.as_bytes(), 0)?,
        Step::Unlink(path) => drop(call(libc::SYS_unlinkat, [HERE, text(path), 0])?),
        Step::Replace { path, content } => write(path, content, libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW)?,
        Step::Limit { resource, value } => {
            let limit = [*value, *value];
            call(libc::SYS_prlimit64, [0, *resource as usize, limit.as_ptr() as usize, 0])?;
        }
        Step::DropCapability(capability) => drop(call(libc::SYS_prctl, [libc::PR_CAPBSET_DROP as usize, *capability as usize, 0, 0, 0])?),
        Step::NoNewPrivileges => drop(call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0])?),
        Step::DieWithParent => drop(call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0])?),
        Step::LandlockAllow { ruleset, path, accesses } => landlock_allow(*ruleset, path, *accesses)?,
        Step::LandlockEnforce(ruleset) => drop(call(libc::SYS_landlock_restrict_self, [*ruleset as usize, 0])?),
        Step::Filter(program) => {
            #[expect(clippy::cast_possible_truncation, reason = "a filter has at most 4096 instructions")]
            let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            call(libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER as usize, 0, &raw const program as usize])?;
        }
        Step::UnblockSignals => {
            let none = 0_u64;
            call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, &raw const none as usize, 0, 8])?;
        }
        Step::Execute { program, arguments, inherits } => {
            call(libc::SYS_close_range, [*inherits as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC])?;
            let environment = [std::ptr::null::<libc::c_char>()];
            let (arguments, environment) = (arguments.addresses.as_ptr() as usize, environment.as_ptr() as usize);
            call(libc::SYS_execveat, [*program as usize, text(EMPTY), arguments, environment, libc::AT_EMPTY_PATH as usize])?;
        }
        Step::Exit => exit(0),
    }
    Ok(Taken::Done)
}

const CLOSE_RANGE_CLOEXEC: usize = 1 << 2;
/// `OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC`.
const OPEN_TREE: usize = 1 | libc::O_CLOEXEC as usize;

fn ignore_existing(result: Result<usize, Errno>) -> Result<(), Errno> {
    match result {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn close(descriptor: usize) {
    let _ = call(libc::SYS_close, [descriptor]);
}

/// Gives an open descriptor another number.
pub(crate) fn renumber(from: usize, to: i32) -> Result<(), Errno> {
    if from != to as usize {
        call(libc::SYS_dup3, [from, to as usize, libc::O_CLOEXEC as usize])?;
        close(from);
    }
    Ok(())
}

fn open_as(path: &CStr, to: i32) -> Result<(), Errno> {
    renumber(call(libc::SYS_openat, [HERE, text(path), (libc::O_PATH | libc::O_CLOEXEC) as usize, 0])?, to)
}

/// Waits for a message; its descriptors must have become these numbers.
fn receive(wanted: &[i32]) -> Result<Taken, Errno> {
    let mut message = Message::default();
    if message.read(CHANNEL)?.is_none() {
        return Ok(Taken::Abandoned);
    }
    for (index, number) in wanted.iter().enumerate() {
        if message.descriptor(index) != Some(*number) {
            return Err(Errno::BADF);
        }
    }
    Ok(Taken::Done)
}

const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

/// One byte and the descriptors that came with it.
pub(crate) struct Message {
    /// `struct cmsghdr` and room for the most that a message can carry.
    control: [u64; (CONTROL_HEADER + MOST_DESCRIPTORS * 4).div_ceil(8)],
    length: usize,
}

impl Default for Message {
    fn default() -> Self {
        Self { control: [0; _], length: 0 }
    }
}

impl Message {
    /// Waits for it; `None` when the other side is gone.
    pub(crate) fn read(&mut self, channel: i32) -> Result<Option<u8>, Errno> {
        let mut byte = 0_u8;
        loop {
            let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            // SAFETY: all zeroes is a valid `msghdr`.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
            (header.msg_control, header.msg_controllen) = (self.control.as_mut_ptr().cast(), size_of_val(&self.control) as _);
            match call(libc::SYS_recvmsg, [channel as usize, &raw mut header as usize, 0]) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) | Ok(0) => return Ok(None),
                Err(errno) => return Err(errno),
                Ok(_) => {
                    self.length = header.msg_controllen as _;
                    return Ok(Some(byte));
                }
            }
        }
    }

    /// The number that a descriptor of it has here.
    pub(crate) fn descriptor(&self, index: usize) -> Option<i32> {
        let at = CONTROL_HEADER + 4 * index;
        if at + 4 > self.length || at + 4 > size_of_val(&self.control) {
            return None;
        }
        // SAFETY: within `control`, as was just seen.
        Some(unsafe { self.control.as_ptr().cast::<u8>().add(at).cast::<i32>().read_unaligned() })
    }
}

/// `fsconfig` commands.
const SET_STRING: usize = 1;
const SET_FD: usize = 5;
const CREATE: usize = 6;

fn overlay(layers: &[CString], folder: &CStr, options: &[(CString, CString)], to: i32) -> Result<(), Errno> {
    let context = call(libc::SYS_fsopen, [text(c"overlay"), 1])?;
    // These stay open, since a mount that is mounted nowhere goes with its descriptor. Execution closes them.
    let give = |key: &CStr, layer: Result<usize, Errno>| call(libc::SYS_fsconfig, [context, SET_FD, text(key), 0, layer?]).map(drop);
    // Each from a mount of its own, so that the list of mounts inside does not tell where they are on the host.
    for layer in layers {
        give(c"lowerdir+", call(libc::SYS_open_tree, [HERE, text(layer), OPEN_TREE]))?;
    }
    let own = call(libc::SYS_open_tree, [HERE, text(folder), OPEN_TREE])?;
    for (key, name) in [(c"upperdir", c"layer"), (c"workdir", c"work")] {
        give(key, call(libc::SYS_openat, [own, text(name), (libc::O_PATH | libc::O_CLOEXEC) as usize, 0]))?;
    }
    for (key, value) in options {
        // An option without a value is a flag, command 0.
        let (command, value) = if value.is_empty() { (0, 0) } else { (SET_STRING, text(value)) };
        call(libc::SYS_fsconfig, [context, command, text(key), value, 0])?;
    }
    call(libc::SYS_fsconfig, [context, CREATE, 0, 0, 0])?;
    let mount = call(libc::SYS_fsmount, [context, 1, (libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID) as usize])?;
    renumber(mount, to)
}

fn set_attributes(at: usize, path: &CStr, flags: i32, set: u64) -> Result<(), Errno> {
    // Private, so that nothing mounted here or there ever shows on the other side.
    let attributes = MountAttributes { set, propagation: libc::MS_PRIVATE, ..MountAttributes::default() };
    let (pointer, size) = (&raw const attributes as usize, size_of::<MountAttributes>());
    call(libc::SYS_mount_setattr, [at, text(path), (flags | libc::AT_RECURSIVE) as usize, pointer, size]).map(drop)
}

fn attach(mount: usize, target: &CStr) -> Result<(), Errno> {
    let flags = (libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_SYMLINKS) as usize;
    call(libc::SYS_move_mount, [mount, text(EMPTY), HERE, text(target), flags]).map(drop)
}

fn write(path: &CStr, content: &[u8], flags: i32) -> Result<(), Errno> {
    let file = call(libc::SYS_openat, [HERE, text(path), (libc::O_WRONLY | libc::O_CLOEXEC | flags) as usize, 0o644])?;
    let written = call(libc::SYS_write, [file, content.as_ptr() as usize, content.len()]);
    call(libc::SYS_close, [file])?;
    written.map(drop)
}

fn clone_old(old: i32, source: &CStr, attributes: u64, to: i32) -> Result<(), Errno> {
    // The parent has resolved every symbolic link. One that came since would lead out of the old root.
    let how = [(libc::O_PATH | libc::O_CLOEXEC) as u64, 0, libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS];
    let found = call(libc::SYS_openat2, [old as usize, text(source), how.as_ptr() as usize, size_of_val(&how)])?;
    let cloned = call(libc::SYS_open_tree, [found, text(EMPTY), OPEN_TREE | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as usize]);
    close(found);
    let mount = cloned?;
    set_attributes(mount, EMPTY, libc::AT_EMPTY_PATH, attributes)?;
    renumber(mount, to)
}

fn landlock_allow(ruleset: i32, path: &CStr, accesses: u64) -> Result<(), Errno> {
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct PathBeneath {
        accesses: u64,
        parent: i32,
    }
    const RULE_PATH_BENEATH: usize = 1;
    let parent = call(libc::SYS_openat, [HERE, text(path), (libc::O_PATH | libc::O_CLOEXEC) as usize, 0])?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a descriptor")]
    let rule = PathBeneath { accesses, parent: parent as i32 };
    let added = call(libc::SYS_landlock_add_rule, [ruleset as usize, RULE_PATH_BENEATH, &raw const rule as usize, 0]);
    close(parent);
    added.map(drop)
}
