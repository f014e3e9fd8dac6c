use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::geteuid;
use sandbar_backends::{
    options::{FirecrackerOptions, GvisorOptions, QemuOptions},
    remote::SshOptions,
};
use sandbar_core::{Context, Error, ErrorKind, Isolation, Network, Result};
use serde::Deserialize;

/// How a [`Runtime`](crate::Runtime) works on this machine.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The state folder; made (mode 0700) if missing.
    pub home: PathBuf,
    /// The program that is run as `PROGRAM keeper --home H ID` for what must go on after a command has returned (exposed ports, a time to
    /// live). `None`: they are kept in this process, and end with it.
    pub keeper: Option<PathBuf>,
    /// The provider of sandboxes for which none is named; `None` chooses, see [`CreateRequest`](crate::CreateRequest).
    pub provider: Option<String>,
    /// A floor for every sandbox, beside the one that a request names.
    pub isolation: Option<Isolation>,
    /// The image of sandboxes for which none is named; `None` is the provider's default.
    pub image: Option<String>,
    /// What sandboxes may reach for which nothing is said about it.
    pub network: Network,
    /// A file with the authorities, as PEM, by which servers are to be certified that get a sandbox's secrets; this machine's own when `None`.
    pub authorities: Option<PathBuf>,
    /// Where the container engine of the provider `docker` is, in the form of `DOCKER_HOST`; found when `None`.
    pub docker_host: Option<String>,
    /// The first host id that sandboxes may use when sandbar runs as root; each gets 65536 of them.
    pub first_id: u32,
    /// How long a life-cycle verb waits for another one on the same sandbox.
    pub lock_wait: Duration,
    /// How `gvisor` uses `runsc`.
    pub gvisor: GvisorOptions,
    /// How `firecracker` uses Firecracker.
    pub firecracker: FirecrackerOptions,
    /// How `qemu` uses QEMU.
    pub qemu: QemuOptions,
    /// How `ssh://` is used.
    pub ssh: SshOptions,
    /// Instead of the kernel's id of this boot: a hook for tests of what happens after a reboot.
    pub boot_id: Option<String>,
}

/// `sandbar.toml`. An unknown key is an error: a misspelled floor must not be ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    provider: Option<String>,
    isolation: Option<Isolation>,
    image: Option<String>,
    network: Option<Network>,
    authorities: Option<PathBuf>,
    docker_host: Option<String>,
    first_id: Option<u32>,
    lock_wait_seconds: Option<u64>,
    gvisor: Option<GvisorOptions>,
    firecracker: Option<FirecrackerOptions>,
    qemu: Option<QemuOptions>,
    ssh: Option<SshOptions>,
}

impl RuntimeConfig {
    /// Host ids from 2^30 on: far above what distributions give to users and in `/etc/subuid` (from 100000 on). systemd-nspawn takes
    /// its ranges from the same numbers (`UIDS-GIDS.md`); where both are used, one of them is to be moved.
    pub const DEFAULT_FIRST_ID: u32 = 0x4000_0000;
    /// Ids from 2^31 on are negative for programs with signed numbers, and systemd has meanings for some below.
    const LAST_FIRST_ID: u32 = 0x7000_0000;

    /// A configuration with the defaults, for a state folder.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            keeper: None,
            provider: None,
            isolation: None,
            image: None,
            network: Network::Default,
            authorities: None,
            docker_host: None,
            first_id: Self::DEFAULT_FIRST_ID,
            lock_wait: Duration::from_secs(60),
            gvisor: GvisorOptions::default(),
            firecracker: FirecrackerOptions::default(),
            qemu: QemuOptions::default(),
            ssh: SshOptions::default(),
            boot_id: None,
        }
    }

    /// The configuration of this user: the state folder is `SANDBAR_HOME`, else `/var/lib/sandbar` for root, else `sandbar` in
    /// `XDG_STATE_HOME` (or `~/.local/state`). `sandbar.toml` in the state folder, or the file that `SANDBAR_CONFIG` names, is read if it is there.
    /// `SANDBAR_BOOT_ID` stands in for the kernel's boot id, for tests.
    ///
    /// # Errors
    /// `InvalidInput` for a file that cannot be understood, `NotFound` when there is no home directory or the named file is missing.
    pub fn from_env() -> Result<Self> {
        Self::at(home_from_env()?)
    }

    /// As [`from_env`](Self::from_env), with a state folder that was named otherwise (`--home`).
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn at(home: impl Into<PathBuf>) -> Result<Self> {
        let mut config = Self::new(home);
        config.boot_id = env::var("SANDBAR_BOOT_ID").ok().filter(|id| !id.is_empty());
        match env::var_os("SANDBAR_CONFIG") {
            Some(path) => config.read(Path::new(&path), true)?,
            None => config.read(&config.home.join("sandbar.toml"), false)?,
        }
        Ok(config)
    }

    /// The same configuration with a keeper program.
    #[must_use]
    pub fn with_keeper(mut self, program: impl Into<PathBuf>) -> Self {
        self.keeper = Some(program.into());
        self
    }

    fn read(&mut self, path: &Path, required: bool) -> Result<()> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(()),
            text => text.context("configuration", || format!("cannot read {}", path.display()))?,
        };
        self.apply(&text).map_err(|error| error.with("file", path.display()))
    }

    fn apply(&mut self, text: &str) -> Result<()> {
        let bad = |message: String| Error::new(ErrorKind::InvalidInput, "configuration", message);
        let file: File = toml::from_str(text).map_err(|error| bad(error.message().to_owned()))?;
        self.provider = file.provider.or_else(|| self.provider.take());
        self.isolation = file.isolation.or(self.isolation);
        self.image = file.image.or_else(|| self.image.take());
        self.network = file.network.unwrap_or_else(|| std::mem::take(&mut self.network));
        if let Some(path) = &file.authorities
            && !path.is_absolute()
        {
            return Err(bad("authorities must be an absolute path".to_owned()).with("value", path.display()));
        }
        self.authorities = file.authorities.or_else(|| self.authorities.take());
        self.docker_host = file.docker_host.or_else(|| self.docker_host.take());
        if let Some(first) = file.first_id {
            if first < 0x1_0000 || first % 0x1_0000 != 0 || first > Self::LAST_FIRST_ID {
                return Err(bad(format!("first-id must be a multiple of 65536 from 65536 to {}", Self::LAST_FIRST_ID)).with("value", first));
            }
            self.first_id = first;
        }
        if let Some(seconds) = file.lock_wait_seconds {
            self.lock_wait = Duration::from_secs(seconds);
        }
        if let Some(gvisor) = file.gvisor {
            self.gvisor = gvisor;
        }
        if let Some(firecracker) = file.firecracker {
            self.firecracker = firecracker;
        }
        if let Some(qemu) = file.qemu {
            self.qemu = qemu;
        }
        if let Some(ssh) = file.ssh {
            self.ssh = ssh;
        }
        Ok(())
    }
}

fn home_from_env() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = variable("SANDBAR_HOME") {
        return std::path::absolute(&home).context("configuration", || format!("SANDBAR_HOME is not a path: {}", home.display()));
    }
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/sandbar"));
    }
    // The XDG specification: a relative path in the variable is to be ignored.
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    state.or_else(|| variable("HOME").map(|home| home.join(".local/state"))).map(|state| state.join("sandbar")).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "configuration", "neither XDG_STATE_HOME nor HOME is set").with_hint("set SANDBAR_HOME to a folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sets_what_it_names() {
        let mut config = RuntimeConfig::new("/x");
        config
            .apply(
"provider = 'container'\nisolation = 'user-kernel'\nnetwork = 'allow=a.com:443'\nauthorities = '/x/roots.pem'\nlock-wait-seconds = 3\nfirst-id = 131072\n[gvisor]\n\
                 runsc = '/x/runsc'\n[firecracker]\nfirecracker = '/x/firecracker'\njail = true\n[ssh]\nssh = '/x/ssh'",
            )
            .unwrap();
        assert_eq!(config.provider.as_deref(), Some("container"));
        assert_eq!(config.isolation, Some(Isolation::UserKernel));
        assert_eq!(config.lock_wait, Duration::from_secs(3));
        assert_eq!(config.network, "allow=a.com:443".parse().unwrap());
        assert_eq!(config.authorities.as_deref(), Some(Path::new("/x/roots.pem")));
        assert_eq!(config.first_id, 131_072);
        assert_eq!(config.gvisor.runsc.as_deref(), Some(Path::new("/x/runsc")));
        assert_eq!(config.firecracker.firecracker.as_deref(), Some(Path::new("/x/firecracker")));
        assert_eq!(config.firecracker.jail, Some(true));
        assert_eq!(config.ssh.ssh.as_deref(), Some(Path::new("/x/ssh")));
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let error = RuntimeConfig::new("/x").apply("isolaton = 'vm'").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("isolaton"), "{error}");
    }

    #[test]
    fn ids_of_the_host_are_refused() {
        assert!(RuntimeConfig::new("/x").apply("first-id = 0").is_err());
        assert!(RuntimeConfig::new("/x").apply("first-id = 65537").is_err());
    }
}
