//! On the host: becomes a machine's monitor with as little of the host as that needs. What breaks out of the machine is in its place, so it finds files that are the
//! machine's, a few sockets that are open already, and no other way on.
#![expect(unsafe_code, reason = "leaving namespaces and the flags of an inherited descriptor have no safe wrapper")]

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::symlink, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope};
use rustix::{
    fs::{CWD, FileType, Gid, Mode, Uid},
    io::{Errno, FdFlags},
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{Pid, Signal},
    thread::UnshareFlags,
};

/// The newest version whose rights are known here, of Linux 6.12; an older kernel refuses what it knows.
const NEWEST: ABI = ABI::V6;
/// The first descriptor that is a socket: what is before is open already.
const FIRST_SOCKET: i32 = 3;
/// The bits of a mode that let everybody read and write.
const FOR_ALL: u32 = 0o006;
/// Connections that wait until the monitor takes them.
const WAITING: i32 = 16;
/// Folders that a system's programs name in short; most systems have links there.
const SHORT: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Read,
    Write,
    /// To write and to control.
    Device,
}

/// What is left of the host.
#[derive(Debug, Default)]
struct Confinement {
    /// The process that it ends with.
    owner: Option<Pid>,
    /// Who it becomes; `None` without root.
    user: Option<u32>,
    /// Sockets to listen on, by name in the working directory; they are descriptors from [`FIRST_SOCKET`] on.
    sockets: Vec<OsString>,
    /// Absolute paths.
    paths: Vec<(PathBuf, May)>,
}

/// `confine OWNER USER|- [listen NAME]… [read|write|device PATH]… -- PROGRAM ARGUMENT…`: becomes the program, with that user, in namespaces of its own where nothing is but these paths, or
/// without root at least unable to open anything else, and with the sockets. The working directory stays. With an owner (not 0) it is killed when that is gone.
///
/// # Errors
/// When it cannot be so confined, or the program cannot be executed: nothing has run then.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let (confinement, mut program) =
        parse(arguments).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "confine OWNER USER|- …"))?;
    confinement.enter()?;
    Err(program.exec())
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<(Confinement, Command)> {
    let owner = Pid::from_raw(arguments.next()?.to_str()?.parse().ok()?);
    let user = match arguments.next()?.to_str()? {
        "-" => None,
        user => Some(user.parse().ok()?),
    };
    let mut confinement = Confinement { owner, user, ..Confinement::default() };
    loop {
        let word = arguments.next()?;
        let may = match word.to_str()? {
            "--" => break,
            "listen" => {
                confinement.sockets.push(arguments.next()?);
                continue;
            }
            "read" => May::Read,
            "write" => May::Write,
            "device" => May::Device,
            _ => return None,
        };
        confinement.paths.push((arguments.next()?.into(), may));
    }
    let mut program = Command::new(arguments.next()?);
    program.args(arguments);
    Some((confinement, program))
}

impl Confinement {
    fn enter(mut self) -> io::Result<()> {
        let sockets = self.sockets.iter().map(|name| listen(Path::new(name))).collect::<io::Result<Vec<_>>>()?;
        for (index, socket) in sockets.into_iter().enumerate() {
            keep_open(socket, FIRST_SOCKET + i32::try_from(index).unwrap_or(i32::MAX))?;
        }
        let links = self.add_short_names();
        if let Some(user) = self.user {
            self.enter_root(user, links)?;
        }
        rustix::thread::set_no_new_privs(true)?;
        self.forbid()?;
        // To become another user undoes this.
        if let Some(owner) = self.owner {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(owner) {
                return Err(io::Error::other("the owner is gone"));
            }
        }
        Ok(())
    }

    /// As root: a root with nothing but these paths in it, at the places where they are; no network, no shared memory of others; then another user, without any right.
    fn enter_root(&mut self, user: u32, links: Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
        let folder = std::env::current_dir()?;
        // Others must get through the folders on the way to a path.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        // SAFETY: this process has one thread, and none of these is about descriptors.
        unsafe {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)
        }?;
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        // What lies within another comes later.
        self.paths.sort_by_key(|(path, _)| path.components().count());
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let trees = self.paths.iter().map(|(path, may)| Ok((path, *may, rustix::mount::open_tree(CWD, path, clone)?)));
        let trees = trees.collect::<io::Result<Vec<_>>>()?;
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        rustix::mount::mount("none", &folder, "tmpfs", MountFlags::NOSUID, c"size=1m,mode=755")?;
        std::env::set_current_dir(&folder)?;
        for (path, may, tree) in trees {
            let place = within(path);
            let found = rustix::fs::fstat(&tree)?;
            if may == May::Device && found.st_mode & FOR_ALL != FOR_ALL {
                // One of its own, so that it needs no group of the host's.
                fs::create_dir_all(place.parent().unwrap_or(&place))?;
                rustix::fs::mknodat(CWD, &place, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, found.st_rdev)?;
                rustix::fs::chown(&place, Some(uid), Some(gid))?;
                continue;
            }
            make_place(&place, &tree)?;
            rustix::mount::move_mount(tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            let flags = match may {
                May::Read => MountFlags::RDONLY | MountFlags::NODEV,
                May::Write => MountFlags::NODEV | MountFlags::NOEXEC,
                May::Device => MountFlags::NOEXEC,
            };
            rustix::mount::mount_remount(&place, MountFlags::BIND | MountFlags::NOSUID | flags, c"")?;
        }
        for (link, target) in links {
            symlink(target, within(&link))?;
        }
        fs::create_dir_all(within(&folder))?;
        rustix::mount::mount_remount(".", MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, c"")?;
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        std::env::set_current_dir(&folder)?;
        rustix::system::sethostname(b"machine")?;
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
    }

    /// The short names of folders of programs: those that are links here, and their targets. The others become paths.
    fn add_short_names(&mut self) -> Vec<(PathBuf, PathBuf)> {
        let mut links = Vec::new();
        for path in SHORT.map(PathBuf::from) {
            match fs::read_link(&path) {
                Ok(target) => links.push((path, target)),
                Err(_) if path.is_dir() => self.paths.push((path, May::Read)),
                Err(_) => {}
            }
        }
        links
    }

    /// By Landlock: opens nothing but these paths, connects to no port, and signals and traces nobody else. Where the kernel has no Landlock, nothing changes.
    fn forbid(&self) -> io::Result<()> {
        let files = AccessFs::from_all(NEWEST);
        let ruleset = Ruleset::default()
            .handle_access(files)
            .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
            .and_then(Ruleset::create)
            .map_err(io::Error::other)?;
        let read = AccessFs::from_read(NEWEST);
        let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        let rules = self.paths.iter().filter_map(|(path, may)| {
            let access: BitFlags<AccessFs> = match may {
                May::Read => read,
                May::Write => write,
                May::Device => write | AccessFs::IoctlDev,
            };
            // What is not there cannot be opened anyway.
            Some(Ok(PathBeneath::new(PathFd::new(path).ok()?, access)))
        });
        let rules: Vec<Result<_, landlock::RulesetError>> = rules.collect();
        let entered = ruleset.add_rules(rules).and_then(|ruleset| ruleset.restrict_self());
        entered.map(drop).map_err(io::Error::other)
    }
}

/// A path below the working directory, which is to become the root.
fn within(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

/// Something to mount a tree on.
fn make_place(place: &Path, tree: &OwnedFd) -> io::Result<()> {
    if fs::symlink_metadata(place).is_ok() {
        return Ok(());
    }
    if FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode) == FileType::Directory {
        return fs::create_dir_all(place);
    }
    fs::create_dir_all(place.parent().unwrap_or(place))?;
    File::create_new(place).map(drop)
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, WAITING)?;
    Ok(socket)
}

/// Has a descriptor inherited, by this number: the lowest that is free is what the kernel has given.
fn keep_open(socket: OwnedFd, number: i32) -> io::Result<()> {
    if socket.as_raw_fd() != number {
        return Err(Errno::MFILE.into());
    }
    rustix::io::fcntl_setfd(&socket, FdFlags::empty())?;
    // The program has it from now on.
    std::mem::forget(socket);
    Ok(())
}
