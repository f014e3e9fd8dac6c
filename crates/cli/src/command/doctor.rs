use std::path::PathBuf;

use clap::Args;
use sandbar_core::Error;
use sandbar_runtime::{Diagnosis, Runtime};

use crate::{
    error::Outcome,
    output::{self, Table},
};

/// Tell what this machine can do for sandboxes, and what to do next
///
/// Everything that is said was tried. Exits with 0 if code can be run behind a wall here, with 1 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandbar doctor --self-test")]
pub(crate) struct Doctor {
    /// Make a sandbox with each provider that can be used, and let it say hello
    #[arg(long)]
    self_test: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// `runtime` is an error where its state folder, `home`, cannot be used: the host is looked at all the same.
    pub(super) async fn run(self, runtime: Result<Runtime, Error>, home: PathBuf) -> Outcome<u8> {
        let diagnosis = match &runtime {
            Ok(runtime) => runtime.diagnose(self.self_test).await,
            Err(_) => Diagnosis::of_host(&home).await,
        };
        if self.json {
            output::json(&diagnosis)?;
        } else {
            print(&diagnosis)?;
        }
        match runtime {
            Err(error) => Err(error.into()),
            Ok(_) => Ok(u8::from(!diagnosis.healthy)),
        }
    }
}

fn print(diagnosis: &Diagnosis) -> Outcome {
    let mut table = Table::new(&["PROVIDER", "USABLE", "ISOLATION", "FOUND"]);
    for provider in &diagnosis.providers {
        let usable = match (provider.usable, provider.said_hello) {
            (false, _) => "no",
            (true, None) => "yes",
            (true, Some(true)) => "yes, said hello",
            (true, Some(false)) => "no, said nothing",
        };
        table.row([provider.name.clone(), usable.to_owned(), provider.isolation.to_string(), provider.verdict.clone()]);
    }
    if !diagnosis.providers.is_empty() {
        table.print()?;
        output::line("")?;
    }
    let mut table = Table::new(&["HOST", "HEALTH", "FOUND"]);
    for check in &diagnosis.host {
        table.row([check.name.to_owned(), check.health.to_string(), check.finding.clone()]);
    }
    table.print()?;
    let of_providers = diagnosis.providers.iter().map(|provider| (provider.name.as_str(), &provider.hint));
    let of_host = diagnosis.host.iter().map(|check| (check.name, &check.hint));
    let hints: Vec<_> = of_providers.chain(of_host).filter_map(|(name, hint)| Some((name, hint.as_ref()?))).collect();
    if !hints.is_empty() {
        output::line("")?;
    }
    for (name, hint) in hints {
        for hint in hint.lines() {
            output::line(&format!("{name}: {}", output::escape(hint)))?;
        }
    }
    Ok(())
}
