//! A virtual machine by its monitor alone: the same kernel, and a first program that says again and again that it runs.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::Result;

/// What the first program says.
const SAYS: &str = "here it runs";
const INIT: &str = "#!/bin/busybox sh\nwhile :; do echo here it runs; /bin/busybox usleep 10000; done\n";
/// As our own machines have it: for a kernel that has nobody to talk to.
const QEMU_LINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=t mitigations=off no_timer_check tsc=reliable random.trust_cpu=on 8250.nr_uarts=1";
/// The processor of an emulated machine, as our own have it.
const EMULATED: &str = "max,-erms";
const FIRECRACKER_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd \
     mitigations=off no_timer_check random.trust_cpu=on";
const MEMORY: u64 = 512 << 20;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(2);

/// Which monitor.
#[derive(Clone)]
pub enum Monitor {
    /// QEMU, with its accelerator.
    Qemu(String),
    /// The program.
    Firecracker(PathBuf),
}

/// A monitor with everything that it takes to start a machine.
pub struct Bare {
    monitor: Monitor,
    kernel: PathBuf,
    folder: TempDir,
}

/// A machine that runs. It ends when this is dropped.
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Bare {
    /// With a kernel, and a first program that is `busybox`.
    pub fn new(monitor: Monitor, kernel: &Path, busybox: &Path) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut archive = Vec::new();
        entry(&mut archive, "bin", 0o040_755, (0, 0), b"")?;
        entry(&mut archive, "dev", 0o040_755, (0, 0), b"")?;
        entry(&mut archive, "dev/console", 0o020_600, (5, 1), b"")?;
        entry(&mut archive, "bin/busybox", 0o100_755, (0, 0), &fs::read(busybox)?)?;
        entry(&mut archive, "init", 0o100_755, (0, 0), INIT.as_bytes())?;
        entry(&mut archive, "TRAILER!!!", 0, (0, 0), b"")?;
        fs::write(folder.path().join("initramfs"), archive)?;
        Ok(Self { monitor, kernel: kernel.to_owned(), folder })
    }

    /// Boots until the first program runs.
    pub async fn boot(&self) -> Result {
        self.start(false).await?.says().await
    }

    /// Boots one, and saves it with its memory for [`load`](Self::load).
    pub async fn save(&self) -> Result {
        let mut machine = self.start(true).await?;
        machine.says().await?;
        let state = self.folder.path().join("state");
        match &self.monitor {
            Monitor::Qemu(_) => {
                let mut control = machine.control().await?;
                control.execute("stop", json!({})).await?;
                control.ignore_shared().await?;
                control.execute("migrate", json!({ "uri": format!("exec:cat > {}", state.display()) })).await?;
                control.has_migrated().await?;
            }
            Monitor::Firecracker(_) => {
                machine.request("PATCH", "/vm", &json!({ "state": "Paused" })).await?;
                let memory = self.folder.path().join("memory");
                let request = json!({ "snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory });
                machine.request("PUT", "/snapshot/create", &request).await?;
            }
        }
        Ok(())
    }

    /// Loads what was saved, until its program goes on.
    pub async fn load(&self) -> Result {
        let state = self.folder.path().join("state");
        let mut machine = match &self.monitor {
            Monitor::Qemu(accelerator) => {
                let machine = self.qemu(accelerator, "share=off", true)?;
                let mut control = machine.control().await?;
                control.ignore_shared().await?;
                control.execute("migrate-incoming", json!({ "uri": format!("exec:cat {}", state.display()) })).await?;
                control.has_migrated().await?;
                // It was saved as one that had been stopped.
                control.execute("cont", json!({})).await?;
                machine
            }
            Monitor::Firecracker(program) => {
                let machine = self.firecracker(program, None)?;
                let backend = json!({ "backend_type": "File", "backend_path": self.folder.path().join("memory") });
                let request = json!({ "snapshot_path": state, "mem_backend": backend, "resume_vm": true });
                machine.request("PUT", "/snapshot/load", &request).await?;
                machine
            }
        };
        machine.says().await
    }

    async fn start(&self, to_be_saved: bool) -> Result<Running> {
        match &self.monitor {
            Monitor::Qemu(accelerator) => self.qemu(accelerator, if to_be_saved { "share=on" } else { "" }, false),
            Monitor::Firecracker(program) => {
                let config = self.folder.path().join("config.json");
                let initramfs = self.folder.path().join("initramfs");
                let boot = json!({ "kernel_image_path": self.kernel, "initrd_path": initramfs, "boot_args": FIRECRACKER_LINE });
                let shape = json!({ "vcpu_count": 1, "mem_size_mib": MEMORY >> 20 });
                fs::write(&config, json!({ "boot-source": boot, "drives": [], "machine-config": shape }).to_string())?;
                self.firecracker(program, Some(&config))
            }
        }
    }

    fn qemu(&self, accelerator: &str, shared: &str, waits: bool) -> Result<Running> {
        let folder = self.folder.path();
        let memory = match shared {
            "" => format!("memory-backend-ram,id=ram,size={MEMORY}"),
            shared => format!("memory-backend-file,id=ram,size={MEMORY},{shared},mem-path={}", folder.join("ram").display()),
        };
        let processor = if accelerator == "kvm" { "host" } else { EMULATED };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "q35,memory-backend=ram,graphics=off,vmport=off,hpet=off", "-cpu", processor, "-nodefaults", "-no-reboot"]);
        command.args(["-accel", &if accelerator == "tcg" { "tcg,thread=multi".to_owned() } else { accelerator.to_owned() }]);
        command.args(["-m", &format!("{MEMORY}B"), "-object", &memory, "-display", "none", "-serial", "stdio", "-append", QEMU_LINE]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(folder.join("initramfs"));
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", folder.join("control").display())]);
        if waits {
            command.args(["-incoming", "defer"]);
        }
        Running::of(command, folder)
    }

    fn firecracker(&self, program: &Path, config: Option<&Path>) -> Result<Running> {
        let mut command = Command::new(program);
        command.arg("--api-sock").arg(self.folder.path().join("control")).args(["--level", "Error"]);
        if let Some(config) = config {
            command.arg("--config-file").arg(config);
        }
        Running::of(command, self.folder.path())
    }
}

impl Running {
    fn of(mut command: Command, folder: &Path) -> Result<Self> {
        // Of the one before, which may not have ended yet.
        let _ = fs::remove_file(folder.join("control"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        Ok(Self { child, output: BufReader::new(output), folder: folder.to_owned() })
    }

    /// Waits until its program says something, and ends it if that is all that is wanted.
    async fn says(&mut self) -> Result {
        let listen = async {
            let mut line = Vec::new();
            loop {
                line.clear();
                if self.output.read_until(b'\n', &mut line).await? == 0 {
                    return Err("the machine ended before its program ran".into());
                }
                if String::from_utf8_lossy(&line).contains(SAYS) {
                    return Ok(());
                }
            }
        };
        timeout(PATIENCE, listen).await.map_err(|_| format!("machine {:?}: its program does not run", self.child.id()))?
    }

    async fn connect(&self) -> Result<UnixStream> {
        let connecting = async {
            loop {
                if let Ok(stream) = UnixStream::connect(self.folder.join("control")).await {
                    return stream;
                }
                sleep(LOOK).await;
            }
        };
        Ok(timeout(PATIENCE, connecting).await?)
    }

    async fn control(&self) -> Result<Control> {
        let mut control = Control(BufReader::new(self.connect().await?));
        control.line().await?;
        control.execute("qmp_capabilities", json!({})).await?;
        Ok(control)
    }

    /// One request of Firecracker's.
    async fn request(&self, method: &str, path: &str, body: &Value) -> Result {
        let mut stream = self.connect().await?;
        let body = body.to_string();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        let mut answer = vec![0; 4096];
        let length = timeout(PATIENCE, stream.read(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        if answer.starts_with("HTTP/1.1 2") { Ok(()) } else { Err(format!("Firecracker: {path}: {answer}").into()) }
    }
}

/// QEMU's control socket.
struct Control(BufReader<UnixStream>);

impl Control {
    async fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await??;
        Ok(serde_json::from_str(&line)?)
    }

    async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.0.write_all(format!("{}\n", json!({ "execute": command, "arguments": arguments })).as_bytes()).await?;
        loop {
            let answer = self.line().await?;
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU: {command}: {error}").into());
            }
            if let Some(returned) = answer.get("return") {
                return Ok(returned.clone());
            }
        }
    }

    /// Waits until what was saved is whole, or what is loaded.
    async fn has_migrated(&mut self) -> Result {
        while self.execute("query-migrate", json!({})).await?["status"] != "completed" {
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Memory is in a file that is mapped, as our own machines have it.
    async fn ignore_shared(&mut self) -> Result {
        let capability = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.execute("migrate-set-capabilities", capability).await.map(drop)
    }
}

/// An entry of a `newc` archive, as the kernel's `initramfs-buffer-format.rst` has it.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) -> Result {
    write!(archive, "070701")?;
    let (size, length) = (u32::try_from(content.len())?, u32::try_from(name.len() + 1)?);
    // Number, mode, owners, links, time, size, the file's device, its own device, the name's length, no checksum.
    for field in [0, mode, 0, 0, 1, 0, size, 0, 0, major, minor, length, 0] {
        write!(archive, "{field:08x}")?;
    }
    write!(archive, "{name}\0")?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}
