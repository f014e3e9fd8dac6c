use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::Home;

#[path = "../../../../conformance/tests/engines/engine.rs"]
mod engine;

/// How long an engine may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// The image of walls that cannot show the host's own programs: curl and bash with their libraries, busybox, and apt where `$APT` is something. `$1` is the folder.
const TOOLS: &str = r#"
mkdir -p "$1/bin" "$1/usr/bin" "$1/etc" "$1/root" "$1/home" "$1/run"
mkdir -m 1777 "$1/tmp"
cp "$(command -v busybox)" "$1/bin/busybox"
for name in sh cat chmod echo env grep mkdir rm tar touch; do ln -s busybox "$1/bin/$name"; done
echo root:x:0:0:root:/root:/bin/sh >"$1/etc/passwd"
apt="/usr/bin/apt-get /usr/bin/dpkg /usr/bin/dpkg-deb /usr/lib/apt/methods/http /usr/lib/apt/methods/https /usr/lib/apt/methods/store /usr/lib/apt/methods/copy"
[ -n "$APT" ] && [ -e /usr/bin/apt-get ] && cp -r --parents /usr/share/dpkg "$1" || apt=
for file in /bin/bash /usr/bin/curl $apt; do
    for file in "$file" $(ldd "$file" | grep -o '/[^ ]*'); do cp -L --parents "$file" "$1"; done
done
"#;

/// What a wall needs beside the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A container engine with this runtime.
    Engine(&'static str),
    /// An emulator, and a kernel.
    Emulator,
    /// KVM, a monitor for it, and a kernel. Its image has apt as well.
    Monitor,
}

/// What a wall needs, got when the first case behind it asks, since an engine takes seconds to begin.
#[derive(Debug)]
pub struct Supplies {
    need: Need,
    folder: PathBuf,
    got: OnceLock<Result<Got, String>>,
}

#[derive(Debug)]
struct Got {
    image: PathBuf,
    socket: Option<PathBuf>,
    kernel: Option<PathBuf>,
}

impl Supplies {
    /// `folder` is made for it, and outlives it.
    pub const fn new(need: Need, folder: PathBuf) -> Self {
        Self { need, folder, got: OnceLock::new() }
    }

    /// What whoever makes a sandbox has to say beside the provider.
    pub const fn options(&self) -> &'static [&'static str] {
        match self.need {
            Need::Engine(_) => &["--image", "tools"],
            Need::Emulator | Need::Monitor => &["--image", "tools", "--memory", "128M"],
        }
    }

    /// Gets everything. What is missing, if it cannot.
    pub fn lack(&self) -> Option<String> {
        self.got().err()
    }

    /// Where the engine listens.
    pub fn engine(&self) -> Option<&Path> {
        self.got().ok()?.socket.as_deref()
    }

    /// The folder of a kernel: `vmlinux` and its `modules`.
    pub fn kernel(&self) -> Option<&Path> {
        self.got().ok()?.kernel.as_deref()
    }

    /// Gives a state folder what it needs; `config` is what its `sandbar.toml` has to say otherwise.
    pub fn furnish(&self, home: &Home, config: &str) {
        let got = self.got().unwrap();
        let how = match self.need {
            Need::Engine(_) => String::new(),
            Need::Emulator => "[qemu]\naccelerator = \"tcg\"\n".to_owned(),
            Need::Monitor => format!("[firecracker]\nfirecracker = {:?}\njail = true\n", monitor()),
        };
        fs::write(home.state().join("sandbar.toml"), format!("{config}{how}")).unwrap();
        home.ok(&["image", "import", &got.image.display().to_string(), "tools"]);
        if let Some(kernel) = &got.kernel {
            // It is unpacked there: an emulated machine takes minutes for that.
            let (file, modules) = (kernel.join("vmlinux").display().to_string(), kernel.join("modules").display().to_string());
            home.ok(&["kernel", "import", &file, "--modules", &modules]);
        }
    }

    fn got(&self) -> Result<&Got, String> {
        self.got.get_or_init(|| self.get()).as_ref().map_err(Clone::clone)
    }

    fn get(&self) -> Result<Got, String> {
        fs::create_dir(&self.folder).map_err(|error| error.to_string())?;
        let image = self.folder.join("tools");
        if self.need == Need::Monitor {
            let kvm = sandbar_backends::kvm::probe();
            if !kvm.is_usable() {
                return Err(kvm.to_string());
            }
            if !monitor().exists() {
                return Err("there is no Firecracker: run `cargo xtask setup`".to_owned());
            }
        }
        let mut tools = Command::new("/bin/sh");
        tools.args(["-ec", TOOLS, "tools"]).arg(&image).env("APT", if self.need == Need::Monitor { "yes" } else { "" });
        let made = tools.output().map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(format!("the image cannot be made: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        match self.need {
            Need::Engine(runtime) => Ok(Got { image, socket: Some(self.begin_engine(runtime)?), kernel: None }),
            Need::Emulator if !Path::new("/usr/bin/qemu-system-x86_64").exists() => {
                Err("QEMU is missing: run `cargo xtask setup`".to_owned())
            }
            Need::Emulator | Need::Monitor => {
                Ok(Got { image, socket: None, kernel: Some(kernel().ok_or("there is no kernel: run `cargo xtask setup`")?) })
            }
        }
    }

    fn begin_engine(&self, runtime: &str) -> Result<PathBuf, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("an engine of its own needs root".to_owned());
        }
        let (socket, _) = engine::of_run(&self.folder, runtime, &engine::Engine::of(runtime))?;
        let begun = Instant::now();
        // It makes its socket when it is ready.
        while let Err(error) = UnixStream::connect(&socket) {
            let waits = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
            if !waits || begun.elapsed() > PATIENCE {
                return Err(format!("the engine does not begin: {error}: {}", engine::last_words(&socket)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(socket)
    }
}

/// What `cargo xtask setup` has got for the lab.
fn monitor() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/bin/firecracker")
}

/// What `cargo xtask setup` has got from the distribution.
fn kernel() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    let found = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    found.filter(|path| path.join("modules").exists()).max()
}
