use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use tokio::process::Command;

use super::{
    super::{address::Address, problem::OPERATION},
    SshOptions,
};

/// How `ssh` is called for one host.
pub(super) struct Route {
    pub(super) address: Address,
    ssh: PathBuf,
    /// Whether the user's own configuration says where a connection is shared: then it is shared there, for as long as it says. One that does not outlive
    /// who has made it is none.
    pub(super) shares: bool,
}

impl Route {
    /// Asks `ssh` what the user's configuration says of the host.
    pub(super) async fn to(options: &SshOptions, address: &Address) -> Self {
        let ssh = options.ssh.clone().unwrap_or_else(|| PathBuf::from("ssh"));
        let mut route = Self { address: address.origin(), ssh, shares: false };
        let mut command = route.bare();
        let asked = command.arg("-G").arg("--").arg(&address.host).stdin(Stdio::null()).output().await;
        // One that cannot say so is told of when it is to log in.
        route.shares = asked.is_ok_and(|said| {
            let said = String::from_utf8_lossy(&said.stdout);
            let says = |what: &str| said.lines().any(|line| line.starts_with(what));
            says("controlpath ") && !says("controlmaster false") && !says("controlpersist no")
        });
        route
    }

    /// With what makes its channels share a connection, unless they do, and notice when it is dead.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = self.bare();
        command.args(["-T", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]);
        if !self.shares {
            command.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]);
            command.arg("-o").arg(format!("ControlPath={}/%C", folder()?.display()));
        }
        Ok(command)
    }

    /// Asks the process that keeps the shared connection for something. Whether it was done.
    pub(super) async fn control(&self, arguments: &[&str]) -> Result<bool> {
        let mut command = self.command()?;
        command.args(arguments).arg("--").arg(&self.address.host);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        Ok(status.is_ok_and(|status| status.success()))
    }

    fn bare(&self) -> Command {
        let mut command = Command::new(&self.ssh);
        if let Some(user) = &self.address.user {
            command.args(["-l", user]);
        }
        if let Some(port) = self.address.port {
            command.args(["-p", &port.to_string()]);
        }
        // It keeps its variables for as long as the shared connection stays, and sends those on that its configuration names.
        command.env_remove("SANDBAR_KEY").kill_on_drop(true);
        command
    }
}

/// Short, as the path of a socket must be, and this user's alone.
pub(super) fn folder() -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let me = rustix::process::geteuid().as_raw();
    let folder = Path::new("/tmp").join(format!("sandbar-ssh-{me}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    if made.is_err() {
        let found = std::fs::symlink_metadata(&folder).context(OPERATION, || format!("cannot use {}", folder.display()))?;
        if !found.is_dir() || found.uid() != me || found.mode() & 0o077 != 0 {
            let message = "the folder of ssh's sockets is somebody else's, or others may use it";
            return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, message).with("path", folder.display()));
        }
    }
    Ok(folder)
}

/// A script for `sh`, whatever shell the user there has.
pub(super) fn for_sh(script: &str) -> String {
    format!("exec sh -c '{}'", script.replace('\'', r"'\''"))
}

pub(super) fn unavailable(message: &str, address: &Address) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, message).with("host", address.origin())
}
