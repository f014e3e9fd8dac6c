//! A process that owns a sandbox, so that a case can see what becomes of it when its owner is killed.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
};

use sandbar_core::{ExecRequest, Journal, Lifetime, ProvisionRequest, Resource, RootSource, SandboxId, SandboxSpec};
use serde::{Deserialize, Serialize};

use super::{
    Variant, World,
    child::CHILD,
    program::{availability, refuse},
    runner,
    variant::Availability,
    world::FOLDER,
};
use crate::{Failure, Recorder, Subject};

/// Tells a process to own a sandbox: how, as JSON.
const OWNER: &str = "SANDBAR_CONFORMANCE_OWNER";

#[derive(Serialize, Deserialize)]
struct Order {
    variant: String,
    folder: PathBuf,
    id: SandboxId,
    root: RootSource,
    marker: String,
}

/// A sandbox that another process owns.
pub(crate) struct Owned {
    /// The owner.
    pub(crate) process: Child,
    /// What it holds.
    pub(crate) resources: Vec<Resource>,
    /// Its id.
    pub(crate) id: SandboxId,
}

/// Starts an owner with one sandbox in `folder`, in which `sleep MARKER` runs.
pub(crate) fn start(subject: &Subject, id: SandboxId, folder: &Path, world: &Path, marker: &str) -> Result<Owned, Failure> {
    let order = Order {
        variant: subject.name.clone(),
        folder: folder.to_owned(),
        id: id.clone(),
        root: subject.root.clone(),
        marker: marker.to_owned(),
    };
    let order = serde_json::to_string(&order).map_err(|error| Failure::new(error.to_string()))?;
    let mut command = Command::new(env::current_exe()?);
    command.env_remove(CHILD).env(OWNER, order).env(FOLDER, world).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = command.spawn()?;
    let mut line = String::new();
    if let Some(output) = process.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    match serde_json::from_str(&line) {
        Ok(resources) => Ok(Owned { process, resources, id }),
        Err(_) => {
            let _ = process.kill();
            let _ = process.wait();
            Err(Failure::new(format!("the owner made no sandbox: {line:?}")))
        }
    }
}

/// In an owner: makes the sandbox, says what it holds, and waits to be killed. `None` in any other process.
pub(super) fn serve(variants: &[Variant], world: &Arc<World>) -> Option<ExitCode> {
    let order: Order = serde_json::from_str(&env::var(OWNER).ok()?).ok()?;
    let Some(variant) = variants.iter().find(|variant| variant.name == order.variant) else {
        return Some(refuse(&format!("no variant {:?}", order.variant)));
    };
    let Availability::Here(subject) = availability(variant, world) else {
        return Some(refuse("the variant is not available to an owner"));
    };
    let runtime = match runner::runtime(Some(2)) {
        Ok(runtime) => runtime,
        Err(error) => return Some(refuse(&error.to_string())),
    };
    Some(match runtime.block_on(own(&subject, order)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => refuse(&format!("{failure:?}")),
    })
}

async fn own(subject: &Subject, order: Order) -> Result<(), Failure> {
    let journal = Arc::new(Recorder::new(order.folder.clone()));
    let request = ProvisionRequest {
        id: order.id,
        spec: SandboxSpec::default(),
        secret_values: BTreeMap::new(),
        root: order.root,
        folder: order.folder,
        ids: subject.ids.as_ref().map(|pool| pool.take()),
        lifetime: Lifetime::Owned,
        journal: Arc::clone(&journal) as Arc<dyn Journal>,
    };
    let handle = subject.provider.provision(request).await?;
    let _running = handle.exec_stream(ExecRequest::argv(["sleep", &order.marker])).await?;
    let resources = serde_json::to_string(&journal.held()).map_err(|error| Failure::new(error.to_string()))?;
    say(&resources)?;
    std::future::pending().await
}

fn say(line: &str) -> io::Result<()> {
    use io::Write;
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
