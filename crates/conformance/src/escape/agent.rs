use std::{
    fs,
    path::{Path, PathBuf},
};

use super::canary::{Canary, attack, attack_kernel, prey};
use crate::{
    Context, Failure,
    failure::{ensure, ensure_eq},
    suite::cases,
};

cases! { "agent";
    its_descriptors_memory_and_program_are_not_reached,
    its_program_on_the_host_is_not_changed,
    environments_hold_nothing_of_the_host,
    it_does_not_listen_inside,
}

async fn its_descriptors_memory_and_program_are_not_reached(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    // In a kernel of its own root may look into every process, the agent's included; to change its program or its memory is refused there too.
    let own = [
        "follow the agent",
        "reopen the agent",
        "connect to the agent",
        "the agent's descriptors",
        "open the agent's memory",
        "the memory of a thread",
    ];
    attack_kernel(context, &sandbox, &["agent"], &own).await?;
    canary.is_untouched()
}

/// The agents that are extracted below a folder.
fn programs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => programs(&path),
                Ok(kind) if kind.is_file() && path.ends_with("sandbar-agent") => vec![path],
                _ => Vec::new(),
            }
        })
        .collect()
}

async fn its_program_on_the_host_is_not_changed(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let agents = programs(&context.subject().folder.join("state/agent"));
    ensure!(!agents.is_empty(), "there is no agent in the state folder");
    let before: Vec<_> = agents.iter().map(fs::read).collect::<Result<_, _>>()?;
    let tries = "for way in /proc/1/exe /proc/self/exe /proc/1/map_files/* /sandbar-agent; do \
        (echo x >> $way) 2>/dev/null; (cat /bin/sh > $way) 2>/dev/null; chmod 777 $way 2>/dev/null; done; true";
    sandbox.text(tries).await?;
    let after: Vec<_> = agents.iter().map(fs::read).collect::<Result<_, _>>()?;
    ensure!(before == after, "the agent's program on the host changed");
    Ok(())
}

async fn environments_hold_nothing_of_the_host(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let common = ["PATH", "HOME", "PWD", "OLDPWD", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "SHLVL", "_", "TMPDIR"];
    let names: Vec<String> =
        std::env::vars().map(|(name, _)| name).filter(|name| !common.contains(&name.as_str())).map(|name| format!("{name}=")).collect();
    ensure!(!names.is_empty(), "this process has no variable of its own to look for");
    let words: Vec<&str> = ["environ"].into_iter().chain(names.iter().map(String::as_str)).collect();
    attack(&sandbox, &words).await?;
    Ok(())
}

async fn it_does_not_listen_inside(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    // 0A is LISTEN.
    let listeners = sandbox.text("cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp 2>/dev/null | grep -c ' 0A ' || true").await?;
    ensure_eq!(listeners, "0", "listeners of an idle sandbox");
    let sockets = sandbox.text("find / -xdev -path /usr -prune -o -type s -print 2>/dev/null | head -5").await?;
    ensure_eq!(sockets, "", "sockets in its files");
    Ok(())
}
