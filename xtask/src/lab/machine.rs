use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process,
    thread::JoinHandle,
};

use super::{
    Options,
    daemon::{Daemon, Launch},
    initramfs,
    materials::Materials,
    relay::{self, Tail},
};
use crate::outcome::Failure;

/// All that the emulator has, but for the instructions for bytes being fast: a kernel that believes it clears and copies its pages with them, byte by byte.
const PROCESSOR: &str = "max,-erms";
/// The kernel's command line. Emulated time is no reference, and nothing here is worth a mitigation.
///
/// `nohz=off highres=off`: each processor's timer ticks for ever, and is not set anew for each event. QEMU's emulation of AMD's extensions marks a virtual
/// interrupt as pending (`helper_vmrun`) without the lock that others take to mark a real one, and every now and then the real one is
/// lost. It comes with the next one: of a timer that ticks that is a few milliseconds later; of one that was to be set anew there is none, and what waits on
/// that processor waits for ever, machines within and the removal of machines alike.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 reboot=t panic=-1 quiet mitigations=off no_timer_check tsc=reliable nohz=off highres=off \
     random.trust_cpu=on 8250.nr_uarts=1 rdinit=/init";

/// A running lab. Dropped, everything of it ends.
pub struct Machine {
    status: Option<UnixStream>,
    relays: Vec<JoinHandle<()>>,
    console: Tail,
    emulator: Option<Daemon>,
    files: Option<Daemon>,
}

impl Machine {
    /// Starts it, with the command on its way. No file or socket with a name is left, so none has to be removed.
    pub fn start(materials: &Materials, options: &Options, command: &[String]) -> Result<Self, Failure> {
        let initramfs = initramfs::build(materials, command)?;
        let (listener, files_socket) = private_socket(&materials.folder)?;
        let files = serve_files(materials, &listener)?;
        drop(listener);

        let ((console, far_console), (out, far_out)) = (UnixStream::pair()?, UnixStream::pair()?);
        let ((err, far_err), (status, far_status)) = (UnixStream::pair()?, UnixStream::pair()?);
        // Time passes in there whether it has a processor or not, and with it the deadlines of its guests. Without root it stays as nice as we are.
        let mut launch = Launch::new("nice");
        launch.args(["-n", "-15", "qemu-system-x86_64"]);
        let size = options.memory;
        launch.args(["-M", "q35,memory-backend=memory", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR]);
        launch.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={size}M,share=on"));
        launch.arg("-m").arg(size.to_string()).arg("-smp").arg(options.processors.to_string());
        launch.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        launch.arg("-kernel").arg(&materials.kernel).args(["-append", KERNEL_ARGUMENTS]);
        let descriptor = launch.inherit(&initramfs);
        launch.arg("-initrd").arg(format!("/proc/self/fd/{descriptor}"));
        let descriptor = launch.inherit(&files_socket);
        launch.arg("-chardev").arg(format!("socket,id=files,fd={descriptor}"));
        launch.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
        let descriptor = launch.inherit(&far_console);
        launch.arg("-chardev").arg(format!("socket,id=console,fd={descriptor}")).args(["-serial", "chardev:console"]);
        launch.args(["-device", "virtio-serial-pci,id=ports"]);
        for (number, (name, far)) in [("out", &far_out), ("err", &far_err), ("status", &far_status)].into_iter().enumerate() {
            let descriptor = launch.inherit(far);
            launch.arg("-chardev").arg(format!("socket,id={name},fd={descriptor}"));
            launch.arg("-device").arg(format!("virtserialport,bus=ports.0,nr={},chardev={name},name={name}", number + 1));
        }
        let emulator = launch.start()?;
        let relays = vec![relay::copy(out, io::stdout()), relay::copy(err, io::stderr())];
        Ok(Self { status: Some(status), relays, console: Tail::of(console), emulator: Some(emulator), files: Some(files) })
    }

    /// Where the command's status comes from; nothing comes when the machine ends before.
    pub fn status(&mut self) -> Result<UnixStream, Failure> {
        self.status.take().ok_or_else(|| Failure::new("the status is read already"))
    }

    /// Ends it at once; nothing in it is worth saving. Returns when all that the command wrote is relayed, with the end of the console
    /// and of what the programs beside us complained of.
    pub fn end(mut self) -> String {
        let logs = [&self.emulator, &self.files].into_iter().flatten().map(|daemon| daemon.log.clone()).collect::<Vec<_>>();
        drop(self.emulator.take());
        drop(self.files.take());
        for relay in self.relays.drain(..) {
            let _ = relay.join();
        }
        logs.iter().chain([&self.console]).map(Tail::text).collect::<Vec<_>>().join("")
    }
}

/// A listener and a connection to it, whose name exists only for an instant, within a folder of ours.
fn private_socket(folder: &Path) -> Result<(UnixListener, UnixStream), Failure> {
    let folder = File::open(folder)?;
    // A socket's path may have 107 bytes, and a checkout may lie deep.
    let path = format!("/proc/self/fd/{}/files-{}.socket", folder.as_raw_fd(), process::id());
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path);
    fs::remove_file(&path)?;
    Ok((listener, stream?))
}

/// Shares `/` with whoever has the other end of the socket.
fn serve_files(materials: &Materials, listener: &UnixListener) -> Result<Daemon, Failure> {
    let mut launch = Launch::new(&materials.file_server);
    let descriptor = launch.inherit(listener);
    launch.arg(format!("--fd={descriptor}"));
    if materials.file_server.starts_with("/usr/lib/qemu") {
        launch.args(["-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always", "-o", "log_level=err"]);
    } else {
        // The later one, of Debian 13 and newer.
        launch.args(["--shared-dir=/", "--sandbox=chroot", "--cache=always", "--log-level=error"]);
    }
    launch.start()
}
