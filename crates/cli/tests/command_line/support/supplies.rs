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
/// The image of walls that cannot show the host's own programs: curl with its libraries, and busybox. `$1` is the folder.
const TOOLS: &str = r#"
mkdir -p "$1/bin" "$1/usr/bin" "$1/etc" "$1/root" "$1/home" "$1/run"
mkdir -m 1777 "$1/tmp"
cp "$(command -v busybox)" "$1/bin/busybox"
for name in sh cat env tar grep echo; do ln -s busybox "$1/bin/$name"; done
for file in /usr/bin/curl $(ldd /usr/bin/curl | grep -o '/[^ ]*'); do cp -L --parents "$file" "$1"; done
"#;

/// What a wall needs beside the program.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// A container engine with this runtime.
    Engine(&'static str),
    /// An emulator, and a kernel.
    Emulator,
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
            Need::Emulator => &["--image", "tools", "--memory", "128M"],
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
        if got.kernel.is_some() {
            fs::write(home.state().join("sandbar.toml"), format!("{config}[qemu]\naccelerator = \"tcg\"\n")).unwrap();
        }
        home.ok(&["image", "import", &got.image.display().to_string(), "tools"]);
        if let Some(kernel) = &got.kernel {
            home.ok(&["kernel", "import", &kernel.join("package.deb").display().to_string()]);
        }
    }

    fn got(&self) -> Result<&Got, String> {
        self.got.get_or_init(|| self.get()).as_ref().map_err(Clone::clone)
    }

    fn get(&self) -> Result<Got, String> {
        fs::create_dir(&self.folder).map_err(|error| error.to_string())?;
        let image = self.folder.join("tools");
        let made = Command::new("/bin/sh").args(["-ec", TOOLS, "tools"]).arg(&image).output().map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(format!("the image cannot be made: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        match self.need {
            Need::Engine(runtime) => Ok(Got { image, socket: Some(self.begin_engine(runtime)?), kernel: None }),
            Need::Emulator if !Path::new("/usr/bin/qemu-system-x86_64").exists() => {
                Err("QEMU is missing: run `cargo xtask setup`".to_owned())
            }
            Need::Emulator => Ok(Got { image, socket: None, kernel: Some(kernel().ok_or("there is no kernel: run `cargo xtask setup`")?) }),
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

/// What `cargo xtask setup` has got from the distribution.
fn kernel() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    let found = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    found.filter(|path| path.join("modules").exists()).max()
}
