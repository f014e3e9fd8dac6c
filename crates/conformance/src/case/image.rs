use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use sandbar_core::{
    ErrorKind, ExecRequest,
    Feature::{HostImage, LayeredImage, User as Users},
    ImageKind, RootSource, SandboxSpec, User,
};

use crate::{
    Context, Failure, GUEST_PROGRAM,
    Reach::{OwnRoot, RealFiles, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    suite::cases,
};

cases! { "image";
    an_image_of_one_program_works [.needs(&[LayeredImage]).reach(&[RealFiles])],
    layers_are_stacked_in_order [.needs(&[LayeredImage]).reach(&[RealFiles])],
    a_whiteout_hides_what_is_below [.needs(&[LayeredImage]).reach(&[RealFiles])],
    its_environment_and_working_directory_are_the_defaults [.needs(&[LayeredImage]).reach(&[RealFiles])],
    its_user_is_the_default [.needs(&[LayeredImage, Users]).reach(&[RealFiles])],
    no_sandbox_changes_its_layers [.needs(&[LayeredImage]).reach(&[RealFiles])],
    a_missing_layer_is_told [.needs(&[LayeredImage]).reach(&[RealFiles])],
    the_hosts_programs_are_there_and_read_only [.needs(&[HostImage]).reach(&[Shell, OwnRoot])],
    the_usual_folders_are_there_and_writable [.needs(&[HostImage]).reach(&[Shell, OwnRoot])],
}

/// A layer with the guest program at `/bin/guest`.
fn base(context: &Context) -> Result<PathBuf, Failure> {
    let layer = context.host_folder("layer")?;
    for folder in ["bin", "etc", "tmp", "root", "proc", "dev", "sys"] {
        fs::create_dir(layer.join(folder))?;
    }
    fs::write(layer.join("bin/guest"), GUEST_PROGRAM)?;
    fs::set_permissions(layer.join("bin/guest"), Permissions::from_mode(0o755))?;
    fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/none\nworker:x:1234:2345:worker:/tmp:/bin/none\n")?;
    fs::write(layer.join("etc/group"), "root:x:0:\nworker:x:2345:\n")?;
    Ok(layer)
}

fn root(layers: Vec<PathBuf>) -> RootSource {
    RootSource { kind: ImageKind::Layers { digest: format!("sha256:{}", "0".repeat(64)) }, layers, ..RootSource::empty() }
}

async fn of(context: &Context, root: RootSource) -> Result<Sandbox, Failure> {
    let (mut request, journal) = context.request(SandboxSpec::default())?;
    request.root = root;
    Ok(context.provision(request, journal).await?)
}

async fn an_image_of_one_program_works(context: &Context) -> Result<(), Failure> {
    let sandbox = of(context, root(vec![base(context)?])).await?;
    let result = sandbox.exec(ExecRequest::argv(["/bin/guest", "noise", "10", "1"])).await?;
    ensure_eq!((result.stdout.len(), result.status.success()), (10, true), "its program");
    ensure_eq!(sandbox.exec(ExecRequest::argv(["guest", "noise", "10", "1"])).await?.stdout.len(), 10, "its program by the path");
    refused("a shell line", sandbox.exec(ExecRequest::shell("true")).await, &[ErrorKind::CommandNotFound])?;
    sandbox.put("/tmp/file", "x").await?;
    ensure_eq!(sandbox.get("/tmp/file").await?, b"x", "a file");
    Ok(())
}

async fn layers_are_stacked_in_order(context: &Context) -> Result<(), Failure> {
    let (lower, upper) = (base(context)?, context.host_folder("layer")?);
    fs::create_dir(upper.join("etc"))?;
    fs::write(lower.join("etc/both"), "lower")?;
    fs::write(upper.join("etc/both"), "upper")?;
    fs::write(lower.join("etc/one"), "lower")?;
    let sandbox = of(context, root(vec![lower, upper])).await?;
    ensure_eq!(sandbox.get("/etc/both").await?, b"upper", "a file of both layers");
    ensure_eq!(sandbox.get("/etc/one").await?, b"lower", "a file of the lower layer");
    Ok(())
}

async fn a_whiteout_hides_what_is_below(context: &Context) -> Result<(), Failure> {
    let (lower, upper) = (base(context)?, context.host_folder("layer")?);
    fs::write(lower.join("etc/gone"), "x")?;
    fs::create_dir(upper.join("etc"))?;
    mknodat(CWD, upper.join("etc/gone"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).map_err(std::io::Error::from)?;
    let sandbox = of(context, root(vec![lower, upper])).await?;
    ensure!(!sandbox.has("/etc/gone").await?, "it is there");
    ensure!(sandbox.read_dir("/etc").await?.iter().all(|entry| entry.name != "gone"), "it is listed");
    Ok(())
}

async fn its_environment_and_working_directory_are_the_defaults(context: &Context) -> Result<(), Failure> {
    let mut root = root(vec![base(context)?]);
    root.env = [("FLAVOUR".to_owned(), "salty".to_owned()), ("PATH".to_owned(), "/bin".to_owned())].into();
    root.workdir = Some("/work/here".to_owned());
    let sandbox = of(context, root).await?;
    sandbox.put("relative", "x").await?;
    ensure_eq!(sandbox.get("/work/here/relative").await?, b"x", "the working directory");
    let said = sandbox.exec(ExecRequest::argv(["guest", "env", "FLAVOUR"])).await?;
    ensure_eq!(said.stdout_text(), "salty\n", "the environment");
    Ok(())
}

async fn its_user_is_the_default(context: &Context) -> Result<(), Failure> {
    let mut root = root(vec![base(context)?]);
    root.user = Some(User::Name("worker".to_owned()));
    let sandbox = of(context, root).await?;
    let said = sandbox.exec(ExecRequest::argv(["/bin/guest", "attack", "who"])).await?.stdout_text();
    ensure!(said.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some("1234")), "it runs as {said:?}");
    Ok(())
}

/// Every path below a folder, with its length.
fn content(folder: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.push((entry.path(), if entry.file_type()?.is_dir() { 0 } else { entry.metadata()?.len() }));
        if entry.file_type()?.is_dir() {
            found.extend(content(&entry.path())?);
        }
    }
    found.sort();
    Ok(found)
}

async fn no_sandbox_changes_its_layers(context: &Context) -> Result<(), Failure> {
    let layer = base(context)?;
    let before = content(&layer)?;
    let (one, two) = (of(context, root(vec![layer.clone()])).await?, of(context, root(vec![layer.clone()])).await?);
    one.put("/etc/passwd", "changed").await?;
    one.put("/etc/new", "x").await?;
    one.remove_path("/etc/group", sandbar_core::RemoveOptions::default()).await?;
    ensure!(two.get("/etc/passwd").await?.starts_with(b"root:"), "one sandbox sees what the other wrote");
    ensure!(two.has("/etc/group").await?, "one sandbox misses what the other removed");
    ensure_eq!(content(&layer)?, before, "the layer");
    context.destroy(&one).await?;
    context.destroy(&two).await?;
    ensure_eq!(content(&layer)?, before, "the layer afterwards");
    Ok(())
}

async fn a_missing_layer_is_told(context: &Context) -> Result<(), Failure> {
    let missing = context.host_folder("layer")?.join("not/there");
    let (mut request, journal) = context.request(SandboxSpec::default())?;
    request.root = root(vec![base(context)?, missing]);
    let outcome = context.refusal(request, journal).await?;
    ensure!(outcome.is_err(), "a sandbox was made without one of its layers");
    Ok(())
}

async fn the_hosts_programs_are_there_and_read_only(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.text("command -v ls && command -v env && ls /usr/bin/env").await?;
    for line in ["echo x > /usr/written", "rm /usr/bin/env", "touch /usr/bin/env", "mkdir /usr/folder", "chmod 777 /usr"] {
        ensure!(!sandbox.shell(line).await?.status.success(), "`{line}` succeeded");
    }
    ensure!(Path::new("/usr/bin/env").exists() && !Path::new("/usr/written").exists(), "the host's /usr changed");
    Ok(())
}

async fn the_usual_folders_are_there_and_writable(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for folder in ["/home", "/root", "/srv", "/opt", "/var", "/tmp", "/etc"] {
        sandbox.text(&format!("echo x > {folder}/written && cat {folder}/written && rm {folder}/written")).await?;
    }
    ensure_eq!(sandbox.text("ls -A /srv /opt | grep -v : | tr -d '\\n'").await?, "", "what is in /srv and /opt");
    sandbox.text("test -r /etc/passwd && test -r /etc/group && test -r /etc/hosts && test -r /etc/resolv.conf").await?;
    sandbox.text("test -k /tmp && test -d /dev/shm && test -c /dev/null && test -r /proc/self/status").await?;
    Ok(())
}
