//! Networks for namespaces that a plain user made, by a TCP of their own in user space: what rootless containers usually have.

use tempfile::TempDir;

use super::{Served, answers, output};
use crate::Result;

/// As slirp4netns(1) has it, with the largest packets. Whoever waits for the namespace sees it change.
const SLIRP4NETNS: &str = r#"
unshare --user --map-root-user --net sleep 300 & inside=$!
trap 'kill $inside $network' EXIT
while [ "$(readlink /proc/$inside/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
mkfifo "$1/ready"
slirp4netns --configure --mtu=65520 --ready-fd=3 $inside tap0 3>"$1/ready" >/dev/null 2>&1 & network=$!
head -c 1 "$1/ready" >/dev/null
timeout 100 nsenter --preserve-credentials --user --net --target $inside python3 -c "$2"
"#;

/// It does not run as root, and the device it needs may be root's alone: it gets one of its own, in a mount namespace. Its namespace has another address than
/// this host, whose own it would have otherwise.
const PASTA: &str = r#"
mknod "$1/tun" c 10 200 && chmod 666 "$1/tun" && chmod 755 "$1" && mount --bind "$1/tun" /dev/net/tun || exit
exec setpriv --reuid 65534 --regid 65534 --clear-groups timeout --kill-after 1 100 \
    pasta --config-net -4 -a 10.0.2.15 -g 10.0.2.2 -n 24 -- python3 -c "$2" 2>/dev/null
"#;

/// A server in such a namespace, at a port of this host's loopback: asked for over slirp4netns' own socket.
const SLIRP4NETNS_SERVES: &str = r#"
unshare --user --map-root-user --net sleep 300 </dev/null >/dev/null & inside=$!
trap 'kill $inside $network' EXIT
while [ "$(readlink /proc/$inside/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
mkfifo "$1/ready"
slirp4netns --configure --mtu=65520 --ready-fd=3 --api-socket "$1/api" $inside tap0 3>"$1/ready" >/dev/null 2>&1 </dev/null & network=$!
head -c 1 "$1/ready" >/dev/null
python3 -c "
import json, socket, sys
ends = socket.socket(socket.AF_UNIX)
ends.connect(sys.argv[1])
wanted = {'proto': 'tcp', 'host_addr': '127.0.0.1', 'host_port': int(sys.argv[2]), 'guest_port': int(sys.argv[3])}
ends.sendall(json.dumps({'execute': 'add_hostfwd', 'arguments': wanted}).encode())
ends.shutdown(socket.SHUT_WR)
assert b'error' not in ends.recv(1024)
" "$1/api" "$3" "$4" || exit
timeout 100 nsenter --preserve-credentials --user --net --target $inside python3 -c "$2"
"#;

/// The same of pasta, which connects to the namespace's loopback where that is asked for.
const PASTA_SERVES: &str = r#"
mknod "$1/tun" c 10 200 && chmod 666 "$1/tun" && chmod 755 "$1" && mount --bind "$1/tun" /dev/net/tun || exit
exec setpriv --reuid 65534 --regid 65534 --clear-groups timeout --foreground --kill-after 1 100     pasta --config-net -4 -a 10.0.2.15 -g 10.0.2.2 -n 24 -t "127.0.0.1/$3:$4" -- python3 -c "$2"
"#;

/// One of them.
#[derive(Clone, Copy)]
pub enum Usernet {
    /// slirp4netns.
    Slirp4netns,
    /// pasta, of passt.
    Pasta,
}

impl Usernet {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Slirp4netns, Self::Pasta];

    /// Its program's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }

    /// Whether it is here.
    pub async fn is_here(self) -> bool {
        answers(self.name(), &["--version"]).await
    }

    /// A server in a namespace of its own, whose port is one of this host's loopback.
    pub async fn serve(self, program: &str, port: u16, inside: u16) -> Result<Served> {
        let folder = TempDir::new()?;
        let (port, inside) = (port.to_string(), inside.to_string());
        let arguments =
            |script: &str| ["-c", script, "sh", &folder.path().display().to_string(), program, &port, &inside].map(str::to_owned);
        let served = match self {
            Self::Slirp4netns => Served::begin("sh", &arguments(SLIRP4NETNS_SERVES)).await,
            Self::Pasta => {
                let script = ["--mount", "--propagation", "private", "sh"].map(str::to_owned);
                Served::begin("unshare", &[script.as_slice(), &arguments(PASTA_SERVES)].concat()).await
            }
        };
        Ok(served?.with(folder))
    }

    /// What a program prints in a namespace of its own.
    pub async fn python(self, program: &str) -> Result<String> {
        let folder = TempDir::new()?;
        let arguments = |script: &str| ["-c", script, "sh", &folder.path().display().to_string(), program].map(str::to_owned);
        match self {
            Self::Slirp4netns => output("sh", &arguments(SLIRP4NETNS)).await,
            Self::Pasta => {
                let script = ["--mount", "--propagation", "private", "sh"].map(str::to_owned);
                output("unshare", &[script.as_slice(), &arguments(PASTA)].concat()).await
            }
        }
    }
}
