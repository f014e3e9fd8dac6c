use std::{
    collections::HashMap,
    env,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_backends::Forwarding;
use sandbar_core::{Context, Error, Lifetime, Result, SandboxId, State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{control, descriptors, remove_files};
use crate::{
    Runtime, Sandbox, clock,
    egress::{EgressService, raise_open_files},
    fault,
    ledger::{PortRow, SandboxRow},
    lock::SandboxLock,
    ports, system,
};

/// What a keeper says when it listens, or when another one does.
pub(super) const READY: &str = "ready";
/// `1` for the program as a command starts it, `2` for the keeper that it starts in turn.
pub(super) const STAGE: &str = "SANDBAR_KEEPER";
/// How often it looks whether the ledger has changed, should nobody have told it.
const TICK: Duration = Duration::from_secs(1);
/// How long one before it may take to end that has been killed: whoever started this one waits for it.
const ENDING: Duration = Duration::from_secs(5);
/// Bytes that its log may have.
const MOST_LOG: u64 = 64 << 10;

/// Whether this process is a keeper, which must not start keepers.
pub(crate) fn is_keeper() -> bool {
    env::var_os(STAGE).is_some()
}

impl Runtime {
    /// The body of the program that [`RuntimeConfig::keeper`](crate::RuntimeConfig::keeper) names, for `PROGRAM keeper --home H ID`.
    ///
    /// The first process starts the program once more, with the same arguments, and returns: so the keeper is nobody's child, has no
    /// descriptor of the command and, since it begins a session of its own, no terminal. The second one returns when there is nothing left
    /// to keep.
    ///
    /// # Errors
    /// When it cannot begin. Later failures go to its log.
    pub async fn run_keeper(&self, id: &str) -> Result<()> {
        let id: SandboxId = id.parse()?;
        if env::var(STAGE).as_deref() != Ok("2") {
            return start_again();
        }
        // It fails for the leader of a session, which has none of anybody else's then.
        let _ = rustix::process::setsid();
        let begun = Instant::now();
        let lock = loop {
            if let Some(lock) = SandboxLock::try_path(self.home().keeper_lock(&id), "keeper")? {
                break lock;
            }
            // One that has been killed still has the lock for a moment.
            if begun.elapsed() > ENDING || self.ledger().keeper(&id)?.is_none_or(|keeper| keeper.works(self.ledger().boot())) {
                say_ready();
                return Ok(());
            }
            sleep(Duration::from_millis(1)).await;
        };
        raise_open_files();
        let keeper = Keeper { runtime: self.clone(), room: ports::room(), listeners: HashMap::new(), egress: None, id };
        keeper.run(lock).await
    }
}

fn start_again() -> Result<()> {
    descriptors::close_on_exec();
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| "sandbar".into());
    // The link leads to this very program, even if another one has been installed over it.
    let program = system::own_program().context("keeper", || "cannot find sandbar's own program".to_owned())?;
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env(STAGE, "2").stdin(Stdio::null());
    command.spawn().map(drop).context("keeper", || "cannot start the keeper".to_owned())
}

fn say_ready() {
    // Whoever waited for it may be gone.
    let _ = io::stdout().write_all(READY.as_bytes()).and_then(|()| io::stdout().flush());
    if let Ok(nothing) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(nothing);
    }
}

struct Keeper {
    runtime: Runtime,
    id: SandboxId,
    listeners: HashMap<u16, Forwarding>,
    room: Arc<Semaphore>,
    egress: Option<EgressService>,
}

impl Keeper {
    async fn run(mut self, lock: SandboxLock) -> Result<()> {
        if !self.is_needed()? {
            return self.end(lock, false);
        }
        self.runtime.ledger().set_keeper(&self.id, self.runtime.me())?;
        fault::point("keeper.row");
        let mut socket = self.listen()?;
        self.try_reconcile().await;
        fault::point("keeper.listening");
        say_ready();
        loop {
            self.serve(&socket).await;
            // From here on a command finds no socket, and starts a keeper that waits for this one's lock. One that asked a moment earlier is
            // seen by looking once more.
            drop(socket);
            fault::point("keeper.ending");
            remove_socket(&self);
            if !self.is_needed()? {
                return self.end(lock, true);
            }
            socket = self.listen()?;
            self.try_reconcile().await;
        }
    }

    fn listen(&self) -> Result<UnixListener> {
        control::listen(self.runtime.home(), &self.id).context("keeper", || "cannot listen for commands".to_owned())
    }

    /// Serves until nothing is left to keep. While the ledger cannot be read or written, what listens goes on to listen.
    async fn serve(&mut self, socket: &UnixListener) {
        let mut seen = None;
        loop {
            let left = match self.look().await {
                Ok(Some(left)) => left.min(TICK),
                Ok(None) => return,
                Err(error) => {
                    self.complain("cannot read the ledger", &error);
                    TICK
                }
            };
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => self.answer(stream).await,
                    Err(error) => {
                        tracing::warn!(id = %self.id, %error, "cannot accept a command");
                        sleep(TICK).await;
                    }
                },
                () = sleep(left) => {
                    let version = self.runtime.ledger().data_version().ok();
                    if version.is_none() || std::mem::replace(&mut seen, version) != version {
                        self.try_reconcile().await;
                    }
                    bound_log(self);
                }
            }
        }
    }

    /// Ends the sandbox if its time has passed. Tells how long there is nothing to do, or that there never will be.
    async fn look(&self) -> Result<Option<Duration>> {
        let row = self.runtime.ledger().sandbox(&self.id)?;
        let left = row.and_then(|row| row.expires_ms).map(|expires| Duration::from_millis(expires.saturating_sub(clock::now_ms())));
        if left.is_some_and(|left| left.is_zero()) {
            // Somebody may be working on it: then at the next look.
            if let Err(error) = self.runtime.recover(&self.id).await {
                self.complain("its time has passed, and it cannot be destroyed", &error);
            }
        }
        Ok(self.is_needed()?.then(|| left.filter(|left| !left.is_zero()).unwrap_or(TICK)))
    }

    fn complain(&self, what: &str, error: &Error) {
        tracing::warn!(id = %self.id, error = error.chain(), "{what}");
    }

    async fn answer(&mut self, mut stream: UnixStream) {
        /// A command writes its line at once.
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut line = [0; control::RECONCILE.len()];
        let read = timeout(PATIENCE, stream.read_exact(&mut line)).await;
        if matches!(read, Ok(Ok(_))) && line == *control::RECONCILE {
            self.try_reconcile().await;
            // Who asked may be gone.
            let _ = timeout(PATIENCE, stream.write_all(control::DONE)).await;
        }
    }

    fn is_needed(&self) -> Result<bool> {
        // A state folder that somebody has removed lives on in the open file only.
        if !self.runtime.home().ledger().exists() {
            return Ok(false);
        }
        let Some(row) = self.runtime.ledger().sandbox(&self.id)? else { return Ok(false) };
        if row.state == State::Destroying {
            return Ok(false);
        }
        Ok(row.expires_ms.is_some() || decides(&row) || self.wanted()?.next().is_some())
    }

    fn wanted(&self) -> Result<impl Iterator<Item = PortRow> + use<>> {
        Ok(self.runtime.ledger().ports(&self.id)?.into_iter().filter(|port| port.holder.is_none()))
    }

    async fn try_reconcile(&mut self) {
        if let Err(error) = self.reconcile().await {
            self.complain("cannot bring the listeners in line with the ledger", &error);
        }
    }

    /// Brings the listeners in line with the ledger.
    async fn reconcile(&mut self) -> Result<()> {
        self.attend_egress()?;
        let wanted: Vec<PortRow> = self.wanted()?.collect();
        // One that was removed and wished again elsewhere since is another one.
        let stays = |port: u16, listener: &Forwarding| wanted.iter().any(|row| row.port == port && row.actual == Some(listener.address()));
        let over: Vec<Forwarding> =
            self.listeners.extract_if(|port, listener| !stays(*port, listener)).map(|(_, listener)| listener).collect();
        for listener in over {
            listener.close().await;
        }
        for row in wanted {
            if self.listeners.contains_key(&row.port) {
                continue;
            }
            let Some(sandbox) = self.runtime.ledger().sandbox(&self.id)?.map(|row| Sandbox::of(self.runtime.clone(), &row)) else { break };
            match ports::forward(&sandbox, row.port, row.actual.unwrap_or(row.wanted), Arc::clone(&self.room)).await {
                Ok(listener) => {
                    self.runtime.ledger().set_port(&self.id, row.port, Ok(listener.address()))?;
                    self.listeners.insert(row.port, listener);
                }
                Err(error) => {
                    let failure = format!("{}\t{}", error.kind(), error.chain());
                    if row.failure.as_ref() != Some(&failure) {
                        self.runtime.ledger().set_port(&self.id, row.port, Err(&failure))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Decides about what leaves, by what the ledger says now.
    fn attend_egress(&mut self) -> Result<()> {
        if let Some(egress) = &self.egress {
            egress.refresh();
        } else if let Some(row) = self.runtime.ledger().sandbox(&self.id)?.filter(decides) {
            self.egress = Some(EgressService::begin(&Sandbox::of(self.runtime.clone(), &row)));
        }
        Ok(())
    }

    fn end(self, lock: SandboxLock, known: bool) -> Result<()> {
        if known {
            self.runtime.ledger().delete_keeper(&self.id, self.runtime.me())?;
        } else {
            say_ready();
        }
        // The lock goes last: whoever gets it next finds nothing of this one.
        let removed = remove_files(self.runtime.home(), &self.id);
        lock.remove();
        removed
    }
}

/// Whether it is a keeper that decides about what leaves this sandbox.
fn decides(row: &SandboxRow) -> bool {
    row.gated && row.lifetime == Lifetime::Detached
}

fn remove_socket(keeper: &Keeper) {
    // The folder may be gone, with all that was in it.
    if let Ok(short) = control::short_path(keeper.runtime.home(), &keeper.id) {
        let _ = std::fs::remove_file(&short.path);
    }
}

fn bound_log(keeper: &Keeper) {
    let log = File::options().write(true).open(keeper.runtime.home().keeper_log(&keeper.id));
    if let Ok(log) = log
        && log.metadata().is_ok_and(|metadata| metadata.len() > MOST_LOG)
    {
        let _ = log.set_len(0);
    }
}
