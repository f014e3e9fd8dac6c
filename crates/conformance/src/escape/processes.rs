use std::fs;

use sandbar_core::State;

use super::canary::{Canary, attack, prey};
use crate::{
    Context, Failure,
    Reach::SharedKernel,
    failure::{ensure, ensure_eq},
    sandbox::soon,
    suite::cases,
};

cases! { "processes";
    a_process_of_the_host_is_not_reached,
    a_signal_to_everybody_stays_inside,
    the_hosts_processes_are_not_listed,
    nobody_inside_is_the_hosts_root,
}

async fn a_process_of_the_host_is_not_reached(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    let pid = canary.bystander.id().to_string();
    attack(&sandbox, &["processes", &pid]).await?;
    canary.is_untouched()
}

async fn a_signal_to_everybody_stays_inside(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    let attacked = attack(&sandbox, &["kill-all"]).await;
    canary.is_untouched()?;
    if !context.subject().reach.contains(&SharedKernel) && attacked.is_err() {
        // In a kernel of its own root may end the first process, and the sandbox with it. That is told.
        let status = sandbox.status().await;
        ensure_eq!(status.state, State::Crashed, "the state ({:?})", status.reason);
        return Ok(());
    }
    attacked?;
    ensure_eq!(soon("a command", sandbox.text("echo here")).await??, "here", "the agent afterwards");
    Ok(())
}

async fn the_hosts_processes_are_not_listed(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let names = sandbox.text("ls -d /proc/[0-9]* | wc -l").await?;
    let count: u32 = names.trim().parse().unwrap_or(u32::MAX);
    ensure!(count < 12, "{count} processes are listed in a sandbox with one command");
    Ok(())
}

async fn nobody_inside_is_the_hosts_root(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    sandbox.start_shell("sleep 1000").await?;
    let agent = sandbox.agent_pid()?;
    let status = fs::read_to_string(format!("/proc/{agent}/status"))?;
    for field in ["Uid:", "Gid:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        ensure!(line.split_ascii_whitespace().count() == 4, "no {field} in the agent's status");
        ensure!(!line.split_ascii_whitespace().any(|id| id == "0"), "on the host the agent's {field} is {line}");
    }
    // The agent has capabilities in its own user namespace at most.
    let own = fs::read_link("/proc/self/ns/user")?;
    let theirs = fs::read_link(format!("/proc/{agent}/ns/user"));
    ensure!(theirs.is_err() || theirs.is_ok_and(|theirs| theirs != own), "the agent is in the host's user namespace");
    Ok(())
}
