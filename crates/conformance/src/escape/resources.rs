use std::time::Duration;

use sandbar_core::{
    ExecRequest,
    Feature::{LimitDisk, LimitMemory, LimitPids},
    Limits, SandboxSpec, State,
};
use tokio::time::sleep;

use super::canary::{Canary, prey_with};
use crate::{
    Context, Failure, Reach, Sandbox,
    failure::{ensure, ensure_eq},
    host,
    sandbox::{patience, soon},
    stream::read_until,
    suite::cases,
};

cases! { "resources";
    a_fork_bomb_stays_inside [.needs(&[LimitPids]).alone()],
    a_flood_of_memory_stays_inside [.needs(&[LimitMemory]).alone()],
    a_flood_of_files_stays_inside [.needs(&[LimitDisk])],
    a_flood_of_descriptors_stays_inside [.seconds(240)],
    a_flood_of_output_stays_inside,
    a_flood_of_processes_that_ended_stays_inside [.seconds(240)],
}

async fn limited(context: &Context, limits: Limits) -> Result<(Canary, Sandbox), Failure> {
    Ok((Canary::new(context)?, prey_with(context, SandboxSpec { limits, ..SandboxSpec::default() }).await?))
}

/// The agent answers, and the host is as it was.
async fn all_is_well(canary: &mut Canary, sandbox: &Sandbox) -> Result<(), Failure> {
    let status = soon("status", sandbox.status()).await?;
    ensure_eq!(status.state, State::Running, "the state ({:?})", status.reason);
    soon("list", sandbox.processes()).await??;
    canary.is_untouched()
}

async fn a_fork_bomb_stays_inside(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = limited(context, Limits { pids: Some(64), ..Limits::default() }).await?;
    let mut bomb = sandbox.exec_stream(ExecRequest::argv(["./guest", "bomb"])).await?;
    read_until(&mut bomb, "ready\n").await?;
    for _ in 0..10 {
        all_is_well(&mut canary, &sandbox).await?;
        sleep(Duration::from_millis(200)).await;
    }
    context.destroy(&sandbox).await?;
    canary.is_untouched()
}

async fn a_flood_of_memory_stays_inside(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = limited(context, Limits { memory: Some(64 << 20), ..Limits::default() }).await?;
    for _ in 0..3 {
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(sandbox.exec_stream(ExecRequest::argv(["./guest", "memory", "500"])).await?);
        }
        let pids: Vec<u32> = streams.iter().map(|stream| stream.pid).collect();
        let ended = async {
            for pid in pids {
                while sandbox.process(pid).await?.status.is_none() {
                    sleep(Duration::from_millis(50)).await;
                }
            }
            Ok::<_, Failure>(())
        };
        match tokio::time::timeout(patience(), ended).await {
            Ok(ended) => ended?,
            // Behind a kernel of its own, the host's ends that kernel's helpers and not the processes: those may stand still. They stay inside all the same.
            Err(_) if !context.subject().reach.contains(&Reach::SharedKernel) => {
                context.destroy(&sandbox).await?;
                return canary.is_untouched();
            }
            Err(late) => return Err(late.into()),
        }
        all_is_well(&mut canary, &sandbox).await?;
    }
    Ok(())
}

async fn a_flood_of_files_stays_inside(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = limited(context, Limits { disk: Some(24 << 20), ..Limits::default() }).await?;
    for path in ["/root/fill", "/tmp/fill", "/var/fill", "/srv/fill"] {
        sandbox.guest(&["fill", path, "100"]).await?;
    }
    // A sparse file promises more than there is.
    sandbox.shell("truncate -s 100G /root/sparse; dd if=/dev/zero of=/root/sparse bs=1M count=100 conv=notrunc").await?;
    all_is_well(&mut canary, &sandbox).await?;
    let used = sandbox.stats().await?.disk_bytes.unwrap_or(0);
    ensure!(used <= 32 << 20, "{used} bytes are used under a limit of 24 MiB");
    Ok(())
}

async fn a_flood_of_descriptors_stays_inside(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = limited(context, Limits::default()).await?;
    for _ in 0..3 {
        sandbox.guest(&["files", "2000000"]).await?;
    }
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(sandbox.start_shell("sleep 1000").await?);
    }
    all_is_well(&mut canary, &sandbox).await
}

async fn a_flood_of_output_stays_inside(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = limited(context, Limits::default()).await?;
    let agent = sandbox.agent_pid()?;
    let before = host::resident_kib(agent).unwrap_or_default();
    for _ in 0..6 {
        // Nobody reads the first of these, and nobody is attached to the others.
        drop(sandbox.exec_stream(ExecRequest::shell("while :; do ./guest noise 8000000 1; ./guest noise 8000000 2 >&2; done")).await?);
    }
    let _unread = sandbox.exec_stream(ExecRequest::argv(["./guest", "noise", "100000000000", "1"])).await?;
    for _ in 0..10 {
        all_is_well(&mut canary, &sandbox).await?;
        let after = host::resident_kib(agent).unwrap_or_default();
        ensure!(after < before + (48 << 10), "the agent grew from {before} to {after} KiB");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn a_flood_of_processes_that_ended_stays_inside(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = limited(context, Limits::default()).await?;
    let agent = sandbox.agent_pid()?;
    sandbox.exec(ExecRequest::argv(["true"])).await?;
    let before = host::resident_kib(agent).unwrap_or_default();
    for round in 0..400 {
        sandbox.exec(ExecRequest::shell(format!("head -c 100000 /dev/zero; exit {}", round % 7))).await?;
    }
    let after = host::resident_kib(agent).unwrap_or_default();
    ensure!(after < before + (48 << 10), "the agent grew from {before} to {after} KiB");
    all_is_well(&mut canary, &sandbox).await
}
