use super::{answers, run, words};
use crate::Result;

/// Whether it is here.
pub async fn is_here() -> bool {
    answers("nsjail", &["--help"]).await
}

/// Create, one command, destroy.
pub async fn once() -> Result {
    let arguments = words("-Mo --quiet --disable_clone_newcgroup -R /usr -R /bin -R /lib -R /lib64 -T /tmp --rlimit_as inf -- /bin/true");
    run("nsjail", &arguments).await
}
