use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
};

use super::{
    Home,
    supplies::{Need, Supplies},
};

/// Every wall with a network by rules. What is not brief runs behind the slow ones when somebody asks for the long tests.
pub const EVERYWHERE: &[&str] = &[
    "container-root",
    "container-rootless",
    "gvisor-root",
    "gvisor-rootless",
    "docker-runc",
    "docker-runsc",
    "qemu-tcg",
    "firecracker-jailed",
];

/// A provider, and as whom it is used.
#[derive(Debug, Clone)]
pub struct Wall {
    /// As in `SANDBAR_REQUIRE`.
    pub name: &'static str,
    /// As given to `--on`.
    pub provider: &'static str,
    /// Another user than the one who runs the tests.
    pub user: Option<(u32, u32)>,
    /// The binary, where that user can execute it.
    pub program: PathBuf,
    /// The process in whose network and mount namespaces the binary runs; of the tests' own when `None`.
    stage: Option<u32>,
    /// Why it cannot be tested here, where that is known without trying.
    unavailable: Option<String>,
    /// A folder to try it in, and what came of that.
    trial: Option<Arc<(PathBuf, OnceLock<Option<String>>)>>,
    /// What it needs beside the program, of those that are tried when a case is behind them.
    pub supplies: Option<Arc<Supplies>>,
    /// Programs of this host that are inside, where not all of them are.
    programs: &'static [&'static str],
}

impl Wall {
    /// Every wall. `scratch` outlives them.
    pub fn all(scratch: &Path) -> Vec<Self> {
        let root = rustix::process::geteuid().is_root();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_sandbar"));
        let wall = |name, provider, user, program: &Path| Self {
            name,
            provider,
            user,
            program: program.to_owned(),
            stage: None,
            unavailable: None,
            trial: None,
            supplies: None,
            programs: &[],
        };
        let mut walls = vec![wall("dangerous-host", "dangerous-host", None, &program)];
        for (name, rootless, provider) in
            [("container-root", "container-rootless", "container"), ("gvisor-root", "gvisor-rootless", "gvisor")]
        {
            if root {
                walls.push(wall(name, provider, None, &program));
                walls.push(match (plain_user(), reachable(&program, scratch)) {
                    (Some(user), Ok(program)) => wall(rootless, provider, Some(user), &program),
                    (None, _) => {
                        wall(rootless, provider, None, &program).without("there is no plain user to test as; SANDBAR_TEST_USER names one")
                    }
                    (_, Err(error)) => wall(rootless, provider, None, &program).without(&error.to_string()),
                });
            } else {
                walls.push(wall(name, provider, None, &program).without("the tests do not run as root"));
                walls.push(wall(rootless, provider, None, &program));
            }
        }
        for wall in &mut walls {
            wall.trial = Some(Arc::new((scratch.join(wall.name), OnceLock::new())));
        }
        let supplied = [
            ("docker-runc", "docker", Need::Engine("runc")),
            ("docker-runsc", "docker", Need::Engine("runsc")),
            ("qemu-tcg", "qemu", Need::Emulator),
            ("firecracker-jailed", "firecracker", Need::Monitor),
        ];
        for (name, provider, need) in supplied {
            let supplies = Some(Arc::new(Supplies::new(need, scratch.join(name))));
            walls.push(Self { supplies, ..wall(name, provider, None, &program) });
        }
        walls
    }

    fn without(mut self, reason: &str) -> Self {
        self.unavailable = Some(reason.to_owned());
        self
    }

    /// Whether the kernel inside is gVisor's.
    pub fn is_gvisor(&self) -> bool {
        self.provider == "gvisor" || self.name == "docker-runsc"
    }

    /// Whether it is a machine, with a kernel of its own.
    pub fn is_machine(&self) -> bool {
        ["qemu", "firecracker"].contains(&self.provider)
    }

    /// The same with these programs of this host inside.
    #[must_use]
    pub fn with_programs(&self, programs: &'static [&'static str]) -> Self {
        Self { programs, ..self.clone() }
    }

    /// The same in the namespaces of a process.
    #[must_use]
    pub fn on_stage(&self, process: u32) -> Self {
        Self { stage: Some(process), ..self.clone() }
    }

    /// The program, as the wall's user, without the surroundings of the tests.
    pub fn command(&self, home: &Path) -> Command {
        let mut command = match self.stage {
            None => Command::new(&self.program),
            Some(stage) => {
                // As root; then it becomes the user itself.
                let mut command = Command::new("/usr/bin/nsenter");
                command.args(["--net", "--mount", "--target", &stage.to_string()]);
                if let Some((uid, gid)) = self.user {
                    command.args(["--setuid", &uid.to_string(), "--setgid", &gid.to_string()]);
                }
                command.arg("--").arg(&self.program);
                command
            }
        };
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", home).env("SANDBAR_HOME", home.join("state")).env("LANG", "C.UTF-8").current_dir("/");
        if let Some(socket) = self.supplies.as_ref().and_then(|supplies| supplies.engine()) {
            command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        }
        if let Ok(log) = std::env::var("SANDBAR_LOG") {
            command.env("SANDBAR_LOG", log);
        }
        if let Some((uid, gid)) = self.user.filter(|_| self.stage.is_none()) {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// What whoever makes a sandbox has to say.
    pub fn options(&self) -> Vec<&'static str> {
        let more = self.supplies.as_ref().map_or(&[][..], |supplies| supplies.options(self.programs));
        [&["--on", self.provider], more].concat()
    }

    /// Gives a state folder what the wall needs there, with this in `sandbar.toml`.
    pub fn furnish(&self, home: &Home, config: &str) {
        if let Some(supplies) = &self.supplies {
            supplies.furnish(home, self.programs, config);
        }
    }

    /// Gives a folder to the wall's user.
    pub fn hand_over(&self, path: &Path) {
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Why it cannot be tested here. One that needs nothing beside the program is tried, by whoever asks first.
    pub fn lack(&self) -> Option<String> {
        let tried = || self.trial.as_ref().and_then(|trial| trial.1.get_or_init(|| self.try_out(&trial.0)).clone());
        let supplied = || self.supplies.as_ref().and_then(|supplies| supplies.lack());
        self.unavailable.clone().or_else(tried).or_else(supplied)
    }

    fn try_out(&self, home: &Path) -> Option<String> {
        fs::create_dir(home).unwrap();
        self.hand_over(home);
        let tried = self.command(home).args(["run", "--on", self.provider, "--", "true"]).stdin(Stdio::null()).output().unwrap();
        (!tried.status.success()).then(|| String::from_utf8_lossy(&tried.stderr).trim().replace('\n', "; "))
    }
}

/// The user of whom `SANDBAR_TEST_USER` tells, else one that has ids of its own in `/etc/subuid`, else nobody.
fn plain_user() -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let find = |name: &str| {
        let fields: Vec<&str> = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let subordinate = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let with_ids = subordinate.lines().filter_map(|line| line.split(':').next()).filter(|name| *name != "root").find_map(find);
    std::env::var("SANDBAR_TEST_USER").ok().map_or(with_ids.or_else(|| find("nobody")), |name| find(&name))
}

/// The program where every user can execute it.
fn reachable(program: &Path, scratch: &Path) -> std::io::Result<PathBuf> {
    let copy = scratch.join("sandbar");
    if !copy.exists() {
        fs::copy(program, &copy)?;
    }
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}
