use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use sandbar_core::{
    Feature::{VolumeReadOnly, VolumeReadWrite},
    SandboxSpec, Volume,
};

use super::canary::{Canary, prey_with};
use crate::{
    Context, Failure, Sandbox,
    failure::{ensure, ensure_eq},
    suite::cases,
};

cases! { "volumes";
    a_read_only_one_stays_read_only [.needs(&[VolumeReadOnly])],
    links_and_dots_in_it_lead_nowhere [.needs(&[VolumeReadWrite])],
    its_parents_are_not_seen [.needs(&[VolumeReadWrite])],
    what_is_made_in_it_gives_nobody_roots_rights [.needs(&[VolumeReadWrite])],
    no_device_in_it_opens [.needs(&[VolumeReadWrite])],
    mounts_below_it_do_not_become_writable [.needs(&[VolumeReadOnly])],
}

async fn with(context: &Context, source: &Path, read_only: bool) -> Result<Sandbox, Failure> {
    let volume = Volume { source: source.to_owned(), target: "/mnt/volume".into(), read_only };
    prey_with(context, SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() }).await
}

async fn a_read_only_one_stays_read_only(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = with(context, &canary.folder, true).await?;
    let tries = "mount -o remount,rw /mnt/volume; mount -o bind,rw /mnt/volume /tmp; umount /mnt/volume; ln /mnt/volume/file /tmp/hard; \
        mv /mnt/volume/file /tmp/moved; cp /bin/true /mnt/volume/new; truncate -s 0 /mnt/volume/file; touch /mnt/volume/file; chmod 600 /mnt/volume; \
        echo x > /proc/self/root/mnt/volume/file; exec 3</mnt/volume/file; echo x > /proc/self/fd/3; true";
    sandbox.shell(tries).await?;
    canary.is_untouched()?;
    let _ = sandbox.put("/mnt/volume/file", "changed").await;
    let _ = sandbox.remove_path("/mnt/volume/file", sandbar_core::RemoveOptions::default()).await;
    canary.is_untouched()
}

async fn links_and_dots_in_it_lead_nowhere(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let folder = context.host_folder("volume")?;
    // Links that the host's own user may have in there.
    std::os::unix::fs::symlink(&canary.folder, folder.join("link"))?;
    std::os::unix::fs::symlink(canary.file(), folder.join("file-link"))?;
    let sandbox = with(context, &folder, false).await?;
    for path in ["/mnt/volume/link/file", "/mnt/volume/file-link", "/mnt/volume/../../../../../../../tmp"] {
        if let Ok(content) = sandbox.get(path).await {
            ensure!(content != canary.secret.as_bytes(), "{path} gives the host's file");
        }
        let _ = sandbox.put(path, "changed").await;
        let _ = sandbox.shell(&format!("echo changed > {path}")).await?;
        canary.is_untouched()?;
    }
    Ok(())
}

async fn its_parents_are_not_seen(context: &Context) -> Result<(), Failure> {
    let outer = context.host_folder("outer")?;
    fs::create_dir(outer.join("inner"))?;
    fs::write(outer.join("beside"), "not for you")?;
    let sandbox = with(context, &outer.join("inner"), false).await?;
    let seen = sandbox.shell("cd /mnt/volume && cat ../beside ../../beside /mnt/beside 2>/dev/null").await?.stdout_text();
    ensure_eq!(seen, "", "what lies beside the volume");
    // A folder that is moved away by the host while somebody is in it: the dots of its new place lead to the host's folders.
    let mut inside = sandbox
        .start_shell(
            "cd /mnt/volume && mkdir deep && cd deep && echo ready; read go; cat ../beside ../../beside ../../../beside 2>/dev/null; true",
        )
        .await?;
    crate::stream::read_until(&mut inside, "ready\n").await?;
    fs::rename(outer.join("inner/deep"), outer.join("moved"))?;
    inside.input.write(bytes::Bytes::from_static(b"go\n")).await?;
    let told = crate::stream::read_all(&mut inside).await?;
    ensure!(!String::from_utf8_lossy(&told.stdout).contains("not for you"), "a folder that the host moved out shows what is beside it");
    Ok(())
}

async fn what_is_made_in_it_gives_nobody_roots_rights(context: &Context) -> Result<(), Failure> {
    let folder = context.host_folder("volume")?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let sandbox = with(context, &folder, false).await?;
    sandbox.shell("cp ./guest /mnt/volume/powerful && chmod 6755 /mnt/volume/powerful").await?;
    let Ok(made) = fs::metadata(folder.join("powerful")) else { return Ok(()) };
    let is_special = made.permissions().mode() & 0o6000 != 0;
    ensure!(
        !(is_special && (made.uid() == 0 || made.gid() == 0)),
        "on the host it belongs to {}:{} with mode {:o}",
        made.uid(),
        made.gid(),
        made.permissions().mode()
    );
    Ok(())
}

async fn no_device_in_it_opens(context: &Context) -> Result<(), Failure> {
    let folder = context.host_folder("volume")?;
    // The host's own device nodes in a volume are no use inside; making one needs root here.
    let null = rustix::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        null,
    );
    let sandbox = with(context, &folder, false).await?;
    if made.is_ok() {
        ensure!(!sandbox.shell("echo x > /mnt/volume/null").await?.status.success(), "a device in a volume opens");
    }
    ensure!(
        !sandbox.shell("mknod /mnt/volume/zero c 1 5 && head -c 1 /mnt/volume/zero").await?.status.success(),
        "a device was made in a volume"
    );
    Ok(())
}

/// A mount below the source must not come along writable.
async fn mounts_below_it_do_not_become_writable(context: &Context) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Ignored("only root can mount something below the volume".to_owned()));
    }
    let sandbox = with(context, Path::new("/dev"), true).await;
    // /dev has file systems below it on every host: /dev/shm or /dev/pts.
    let Ok(sandbox) = sandbox else { return Ok(()) };
    let written = sandbox.shell("echo x > /mnt/volume/shm/sandbar-conformance").await?;
    let came = Path::new("/dev/shm/sandbar-conformance").exists();
    let _ = fs::remove_file("/dev/shm/sandbar-conformance");
    ensure!(!came && !written.status.success(), "a file system below a read-only volume is writable");
    Ok(())
}
