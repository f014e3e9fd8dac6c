use std::{fs, os::unix::fs::symlink, path::Path};

use sandbar_core::{CheckpointKind, SandboxSpec};

use super::{
    Setting,
    life::{self, Wall},
    sandbox::{Stage, truth},
};
use crate::{
    Result,
    peer::{self, docker::Docker},
    sample::{Once, in_turns},
    table,
};

/// The image of both sides: one static program.
const IMAGE: &str = "bench";
const BUSYBOX: &str = "/bin/busybox";

/// The provider `docker` beside the engine's own command.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("docker, beside the engine's own command; checkpoints hold the disk");
    let Some(docker) = Docker::find().await.filter(|_| Path::new(BUSYBOX).exists()) else {
        table::paragraph("No docker engine answers here or can be started, or there is no static busybox.");
        return Ok(());
    };
    let tree = stage.home().join("bench-tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
    for name in ["true", "sleep", "sh"] {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    stage.runtime.images().import(&tree, Some(IMAGE)).await?;
    docker.prepare_tree(&tree).await?;
    let measured = measure(setting, stage, docker).await;
    stage.clear().await?;
    docker.clean().await?;
    measured
}

async fn measure(setting: &Setting, stage: &Stage, docker: &Docker) -> Result {
    let program = setting.sandbar.display().to_string();
    let home = stage.home().display().to_string();
    let arguments = ["--home", &home, "run", "--on", "docker", "--image", IMAGE, "--", "/bin/true"].map(str::to_owned);
    let mut rows: Vec<(String, Once<'_>)> = vec![
        ("`docker run --rm`".into(), Box::new(async || docker.once_bare().await)),
        ("sandbar, library: create + exec + destroy".into(), Box::new(async || cycle(stage).await)),
        ("`sandbar run --on docker`".into(), Box::new(async || peer::run(&program, &arguments).await)),
    ];
    table::ratios(&in_turns(setting.samples, &mut rows).await?);
    drop(rows);
    let wall = Wall { provider: "docker", image: Some(IMAGE), kind: CheckpointKind::Disk };
    life::run(setting, stage, &wall, docker).await
}

async fn cycle(stage: &Stage) -> Result {
    let sandbox = stage.sandbox("docker", Some(IMAGE), SandboxSpec::default()).await?;
    let outcome = truth(&sandbox).await;
    sandbox.destroy().await?;
    outcome
}
