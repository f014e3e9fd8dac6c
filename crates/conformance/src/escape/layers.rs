//! What a sandbox leaves in its writable layer is read again by the host: at start, at a checkpoint, at a fork, when it is weighed and
//! removed. Links in it must lead nowhere.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sandbar_core::{
    Feature::{DiskCheckpoint, Fork, StopStart, VolumeReadWrite},
    SandboxSpec, Volume,
};

use super::canary::{Canary, prey, prey_with};
use crate::{Context, Failure, failure::ensure, suite::cases};

cases! { "layers";
    links_in_the_place_of_the_hosts_own_files_lead_nowhere [.needs(&[StopStart])],
    a_link_in_the_place_of_a_volumes_target_leads_nowhere [.needs(&[StopStart, VolumeReadWrite])],
    links_are_not_followed_when_it_is_saved_weighed_and_removed [.needs(&[DiskCheckpoint])],
    a_hostile_layer_mounts_nothing_outside [.needs(&[Fork, DiskCheckpoint])],
    a_working_directory_that_is_a_link_leads_nowhere [.needs(&[StopStart])],
}

/// Files of /etc that somebody may write for the sandbox from outside.
const WRITTEN: [&str; 8] =
    ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id", "/etc/passwd", "/etc/group", "/etc/mtab", "/run/.containerenv"];

async fn links_in_the_place_of_the_hosts_own_files_lead_nowhere(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    for target in [
        canary.file(),
        format!("{}{}", "../".repeat(40), canary.file().trim_start_matches('/')),
        canary.folder.join("new").display().to_string(),
    ] {
        let sandbox = prey(context).await?;
        for path in WRITTEN {
            // A file that is a mount cannot be replaced at all.
            sandbox.text(&format!("(rm -rf {path} && ln -s {target} {path}) || grep -q ' {path} ' /proc/self/mountinfo")).await?;
        }
        sandbox.stop().await?;
        canary.is_untouched()?;
        // It may well refuse to start.
        let _ = sandbox.start().await;
        canary.is_untouched()?;
        context.destroy(&sandbox).await?;
        canary.is_untouched()?;
    }
    Ok(())
}

async fn a_link_in_the_place_of_a_volumes_target_leads_nowhere(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let source = context.host_folder("volume")?;
    fs::write(source.join("of-the-volume"), "x")?;
    let folder = canary.folder.display().to_string();
    for (target, replaced) in [("/data/deep/volume", "/data"), ("/data/deep/volume", "/data/deep")] {
        let volume = Volume { source: source.clone(), target: target.into(), read_only: false };
        let sandbox = prey_with(context, SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() }).await?;
        // While it is mounted its parents can be renamed, on which the path is free.
        sandbox.shell(&format!("mv {replaced} /tmp/moved; ln -s {folder} {replaced}")).await?;
        sandbox.stop().await?;
        let _ = sandbox.start().await;
        canary.is_untouched().map_err(|failure| failure.during(format!("{replaced} is a link")))?;
        ensure!(!canary.folder.join("volume").exists() && !canary.folder.join("deep").exists(), "a folder was made on the host");
        context.destroy(&sandbox).await?;
        canary.is_untouched()?;
    }
    ensure!(source.join("of-the-volume").exists(), "the volume lost its file");
    Ok(())
}

async fn links_are_not_followed_when_it_is_saved_weighed_and_removed(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    let folder = canary.folder.display().to_string();
    let up = format!("{}{}", "../".repeat(40), folder.trim_start_matches('/'));
    sandbox.text(&format!("mkdir -p /srv/a/b; ln -s {folder} /srv/a/absolute; ln -s {up} /srv/a/b/relative; ln -s / /srv/root; ln -s {folder}/file /srv/file; chmod -R 777 /srv")).await?;
    let (into, _) = context.checkpoint(&sandbox).await?;
    canary.is_untouched()?;
    let copied = walk(&into).into_iter().any(|path| {
        fs::symlink_metadata(&path).is_ok_and(|found| found.is_file())
            && fs::read(&path).is_ok_and(|content| content == canary.secret.as_bytes())
    });
    ensure!(!copied, "the host's file was copied into the checkpoint");
    let _ = sandbox.stats().await;
    sandbox.stop().await?;
    canary.is_untouched()?;
    context.destroy(&sandbox).await?;
    canary.is_untouched()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path()),
            _ => vec![entry.path()],
        })
        .collect()
}

/// A layer that somebody has made, with links where the host mounts: CVE-2019-16884, CVE-2019-19921 and CVE-2021-30465 of runc.
async fn a_hostile_layer_mounts_nothing_outside(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let source = prey(context).await?;
    let folder = canary.folder.display().to_string();
    let up = format!("{}{}", "../".repeat(40), folder.trim_start_matches('/'));
    for place in ["proc", "dev", "sys", "etc", "tmp", "root", "usr", "bin", "mnt", "run"] {
        for target in [folder.as_str(), &up] {
            let (into, _) = context.checkpoint(&source).await?;
            let planted = into.join("layer").join(place);
            if planted.is_symlink() || planted.is_file() {
                fs::remove_file(&planted)?;
            } else if planted.exists() {
                // As a plain user with a range of ids not everything in it can be removed; what is in the way stays.
                let _ = fs::remove_dir_all(&planted);
            }
            if symlink(target, &planted).is_err() {
                continue;
            }
            let volume = Volume { source: context.host_folder("volume")?, target: "/mnt/volume".into(), read_only: false };
            let outcome = context.fork(&source, &into, SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() }).await;
            canary.is_untouched().map_err(|failure| failure.during(format!("{place} is a link to {target}")))?;
            if let Ok(fork) = outcome {
                fork.shell("ls -la /proc /dev /sys /etc; cat /proc/self/status").await.ok();
                let read = fork.shell(&format!("cat {folder}/file /{place}/file 2>/dev/null")).await;
                let told = read.is_ok_and(|result| result.stdout_text().contains(&canary.secret));
                ensure!(!told, "{place} as a link to {target} shows the host's file");
                context.destroy(&fork).await?;
                canary.is_untouched()?;
            }
        }
    }
    Ok(())
}

async fn a_working_directory_that_is_a_link_leads_nowhere(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let spec = SandboxSpec { workdir: Some("/srv/work/below".to_owned()), ..SandboxSpec::default() };
    let sandbox = prey_with(context, spec).await?;
    let folder = canary.folder.display().to_string();
    sandbox.text(&format!("cd /; rm -rf /srv/work; ln -s {folder} /srv/work")).await?;
    sandbox.stop().await?;
    let _ = sandbox.start().await;
    canary.is_untouched()?;
    let _ = sandbox.put("written", "x").await;
    canary.is_untouched()
}
