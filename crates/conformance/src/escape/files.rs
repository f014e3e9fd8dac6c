use std::fs;

use super::canary::{Canary, attack_kernel, prey};
use crate::{Context, Failure, failure::ensure, suite::cases};

cases! { "files";
    a_file_of_the_host_is_not_read,
    secrets_of_the_host_are_not_read,
    nothing_of_the_host_is_listed,
    file_calls_show_nothing_of_the_host,
}

/// In a kernel of its own root may open its own files by their numbers.
const OWN: &[&str] = &["open inode"];

async fn a_file_of_the_host_is_not_read(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    attack_kernel(context, &sandbox, &["files", &canary.secret, &canary.file()], OWN).await?;
    canary.is_untouched()
}

/// Files that hold secrets on any host, as far as this process may read them itself.
async fn secrets_of_the_host_are_not_read(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let home = std::env::var("HOME").unwrap_or_default();
    let candidates = ["/etc/shadow", "/etc/gshadow", "/etc/machine-id", "/etc/hostname"].map(str::to_owned);
    let mut tried = 0;
    for path in candidates.into_iter().chain([".ssh/id_rsa", ".bash_history", ".profile", ".bashrc"].map(|name| format!("{home}/{name}"))) {
        let Ok(content) = fs::read_to_string(&path) else { continue };
        // The longest line says most surely that it is this file.
        let Some(line) = content.lines().max_by_key(|line| line.len()).filter(|line| line.len() > 8) else { continue };
        attack_kernel(context, &sandbox, &["files", line, &path], OWN).await.map_err(|failure| failure.during(&path))?;
        tried += 1;
    }
    if tried == 0 {
        return Err(Failure::Ignored("this user can read no secret of the host".to_owned()));
    }
    Ok(())
}

async fn nothing_of_the_host_is_listed(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    let folder = canary.folder.display().to_string();
    ensure!(!sandbox.shell(&format!("ls {folder}")).await?.status.success(), "{folder} is inside");
    for place in ["/tmp", "/home", "/root", "/srv", "/opt", "/var/tmp", "/var/log", "/var/lib", "/run", "/mnt", "/boot"] {
        let inside = sandbox.shell(&format!("ls -A {place} 2>/dev/null")).await?.stdout_text();
        let host: Vec<String> =
            fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        // Names that every system has there.
        let common = ["lock", "log", "misc", "dpkg", "apt", "guest", "shm", "user", "systemd", ".bashrc", ".profile"];
        let shown: Vec<&str> = inside.lines().filter(|name| host.iter().any(|host| host == name) && !common.contains(name)).collect();
        ensure!(shown.is_empty(), "{place} shows the host's {shown:?}");
    }
    canary.is_untouched()
}

async fn file_calls_show_nothing_of_the_host(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    let file = canary.file();
    sandbox.symlink(&file, "/tmp/direct").await?;
    sandbox.symlink(&format!("/proc/1/root{file}"), "/tmp/by-root").await?;
    sandbox.symlink(&format!("/proc/self/root/../../../..{file}"), "/tmp/by-self").await?;
    let up = "../".repeat(50);
    let climbing = format!("{up}{}", file.trim_start_matches('/'));
    for path in [
        file.as_str(),
        "/tmp/direct",
        "/tmp/by-root",
        "/tmp/by-self",
        &climbing,
        &format!("/proc/1/root{file}"),
        &format!("/proc/self/cwd/{climbing}"),
    ] {
        if let Ok(content) = sandbox.get(path).await {
            ensure!(content != canary.secret.as_bytes(), "{path} gives the host's file");
        }
        let _ = sandbox.put(path, "changed").await;
        canary.is_untouched().map_err(|failure| failure.during(path))?;
    }
    Ok(())
}
