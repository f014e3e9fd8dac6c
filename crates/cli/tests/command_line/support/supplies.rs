use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use super::Home;

#[path = "../../../../conformance/tests/engines/engine.rs"]
mod engine;

/// How long an engine may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// The image of walls that cannot show the host's own programs: busybox, curl and bash, and the host's own that `$PROGRAMS` lists, with their libraries and what else they read. `$1` is the folder.
const TOOLS: &str = r#"
mkdir -p "$1/bin" "$1/usr/bin" "$1/etc" "$1/root" "$1/home" "$1/run"
mkdir -m 1777 "$1/tmp"
cp "$(command -v busybox)" "$1/bin/busybox"
for name in sh cat chmod cut echo env grep head mkdir rm tail tar touch tr wc; do ln -s busybox "$1/bin/$name"; done
ln -s ../../bin/busybox "$1/usr/bin/env"
echo root:x:0:0:root:/root:/bin/sh >"$1/etc/passwd"
files="/bin/bash /usr/bin/curl" folders=
for program in $PROGRAMS; do
    [ -d "$program" ] && folders="$folders $program" || files="$files $program"
    case "$program" in
    */apt-get)
        files="$files /usr/bin/dpkg /usr/lib/apt/methods/http /usr/lib/apt/methods/https /usr/lib/apt/methods/store /usr/lib/apt/methods/copy"
        folders="$folders /usr/share/dpkg" ;;
    */git) folders="$folders /usr/lib/git-core /usr/share/git-core" ;;
    */python3) folders="$folders $("$program" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" ;;
    */npm)
        folders="$folders $(readlink -f "$program" | sed 's,/npm/bin/.*,/npm,')"
        files=${files%" $program"}
        cp -P "$program" "$1/$program" ;;
    esac
done
for file in $files; do
    for file in "$file" $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do cp -L --parents "$file" "$1"; done
done
for folder in $folders; do
    [ -d "$folder" ] || continue
    (cd / && find "$folder" \( -name test -o -name __pycache__ \) -prune -o \( -type f -o -type l \) -print0 | tar c --null -T - | tar xC "$1")
    for file in $(find "$folder" -type f \( -name '*.so' -o -path '*/git-core/git-remote-http' \)); do
        for file in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do [ -e "$1/$file" ] || cp -L --parents "$file" "$1"; done
    done
done
"#;

/// What a wall needs beside the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A container engine with this runtime.
    Engine(&'static str),
    /// An emulator, and a kernel.
    Emulator,
    /// KVM, a monitor for it, and a kernel.
    Monitor,
}

/// What a wall needs, got when the first case behind it asks, since an engine takes seconds to begin.
#[derive(Debug)]
pub struct Supplies {
    need: Need,
    folder: PathBuf,
    got: OnceLock<Result<Got, String>>,
    /// By the programs that they have.
    images: Mutex<BTreeMap<&'static [&'static str], PathBuf>>,
}

#[derive(Debug)]
struct Got {
    socket: Option<PathBuf>,
    kernel: Option<PathBuf>,
}

impl Supplies {
    /// `folder` is made for it, and outlives it.
    pub const fn new(need: Need, folder: PathBuf) -> Self {
        Self { need, folder, got: OnceLock::new(), images: Mutex::new(BTreeMap::new()) }
    }

    /// What whoever makes a sandbox with these programs has to say beside the provider.
    pub const fn options(&self, programs: &[&str]) -> &'static [&'static str] {
        match self.need {
            Need::Engine(_) => &["--image", "tools"],
            Need::Emulator | Need::Monitor if programs.is_empty() => &["--image", "tools", "--memory", "128M"],
            Need::Emulator | Need::Monitor => &["--image", "tools", "--memory", "512M"],
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

    /// Gives a state folder what it needs, these programs of the host in its image too; `config` is what its `sandbar.toml` has to say otherwise.
    pub fn furnish(&self, home: &Home, programs: &'static [&'static str], config: &str) {
        let got = self.got().unwrap();
        let how = match self.need {
            Need::Engine(_) => String::new(),
            Need::Emulator => "[qemu]\naccelerator = \"tcg\"\n".to_owned(),
            Need::Monitor => format!("[firecracker]\nfirecracker = {:?}\njail = true\n", monitor()),
        };
        fs::write(home.state().join("sandbar.toml"), format!("{config}{how}")).unwrap();
        home.ok(&["image", "import", &self.image(programs).unwrap().display().to_string(), "tools"]);
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
        if self.need == Need::Monitor {
            let kvm = sandbar_backends::kvm::probe();
            if !kvm.is_usable() {
                return Err(kvm.to_string());
            }
            if !monitor().exists() {
                return Err("there is no Firecracker: run `cargo xtask setup`".to_owned());
            }
        }
        self.image(&[])?;
        match self.need {
            Need::Engine(runtime) => Ok(Got { socket: Some(self.begin_engine(runtime)?), kernel: None }),
            Need::Emulator if !Path::new("/usr/bin/qemu-system-x86_64").exists() => {
                Err("QEMU is missing: run `cargo xtask setup`".to_owned())
            }
            Need::Emulator | Need::Monitor => {
                Ok(Got { socket: None, kernel: Some(kernel().ok_or("there is no kernel: run `cargo xtask setup`")?) })
            }
        }
    }

    /// The folder of an image, made when it is asked for first.
    fn image(&self, programs: &'static [&'static str]) -> Result<PathBuf, String> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.get(programs) {
            return Ok(image.clone());
        }
        let image = self.folder.join(format!("tools-{}", images.len()));
        let mut tools = Command::new("/bin/sh");
        tools.args(["-ec", TOOLS, "tools"]).arg(&image).env("PROGRAMS", programs.join(" "));
        let made = tools.output().map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(format!("the image cannot be made: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        images.insert(programs, image.clone());
        Ok(image)
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
