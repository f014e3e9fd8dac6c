use std::{
    collections::HashMap,
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat2},
    io::Errno,
};

/// `FUSE_ROOT_ID`.
pub(super) const ROOT: u64 = 1;
/// Most names that are known at a time, of some two hundred bytes each: a guest that never forgets any is told that there is no more memory.
const MOST_NODES: usize = 1 << 19;
/// What the kernel takes for a path.
const MOST_PATH: usize = 4095;

/// The names that the guest's kernel knows, by numbers that are never used twice. A name is resolved anew each time, so that what the host changes is
/// seen, and nothing is held for what is only known.
pub(super) struct Nodes {
    root: OwnedFd,
    known: HashMap<u64, Node>,
    names: HashMap<(u64, Rc<CStr>), u64>,
    next: u64,
}

struct Node {
    /// Its folder and its name there; `None` when it has been removed, or is another file's by now.
    place: Option<(u64, Rc<CStr>)>,
    identity: Identity,
    /// How often the kernel was told of it, and has not forgotten it.
    told: u64,
    /// What is open of it: that goes on where the name is gone.
    handles: Vec<u64>,
}

/// What makes two files different.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64, u32);

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino, stat.st_mode & libc::S_IFMT)
    }
}

impl Nodes {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, known: HashMap::new(), names: HashMap::new(), next: ROOT + 1 }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Notes that the kernel is told of this name; its number.
    pub(super) fn tell(&mut self, folder: u64, name: &CStr, stat: &Stat) -> Result<u64, Errno> {
        let (place, identity) = ((folder, Rc::from(name)), Identity::of(stat));
        if let Some(number) = self.names.get(&place).copied() {
            match self.known.get_mut(&number) {
                Some(node) if node.identity == identity => {
                    node.told = node.told.saturating_add(1);
                    return Ok(number);
                }
                // The host has put another file there.
                _ => self.remove(folder, name),
            }
        }
        if self.known.len() >= MOST_NODES {
            return Err(Errno::NOMEM);
        }
        let number = self.next;
        self.next += 1;
        self.names.insert(place.clone(), number);
        self.known.insert(number, Node { place: Some(place), identity, told: 1, handles: Vec::new() });
        Ok(number)
    }

    /// Notes that the kernel has forgotten a number, so often.
    pub(super) fn forget(&mut self, number: u64, often: u64) {
        let Some(node) = self.known.get_mut(&number) else { return };
        node.told = node.told.saturating_sub(often);
        self.drop_if_unknown(number);
    }

    fn drop_if_unknown(&mut self, number: u64) {
        if self.known.get(&number).is_some_and(|node| node.told == 0 && node.handles.is_empty())
            && let Some(Node { place: Some(place), .. }) = self.known.remove(&number)
        {
            self.names.remove(&place);
        }
    }

    /// Notes that something is open; what is closed again is noted by [`closed`](Self::closed).
    pub(super) fn opened(&mut self, number: u64, handle: u64) {
        if let Some(node) = self.known.get_mut(&number) {
            node.handles.push(handle);
        }
    }

    pub(super) fn closed(&mut self, number: u64, handle: u64) {
        if let Some(node) = self.known.get_mut(&number) {
            node.handles.retain(|open| *open != handle);
        }
        self.drop_if_unknown(number);
    }

    /// Something that is open of it.
    pub(super) fn handle(&self, number: u64) -> Option<u64> {
        self.known.get(&number)?.handles.first().copied()
    }

    /// Notes that a name is gone.
    pub(super) fn remove(&mut self, folder: u64, name: &CStr) {
        if let Some(number) = self.names.remove(&(folder, Rc::from(name)))
            && let Some(node) = self.known.get_mut(&number)
        {
            node.place = None;
        }
    }

    /// Notes that a name has become another one, or that two have changed places.
    pub(super) fn rename(&mut self, (from, old): (u64, &CStr), (to, new): (u64, &CStr), exchange: bool) {
        let (source, target) = ((from, Rc::from(old)), (to, Rc::from(new)));
        let (moved, replaced) = (self.names.remove(&source), self.names.remove(&target));
        self.put(moved, Some(target));
        self.put(replaced, exchange.then_some(source));
    }

    fn put(&mut self, number: Option<u64>, place: Option<(u64, Rc<CStr>)>) {
        let Some(number) = number else { return };
        if let Some(place) = &place {
            self.names.insert(place.clone(), number);
        }
        if let Some(node) = self.known.get_mut(&number) {
            node.place = place;
        }
    }

    /// Its folder and its name there.
    pub(super) fn place(&self, number: u64) -> Result<(u64, &CStr), Errno> {
        let node = self.known.get(&number).ok_or(Errno::STALE)?;
        node.place.as_ref().map(|(folder, name)| (*folder, &**name)).ok_or(Errno::NOENT)
    }

    /// Finds what has this number, without opening it.
    pub(super) fn find(&self, number: u64) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if number == ROOT {
            return rustix::io::fcntl_dupfd_cloexec(&self.root, 3);
        }
        openat2(&self.root, self.path(number)?.as_slice(), flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    /// The path from the root. A circle, which a guest can make by moving folders that the host has moved, is as long as no path may be.
    fn path(&self, mut number: u64) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        let mut length = 0;
        while number != ROOT {
            let (folder, name) = self.place(number)?;
            length += name.count_bytes() + 1;
            if length > MOST_PATH {
                return Err(Errno::NAMETOOLONG);
            }
            names.push(name.to_bytes());
            number = folder;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Finds something in a folder, without opening it.
    pub(super) fn look(&self, folder: u64, name: &CStr) -> Result<(OwnedFd, Stat), Errno> {
        let folder = self.find(folder)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty())?;
        let stat = fstat(&found)?;
        Ok((found, stat))
    }
}
