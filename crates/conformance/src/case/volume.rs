use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::XattrFlags,
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use sandbar_core::{
    ErrorKind,
    Feature::{StopStart, VolumeReadOnly, VolumeReadWrite},
    SandboxSpec, Volume,
};

use crate::{
    Context, Failure,
    Reach::{RealFiles, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    suite::cases,
};

cases! { "volume";
    a_read_only_one_can_be_read_and_not_written [.needs(&[VolumeReadOnly]).reach(&[Shell])],
    a_writable_one_is_the_hosts_folder [.needs(&[VolumeReadWrite]).reach(&[Shell])],
    the_hosts_later_changes_are_seen [.needs(&[VolumeReadOnly]).reach(&[Shell])],
    a_single_file_can_be_one [.needs(&[VolumeReadOnly]).reach(&[Shell])],
    file_calls_reach_it [.needs(&[VolumeReadWrite]).reach(&[RealFiles])],
    a_missing_source_is_refused [.needs(&[VolumeReadOnly])],
    a_relative_path_is_refused [.needs(&[VolumeReadOnly])],
    a_target_below_another_works [.needs(&[VolumeReadOnly, VolumeReadWrite]).reach(&[Shell])],
    a_target_that_climbs_out_is_refused_or_stays_inside [.needs(&[VolumeReadWrite])],
    it_outlives_the_sandbox [.needs(&[VolumeReadWrite]).reach(&[Shell])],
    it_is_there_after_stop_and_start [.needs(&[VolumeReadOnly, StopStart]).reach(&[Shell])],
    two_sandboxes_share_one [.needs(&[VolumeReadWrite]).reach(&[Shell])],
    it_is_a_file_system [.needs(&[VolumeReadWrite]).reach(&[Shell])],
    extended_attributes_are_the_hosts_or_refused [.needs(&[VolumeReadWrite]).reach(&[Shell])],
    a_full_disk_of_the_host_is_told [.needs(&[VolumeReadWrite]).reach(&[Shell])],
}

/// Where the cases see theirs.
const TARGET: &str = "/mnt/volume";

fn spec(source: &Path, read_only: bool) -> SandboxSpec {
    let volume = Volume { source: source.to_owned(), target: TARGET.into(), read_only };
    SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() }
}

/// A sandbox with a fresh folder of the host at [`TARGET`], and a file in it.
pub(super) async fn with_folder(context: &Context, read_only: bool) -> Result<(Sandbox, PathBuf), Failure> {
    let folder = context.host_folder("volume")?;
    fs::write(folder.join("from-host"), "of the host\n")?;
    Ok((context.sandbox_with(spec(&folder, read_only)).await?, folder))
}

async fn a_read_only_one_can_be_read_and_not_written(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, true).await?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    fs::set_permissions(folder.join("from-host"), fs::Permissions::from_mode(0o666))?;
    ensure_eq!(sandbox.text("cat /mnt/volume/from-host").await?, "of the host", "inside");
    for line in [
        "echo x > /mnt/volume/new",
        "echo x >> /mnt/volume/from-host",
        "rm /mnt/volume/from-host",
        "mkdir /mnt/volume/folder",
        "chmod 700 /mnt/volume",
    ] {
        ensure!(!sandbox.shell(line).await?.status.success(), "`{line}` succeeded");
    }
    refused("put", sandbox.put("/mnt/volume/new", "x").await, &[ErrorKind::PermissionDenied])?;
    ensure_eq!(fs::read(folder.join("from-host"))?, b"of the host\n", "the host's file");
    ensure_eq!(fs::read_dir(&folder)?.count(), 1, "the host's entries");
    Ok(())
}

async fn a_writable_one_is_the_hosts_folder(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, false).await?;
    sandbox.text("echo of the sandbox > /mnt/volume/from-guest; mkdir /mnt/volume/folder; rm /mnt/volume/from-host").await?;
    ensure_eq!(fs::read(folder.join("from-guest"))?, b"of the sandbox\n", "a file on the host");
    ensure!(folder.join("folder").is_dir() && !folder.join("from-host").exists(), "the host does not see what changed");
    Ok(())
}

async fn the_hosts_later_changes_are_seen(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, true).await?;
    fs::write(folder.join("later"), "seen\n")?;
    ensure_eq!(sandbox.text("cat /mnt/volume/later").await?, "seen", "inside");
    Ok(())
}

async fn a_single_file_can_be_one(context: &Context) -> Result<(), Failure> {
    let folder = context.host_folder("volume")?;
    fs::write(folder.join("only"), "one file\n")?;
    fs::write(folder.join("other"), "not this\n")?;
    let sandbox = context.sandbox_with(spec(&folder.join("only"), true)).await?;
    ensure_eq!(sandbox.text("cat /mnt/volume").await?, "one file", "inside");
    ensure!(!sandbox.shell("cat /mnt/other").await?.status.success(), "its neighbour is inside, too");
    Ok(())
}

async fn file_calls_reach_it(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, false).await?;
    ensure_eq!(sandbox.get("/mnt/volume/from-host").await?, b"of the host\n", "get");
    sandbox.put("/mnt/volume/put", "by a call").await?;
    ensure_eq!(fs::read(folder.join("put"))?, b"by a call", "put");
    Ok(())
}

async fn a_missing_source_is_refused(context: &Context) -> Result<(), Failure> {
    let missing = context.host_folder("volume")?.join("not/there");
    let outcome = context.sandbox_refusal(spec(&missing, true)).await?;
    refused("a missing folder", outcome.map(drop), &[ErrorKind::InvalidInput, ErrorKind::NotFound])?;
    ensure!(!missing.exists(), "the missing folder was made");
    Ok(())
}

async fn a_relative_path_is_refused(context: &Context) -> Result<(), Failure> {
    refused("a relative source", context.sandbox_refusal(spec(Path::new("etc"), true)).await?.map(drop), &[ErrorKind::InvalidInput])?;
    let mut relative = spec(&context.host_folder("volume")?, true);
    relative.volumes[0].target = "mnt".into();
    refused("a relative target", context.sandbox_refusal(relative).await?.map(drop), &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn a_target_below_another_works(context: &Context) -> Result<(), Failure> {
    let (outer, inner) = (context.host_folder("volume")?, context.host_folder("volume")?);
    fs::create_dir(outer.join("inner"))?;
    fs::write(inner.join("file"), "inner\n")?;
    let mut nested = spec(&outer, true);
    nested.volumes.push(Volume { source: inner.clone(), target: "/mnt/volume/inner".into(), read_only: false });
    let sandbox = context.sandbox_with(nested).await?;
    ensure_eq!(sandbox.text("cat /mnt/volume/inner/file").await?, "inner", "below the other");
    sandbox.text("echo x > /mnt/volume/inner/new").await?;
    ensure!(inner.join("new").exists() && !outer.join("inner/new").exists(), "it was written to the wrong folder");
    ensure!(!sandbox.shell("echo x > /mnt/volume/new").await?.status.success(), "the outer one is writable");
    Ok(())
}

async fn a_target_that_climbs_out_is_refused_or_stays_inside(context: &Context) -> Result<(), Failure> {
    let folder = context.host_folder("volume")?;
    let canary = context.host_folder("canary")?;
    let climbs = format!("/{}{}", "../".repeat(40), canary.display());
    let mut climbing = spec(&folder, false);
    climbing.volumes[0].target = climbs.into();
    let outcome = context.sandbox_refusal(climbing).await?;
    if let Ok(sandbox) = &outcome {
        sandbox.shell(&format!("echo x > {}/written", canary.display())).await?;
    }
    ensure!(!canary.join("written").exists(), "it was written to the host's own folder");
    Ok(())
}

async fn it_outlives_the_sandbox(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, false).await?;
    sandbox.text("echo kept > /mnt/volume/kept").await?;
    context.destroy(&sandbox).await?;
    ensure_eq!(fs::read(folder.join("kept"))?, b"kept\n", "what the sandbox wrote");
    ensure_eq!(fs::read(folder.join("from-host"))?, b"of the host\n", "what was there");
    Ok(())
}

async fn it_is_there_after_stop_and_start(context: &Context) -> Result<(), Failure> {
    let (sandbox, _) = with_folder(context, true).await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    ensure_eq!(sandbox.text("cat /mnt/volume/from-host").await?, "of the host", "inside");
    ensure!(!sandbox.shell("echo x > /mnt/volume/new").await?.status.success(), "it is writable now");
    Ok(())
}

async fn two_sandboxes_share_one(context: &Context) -> Result<(), Failure> {
    let (one, folder) = with_folder(context, false).await?;
    let two = context.sandbox_with(spec(&folder, false)).await?;
    one.text("echo one > /mnt/volume/shared").await?;
    two.text("echo two >> /mnt/volume/shared").await?;
    ensure_eq!(one.text("cat /mnt/volume/shared").await?, "one\ntwo", "both");
    Ok(())
}

/// What works wherever there are volumes.
const EVERYWHERE: [&str; 8] = ["links", "locks", "record-locks", "map", "space", "symlinks", "devices", "unlinked"];
/// And where the file system is a kernel's that keeps nothing back.
const REAL: [&str; 5] = ["noreplace", "exchange", "allocate", "holes", "copy"];

async fn it_is_a_file_system(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, false).await?;
    sandbox.put_guest().await?;
    let told = sandbox.guest(&["volume", TARGET]).await?.stdout_text();
    let wrong: Vec<&str> = told.lines().filter(|line| line.ends_with("wrong")).collect();
    ensure!(wrong.is_empty(), "what was not refused did something else: {wrong:?}");
    let real = if context.subject().reach.contains(&RealFiles) { &REAL[..] } else { &[] };
    for name in EVERYWHERE.iter().chain(real) {
        let line = told.lines().find(|line| line.split(' ').next() == Some(name));
        ensure_eq!(line, Some(format!("{name} works").as_str()), "{name}");
    }
    ensure_eq!(&fs::read(folder.join("mapped"))?[5000..5006], b"mapped", "what was written by a shared mapping, on the host");
    ensure_eq!(fs::read_link(folder.join("outwards"))?, Path::new("/tmp/inside"), "a link's text on the host");
    Ok(())
}

async fn extended_attributes_are_the_hosts_or_refused(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = with_folder(context, false).await?;
    let (file, mut value) = (folder.join("from-host"), [0; 64]);
    match rustix::fs::setxattr(&file, "user.host", b"of the host", XattrFlags::CREATE) {
        Err(Errno::OPNOTSUPP) => return Err(Failure::Ignored("files of this host's temporary folder have no attributes".to_owned())),
        set => set.map_err(std::io::Error::from)?,
    }
    sandbox.put_guest().await?;
    let told = sandbox.guest(&["volume", TARGET]).await?.stdout_text();
    let of = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("not tried").to_owned();
    let kept = |value: &mut [u8]| rustix::fs::getxattr(folder.join("attributed"), "user.colour", value);
    if !context.subject().reach.contains(&RealFiles) {
        ensure!(of("attributes").starts_with("refused"), "attributes: {}", of("attributes"));
        ensure_eq!(kept(&mut value), Err(Errno::NODATA), "on the host");
        return Ok(());
    }
    ensure_eq!(
        sandbox.guest(&["xattr", "/mnt/volume/from-host", "user.host"]).await?.stdout_text().trim_end(),
        "of the host",
        "what the host had set"
    );
    ensure_eq!((of("attributes").as_str(), of("attributes-of-folders").as_str()), ("works", "works"), "attributes");
    let length = kept(&mut value).map_err(std::io::Error::from)?;
    ensure_eq!(&value[..length], b"green", "what was set inside, on the host");
    Ok(())
}

/// A small file system of memory, on a folder of the host.
struct Small<'folder>(&'folder Path);

impl<'folder> Small<'folder> {
    fn on(folder: &'folder Path) -> Result<Self, Failure> {
        rustix::mount::mount("none", folder, "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=777")).map_err(std::io::Error::from)?;
        Ok(Self(folder))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, UnmountFlags::DETACH);
    }
}

async fn a_full_disk_of_the_host_is_told(context: &Context) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Ignored("only root can make a small disk".to_owned()));
    }
    let folder = context.host_folder("volume")?;
    let small = Small::on(&folder)?;
    let sandbox = context.sandbox_with(spec(small.0, false)).await?;
    let filled = sandbox.shell("dd if=/dev/zero of=/mnt/volume/fill bs=65536 count=64").await?;
    ensure!(
        !filled.status.success() && filled.stderr_text().contains("No space"),
        "it was filled: {} {}",
        filled.status,
        filled.stderr_text()
    );
    let length = fs::metadata(folder.join("fill"))?.len();
    ensure!((1..=1 << 20).contains(&length), "the file has {length} bytes");
    sandbox.text("rm /mnt/volume/fill && echo again > /mnt/volume/file").await?;
    ensure_eq!(fs::read(folder.join("file"))?, b"again\n", "what was written when there was room again");
    context.destroy(&sandbox).await
}
