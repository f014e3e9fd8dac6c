use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use sandbar_protocol::{Share, reply};

use super::{MOST_MESSAGE, message::ANSWER_HEAD};
use crate::{
    failure::{self, Kind, Result, failure},
    files::path,
    transfer::Link,
};

/// The threads do nothing but read and write.
const STACK: usize = 64 << 10;

/// Mounts a volume that is served at the other end of this connection, answers, and passes on until either is gone.
pub(crate) fn serve(request: &Share, link: &mut Link) -> Result<()> {
    let target = path(&request.target);
    let device = mount(request, target).map_err(|error| failure::io(format!("cannot mount a volume on {}", target.display()), &error))?;
    let detach = Detach(target);
    let socket = link.own().map_err(|error| failure::io("cannot keep the connection of a volume", &error))?;
    link.answer(reply::Answer::Done(sandbar_protocol::Ack {}))?;
    let (device, socket) = (Arc::new(device), Arc::new(socket));
    let back = {
        let (device, socket) = (Arc::clone(&device), Arc::clone(&socket));
        thread::Builder::new().stack_size(STACK).spawn(move || {
            let _ = pass_answers(&socket, &device);
            let _ = socket.shutdown(Shutdown::Both);
        })
    };
    let back = back.map_err(|error| failure(Kind::ResourceExhausted, format!("cannot start a thread: {error}")))?;
    let _ = pass_requests(&device, &socket);
    let _ = socket.shutdown(Shutdown::Both);
    let _ = back.join();
    // With the device gone, whoever waits for an answer is told that there will be none.
    drop(device);
    drop(detach);
    Ok(())
}

/// Takes the mount away when it is dropped.
struct Detach<'path>(&'path Path);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, UnmountFlags::DETACH);
    }
}

fn mount(request: &Share, target: &Path) -> io::Result<OwnedFd> {
    if request.is_file {
        if let Some(above) = target.parent() {
            fs::create_dir_all(above)?;
        }
        if fs::symlink_metadata(target).is_err() {
            File::create_new(target)?;
        }
    } else {
        fs::create_dir_all(target)?;
    }
    let device = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let device = device.map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV => {
            io::Error::new(io::ErrorKind::Unsupported, "the guest's kernel has no FUSE: import it anew, with its modules")
        }
        errno => errno.into(),
    })?;
    let kind = if request.is_file { libc::S_IFREG } else { libc::S_IFDIR };
    // Permissions are the guest's kernel's to check, with the owners and modes that files have.
    let options = format!("fd={},rootmode={kind:o},user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, request.read_only);
    rustix::mount::mount("sandbar", target, "fuse", flags, CString::new(options)?.as_c_str())?;
    Ok(device)
}

/// Requests are as long as they say, and are read whole or not at all.
fn pass_requests(device: &OwnedFd, mut socket: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; MOST_MESSAGE];
    loop {
        let mut watched = [PollFd::new(device, PollFlags::IN), PollFd::new(socket, PollFlags::empty())];
        match poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        let [asks, is_gone] = watched.map(|descriptor| descriptor.revents());
        if !is_gone.is_empty() {
            return Ok(());
        }
        if asks.is_empty() {
            continue;
        }
        match rustix::io::read(device, &mut buffer) {
            Ok(length) => socket.write_all(&buffer[..length])?,
            // Whoever asked was interrupted.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
            // It is mounted nowhere any more.
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn pass_answers(mut socket: &UnixStream, device: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; MOST_MESSAGE];
    loop {
        socket.read_exact(&mut buffer[..4])?;
        let length = buffer.first_chunk().map_or(0, |length| u32::from_ne_bytes(*length)) as usize;
        if !(ANSWER_HEAD..=MOST_MESSAGE).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        socket.read_exact(&mut buffer[4..length])?;
        match rustix::io::write(device, &buffer[..length]) {
            // Nobody waits for it any more.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
