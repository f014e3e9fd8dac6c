//! What commands say to a keeper: a line, answered by a line. All that matters is in the ledger; this only says "look now".

use std::{fs::File, io, path::PathBuf, time::Duration};

use sandbar_core::SandboxId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{home::Home, system};

/// The request: bring the listeners in line with the ledger. The answer comes when that is done.
pub(super) const RECONCILE: &[u8] = b"reconcile\n";
/// The answer.
pub(super) const DONE: &[u8] = b"done\n";
/// How long a keeper may take for it: some binds, or a connection to nobody.
const PATIENCE: Duration = Duration::from_secs(10);

/// A path to a socket that is short, while this lives.
pub(super) struct ShortPath {
    _folder: File,
    pub(super) path: PathBuf,
}

pub(super) fn short_path(home: &Home, id: &SandboxId) -> io::Result<ShortPath> {
    let folder = File::open(home.keepers())?;
    let path = system::short_path(&folder, &home.keepers(), &Home::keeper_socket_name(id));
    Ok(ShortPath { _folder: folder, path })
}

/// Listens for commands; a socket that a dead keeper left is replaced. Only under the keeper's lock.
pub(super) fn listen(home: &Home, id: &SandboxId) -> io::Result<UnixListener> {
    let short = short_path(home, id)?;
    match std::fs::remove_file(&short.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(&short.path),
    }
}

/// Asks the keeper to look at the ledger, and waits until it has.
///
/// # Errors
/// When there is no keeper, or it ends before it answers.
pub(super) async fn reconcile(home: &Home, id: &SandboxId) -> io::Result<()> {
    let ask = async {
        let mut stream = UnixStream::connect(short_path(home, id)?.path).await?;
        stream.write_all(RECONCILE).await?;
        let mut answer = [0; DONE.len()];
        stream.read_exact(&mut answer).await.map(|_| ())
    };
    timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
