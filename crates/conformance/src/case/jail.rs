use std::fs;

use sandbar_core::{ErrorKind, RemoveOptions};

use crate::{
    Context, Failure,
    Reach::{Shell, Workspace},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    suite::cases,
};

cases! { "jail";
    absolute_paths_outside_are_refused [.reach(&[Workspace])],
    parents_of_the_workspace_are_refused [.reach(&[Workspace])],
    links_lead_nowhere_outside [.reach(&[Workspace])],
    the_workspaces_own_absolute_paths_work [.reach(&[Workspace])],
    a_race_between_a_folder_and_a_link_leads_nowhere_outside [.reach(&[Shell, Workspace]).seconds(180)],
    removing_the_workspace_itself_is_refused [.reach(&[Workspace])],
}

const REFUSALS: [ErrorKind; 3] = [ErrorKind::PermissionDenied, ErrorKind::InvalidInput, ErrorKind::NotFound];
const TREE: RemoveOptions = RemoveOptions { recursive: true, missing_ok: false };

/// Every file call with a path that leads to `folder` of the host, which holds `canary`.
async fn all_are_refused(sandbox: &Sandbox, folder: &str) -> Result<(), Failure> {
    let file = format!("{folder}/canary");
    refused(&format!("get {file}"), sandbox.get(&file).await, &REFUSALS)?;
    refused(&format!("put {file}"), sandbox.put(&file, "changed").await, &REFUSALS)?;
    refused(&format!("put {folder}/new"), sandbox.put(&format!("{folder}/new"), "x").await, &REFUSALS)?;
    refused(&format!("list {folder}"), sandbox.read_dir(folder).await, &REFUSALS)?;
    refused(&format!("stat {file}"), sandbox.stat(&file, true).await, &REFUSALS)?;
    refused(&format!("make {folder}/made"), sandbox.make_dir(&format!("{folder}/made"), true, None).await, &REFUSALS)?;
    refused(&format!("rename {file}"), sandbox.rename(&file, "stolen", false).await, &REFUSALS)?;
    refused(&format!("rename to {file}"), sandbox.rename("own", &file, false).await, &REFUSALS)?;
    refused(&format!("link {folder}/link"), sandbox.symlink("x", &format!("{folder}/link")).await, &REFUSALS)?;
    refused(&format!("remove {file}"), sandbox.remove_path(&file, TREE).await, &REFUSALS)?;
    refused(&format!("get tree {folder}"), sandbox.get_dir(folder).await.map(drop), &REFUSALS)?;
    let mut empty: &[u8] = &[0; 1024];
    refused(&format!("put tree {folder}"), sandbox.put_dir(folder, Default::default(), &mut empty).await, &REFUSALS)?;
    Ok(())
}

fn canary(context: &Context) -> Result<String, Failure> {
    let folder = context.host_folder("canary")?;
    fs::write(folder.join("canary"), "untouched")?;
    Ok(folder.display().to_string())
}

fn is_untouched(folder: &str) -> Result<(), Failure> {
    ensure_eq!(fs::read_to_string(format!("{folder}/canary"))?, "untouched", "the host's file");
    ensure_eq!(fs::read_dir(folder)?.count(), 1, "entries of the host's folder");
    Ok(())
}

async fn absolute_paths_outside_are_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("own", "x").await?;
    let canary = canary(context)?;
    all_are_refused(&sandbox, &canary).await?;
    refused("/etc/passwd", sandbox.get("/etc/passwd").await, &REFUSALS)?;
    is_untouched(&canary)
}

async fn parents_of_the_workspace_are_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("own", "x").await?;
    sandbox.make_dir("below", false, None).await?;
    let canary = canary(context)?;
    let up = "../".repeat(40);
    all_are_refused(&sandbox, &format!("{up}{}", canary.trim_start_matches('/'))).await?;
    all_are_refused(&sandbox, &format!("below/{up}{}", canary.trim_start_matches('/'))).await?;
    is_untouched(&canary)
}

async fn links_lead_nowhere_outside(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("own", "x").await?;
    let canary = canary(context)?;
    let up = format!("{}{}", "../".repeat(40), canary.trim_start_matches('/'));
    sandbox.symlink(&canary, "absolute").await?;
    sandbox.symlink(&up, "relative").await?;
    sandbox.symlink("absolute", "twice").await?;
    for link in ["absolute", "relative", "twice"] {
        all_are_refused(&sandbox, link).await?;
    }
    is_untouched(&canary)?;
    sandbox.remove_path("absolute", TREE).await?;
    is_untouched(&canary)
}

async fn the_workspaces_own_absolute_paths_work(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let here = sandbox.text("pwd").await?;
    sandbox.put(&format!("{here}/file"), "x").await?;
    ensure_eq!(sandbox.get("file").await?, b"x", "content");
    sandbox.make_dir("below", false, None).await?;
    ensure_eq!(sandbox.get("below/../file").await?, b"x", "through a folder and back");
    Ok(())
}

async fn a_race_between_a_folder_and_a_link_leads_nowhere_outside(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let canary = canary(context)?;
    sandbox.make_dir("swap", false, None).await?;
    sandbox.symlink(&canary, "other").await?;
    let swapper = sandbox.start_guest(&["attack", "swap", "swap", "other"]).await?;
    for _ in 0..400 {
        // Each of these may fail; none may touch or show the host's folder.
        let _ = sandbox.put("swap/canary", "changed").await;
        if let Ok(content) = sandbox.get("swap/canary").await {
            ensure!(content != b"untouched", "the host's file was read");
        }
        let _ = sandbox.remove_path("swap/canary", TREE).await;
        let _ = sandbox.make_dir("swap/made", true, None).await;
        let _ = sandbox.remove_path("swap/made", TREE).await;
    }
    sandbox.kill(swapper.pid).await?;
    is_untouched(&canary)
}

async fn removing_the_workspace_itself_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    for path in [".", "./", "below/.."] {
        ensure!(sandbox.remove_path(path, TREE).await.is_err(), "{path:?} was removed");
    }
    ensure_eq!(sandbox.text("echo here").await?, "here", "afterwards");
    Ok(())
}
