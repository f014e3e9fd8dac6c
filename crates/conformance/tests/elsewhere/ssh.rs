use std::{
    env,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use sandbar_backends::{ProviderOptions, Registry, remote::SshOptions};
use sandbar_conformance::{Subject, Variant, World};

use super::{http::subject, sshd::Sshd};
use crate::variants::Preparing;

/// Containers behind a login on loopback.
pub const CONTAINER: Variant = Variant { name: "remote-ssh", prepare };

/// Those of this run.
static DAEMONS: Mutex<Vec<Sshd>> = Mutex::new(Vec::new());

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(async { find(world).await.into() })
}

async fn find(world: &World) -> Result<Subject, String> {
    let folder = |name: &str| world.folder(name).map_err(|error| format!("no folder: {error}"));
    let (folder, here, there) = (folder("remote-ssh")?, folder("remote-ssh/here")?, folder("remote-ssh/there")?);
    let sshd = Sshd::start(&folder, &there, &folder.join("cache"), "")?;
    let ssh = SshOptions { ssh: Some(sshd.client.clone()), upload: Some(program()?) };
    let url = format!("{}/container", sshd.url);
    DAEMONS.lock().unwrap_or_else(PoisonError::into_inner).push(sshd);
    let registry = Registry::new(&ProviderOptions { ssh, ..ProviderOptions::new(here) });
    let mut subject = subject("remote-ssh", &url, folder, &registry).await?;
    subject.patience = 2;
    Ok(subject)
}

/// Ends what this run has started.
pub fn end() {
    DAEMONS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The command, which the build of the workspace has put beside its tests.
fn program() -> Result<PathBuf, String> {
    let test = env::current_exe().map_err(|error| error.to_string())?;
    let program = test.ancestors().nth(2).map(|folder| folder.join("sandbar")).unwrap_or_default();
    if program.exists() { Ok(program) } else { Err(format!("there is no {}: build the workspace", program.display())) }
}
