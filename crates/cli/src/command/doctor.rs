use std::path::PathBuf;

use clap::Args;
use sandbar_core::Error;
use sandbar_runtime::{Diagnosis, Runtime};

use super::elsewhere;
use crate::{
    error::Outcome,
    output::{self, Table},
};

/// Tell what this machine can do for sandboxes, and what to do next
///
/// Everything that is said was tried. Exits with 0 if code can be run behind a wall here, with 1 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar doctor --self-test
  sandbar doctor --on ssh://box      what that machine can do")]
pub(crate) struct Doctor {
    /// Another host: a context, https:// or ssh://
    #[arg(long, value_name = "PLACE")]
    on: Option<String>,
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
        if let Some(place) = &self.on {
            return self.of_another(&runtime?, place).await;
        }
        let diagnosis = match &runtime {
            Ok(runtime) => runtime.diagnose(self.self_test).await,
            Err(_) => Diagnosis::of_host(&home).await,
        };
        self.tell(&diagnosis)?;
        match runtime {
            Err(error) => Err(error.into()),
            Ok(_) => Ok(u8::from(!diagnosis.healthy)),
        }
    }

    async fn of_another(&self, runtime: &Runtime, place: &str) -> Outcome<u8> {
        let host = elsewhere::other_host(runtime, Some(place), "diagnosis")?;
        let host = host.ok_or_else(|| elsewhere::of_all_providers("diagnosis", place))?;
        let diagnosis: Diagnosis = host.doctor(self.self_test).await?;
        self.tell(&diagnosis)?;
        Ok(u8::from(!diagnosis.healthy))
    }

    fn tell(&self, diagnosis: &Diagnosis) -> Outcome {
        if self.json { output::json(diagnosis) } else { print(diagnosis) }
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
        table.row([check.name.clone(), check.health.to_string(), check.finding.clone()]);
    }
    table.print()?;
    let of_providers = diagnosis.providers.iter().map(|provider| (provider.name.as_str(), &provider.hint));
    let of_host = diagnosis.host.iter().map(|check| (check.name.as_str(), &check.hint));
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
