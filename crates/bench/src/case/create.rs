use sandbar_core::Limits;

use super::{Setting, sandbox::Stage};
use crate::{
    Result,
    peer::{self, bwrap, docker::Docker, nsjail, runc::Runc},
    sample::{Once, in_turns},
    table,
};

/// Create, one command, destroy: beside the peers doing the same.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("create + first exec + destroy, no limits");
    let program = setting.sandbar.display().to_string();
    let arguments: Vec<String> =
        ["--home", &stage.home().display().to_string(), "run", "--on", "container", "--", "/bin/true"].map(str::to_owned).to_vec();
    let runc = if Runc::is_here().await { Some(Runc::new()?) } else { None };
    let mut rows: Vec<(String, Once<'_>)> = Vec::new();
    if bwrap::is_here().await {
        rows.push(("`bwrap`".into(), Box::new(async || bwrap::once().await)));
    }
    rows.push(("sandbar, library".into(), Box::new(async || stage.cycle(Limits::default()).await)));
    rows.push(("`sandbar run`".into(), Box::new(async || peer::run(&program, &arguments).await)));
    if nsjail::is_here().await {
        rows.push(("`nsjail`".into(), Box::new(async || nsjail::once().await)));
    }
    if let Some(runc) = &runc {
        runc.prepare_once()?;
        rows.push(("`runc run`".into(), Box::new(async || runc.once().await)));
    }
    let docker = Docker::find().await;
    if let Some(docker) = docker {
        docker.prepare().await?;
        rows.push(("`docker run --rm`".into(), Box::new(async || docker.once().await)));
    }
    let measured = in_turns(setting.samples, &mut rows).await;
    drop(rows);
    if let Some(docker) = docker {
        docker.clean().await?;
    }
    table::ratios(&measured?);
    Ok(())
}
