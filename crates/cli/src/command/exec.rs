use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};

use clap::Args;
use sandbar_core::{ErrorKind, ExecRequest, User};
use sandbar_runtime::Runtime;

use super::options;
use crate::{
    args::{self, Variable},
    error::{Failure, Outcome},
    output,
    session::Session,
    signals::Signals,
    terminal,
};

/// Run a command in a sandbox
///
/// Exits with the command's own status. The command lives on when this client is killed: see `ps`, `attach` and `logs`.
#[derive(Debug, Args)]
#[command(
    override_usage = "sandbar exec [OPTIONS] ID -- CMD...",
    after_help = "\
Examples:
  sandbar exec web -- ls -la /srv
  sandbar exec -it web -- bash
  echo hello | sandbar exec -i web -- cat
  PID=$(sandbar exec -d web -- python3 -m http.server 8080)"
)]
pub(crate) struct Exec {
    /// Pass standard input on
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Print the command's process id and return; its output is kept for `attach` and `logs`
    #[arg(short = 'd', long, conflicts_with = "interactive")]
    detach: bool,
    /// End the command after this long: seconds, or 5m, 2h
    #[arg(long, value_name = "SECONDS", value_parser = args::duration)]
    timeout: Option<Duration>,
    /// A variable for the command: NAME=VALUE, or NAME to pass on your own
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<Variable>,
    /// The working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user: NAME, UID or UID:GID
    #[arg(short = 'u', long)]
    user: Option<User>,
    /// The sandbox
    id: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        let mut request = ExecRequest::argv(self.command.into_iter().map(OsStringExt::into_vec));
        request.env = options::resolve(&self.env)?.into_iter().collect();
        request.workdir = self.workdir;
        request.user = self.user;
        request.timeout = self.timeout;
        request.stdin = self.interactive || self.tty;
        prepare_terminal(&mut request, self.tty);
        let sandbox = runtime.sandbox(&self.id).await?;
        if self.detach {
            let stream = sandbox.exec_stream(request).await?;
            output::line(&stream.pid.to_string())?;
            return Ok(0);
        }
        let mut signals = Signals::listen()?;
        let session = Session { stdin: request.stdin, pty: self.tty, ..Session::default() };
        Ok(session.run(&sandbox, request, &mut signals).await?.status())
    }
}

/// Open a shell in a sandbox
///
/// bash where the sandbox has it, else sh. Without a terminal, standard input is the script.
#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// The user: NAME, UID or UID:GID
    #[arg(short = 'u', long)]
    user: Option<User>,
    /// The working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// The sandbox
    id: String,
}

impl Shell {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        let sandbox = runtime.sandbox(&self.id).await?;
        let pty = terminal::stdin_is_terminal();
        let mut signals = Signals::listen()?;
        let session = Session { stdin: true, pty, ..Session::default() };
        let request = |program: &str| {
            let mut request = ExecRequest::argv([program]).with_stdin();
            request.workdir = self.workdir.clone();
            request.user = self.user.clone();
            prepare_terminal(&mut request, pty);
            request
        };
        let end = match session.run(&sandbox, request("/bin/bash"), &mut signals).await {
            Err(Failure::Sandbar(error)) if matches!(error.kind(), ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable) => {
                session.run(&sandbox, request("/bin/sh"), &mut signals).await
            }
            ended => ended,
        };
        Ok(end?.status())
    }
}

/// Asks for a terminal of our own's size and kind.
pub(super) fn prepare_terminal(request: &mut ExecRequest, tty: bool) {
    if !tty {
        return;
    }
    request.pty = Some(terminal::size_or_default());
    let ours = std::env::var("TERM").ok().filter(|term| !term.is_empty() && terminal::stdin_is_terminal());
    request.env.entry("TERM".to_owned()).or_insert_with(|| Some(ours.unwrap_or_else(|| "xterm".to_owned())));
}
