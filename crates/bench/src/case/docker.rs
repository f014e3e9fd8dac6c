use std::{fs, os::unix::fs::symlink, path::Path};

use sandbar_core::{CheckpointKind, SandboxSpec};
use sandbar_runtime::{CreateRequest, ForkOptions, Sandbox};

use super::{
    Setting,
    sandbox::{Stage, truth},
};
use crate::{
    Result,
    peer::{self, docker},
    sample::{Once, in_turns},
    table,
};

/// The image of both sides: one static program.
const IMAGE: &str = "bench";
const BUSYBOX: &str = "/bin/busybox";

/// The provider `docker` beside the engine's own command, on the engine that `DOCKER_HOST` or the usual place names.
pub async fn run(setting: &Setting) -> Result {
    if !docker::is_here().await || !Path::new(BUSYBOX).exists() {
        table::paragraph("No docker engine answers here, or there is no static busybox.");
        return Ok(());
    }
    let stage = Stage::new().await?;
    let tree = stage.home().join("bench-tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
    for name in ["true", "sleep", "sh"] {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    stage.runtime.images().import(&tree, Some(IMAGE)).await?;
    docker::prepare_tree(&tree).await?;
    let measured = measure(setting, &stage).await;
    docker::clean().await?;
    measured
}

async fn measure(setting: &Setting, stage: &Stage) -> Result {
    let program = setting.sandbar.display().to_string();
    let home = stage.home().display().to_string();
    let arguments: Vec<String> =
        ["--home", &home, "run", "--on", "docker", "--image", IMAGE, "--", "/bin/true"].map(str::to_owned).to_vec();
    table::heading("docker: create + first exec + destroy");
    let mut rows: Vec<(String, Once<'_>)> = vec![
        ("`docker run --rm`".into(), Box::new(async || docker::once_bare().await)),
        ("sandbar, library".into(), Box::new(async || cycle(stage).await)),
        ("`sandbar run --on docker`".into(), Box::new(async || peer::run(&program, &arguments).await)),
    ];
    table::ratios(&in_turns(setting.samples, &mut rows).await?);
    drop(rows);

    let sandbox = container(stage).await?;
    let arguments: Vec<String> = ["--home", &home, "exec", sandbox.id().as_str(), "--", "/bin/true"].map(str::to_owned).to_vec();
    table::heading("docker: exec `true`");
    let mut rows: Vec<(String, Once<'_>)> = vec![
        ("`docker exec`".into(), Box::new(async || docker::exec().await)),
        ("sandbar, library".into(), Box::new(async || truth(&sandbox).await)),
        ("`sandbar exec`".into(), Box::new(async || peer::run(&program, &arguments).await)),
    ];
    table::ratios(&in_turns(setting.samples, &mut rows).await?);
    drop(rows);

    table::heading("docker: checkpoint of the disk, and a fork with its first exec");
    let checkpoint = sandbox.checkpoint(CheckpointKind::Disk, None).await?;
    let from = checkpoint.id.to_string();
    let mut rows: Vec<(String, Once<'_>)> = vec![
        ("`docker commit`, removed again".into(), Box::new(async || docker::commit().await)),
        ("checkpoint, removed again".into(), Box::new(async || saved(stage, &sandbox).await)),
        ("fork, exec, destroy".into(), Box::new(async || forked(stage, &from).await)),
    ];
    let measured = in_turns(setting.samples, &mut rows).await;
    drop(rows);
    sandbox.destroy().await?;
    table::ratios(&measured?);
    Ok(())
}

async fn container(stage: &Stage) -> Result<Sandbox> {
    let request = CreateRequest {
        provider: Some("docker".to_owned()),
        image: Some(IMAGE.to_owned()),
        spec: SandboxSpec::default(),
        ..CreateRequest::default()
    };
    Ok(stage.runtime.create(request).await?)
}

async fn cycle(stage: &Stage) -> Result {
    let sandbox = container(stage).await?;
    let outcome = truth(&sandbox).await;
    sandbox.destroy().await?;
    outcome
}

async fn saved(stage: &Stage, sandbox: &Sandbox) -> Result {
    let checkpoint = sandbox.checkpoint(CheckpointKind::Disk, None).await?;
    Ok(stage.runtime.remove_checkpoint(checkpoint.id.as_str()).await?)
}

async fn forked(stage: &Stage, checkpoint: &str) -> Result {
    for sandbox in stage.runtime.fork(checkpoint, 1, ForkOptions::default()).await? {
        let outcome = truth(&sandbox).await;
        sandbox.destroy().await?;
        outcome?;
    }
    Ok(())
}
