use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::World;
use crate::{Case, Context, Failure, Subject, sandbox::PATIENCE};

/// How a case ended, as it goes from a child to its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// The fact holds.
    Passed,
    /// It does not.
    Failed(String),
    /// It says nothing here.
    Ignored(String),
    /// The whole variant cannot be tested here.
    Unavailable(String),
}

/// A runtime for one case, of the flavour that the subject asks for.
pub(super) fn runtime(threads: Option<usize>) -> std::io::Result<Runtime> {
    match threads {
        Some(count) => Builder::new_multi_thread().worker_threads(count).enable_all().build(),
        None => Builder::new_current_thread().enable_all().build(),
    }
}

/// Runs one case to its end and cleans up after it.
pub(super) fn run(subject: &Arc<Subject>, case: &Case) -> Outcome {
    if let Some(reason) = case.inapplicable(&subject.features(), subject) {
        return Outcome::Ignored(reason);
    }
    let _turn = match World::lock(&subject.folder, case.alone) {
        Ok(turn) => turn,
        Err(error) => return Outcome::Failed(format!("the harness cannot lock: {error}")),
    };
    let outcome = match runtime(subject.threads) {
        Ok(runtime) => runtime.block_on(run_in(subject, case)),
        Err(error) => Err(Failure::new(format!("the harness has no runtime: {error}"))),
    };
    match outcome {
        Ok(()) => Outcome::Passed,
        Err(Failure::Failed(message)) => Outcome::Failed(message),
        Err(Failure::Ignored(reason)) => Outcome::Ignored(reason),
    }
}

async fn run_in(subject: &Arc<Subject>, case: &Case) -> Result<(), Failure> {
    let context = Arc::new(Context::new(Arc::clone(subject), case.name)?);
    let (run, held) = (case.run, Arc::clone(&context));
    let mut task = tokio::spawn(PATIENCE.scope(subject.patience, async move { run(&held).await }));
    let deadline = case.deadline * subject.patience;
    let outcome = match timeout(deadline, &mut task).await {
        Ok(joined) => joined.unwrap_or_else(|error| Err(error.into())),
        Err(_) => {
            task.abort();
            let _ = task.await;
            Err(Failure::new(format!("did not end within {} s", deadline.as_secs())))
        }
    };
    let cleaned = context.finish().await;
    match (outcome, cleaned) {
        (Ok(()), cleaned) => cleaned,
        (Err(Failure::Failed(message)), Err(Failure::Failed(left))) => Err(Failure::new(format!("{message}\nand {left}"))),
        (outcome, _) => outcome,
    }
}
