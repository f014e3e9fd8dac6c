//! A login on loopback: a real `sshd` with its own configuration, keys and port, and a client that knows it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

const DAEMON: &str = "/usr/sbin/sshd";
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An address of this machine that nobody else uses: on 127.0.0.1 a port that is free for a moment may be another's already.
pub fn address_of_its_own() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The daemon; it ends with this.
pub struct Sshd {
    /// `ssh://root@ADDRESS:PORT`.
    pub url: String,
    /// The user's own `ssh`, as it would be by the user's own configuration; the only file in its folder.
    pub client: PathBuf,
    pub daemon: Child,
}

impl Sshd {
    /// One whose sessions have a state folder, and a folder for caches; `more` is in its configuration as well. Its shell finds no start-up files: what those of this
    /// machine's user take says nothing.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn start(folder: &Path, home: &Path, cache: &Path, more: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() || !Path::new(DAEMON).exists() {
            return Err("it needs root, and the package openssh-server".to_owned());
        }
        let cannot = |error: std::io::Error| format!("no sshd: {error}");
        let place = |name: &str| folder.join(name);
        for key in ["host", "client"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(place(key)).status().map_err(cannot)?;
            if !made.success() {
                return Err(format!("no sshd: ssh-keygen ended with {made}"));
            }
        }
        fs::copy(place("client.pub"), place("authorized")).map_err(cannot)?;
        let address = TcpListener::bind((address_of_its_own(), 0)).and_then(|listener| listener.local_addr()).map_err(cannot)?;
        let configuration = format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin yes\nSetEnv HOME={} SANDBAR_HOME={} XDG_CACHE_HOME={}\n{more}\n",
            place("host").display(),
            place("authorized").display(),
            folder.display(),
            home.display(),
            cache.display(),
        );
        fs::write(place("sshd_config"), configuration).map_err(cannot)?;
        fs::create_dir_all("/run/sshd").map_err(cannot)?;
        let mut daemon = Command::new(DAEMON);
        daemon.args(["-D", "-e", "-f"]).arg(place("sshd_config")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().map_err(cannot)?;
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/ssh -F none -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile={} -o LogLevel=ERROR \"$@\"\n",
            place("client").display(),
            place("known").display(),
        );
        let client = place("bin/ssh");
        fs::create_dir(place("bin")).and_then(|()| fs::write(&client, script)).map_err(cannot)?;
        fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).map_err(cannot)?;
        let sshd = Self { url: format!("ssh://root@{address}"), client, daemon };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > until {
                return Err("sshd does not listen".to_owned());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(sshd)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
