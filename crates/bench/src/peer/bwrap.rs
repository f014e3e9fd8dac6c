use std::path::Path;

use super::{answers, run, words};
use crate::Result;

/// The host folders of the image `host`, by bubblewrap's options.
pub fn arguments() -> Vec<String> {
    let mut arguments =
        words("--unshare-all --die-with-parent --new-session --ro-bind /usr /usr --proc /proc --dev /dev --tmpfs /tmp --tmpfs /home");
    for (link, target) in [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")] {
        if Path::new(link).is_symlink() {
            arguments.extend(words(&format!("--symlink {target} {link}")));
        } else if Path::new(link).exists() {
            arguments.extend(words(&format!("--ro-bind {link} {link}")));
        }
    }
    arguments.push("/bin/true".to_owned());
    arguments
}

/// Whether it is here.
pub async fn is_here() -> bool {
    answers("bwrap", &["--version"]).await
}

/// Create, one command, destroy.
pub async fn once() -> Result {
    run("bwrap", &arguments()).await
}
