//! What programs ask of a file system, in a folder.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink},
    },
};

use crate::{
    number::{
        COPY_FILE_RANGE, FALLOCATE, FCNTL, GETXATTR, LISTXATTR, LSEEK, MKNODAT, MMAP, MSYNC, REMOVEXATTR, RENAMEAT2, SETXATTR, STATFS,
    },
    say,
    sys::{self, raw, text},
};

/// fcntl.h, linux/fs.h, linux/xattr.h, asm-generic/errno.h.
const HERE: usize = -100_isize as usize;
const NOREPLACE: usize = 1;
const EXCHANGE: usize = 2;
const KEEP_SIZE_AND_PUNCH: usize = 3;
const SEEK_DATA: usize = 3;
const SEEK_HOLE: usize = 4;
const SETLK: usize = 6;
const TMPFILE: i32 = if cfg!(target_arch = "x86_64") { 0o20_200_000 } else { 0o20_040_000 };
const EXIST: i32 = 17;
const NODATA: i32 = 61;

type Outcome = io::Result<bool>;
type Check = (&'static str, fn() -> Outcome);

/// Each of them is a line: that it `works`, that it is `refused`, or what is `wrong`.
pub(crate) fn all(folder: &str) -> io::Result<()> {
    const CHECKS: &[Check] = &[
        ("attributes", attributes),
        ("attributes-of-folders", || {
            set(".", "user.folder", b"too", 0).map(|()| get(".", "user.folder").is_ok_and(|value| value == b"too"))
        }),
        ("noreplace", noreplace),
        ("exchange", exchange),
        ("allocate", allocate),
        ("holes", holes),
        ("copy", copy),
        ("links", links),
        ("locks", locks),
        ("record-locks", record_locks),
        ("map", map),
        ("space", space),
        ("symlinks", symlinks),
        ("devices", devices),
        ("nameless", nameless),
        ("unlinked", unlinked),
    ];
    env::set_current_dir(folder)?;
    for (name, check) in CHECKS {
        match check() {
            Ok(true) => say(&format!("{name} works")),
            Ok(false) => say(&format!("{name} wrong")),
            Err(error) => say(&format!("{name} refused: {error}")),
        }
    }
    Ok(())
}

fn open(name: &str) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).open(name)
}

fn set(path: &str, name: &str, value: &[u8], flags: usize) -> io::Result<()> {
    let (path, name) = (text(path), text(name));
    raw(SETXATTR, [path.as_ptr() as usize, name.as_ptr() as usize, value.as_ptr() as usize, value.len(), flags, 0]).map(drop)
}

fn get(path: &str, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (text(path), text(name));
    let mut value = vec![0; 4096];
    let length = raw(GETXATTR, [path.as_ptr() as usize, name.as_ptr() as usize, value.as_mut_ptr() as usize, value.len(), 0, 0])?;
    value.truncate(length);
    Ok(value)
}

fn fails_with<T>(outcome: io::Result<T>, errno: i32) -> bool {
    outcome.is_err_and(|error| error.raw_os_error() == Some(errno))
}

fn attributes() -> Outcome {
    fs::write("attributed", "content")?;
    set("attributed", "user.colour", b"green", 0)?;
    let was = get("attributed", "user.colour")?;
    // XATTR_CREATE.
    let again = set("attributed", "user.colour", b"red", 1);
    set("attributed", "user.gone", b"", 0)?;
    let (path, name) = (text("attributed"), text("user.gone"));
    let mut names = vec![0_u8; 4096];
    let length = raw(LISTXATTR, [path.as_ptr() as usize, names.as_mut_ptr() as usize, names.len(), 0, 0, 0])?;
    let listed = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).count();
    raw(REMOVEXATTR, [path.as_ptr() as usize, name.as_ptr() as usize, 0, 0, 0, 0])?;
    Ok(was == b"green" && fails_with(again, EXIST) && listed == 2 && fails_with(get("attributed", "user.gone"), NODATA))
}

fn rename(from: &str, to: &str, flags: usize) -> io::Result<()> {
    let (from, to) = (text(from), text(to));
    raw(RENAMEAT2, [HERE, from.as_ptr() as usize, HERE, to.as_ptr() as usize, flags, 0]).map(drop)
}

fn noreplace() -> Outcome {
    fs::write("one", "1")?;
    fs::write("two", "2")?;
    let taken = fails_with(rename("one", "two", NOREPLACE), EXIST);
    rename("one", "free", NOREPLACE)?;
    Ok(taken && fs::read("two")? == b"2" && fs::read("free")? == b"1" && fs::metadata("one").is_err())
}

fn exchange() -> Outcome {
    fs::write("left", "left")?;
    fs::create_dir("right")?;
    fs::write("right/below", "right")?;
    rename("left", "right", EXCHANGE)?;
    Ok(fs::read("right")? == b"left" && fs::read("left/below")? == b"right")
}

fn allocate() -> Outcome {
    let file = open("allocated")?;
    let number = file.as_raw_fd() as usize;
    raw(FALLOCATE, [number, 0, 0, 1 << 20, 0, 0])?;
    file.write_all_at(&[7; 8192], 0)?;
    raw(FALLOCATE, [number, KEEP_SIZE_AND_PUNCH, 0, 4096, 0, 0])?;
    let mut start = [1; 8192];
    file.read_exact_at(&mut start, 0)?;
    Ok(file.metadata()?.len() == 1 << 20 && start[..4096] == [0; 4096] && start[4096..] == [7; 4096])
}

fn holes() -> Outcome {
    let file = open("holes")?;
    file.set_len(4 << 20)?;
    file.write_all_at(&[7; 4096], 2 << 20)?;
    file.sync_all()?;
    let number = file.as_raw_fd() as usize;
    let data = raw(LSEEK, [number, 0, SEEK_DATA, 0, 0, 0])?;
    let hole = raw(LSEEK, [number, 2 << 20, SEEK_HOLE, 0, 0, 0])?;
    if (data, hole) == (0, 4 << 20) {
        return Err(io::Error::other("all of it is data"));
    }
    Ok(data == 2 << 20 && hole == (2 << 20) + 4096)
}

fn copy() -> Outcome {
    let (source, target) = (open("copied")?, open("copy")?);
    source.write_all_at(&[7; 100_000], 0)?;
    let mut copied = 0;
    while copied < 100_000 {
        let numbers = [source.as_raw_fd() as usize, 0, target.as_raw_fd() as usize, 0, 100_000 - copied, 0];
        match raw(COPY_FILE_RANGE, numbers)? {
            0 => return Ok(false),
            length => copied += length,
        }
    }
    Ok(fs::read("copy")? == [7; 100_000])
}

fn links() -> Outcome {
    fs::write("linked", "before")?;
    fs::hard_link("linked", "link")?;
    fs::write("linked", "after")?;
    let (one, other) = (fs::metadata("linked")?, fs::metadata("link")?);
    Ok(one.ino() == other.ino() && other.nlink() == 2 && fs::read("link")? == b"after")
}

fn locks() -> Outcome {
    let (one, other) = (open("locked")?, File::open("locked")?);
    one.lock()?;
    let held = other.try_lock().is_err();
    one.unlock()?;
    Ok(held && other.try_lock().is_ok())
}

/// A lock of this process on all of a file.
fn lock_records(file: &File) -> io::Result<()> {
    // struct flock: F_WRLCK from the beginning, without an end.
    let mut lock = [0_u64; 4];
    lock[0] = 1;
    raw(FCNTL, [file.as_raw_fd() as usize, SETLK, lock.as_ptr() as usize, 0, 0, 0]).map(drop)
}

fn record_locks() -> Outcome {
    let file = open("records")?;
    lock_records(&file)?;
    let code = sys::in_child(|| u8::from(File::options().write(true).open("records").is_ok_and(|own| lock_records(&own).is_ok())))?;
    Ok(code == 0)
}

fn map() -> Outcome {
    const LENGTH: usize = 8192;
    let mut file = open("mapped")?;
    file.write_all(&[b'.'; LENGTH])?;
    // PROT_READ and PROT_WRITE; MAP_SHARED; then MS_SYNC.
    let at = raw(MMAP, [0, LENGTH, 3, 1, file.as_raw_fd() as usize, 0])?;
    if !sys::poke(at, LENGTH, 5000, b"mapped") {
        return Ok(false);
    }
    raw(MSYNC, [at, LENGTH, 4, 0, 0, 0])?;
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut read)?;
    Ok(read.len() == LENGTH && &read[5000..5006] == b"mapped" && read[4999] == b'.')
}

fn space() -> Outcome {
    let (path, mut told) = (text("."), [0_u64; 32]);
    raw(STATFS, [path.as_ptr() as usize, told.as_mut_ptr() as usize, 0, 0, 0, 0])?;
    // f_type, f_bsize, f_blocks, f_bfree.
    Ok(told[1] > 0 && told[2] > 0 && told[3] <= told[2])
}

/// A link is text, which means what it means here.
fn symlinks() -> Outcome {
    fs::write("/tmp/inside", "of the sandbox")?;
    symlink("/tmp/inside", "outwards")?;
    Ok(fs::read("outwards")? == b"of the sandbox" && fs::read_link("outwards")?.as_os_str() == "/tmp/inside")
}

/// Refused, or of no use.
fn devices() -> Outcome {
    // Character device 1:5, /dev/zero.
    let name = text("device");
    let made = raw(MKNODAT, [HERE, name.as_ptr() as usize, 0o020_666, 1 << 8 | 5, 0, 0]);
    let opened = made.is_ok() && File::open("device").is_ok();
    let _ = fs::remove_file("device");
    Ok(!opened)
}

fn nameless() -> Outcome {
    let mut file = File::options().read(true).write(true).custom_flags(TMPFILE).open(".")?;
    file.write_all(b"nameless")?;
    file.seek(SeekFrom::Start(0))?;
    let mut read = String::new();
    file.read_to_string(&mut read)?;
    Ok(read == "nameless")
}

fn unlinked() -> Outcome {
    let file = open("unlinked")?;
    file.write_all_at(b"still", 0)?;
    fs::remove_file("unlinked")?;
    file.write_all_at(b" here", 5)?;
    let mut read = [0; 10];
    file.read_exact_at(&mut read, 0)?;
    Ok(&read == b"still here")
}
