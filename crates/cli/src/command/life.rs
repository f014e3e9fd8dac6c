use std::future::Future;

use clap::Args;
use sandbar_core::{Error, ErrorKind, Result, State};
use sandbar_runtime::{GcItem, GcReport, Runtime, Sandbox};
use tokio::task::JoinSet;

use super::elsewhere;
use crate::{
    error::{Failure, Outcome},
    output,
};

/// Which sandboxes.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The sandboxes
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

impl Which {
    /// Does the same to each, at the same time; one that fails does not keep the others.
    async fn each<F: Future<Output = Result<()>> + Send + 'static>(self, runtime: &Runtime, work: impl Fn(Sandbox) -> F) -> Outcome {
        let mut tasks = JoinSet::new();
        let mut errors = Vec::new();
        let alone = self.ids.len() == 1;
        for id in self.ids {
            let sandbox = match runtime.sandbox(&id).await {
                Ok(sandbox) => sandbox,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            let done = work(sandbox);
            tasks.spawn(async move { done.await.map_err(|error| if alone { error } else { error.with("sandbox", id) }) });
        }
        errors.extend(tasks.join_all().await.into_iter().filter_map(Result::err));
        Failure::from_all(errors)
    }
}

/// `pause`.
pub(super) async fn pause(which: Which, runtime: &Runtime) -> Outcome {
    which.each(runtime, |sandbox| async move { sandbox.pause().await }).await
}

/// `resume`.
pub(super) async fn resume(which: Which, runtime: &Runtime) -> Outcome {
    which.each(runtime, |sandbox| async move { sandbox.resume().await }).await
}

/// `stop`.
pub(super) async fn stop(which: Which, runtime: &Runtime) -> Outcome {
    which.each(runtime, |sandbox| async move { sandbox.stop().await }).await
}

/// `start`.
pub(super) async fn start(which: Which, runtime: &Runtime) -> Outcome {
    which.each(runtime, |sandbox| async move { sandbox.start().await }).await
}

/// Destroy a sandbox, with its files
///
/// Its checkpoints stay.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Even if it runs
    #[arg(short = 'f', long)]
    force: bool,
    #[command(flatten)]
    which: Which,
}

impl Rm {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let force = self.force;
        self.which
            .each(runtime, move |sandbox| async move {
                let state = if force { State::Stopped } else { sandbox.summary().await?.state };
                if matches!(state, State::Running | State::Paused | State::Provisioning) {
                    let error = Error::new(ErrorKind::Conflict, "rm", format!("the sandbox is {state}")).with("id", sandbox.id());
                    return Err(error.with_hint("stop it first (sandbar stop ID), or end it with its files: sandbar rm -f ID"));
                }
                sandbox.destroy().await
            })
            .await
    }
}

/// Clear up what crashed commands left behind
///
/// Every command does that for the sandboxes it touches; this looks at everything, and prints what it removed. A sandbox that
/// runs is never touched, except one whose time to live has passed or whose owner is gone.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// What crashed on another host: a context, https:// or ssh://
    #[arg(long, value_name = "PLACE")]
    on: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let report: GcReport = match elsewhere::other_host(runtime, self.on.as_deref(), "state folder")? {
            None => runtime.gc().await?,
            Some(host) => host.gc().await?,
        };
        if self.json {
            output::json(&report)?;
            return if report.failed.is_empty() {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Internal, "gc", "not everything could be removed").into())
            };
        }
        let lines = |items: &[GcItem], done: &str| -> String {
            items.iter().map(|item| output::escape(&format!("{done} {} {}: {}", item.kind, item.name, item.reason)) + "\n").collect()
        };
        output::raw((lines(&report.recovered, "recovered") + &lines(&report.removed, "removed")).as_bytes())?;
        let failed = report.failed.iter();
        Failure::from_all(
            failed
                .map(|item| Error::new(ErrorKind::Internal, "gc", format!("cannot remove {} {}: {}", item.kind, item.name, item.reason)))
                .collect(),
        )
    }
}
