use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sandbar_core::{Context, Error, ErrorKind, Result, SandboxId, State};

use super::{
    control,
    process::{READY, STAGE},
};
use crate::{Runtime, home::Home, lock::SandboxLock, runtime::gone};

/// How long a new keeper may take until it listens.
const START: Duration = Duration::from_secs(10);

impl Runtime {
    /// Starts keepers where one is needed and none lives; on the way of every command, so it costs a query where nobody needs one.
    pub(crate) async fn restart_keepers(&self) -> Result<()> {
        if self.config().keeper.is_none() {
            return Ok(());
        }
        for (id, keeper) in self.ledger().kept()? {
            if !keeper.is_some_and(|keeper| keeper.works(self.ledger().boot())) {
                self.start_keeper(&id).await?;
            }
        }
        Ok(())
    }

    /// Has the keeper of a sandbox look at the ledger; starts one if there is none. Returns when it has looked.
    pub(crate) async fn nudge_keeper(&self, id: &SandboxId) -> Result<()> {
        let begin = Instant::now();
        loop {
            let Err(error) = control::reconcile(self.home(), id).await else { return Ok(()) };
            if begin.elapsed() > START {
                return Err(Error::io("keeper", "the keeper does not answer", error)
                    .with("id", id)
                    .with_hint(format!("its log is {}", self.home().keeper_log(id).display())));
            }
            // Without a sandbox no keeper stays.
            if !matches!(self.ledger().standing(id)?, Some((state, ..)) if state != State::Destroying) {
                return Err(gone(id));
            }
            self.start_keeper(id).await?;
            // It listens now, unless one that is about to end has its lock.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Has the keeper look, if there is one.
    pub(crate) async fn tell_keeper(&self, id: &SandboxId) {
        // It sees the ledger change by itself, a little later.
        let _ = control::reconcile(self.home(), id).await;
    }

    /// Starts a keeper, and waits until it listens, or finds that there is one.
    async fn start_keeper(&self, id: &SandboxId) -> Result<()> {
        let program = self.config().keeper.clone();
        let program = program.ok_or_else(|| Error::new(ErrorKind::Unavailable, "keeper", "there is no program to keep the sandbox"))?;
        let (home, boot, id) = (self.home().clone(), self.config().boot_id.clone(), id.clone());
        let started = tokio::task::spawn_blocking(move || start(&program, &home, boot.as_deref(), &id)).await;
        started.map_err(|error| Error::new(ErrorKind::Internal, "keeper", "the start was cut off").with_source(error))?
    }

    /// Ends the keeper of a sandbox that is being destroyed, unless it is this process, and removes its files.
    ///
    /// # Errors
    /// `TimedOut` when it does not end: its files stay, and whoever takes up the destroy again finds it.
    pub(crate) async fn end_keeper(&self, id: &SandboxId) -> Result<()> {
        if let Some(keeper) = self.ledger().keeper(id)? {
            if keeper == *self.me() {
                return Ok(());
            }
            let boot = self.ledger().boot().to_owned();
            let ended = tokio::task::spawn_blocking(move || keeper.kill(&boot)).await;
            ended.map_err(|error| Error::new(ErrorKind::Internal, "keeper", "its end was cut off").with_source(error))??;
            // One that somebody starts at this moment sees that the sandbox is being destroyed, and removes its files itself.
            if let Some(lock) = SandboxLock::try_path(self.home().keeper_lock(id), "destroy")? {
                let removed = remove_files(self.home(), id);
                lock.remove();
                return removed;
            }
        }
        Ok(())
    }
}

/// Removes what a keeper leaves. Only under its lock, which the caller removes.
pub(crate) fn remove_files(home: &Home, id: &SandboxId) -> Result<()> {
    let socket = home.keepers().join(Home::keeper_socket_name(id));
    for path in [socket, home.keeper_log(id)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("keeper", || format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The program starts itself once more and ends (see `process`), so that the keeper is nobody's child; its standard output is where it says that
/// it listens, and is closed then.
fn start(program: &Path, home: &Home, boot: Option<&str>, id: &SandboxId) -> Result<()> {
    let log_path = home.keeper_log(id);
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.and_then(|log| log.set_len(0).map(|()| log)).context("keeper", || format!("cannot open {}", log_path.display()))?;
    let mut command = Command::new(program);
    command.arg("keeper").arg("--home").arg(home.path()).arg(id.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    command.env_clear().envs(environment()).env(STAGE, "1");
    if let Some(boot) = boot {
        command.env("SANDBAR_BOOT_ID", boot);
    }
    let failed = |error: io::Error| Error::io("keeper", "cannot start the keeper", error).with("program", program.display());
    let mut first = command.spawn().map_err(failed)?;
    let output = first.stdout.take();
    first.wait().map_err(failed)?;
    let mut said = String::new();
    if let Some(output) = output {
        output.take(1024).read_to_string(&mut said).map_err(failed)?;
    }
    match said.trim_end() {
        READY => Ok(()),
        said => {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            Err(Error::new(ErrorKind::Unavailable, "keeper", "the keeper did not start")
                .with("id", id)
                .with("said", if said.is_empty() { last } else { said }))
        }
    }
}

/// What a keeper needs of the environment: it lives longer than the secrets of who started it should. A fault that a test asked of the command is
/// not the keeper's, which has its own, `SANDBAR_KEEPER_FAULT`.
fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter_map(|(name, value)| match name.to_str()? {
        "SANDBAR_FAULT" => None,
        "SANDBAR_KEEPER_FAULT" => Some(("SANDBAR_FAULT".into(), value)),
        // Where the host's own authorities are, by which servers are to be certified.
        "SSL_CERT_FILE" | "SSL_CERT_DIR" => Some((name, value)),
        "PATH" | "HOME" | "LANG" | "XDG_STATE_HOME" | "XDG_RUNTIME_DIR" => Some((name, value)),
        text => text.starts_with("SANDBAR_").then_some((name, value)),
    })
}
