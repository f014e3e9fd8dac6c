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
/// Bytes of a socket's path (unix(7)).
const LONGEST_PATH: usize = 107;
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

    /// Connects.
    ///
    /// # Errors
    /// `TimedOut` when nobody greets; another one when nobody is there.
    pub(super) async fn enter(&self) -> io::Result<UnixStream> {
        let entered = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let mut line = [0; READY.len() + 1];
            stream.read_exact(&mut line).await?;
            if line.strip_suffix(b"\n") == Some(READY.as_bytes()) { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
        };
        timeout(GREETING, entered).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until nobody else, of whichever process, makes it. With whether somebody did.
    pub(super) async fn turn(&self) -> Result<(File, bool)> {
        let path = self.socket.with_extension("lock");
        let lock = move || {
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            let waited = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
            if waited {
                flock(&file, FlockOperation::LockExclusive)?;
            }
            Ok((file, waited))
        };
        spawn_blocking(lock)
            .await
            .map_err(io::Error::other)
            .flatten()
            .context(OPERATION, || "cannot lock the way to another host".to_owned())
    }

    /// Has it lead to a socket there, whose path the other side has said. Whether somebody is there is seen by who enters.
    pub(super) async fn lead(&self, route: &Route, there: &str) -> Result<()> {
        if !is_plain(there) {
            return Ok(());
        }
        let way = format!("{}:{there}", self.socket.display());
        // The connection may know of one whose socket is gone.
        route.control(&["-O", "cancel", "-L", &way]).await?;
        let _ = tokio::fs::remove_file(&self.socket).await;
        // Its status is not of this one alone: it asks for what the user's configuration forwards as well.
        route.control(&["-O", "forward", "-L", &way]).await.map(drop)
    }

    /// Whether the host was found to lead none, a while ago.
    pub(super) fn is_shut(&self) -> bool {
        let since = std::fs::metadata(self.mark()).and_then(|mark| mark.modified());
        since.is_ok_and(|since| SystemTime::now().duration_since(since).is_ok_and(|since| since < SHUT))
    }

    /// Remembers that the host leads none.
    pub(super) fn shut(&self) {
        // Otherwise it is tried again, and nobody has to find out that it leads nowhere.
        let _ = (File::create(self.mark()), std::fs::remove_file(&self.socket));
    }

    fn mark(&self) -> PathBuf {
        self.socket.with_extension("shut")
    }
}

/// Whether a path can be said to `ssh`, which expands `%h` and `${VARIABLE}` in the sockets it is to forward: the other side would hear what this side's
/// variables hold.
fn is_plain(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@,".contains(&byte);
    path.starts_with('/') && path.len() <= LONGEST_PATH && path.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_would_expand_or_take_apart_is_no_path() {
        assert!(is_plain("/home/some.body/.cache/sandbar/0123-ab_c.socket"));
        for path in
            ["", "relative", "/${HOME}", "/$HOME", "/%h", "/a:b", "/[a]", "/a b", "/a\\b", "/ä", &format!("/{}", "x".repeat(LONGEST_PATH))]
        {
            assert!(!is_plain(path), "{path}");
        }
    }
}
