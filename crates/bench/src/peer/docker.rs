use std::path::Path;

use super::{answers, run, words};
use crate::Result;

/// The image that the container has; made by [`prepare`], so that nothing is downloaded.
const IMAGE: &str = "sandbar-bench-host";
/// The container that `exec` is measured in.
const NAME: &str = "sandbar-bench";

/// Whether an engine answers.
pub async fn is_here() -> bool {
    answers("docker", &["info"]).await
}

/// The host folders of the image `host`, by docker's options.
const MOUNTS: &str = "--network none -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro -v /bin:/bin:ro";

/// Makes an empty image and starts a container that idles.
pub async fn prepare() -> Result {
    run("sh", &["-c".into(), format!("tar -cf - -T /dev/null | docker import - {IMAGE}")]).await?;
    run("docker", &words(&format!("rm -f {NAME}"))).await?;
    run("docker", &words(&format!("run -d --name {NAME} {MOUNTS} {IMAGE} /bin/sleep 1000000"))).await
}

/// Makes an image of a tree, with the programs that are measured, and starts a container that idles.
pub async fn prepare_tree(tree: &Path) -> Result {
    run("sh", &["-c".into(), format!("tar -C '{}' -cf - . | docker import - {IMAGE}", tree.display())]).await?;
    run("docker", &words(&format!("rm -f {NAME}"))).await?;
    run("docker", &words(&format!("run -d --name {NAME} --network none {IMAGE} /bin/sleep 1000000"))).await
}

/// Create, one command, destroy, with the image alone.
pub async fn once_bare() -> Result {
    run("docker", &words(&format!("run --rm --network none {IMAGE} /bin/true"))).await
}

/// Saves the container that idles as an image, and removes that.
pub async fn commit() -> Result {
    run("docker", &words(&format!("commit {NAME} {IMAGE}-saved"))).await?;
    run("docker", &words(&format!("rmi -f {IMAGE}-saved"))).await
}

/// Create, one command, destroy.
pub async fn once() -> Result {
    run("docker", &words(&format!("run --rm {MOUNTS} {IMAGE} /bin/true"))).await
}

/// One command in the container that idles.
pub async fn exec() -> Result {
    run("docker", &words(&format!("exec {NAME} /bin/true"))).await
}

/// Removes what [`prepare`] made.
pub async fn clean() -> Result {
    run("docker", &words(&format!("rm -f {NAME}"))).await?;
    run("docker", &words(&format!("rmi -f {IMAGE}"))).await
}
