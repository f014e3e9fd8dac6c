use std::io::{BufRead, IsTerminal, stdin};

use clap::Args;
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::Runtime;

use crate::{error::Outcome, output};

/// Get what a provider lacks on this machine
///
/// Shows what it would do (the distribution's packages, the image `base`), asks, and does it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandbar setup docker -y")]
pub(crate) struct Setup {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// The provider, such as docker
    provider: String,
}

impl Setup {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let steps = runtime.plan_setup(&self.provider).await?;
        if steps.is_empty() {
            output::note(&format!("{} lacks nothing here", self.provider));
        }
        for step in &steps {
            output::note(&format!("to do: {}", step.describe()));
        }
        if !steps.is_empty() && !self.yes && !is_agreed()? {
            return Ok(());
        }
        for step in &steps {
            runtime.set_up(step).await?;
        }
        let probe = runtime.providers().get(&self.provider)?.probe().await;
        if probe.usable {
            output::note(&format!("{} can be used: {}", self.provider, probe.verdict));
            return Ok(());
        }
        let error = Error::new(ErrorKind::Unavailable, "setup", format!("{} cannot be used yet: {}", self.provider, probe.verdict));
        Err(match probe.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
        .into())
    }
}

/// Asks the person; nobody is there to ask where input is no terminal.
fn is_agreed() -> Outcome<bool> {
    if !stdin().is_terminal() {
        output::note("nothing was done; -y does it");
        return Ok(false);
    }
    output::note("do it? [y/N]");
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).map_err(|error| Error::io("setup", "cannot read the answer", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
