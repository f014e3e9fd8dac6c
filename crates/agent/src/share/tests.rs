//! The server, spoken to as a guest's kernel would, and as none should.

use std::{
    ffi::CString,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixStream,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};

use super::{MOST_MESSAGE, domain, host, message::operation as op, nodes::ROOT};

/// A guest's kernel.
struct Kernel {
    socket: UnixStream,
    unique: u64,
}

impl Kernel {
    fn of(folder: &Path, read_only: bool) -> Self {
        let (socket, other) = UnixStream::pair().unwrap();
        let root = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            domain::enter(&root).unwrap();
            host::serve(&other, root, read_only)
        });
        Self { socket, unique: 0 }
    }

    fn say(&mut self, operation: u32, node: u64, body: &[u8]) {
        self.unique += 1;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(40 + body.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&operation.to_ne_bytes());
        bytes.extend_from_slice(&self.unique.to_ne_bytes());
        bytes.extend_from_slice(&node.to_ne_bytes());
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        bytes.extend_from_slice(&uid.to_ne_bytes());
        bytes.extend_from_slice(&gid.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        self.socket.write_all(&bytes).unwrap();
    }

    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.say(operation, node, body);
        let mut head = [0; 16];
        self.socket.read_exact(&mut head).unwrap();
        let number = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from_ne_bytes(head[8..].try_into().unwrap()), self.unique);
        let mut body = vec![0; number(0) as usize - 16];
        self.socket.read_exact(&mut body).unwrap();
        match number(4).cast_signed() {
            0 => Ok(body),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    fn look(&mut self, folder: u64, name: &str) -> Result<u64, Errno> {
        self.ask(op::LOOKUP, folder, &text(name)).map(|entry| u64_at(&entry, 0))
    }

    fn open(&mut self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        self.ask(op::OPEN, node, &words(&[flags.bits(), 0])).map(|opened| u64_at(&opened, 0))
    }

    fn create(&mut self, folder: u64, name: &str, mode: u32) -> Result<(u64, u64), Errno> {
        let body = [words(&[OFlags::RDWR.bits(), mode, 0, 0]), text(name)].concat();
        self.ask(op::CREATE, folder, &body).map(|created| (u64_at(&created, 0), u64_at(&created, 128)))
    }

    fn read(&mut self, node: u64, handle: u64) -> Result<Vec<u8>, Errno> {
        self.ask(op::READ, node, &[long(handle), long(0), words(&[4096, 0]), long(0), words(&[0, 0])].concat())
    }

    fn write(&mut self, node: u64, handle: u64, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        let head = [long(handle), long(0), words(&[bytes.len() as u32, 0]), long(0), words(&[0, 0])].concat();
        self.ask(op::WRITE, node, &[&head, bytes].concat())
    }

    fn set_mode(&mut self, node: u64, mode: u32) -> Result<Vec<u8>, Errno> {
        let mut body = [0; 88];
        body[..4].copy_from_slice(&1_u32.to_ne_bytes());
        body[68..72].copy_from_slice(&mode.to_ne_bytes());
        self.ask(op::SETATTR, node, &body)
    }

    fn set_attribute(&mut self, node: u64, name: &str, value: &[u8], flags: u32) -> Result<Vec<u8>, Errno> {
        self.ask(op::SETXATTR, node, &[&words(&[value.len() as u32, flags]), &text(name)[..], value].concat())
    }

    fn attribute(&mut self, node: u64, name: &str, size: u32) -> Result<Vec<u8>, Errno> {
        self.ask(op::GETXATTR, node, &[words(&[size, 0]), text(name)].concat())
    }

    fn attributes(&mut self, node: u64) -> Result<Vec<u8>, Errno> {
        self.ask(op::GETATTR, node, &[0; 16])
    }
}

fn text(text: &str) -> Vec<u8> {
    CString::new(text).unwrap().into_bytes_with_nul()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn long(word: u64) -> Vec<u8> {
    word.to_ne_bytes().to_vec()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn a_folder_is_read_and_written() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("folder")).unwrap();
    fs::write(home.path().join("folder/file"), "content").unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    let folder = kernel.look(ROOT, "folder").unwrap();
    let file = kernel.look(folder, "file").unwrap();
    let open = kernel.open(file, OFlags::RDWR).unwrap();
    assert_eq!(kernel.read(file, open).unwrap(), b"content");
    kernel.write(file, open, b"CON").unwrap();
    assert_eq!(fs::read(home.path().join("folder/file")).unwrap(), b"CONtent");
    let (made, handle) = kernel.create(folder, "made", 0o640).unwrap();
    kernel.write(made, handle, b"new").unwrap();
    assert_eq!(fs::metadata(home.path().join("folder/made")).unwrap().mode() & 0o7777, 0o640);
    kernel.ask(op::RENAME2, folder, &[long(ROOT), words(&[0, 0]), text("made"), text("moved")].concat()).unwrap();
    assert_eq!(u64_at(&kernel.attributes(made).unwrap(), 24), 3);
    // What is open goes on when its name is gone, and is found by its number.
    kernel.ask(op::UNLINK, ROOT, &text("moved")).unwrap();
    assert_eq!(u64_at(&kernel.attributes(made).unwrap(), 24), 3);
    assert_eq!(kernel.read(made, handle).unwrap(), b"new");
    kernel.ask(op::RELEASE, made, &[long(handle), words(&[0, 0]), long(0)].concat()).unwrap();
    assert_eq!(kernel.attributes(made).unwrap_err(), Errno::NOENT);
    assert_eq!(kernel.read(made, handle).unwrap_err(), Errno::BADF);
}

#[test]
fn a_large_folder_is_listed_whole() {
    let home = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        fs::write(home.path().join(format!("file-{number}")), "").unwrap();
    }
    let mut kernel = Kernel::of(home.path(), true);
    let open = u64_at(&kernel.ask(op::OPENDIR, ROOT, &words(&[0, 0])).unwrap(), 0);
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let listed =
            kernel.ask(op::READDIR, ROOT, &[long(open), long(offset), words(&[4096, 0]), long(0), words(&[0, 0])].concat()).unwrap();
        assert!(listed.len() <= 4096);
        if listed.is_empty() {
            break;
        }
        let mut rest = listed.as_slice();
        while !rest.is_empty() {
            offset = u64_at(rest, 8);
            let length = u32::from_ne_bytes(rest[16..20].try_into().unwrap()) as usize;
            names.push(String::from_utf8(rest[24..24 + length].to_vec()).unwrap());
            rest = &rest[24 + length.next_multiple_of(8)..];
        }
    }
    names.retain(|name| name.starts_with("file-"));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2000);
}

#[test]
fn the_host_may_change_everything_at_any_time() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    fs::write(&path, "old").unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    let old = kernel.look(ROOT, "file").unwrap();
    fs::write(home.path().join("new"), "newer").unwrap();
    fs::rename(home.path().join("new"), &path).unwrap();
    let new = kernel.look(ROOT, "file").unwrap();
    assert_ne!(old, new);
    assert_eq!(kernel.attributes(old).unwrap_err(), Errno::NOENT);
    fs::remove_file(&path).unwrap();
    assert_eq!(kernel.look(ROOT, "file").unwrap_err(), Errno::NOENT);
    assert_eq!(kernel.open(new, OFlags::RDONLY).unwrap_err(), Errno::NOENT);
}

#[test]
fn nothing_leads_out() {
    let home = tempfile::tempdir().unwrap();
    let (inside, outside) = (home.path().join("inside"), home.path().join("outside"));
    fs::create_dir_all(inside.join("deep/er")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "not for you").unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    let mut kernel = Kernel::of(&inside, false);
    for name in ["..", ".", "", "deep/er", "../outside", "/etc"] {
        assert_eq!(kernel.look(ROOT, name).unwrap_err(), Errno::INVAL, "{name:?}");
        assert_eq!(kernel.create(ROOT, name, 0o600).unwrap_err(), Errno::INVAL, "{name:?}");
    }
    let link = kernel.look(ROOT, "link").unwrap();
    assert!(kernel.look(link, "secret").is_err());
    assert!(kernel.create(link, "made", 0o600).is_err());
    assert!(kernel.ask(op::OPENDIR, link, &words(&[0, 0])).is_err());
    assert!(kernel.open(link, OFlags::RDONLY).is_err());
    // A folder in the place of which somebody puts a link.
    let deep = kernel.look(ROOT, "deep").unwrap();
    fs::remove_dir_all(inside.join("deep")).unwrap();
    symlink(&outside, inside.join("deep")).unwrap();
    assert!(kernel.look(deep, "secret").is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), "content").unwrap();
    let mut kernel = Kernel::of(home.path(), true);
    let file = kernel.look(ROOT, "file").unwrap();
    assert_eq!(kernel.open(file, OFlags::RDWR).unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.open(file, OFlags::TRUNC).unwrap_err(), Errno::ROFS);
    let open = kernel.open(file, OFlags::RDONLY).unwrap();
    assert_eq!(kernel.write(file, open, b"x").unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.create(ROOT, "new", 0o600).unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.set_mode(file, 0o600).unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.set_attribute(file, "user.x", b"x", 0).unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.ask(op::REMOVEXATTR, file, &text("user.x")).unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.ask(op::COPY_FILE_RANGE, file, &[open, 0, file, open, 7, 7, 0].map(long).concat()).unwrap_err(), Errno::ROFS);
    assert_eq!(kernel.ask(op::UNLINK, ROOT, &text("file")).unwrap_err(), Errno::ROFS);
    assert_eq!(fs::read(home.path().join("file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn nothing_is_made_that_has_power() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    fs::set_permissions(home.path().join("file"), fs::Permissions::from_mode(0o755)).unwrap();
    rustix::fs::mknodat(CWD, home.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    let file = kernel.look(ROOT, "file").unwrap();
    assert_eq!(kernel.set_mode(file, 0o6755).unwrap_err(), Errno::PERM);
    assert_eq!(kernel.create(ROOT, "made", 0o4755).unwrap_err(), Errno::PERM);
    let device = [words(&[libc::S_IFCHR | 0o666, 0x103, 0, 0]), text("null")].concat();
    assert_eq!(kernel.ask(op::MKNOD, ROOT, &device).unwrap_err(), Errno::PERM);
    // Opening a pipe would wait for its other end, or wake somebody there.
    let pipe = kernel.look(ROOT, "pipe").unwrap();
    assert_eq!(kernel.open(pipe, OFlags::RDONLY).unwrap_err(), Errno::PERM);
    assert_eq!(fs::metadata(home.path().join("file")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn extended_attributes_are_the_users_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    fs::write(&path, "content").unwrap();
    symlink("file", home.path().join("link")).unwrap();
    rustix::fs::setxattr(&path, "user.host", b"of the host", rustix::fs::XattrFlags::CREATE).unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    let file = kernel.look(ROOT, "file").unwrap();
    assert_eq!(kernel.attribute(file, "user.host", 64).unwrap(), b"of the host");
    assert_eq!(kernel.attribute(file, "user.host", 0).unwrap(), words(&[11, 0]));
    assert_eq!(kernel.attribute(file, "user.host", 10).unwrap_err(), Errno::RANGE);
    assert_eq!(kernel.attribute(file, "user.none", 64).unwrap_err(), Errno::NODATA);
    kernel.set_attribute(file, "user.guest", b"\0of the guest", 1).unwrap();
    assert_eq!(kernel.set_attribute(file, "user.guest", b"", 1).unwrap_err(), Errno::EXIST);
    assert_eq!(kernel.set_attribute(file, "user.none", b"", 2).unwrap_err(), Errno::NODATA);
    let mut value = [0; 64];
    assert_eq!(rustix::fs::getxattr(&path, "user.guest", &mut value[..]).unwrap(), 13);
    let listed = kernel.ask(op::LISTXATTR, file, &words(&[4096, 0])).unwrap();
    assert_eq!(listed.len(), "user.host user.guest ".len());
    assert_eq!(kernel.ask(op::LISTXATTR, file, &words(&[0, 0])).unwrap(), words(&[listed.len() as u32, 0]));
    assert_eq!(kernel.ask(op::LISTXATTR, file, &words(&[5, 0])).unwrap_err(), Errno::RANGE);
    // What has a meaning for the host's kernel, or is no name at all; a value that is shorter than it says.
    for name in ["security.capability", "security.selinux", "trusted.overlay.opaque", "system.posix_acl_access", "user", "", "other.x"] {
        assert_eq!(kernel.set_attribute(file, name, &[0; 20], 0).unwrap_err(), Errno::OPNOTSUPP, "{name:?}");
        assert_eq!(kernel.attribute(file, name, 64).unwrap_err(), Errno::OPNOTSUPP, "{name:?}");
        assert_eq!(kernel.ask(op::REMOVEXATTR, file, &text(name)).unwrap_err(), Errno::OPNOTSUPP, "{name:?}");
    }
    assert_eq!(kernel.set_attribute(file, "user.x", b"", 4).unwrap_err(), Errno::INVAL);
    assert_eq!(kernel.ask(op::SETXATTR, file, &[&words(&[100, 0]), &text("user.x")[..]].concat()).unwrap_err(), Errno::INVAL);
    assert_eq!(kernel.ask(op::SETXATTR, file, &[&words(&[1, 0])[..], b"user.x"].concat()).unwrap_err(), Errno::INVAL);
    // A link has none, and leads nowhere.
    let link = kernel.look(ROOT, "link").unwrap();
    assert_eq!(kernel.attribute(link, "user.host", 64).unwrap_err(), Errno::NODATA);
    assert_eq!(kernel.set_attribute(link, "user.x", b"", 0).unwrap_err(), Errno::PERM);
    // What is open has them after its name is gone.
    let open = kernel.open(file, OFlags::RDONLY).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(kernel.attribute(file, "user.host", 64).unwrap(), b"of the host");
    kernel.ask(op::REMOVEXATTR, file, &text("user.host")).unwrap();
    assert_eq!(kernel.attribute(file, "user.host", 64).unwrap_err(), Errno::NODATA);
    kernel.ask(op::RELEASE, file, &[long(open), words(&[0, 0]), long(0)].concat()).unwrap();
    assert_eq!(kernel.attribute(file, "user.guest", 64).unwrap_err(), Errno::NOENT);
}

#[test]
fn what_another_namespace_says_of_a_file_is_not_told() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    fs::write(&path, "").unwrap();
    rustix::fs::setxattr(&path, "user.told", b"", rustix::fs::XattrFlags::CREATE).unwrap();
    // An access control list of its own is what any user may set: this user reads and writes, and so does user 1.
    let entry = |tag: u16, may: u16, id: u32| [&tag.to_ne_bytes()[..], &may.to_ne_bytes(), &id.to_ne_bytes()].concat();
    let list: Vec<u8> = [2_u32.to_ne_bytes().to_vec()]
        .into_iter()
        .chain(
            [(1, 6, u32::MAX), (2, 6, 1), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)].map(|(tag, may, id)| entry(tag, may, id)),
        )
        .flatten()
        .collect();
    rustix::fs::setxattr(&path, "system.posix_acl_access", &list, rustix::fs::XattrFlags::CREATE).unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    let file = kernel.look(ROOT, "file").unwrap();
    assert_eq!(kernel.ask(op::LISTXATTR, file, &words(&[4096, 0])).unwrap(), b"user.told\0");
}

#[test]
fn a_part_of_a_file_is_copied_on_the_host() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("from"), vec![7; 100_000]).unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    let from = kernel.look(ROOT, "from").unwrap();
    let source = kernel.open(from, OFlags::RDONLY).unwrap();
    let (to, target) = kernel.create(ROOT, "to", 0o600).unwrap();
    let mut copy = |source: u64, target: u64, length: u64, flags: u64| {
        kernel.ask(op::COPY_FILE_RANGE, from, &[source, 10, to, target, 20, length, flags].map(long).concat())
    };
    assert_eq!(copy(source, target, 1000, 0).unwrap(), words(&[1000, 0]));
    // No further than the file goes, and one request does not copy for ever.
    assert_eq!(copy(source, target, u64::MAX >> 1, 0).unwrap(), words(&[99_990, 0]));
    assert_eq!(copy(source, target, 1000, 1).unwrap_err(), Errno::INVAL);
    assert_eq!(copy(source, 77, 1000, 0).unwrap_err(), Errno::BADF);
    // Not into what was opened for reading.
    assert_eq!(copy(target, source, 1000, 0).unwrap_err(), Errno::BADF);
    let copied = fs::read(home.path().join("to")).unwrap();
    assert!(copied.len() == 20 + 99_990 && copied[..20] == [0; 20] && copied[20..].iter().all(|byte| *byte == 7));
}

#[test]
fn rubbish_is_refused_or_ends_the_connection() {
    let home = tempfile::tempdir().unwrap();
    let mut kernel = Kernel::of(home.path(), false);
    for operation in 0..60 {
        // No answer belongs to these.
        if matches!(operation, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
            kernel.say(operation, 77, &[0xff; 9]);
            continue;
        }
        for body in [&[][..], &[0xff; 7], &[0xff; 200], &[0; 200]] {
            for node in [0, ROOT, 77, u64::MAX] {
                let _ = kernel.ask(operation, node, body);
            }
        }
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    kernel.socket.write_all(&(MOST_MESSAGE as u32 + 1).to_ne_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = kernel.socket.read_to_end(&mut rest);
    assert!(rest.is_empty());
}
