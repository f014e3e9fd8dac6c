use std::{ffi::OsString, os::unix::ffi::OsStringExt, pin::pin, time::Duration};

use clap::Args;
use sandbar_core::{ExecRequest, Lifetime, Signal};
use sandbar_runtime::{CreateRequest, Runtime, Sandbox};
use tokio::time::timeout;

use super::options::{SandboxOptions, tell_choice};
use crate::{
    args,
    command::exec,
    error::Outcome,
    output,
    session::{End, Session},
    signals::Signals,
    terminal,
};

/// How long making or destroying the sandbox may still take when we were told to end meanwhile. It is owned by us: if it takes
/// longer it ends with this process, and the next command clears up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Run one command in a sandbox of its own
///
/// Makes a sandbox, runs the command in it, and destroys it. Standard input is passed on unless it is a terminal. The sandbox ends with this
/// command, however it ends.
#[derive(Debug, Args)]
#[command(
    override_usage = "sandbar run [OPTIONS] -- CMD...",
    after_help = "\
Examples:
  sandbar run -- python3 -c 'print(6*7)'
  sandbar run -v ./src:/src:ro -w /src -- make test
  tar c . | sandbar run --memory 512M --timeout 60 -- sh -c 'tar x && make'
  sandbar run -it -- bash"
)]
pub(crate) struct Run {
    /// Pass standard input on, a terminal's as well
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// End the command after this long: seconds, or 5m, 2h
    #[arg(long, value_name = "SECONDS", value_parser = args::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    options: SandboxOptions,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

impl Run {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        let stdin = self.interactive || self.tty || terminal::stdin_has_data();
        let mut request = ExecRequest::argv(self.command.into_iter().map(OsStringExt::into_vec));
        request.stdin = stdin;
        request.timeout = self.timeout;
        request.kill_on_disconnect = true;
        exec::prepare_terminal(&mut request, self.tty);

        let create = self.options.request(runtime, Lifetime::Owned)?;
        let mut signals = Signals::listen()?;
        let sandbox = match make(runtime, create, &mut signals).await? {
            Ok(sandbox) => sandbox,
            Err(signal) => return Ok(End::Signaled(signal).status()),
        };
        tell_choice(&sandbox);
        let session = Session { stdin, pty: self.tty, ..Session::default() };
        let ended = session.run(&sandbox, request, &mut signals).await;
        // The command's own end is the better answer, whatever is said of the sandbox's.
        if let Err(error) = destroy(&sandbox, &mut signals).await {
            output::error(&error);
        }
        Ok(ended?.status())
    }
}

/// Makes the sandbox; a signal that ends us meanwhile ends it as well.
async fn make(runtime: &Runtime, request: CreateRequest, signals: &mut Signals) -> Outcome<Result<Sandbox, Signal>> {
    let mut create = pin!(runtime.create(request));
    match signals.or(&mut create).await {
        Ok(sandbox) => Ok(Ok(sandbox?)),
        Err(signal) => {
            // Not dropped half way: what it has done has to be undone by somebody.
            if let Ok(Ok(sandbox)) = timeout(LAST_WORDS, create).await {
                sandbox.destroy().await?;
            }
            Ok(Err(signal))
        }
    }
}

/// Destroys the sandbox. Somebody who does not want to wait any longer need not: it ends with us anyway.
async fn destroy(sandbox: &Sandbox, signals: &mut Signals) -> sandbar_core::Result<()> {
    let mut destroy = pin!(sandbox.destroy());
    match timeout(LAST_WORDS, &mut destroy).await {
        Ok(destroyed) => destroyed,
        Err(_) => signals.or(destroy).await.unwrap_or(Ok(())),
    }
}

/// Make a sandbox that stays
///
/// Prints the new sandbox's id. It stays until `sandbar rm`, or until its --ttl has passed; no process of sandbar's own has to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ID=$(sandbar create)
  sandbar create --name web --memory 1G --cpus 2 -v ./site:/srv:ro")]
pub(crate) struct Create {
    /// Print what `inspect` prints, instead of the id
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: SandboxOptions,
}

impl Create {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let sandbox = runtime.create(self.options.request(runtime, Lifetime::Detached)?).await?;
        tell_choice(&sandbox);
        if self.json { output::json(&sandbox.inspect().await?) } else { output::line(sandbox.id().as_str()) }
    }
}
