#![expect(unsafe_code, reason = "vsock addresses have no safe wrapper")]

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};
use sandbar_protocol::{GuestWire, SERIAL_PORT, VSOCK_PORT};

/// How long the kernel may take to find the port.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(2);
const BACKLOG: libc::c_int = 1024;
const PORTS: &str = "/sys/class/virtio-ports";

/// Where the host's connections come in.
#[derive(Debug)]
pub(crate) enum Wire {
    /// A listening socket.
    Listener(OwnedFd),
    /// The guest's end of a pipe that carries all of them.
    Pipe(OwnedFd),
}

pub(super) fn open(wire: GuestWire) -> Result<Wire, String> {
    match wire {
        GuestWire::Vsock => listen().map(Wire::Listener).map_err(|error| format!("cannot listen on vsock: {error}")),
        GuestWire::Serial => port().map(Wire::Pipe),
        GuestWire::Unknown => Err("the host asks for a way of connecting that this agent does not know".to_owned()),
    }
}

fn listen() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls; the address is a `sockaddr_vm` of the length that is told, and lives on the stack.
    unsafe {
        let socket = libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let mut address = std::mem::zeroed::<libc::sockaddr_vm>();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = libc::VMADDR_CID_ANY;
        address.svm_port = VSOCK_PORT;
        let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) == 0;
        if bound && libc::listen(socket.as_raw_fd(), BACKLOG) == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
    }
}

/// Opens the port by its name, which `/sys` tells. Only one process can have it open.
fn port() -> Result<OwnedFd, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        for entry in fs::read_dir(PORTS).into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim_end() == SERIAL_PORT {
                let path = std::path::Path::new("/dev").join(entry.file_name());
                let opened = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                return opened.map_err(|errno| format!("cannot open {}: {errno}", path.display()));
            }
        }
        if Instant::now() > end {
            return Err(format!("the machine has no port {SERIAL_PORT}: is its driver among the modules?"));
        }
        std::thread::sleep(LOOK);
    }
}
