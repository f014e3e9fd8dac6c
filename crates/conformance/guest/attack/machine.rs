//! What root in a machine of its own may try: its kernel is its own, and what is beyond it are devices.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::FileExt, unix::fs::OpenOptionsExt},
    path::Path,
};

use super::{Log, race::HERE};
use crate::{
    number::{CONNECT, MKNODAT, MOUNT, SOCKET},
    sys::{self, control, raw, text},
};

/// virtio: block, console, entropy, socket (virtio-v1.2, chapter 5).
const DEVICES: [u32; 4] = [2, 3, 4, 19];
/// PCI classes of a machine without anything in it: bridges, the disk controller and the bus that the chipset has, virtio's own.
const CLASSES: [&str; 8] = ["0x0600", "0x0601", "0x0106", "0x0c05", "0x0100", "0x0180", "0x0780", "0x00ff"];
/// linux/fs.h.
const BLKROSET: u64 = 0x125d;
const NONBLOCK: i32 = 0o4000;
const SYNC: i32 = 0o4_010_000;
/// linux/vm_sockets.h.
const AF_VSOCK: usize = 40;

/// Where the kernel shows its devices.
fn devices() -> &'static Path {
    const OWN: &str = "/tmp/sys";
    if Path::new("/sys/bus").exists() {
        return Path::new("/sys");
    }
    let _ = fs::create_dir_all(OWN);
    let [none, at, kind] = ["none", OWN, "sysfs"].map(text);
    let _ = raw(MOUNT, [none.as_ptr() as usize, at.as_ptr() as usize, kind.as_ptr() as usize, 0, 0, 0]);
    Path::new(OWN)
}

fn word(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Looks at what there is: nothing that leads anywhere but to disks, entropy and the wire.
pub(super) fn buses(log: &mut Log) {
    let found = entries(&devices().join("bus/virtio/devices"));
    log.holds(format!("there are {} virtio devices", found.len()), !found.is_empty());
    for path in found {
        let kind = u32::from_str_radix(word(&path.join("device")).trim_start_matches("0x"), 16).unwrap_or(0);
        log.holds(format!("virtio device {kind} is harmless"), DEVICES.contains(&kind));
    }
    for path in entries(&devices().join("bus/pci/devices")) {
        let class = word(&path.join("class"));
        log.holds(format!("PCI class {class} is harmless"), CLASSES.iter().any(|known| class.starts_with(known)));
    }
    for bus in ["usb", "scsi"] {
        let found = entries(&devices().join("bus").join(bus).join("devices"));
        log.holds(format!("the bus {bus} is empty"), found.is_empty());
    }
}

/// A node for a device, by the numbers that the kernel says.
fn node(numbers: &str, kind: usize) -> io::Result<String> {
    let (major, minor) = numbers
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse::<usize>().ok()?, minor.parse::<usize>().ok()?)))
        .ok_or_else(|| io::Error::other("no device"))?;
    let path = format!("/tmp/node-{major}-{minor}");
    let name = text(&path);
    let _ = fs::remove_file(&path);
    raw(MKNODAT, [HERE, name.as_ptr() as usize, kind | 0o600, major << 8 | minor, 0, 0])?;
    Ok(path)
}

/// Speaks to every port of whoever is beyond the machine.
pub(super) fn ports(log: &mut Log) {
    let special = [1024, 2375, 5201, 8080, 9000, 9999, 10_000, 50_000, 1 << 16, 1 << 20, u32::MAX - 1, u32::MAX];
    for host in [2, 0, 3, 4, u32::MAX] {
        for port in (0..1100).chain(special) {
            match vsock(host, port) {
                Ok(()) => log.breach(format!("connect to port {port} of {host}"), "it was done"),
                Err(error) if port == 0 => log.refused(format!("connect to ports of {host}"), Err::<(), _>(error)),
                Err(_) => {}
            }
            // What is for nobody may be answered by nobody: each of these takes its two seconds.
            if host != 2 && port == 2 {
                break;
            }
        }
    }
    // The agent has the wire open; there is no other.
    let found = entries(&devices().join("class/virtio-ports"));
    log.holds(format!("there are {} ports, one at most", found.len()), found.len() <= 1);
    for path in found {
        let opened = node(&word(&path.join("dev")), 0o020_000)
            .and_then(|path| OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(path));
        log.refused(format!("open the port {}", word(&path.join("name"))), opened);
    }
}

fn vsock(host: u32, port: u32) -> io::Result<()> {
    let socket = raw(SOCKET, [AF_VSOCK, 1 | NONBLOCK as usize, 0, 0, 0, 0])?;
    let socket = sys::owned(socket);
    // struct sockaddr_vm: family, reserved, port, cid, flags.
    let mut address = [0_u8; 16];
    address[..2].copy_from_slice(&(AF_VSOCK as u16).to_ne_bytes());
    address[4..8].copy_from_slice(&port.to_ne_bytes());
    address[8..12].copy_from_slice(&host.to_ne_bytes());
    match raw(CONNECT, [socket.as_raw_fd() as usize, address.as_ptr() as usize, 16, 0, 0, 0]) {
        // EINPROGRESS: who answers says so at once, and who does not has refused by then.
        Err(error) if error.raw_os_error() == Some(115) => sys::connected(&socket, 2000),
        done => done.map(drop),
    }
}

/// Writes to the disks that are not this machine's alone, beneath every file system.
pub(super) fn disks(log: &mut Log) {
    for path in entries(&devices().join("block")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("vd") || word(&path.join("ro")) != "1" {
            continue;
        }
        let write = || -> io::Result<()> {
            let path = node(&word(&path.join("dev")), 0o060_000)?;
            if let Ok(disk) = File::open(&path) {
                // To be said to be writable is not to be it.
                let _ = control(disk.as_raw_fd(), BLKROSET, &mut [0; 8]);
            }
            let disk = OpenOptions::new().read(true).write(true).custom_flags(SYNC).open(&path)?;
            disk.write_all_at(&[0xa5; 4096], 0)?;
            disk.sync_all()
        };
        log.refused(format!("write to the disk {name}"), write());
    }
}
