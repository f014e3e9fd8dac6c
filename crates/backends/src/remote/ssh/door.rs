use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context as _, Result};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, net::UnixStream, task::spawn_blocking, time::timeout};

use super::{
    super::{address::Address, problem::OPERATION},
    SshOptions,
    route::{Route, folder},
    stream::READY,
};

/// What the server there may take to greet.
const GREETING: Duration = Duration::from_secs(10);
/// How long it is remembered that a host leads no sockets.
const SHUT: Duration = Duration::from_secs(600);

/// How the names begin of what belongs to a host, as this `ssh` reaches it.
fn prefix(options: &SshOptions, address: &Address) -> String {
    let ssh = options.ssh.as_deref().unwrap_or_else(|| "ssh".as_ref());
    let host = Sha256::new().chain_update(ssh.as_os_str().as_encoded_bytes()).chain_update([0]).chain_update(address.origin().to_string());
    format!("{}-", hex::encode(&host.finalize()[..8]))
}

/// A socket here that leads to one there, over the connection that is shared: who connects starts nothing, neither here nor there.
pub(super) struct Door {
    socket: PathBuf,
}

impl Door {
    /// The one to a server of this program.
    pub(super) fn to(options: &SshOptions, address: &Address, digest: &str) -> Result<Self> {
        Ok(Self { socket: folder()?.join(format!("{}{}.socket", prefix(options, address), &digest[..16])) })
    }

    /// Removes what is left here of all doors to a host.
    pub(super) fn forget(options: &SshOptions, address: &Address) -> Result<()> {
        let (folder, prefix) = (folder()?, prefix(options, address));
        let entries = folder.read_dir().context(OPERATION, || format!("cannot list {}", folder.display()))?;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            // Somebody else may remove it at the same time.
            let _ = std::fs::remove_file(entry.path());
        }
        Ok(())
    }

    /// Connects, where somebody answers.
    pub(super) async fn enter(&self) -> Option<UnixStream> {
        let entered = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let mut line = [0; READY.len() + 1];
            stream.read_exact(&mut line).await?;
            Ok::<_, io::Error>((line.strip_suffix(b"\n") == Some(READY.as_bytes())).then_some(stream))
        };
        timeout(GREETING, entered).await.ok()?.ok()?
    }

    /// Waits until nobody else, of whichever process, makes it.
    pub(super) async fn turn(&self) -> Result<File> {
        let path = self.socket.with_extension("lock");
        let lock = move || {
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        };
        spawn_blocking(lock)
            .await
            .map_err(io::Error::other)
            .flatten()
            .context(OPERATION, || "cannot lock the way to another host".to_owned())
    }

    /// Has it lead to a socket there. Whether it does.
    pub(super) async fn lead(&self, route: &Route, there: &str) -> Result<bool> {
        // What would have to be quoted is not worth it.
        if !there.starts_with('/') || there.contains([':', '[', '\\', ' ']) {
            return Ok(false);
        }
        let way = format!("{}:{there}", self.socket.display());
        // The connection may know of one whose socket is gone.
        route.control(&["-O", "cancel", "-L", &way]).await?;
        let _ = tokio::fs::remove_file(&self.socket).await;
        route.control(&["-O", "forward", "-L", &way]).await
    }

    /// Whether the host was found to lead none, a while ago.
    pub(super) fn is_shut(&self) -> bool {
        let since = std::fs::metadata(self.mark()).and_then(|mark| mark.modified());
        since.is_ok_and(|since| SystemTime::now().duration_since(since).is_ok_and(|since| since < SHUT))
    }

    /// Remembers that the host leads none.
    pub(super) fn shut(&self) {
        // Otherwise it is tried again.
        let _ = File::create(self.mark());
    }

    fn mark(&self) -> PathBuf {
        self.socket.with_extension("shut")
    }
}
