use std::{
    collections::BTreeMap,
    ffi::OsStr,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use sandbar_protocol::{Event, Watch, WatchEvent, event};
use sandbar_tree::{Base, Symlinks};

use crate::{
    failure::{Kind, Result, failure, system, system_as},
    files::{done, path, refused},
    transfer::{Link, lost},
};

/// Most directories of one watch.
const MAX_DIRECTORIES: usize = 1 << 16;

/// The numbers of [`WatchEvent::kind`].
const OVERFLOW: u32 = 0;
const CREATED: u32 = 1;
const MODIFIED: u32 = 2;
const REMOVED: u32 = 3;
const ATTRIBUTES: u32 = 4;

/// Tells changes until the host leaves or the watched path is gone. A file made in a new directory in the moment before that is
/// watched is told as well; now and then twice. `words` says that the end of the host's words is its end: where no hang-up is told.
pub(crate) fn run(base: &Base, request: &Watch, words: bool, link: &mut Link) -> Result<()> {
    let mut watching = Watching::new(base, request)?;
    done(link)?;
    let told = watching.run(words, link);
    match told {
        Ok(()) => Ok(()),
        Err(failure) => link.say(&Event { what: Some(event::What::Failure(failure)) }).map_err(|error| lost(&error)),
    }
}

struct Watching<'base> {
    base: &'base Base,
    root: &'base Path,
    recursive: bool,
    queue: OwnedFd,
    /// Watched directories, relative to the root, by their watch.
    directories: BTreeMap<i32, PathBuf>,
    root_watch: i32,
}

impl<'base> Watching<'base> {
    fn new(base: &'base Base, request: &'base Watch) -> Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|errno| limit("make another watch", errno))?;
        let root = path(&request.path);
        let mut watching = Self { base, root, recursive: request.recursive, queue, directories: BTreeMap::new(), root_watch: -1 };
        match base.stat(root, Symlinks::Follow).map_err(refused)?.kind {
            sandbar_tree::Kind::Directory => {
                watching.add(Path::new(""))?;
                watching.root_watch = watching.directories.keys().next().copied().unwrap_or(-1);
                if request.recursive {
                    let mut found = Vec::new();
                    watching.descend(Path::new(""), &mut found, false)?;
                }
            }
            sandbar_tree::Kind::File => {
                let file = base.open_file(root, sandbar_tree::Access::Read, 0).map_err(refused)?;
                watching.root_watch = watching.watch(file.as_fd())?;
                watching.directories.insert(watching.root_watch, PathBuf::new());
            }
            _ => return Err(failure(Kind::InvalidInput, format!("{root:?} is neither a file nor a directory"))),
        }
        Ok(watching)
    }

    fn run(&mut self, words: bool, link: &mut Link) -> Result<()> {
        let of_the_host = if words { PollFlags::IN } else { PollFlags::empty() };
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        loop {
            {
                let socket = link.socket().as_fd();
                // Hang-ups are told without being asked for; a host that only ended its own words still listens.
                let mut fds = [PollFd::new(&self.queue, PollFlags::IN), PollFd::from_borrowed_fd(socket, of_the_host)];
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(system("cannot wait for changes", errno)),
                }
                // It has nothing to say after its request, so what can be read is its end.
                if !fds[1].revents().is_empty() {
                    return Ok(());
                }
            }
            let mut events = Vec::new();
            let gone = self.read(&mut buffer, &mut events)?;
            for event in events {
                if link.say(&Event { what: Some(event::What::Watch(event)) }).is_err() {
                    return Ok(());
                }
            }
            if gone {
                return Ok(());
            }
        }
    }

    /// One read's events. Returns whether the watched path is gone.
    fn read(&mut self, buffer: &mut [MaybeUninit<u8>], events: &mut Vec<WatchEvent>) -> Result<bool> {
        let mut raw = Vec::new();
        {
            let mut reader = Reader::new(&self.queue, buffer);
            loop {
                match reader.next() {
                    Ok(event) => raw.push((event.wd(), event.events(), event.file_name().map(|name| name.to_bytes().to_vec()))),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(system("cannot read changes", errno)),
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
        for (watch, what, name) in raw {
            if self.digest(watch, what, name.as_deref(), events)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn digest(&mut self, watch: i32, what: ReadFlags, name: Option<&[u8]>, events: &mut Vec<WatchEvent>) -> Result<bool> {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            events.push(told(OVERFLOW, Path::new(""), false));
            return Ok(false);
        }
        let is_root = watch == self.root_watch;
        if is_root && what.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED) {
            events.push(told(REMOVED, Path::new(""), false));
            return Ok(true);
        }
        if what.contains(ReadFlags::IGNORED) {
            self.directories.remove(&watch);
            return Ok(false);
        }
        let Some(directory) = self.directories.get(&watch) else { return Ok(false) };
        let is_directory = what.contains(ReadFlags::ISDIR);
        let relative = match name {
            Some(name) => directory.join(OsStr::from_bytes(name)),
            // A watched directory below the root: its own parent tells the same with its name.
            None if !is_root => return Ok(false),
            None => PathBuf::new(),
        };
        let appeared = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let vanished = what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let kind = match what {
            _ if appeared => CREATED,
            _ if vanished => REMOVED,
            _ if what.contains(ReadFlags::MODIFY) => MODIFIED,
            _ if what.contains(ReadFlags::ATTRIB) => ATTRIBUTES,
            _ => return Ok(false),
        };
        events.push(told(kind, &relative, is_directory));
        if self.recursive && is_directory && vanished {
            self.leave(&relative);
        }
        if self.recursive && is_directory && appeared {
            self.descend(&relative, events, true)?;
        }
        Ok(false)
    }

    /// Watches everything below a directory, and the directory unless it is the root; tells what it finds if `tell`.
    fn descend(&mut self, relative: &Path, events: &mut Vec<WatchEvent>, tell: bool) -> Result<()> {
        let mut open = vec![relative.to_path_buf()];
        while let Some(directory) = open.pop() {
            let is_root = directory.as_os_str().is_empty();
            // One that vanished meanwhile has nothing to tell.
            if !is_root && !self.add(&directory)? {
                continue;
            }
            let Ok(entries) = self.base.read_dir(self.full(&directory)) else { continue };
            for entry in entries.flatten() {
                let path = directory.join(&entry.name);
                let is_directory = entry.metadata.kind == sandbar_tree::Kind::Directory;
                if tell && events.len() < MAX_DIRECTORIES {
                    events.push(told(CREATED, &path, is_directory));
                }
                if is_directory {
                    open.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches one directory. Returns whether it was there.
    fn add(&mut self, relative: &Path) -> Result<bool> {
        if self.directories.len() >= MAX_DIRECTORIES {
            return Err(failure(Kind::ResourceExhausted, format!("more than {MAX_DIRECTORIES} directories to watch")));
        }
        let directory = match self.base.open_directory(self.full(relative)) {
            Ok(directory) => directory,
            Err(error) if relative.as_os_str().is_empty() => return Err(refused(error)),
            Err(_) => return Ok(false),
        };
        let watch = self.watch(directory.as_fd())?;
        self.directories.insert(watch, relative.to_path_buf());
        Ok(true)
    }

    fn watch(&self, fd: BorrowedFd<'_>) -> Result<i32> {
        let what = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        // By descriptor, since the path may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        inotify::add_watch(&self.queue, path, what).map_err(|errno| match errno {
            Errno::NOENT => system_as(Kind::Unavailable, "watching needs /proc", errno),
            errno => limit("watch another directory", errno),
        })
    }

    /// Ends the watches of a directory that moved away: its events would be told under a name that it no longer has.
    fn leave(&mut self, relative: &Path) {
        let left: Vec<i32> = self.directories.iter().filter(|(_, path)| path.starts_with(relative)).map(|(watch, _)| *watch).collect();
        for watch in left {
            self.directories.remove(&watch);
            let _ = inotify::remove_watch(&self.queue, watch);
        }
    }

    fn full(&self, relative: &Path) -> PathBuf {
        if relative.as_os_str().is_empty() { self.root.to_path_buf() } else { self.root.join(relative) }
    }
}

fn limit(what: &str, errno: Errno) -> sandbar_protocol::Failure {
    match errno {
        Errno::NOSPC => system_as(Kind::ResourceExhausted, format!("cannot {what}: fs.inotify.max_user_watches is reached"), errno),
        Errno::MFILE => system_as(Kind::ResourceExhausted, format!("cannot {what}: fs.inotify.max_user_instances is reached"), errno),
        errno => system(format!("cannot {what}"), errno),
    }
}

fn told(kind: u32, path: &Path, is_directory: bool) -> WatchEvent {
    WatchEvent { kind, path: path.as_os_str().as_bytes().to_vec(), is_directory }
}
