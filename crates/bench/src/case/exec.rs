use sandbar_core::Limits;

use super::{
    Setting,
    sandbox::{Stage, truth},
};
use crate::{
    Result,
    peer::{self, docker::Docker, runc::Runc, spawn},
    sample::{Once, in_turns},
    table,
};

/// `true` in a running container: by the library beside a child process, and by the command line beside the peers' command lines.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    let sandbox = stage.container(Limits::default()).await?;
    table::heading("exec `true` in a running container, from the library");
    let mut rows: Vec<(String, Once<'_>)> = vec![
        ("in-process spawn of `/bin/true`".into(), Box::new(async || spawn::once().await)),
        ("sandbar, library".into(), Box::new(async || truth(&sandbox).await)),
    ];
    table::ratios(&in_turns(setting.samples * 5, &mut rows).await?);
    drop(rows);

    table::heading("exec `true` in a running container, whole process");
    let program = setting.sandbar.display().to_string();
    let home = stage.home().display().to_string();
    let arguments: Vec<String> = ["--home", &home, "exec", sandbox.id().as_str(), "--", "/bin/true"].map(str::to_owned).to_vec();
    let runc = if Runc::is_here().await { Some(Runc::new()?) } else { None };
    let docker = Docker::find().await;
    let mut rows: Vec<(String, Once<'_>)> = Vec::new();
    if let Some(docker) = docker {
        docker.prepare().await?;
        rows.push(("`docker exec`".into(), Box::new(async || docker.exec_idle().await)));
    }
    rows.push(("`sandbar exec`".into(), Box::new(async || peer::run(&program, &arguments).await)));
    if let Some(runc) = &runc {
        runc.start_idle("bench-idle").await?;
        rows.push(("`runc exec`".into(), Box::new(async || runc.exec("bench-idle").await)));
    }
    let measured = in_turns(setting.samples, &mut rows).await;
    drop(rows);
    if let Some(runc) = &runc {
        runc.end_idle("bench-idle").await?;
    }
    if let Some(docker) = docker {
        docker.clean().await?;
    } else {
        table::paragraph("No docker engine answers here.");
    }
    sandbox.destroy().await?;
    table::ratios(&measured?);
    Ok(())
}
