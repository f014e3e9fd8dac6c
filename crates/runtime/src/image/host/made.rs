//! What a sandbox on the image `host` has that is not the host's.

use std::path::Path;

use super::{
    gather::Folders,
    skeleton::{Item, Node},
};
use crate::image::config::DEFAULT_PATH;

/// The id of the ordinary user that every such sandbox has.
pub(super) const SANDBOX_USER: u32 = 1000;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";

/// `tty` owns the pseudo-terminals. The last group has one name on Debian and another elsewhere.
const GROUP: &str = "\
root:x:0:
daemon:x:1:
tty:x:5:
users:x:100:
sandbox:x:1000:
nogroup:x:65534:
nobody:x:65534:
";

/// The host's own may ask directories and name services that would tell about its users and its network, or that do
/// not answer in a sandbox.
const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
";

const HOSTS: &str = "\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
";

/// Whoever gives a sandbox a network gives it this file as well; without one, asking fails at once.
const RESOLV_CONF: &str = "# made by sandbar\n";

const BASHRC: &str = "\
# made by sandbar
[ -z \"${PS1-}\" ] || PS1='\\u@\\h:\\w\\$ '
";

const SHELLS: &str = "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n";

/// Folders that exist everywhere, by the file system hierarchy standard; mount points among them.
const FOLDERS: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("home/sandbox", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o1777),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// All of it.
pub(super) fn items(folders: &Folders) -> Vec<Item> {
    let mut items: Vec<_> = FOLDERS.iter().map(|(path, mode)| Item::folder(path, *mode)).collect();
    items.extend(folders.folders.iter().filter_map(|folder| Some(Item::folder(folder.strip_prefix("/").ok()?, 0o755))));
    items.extend(folders.links.iter().map(|(name, target)| Item::link(name, target)));
    items.push(Item::link("var/run", "/run"));
    items.push(Item::link("var/lock", "/run/lock"));
    items.push(Item::link("etc/mtab", "../proc/self/mounts"));
    let profile = format!(
        "# made by sandbar\n[ -n \"${{PATH-}}\" ] || PATH={DEFAULT_PATH}\nexport PATH\n[ -z \"${{BASH-}}\" ] || . /etc/bash.bashrc\n"
    );
    for (name, content) in [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("nsswitch.conf", NSSWITCH),
        ("hosts", HOSTS),
        ("hostname", "sandbox\n"),
        ("resolv.conf", RESOLV_CONF),
        ("profile", &profile),
        ("bash.bashrc", BASHRC),
        ("shells", SHELLS),
    ] {
        let node = Node::File { content: content.as_bytes().to_vec(), mtime: (0, 0) };
        items.push(Item { path: Path::new("etc").join(name), mode: 0o644, node });
    }
    items
}
