use sandbar_core::{
    Feature::{LimitMemory, Stats},
    Limits, SandboxSpec,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq},
    sandbox::{POLL, SOON, noise},
    suite::cases,
};

cases! { "stats";
    something_is_told [.needs(&[Stats])],
    memory_grows_with_use [.needs(&[Stats]).reach(&[Shell])],
    cpu_grows_with_use [.needs(&[Stats]).reach(&[Shell]).alone()],
    processes_are_counted [.needs(&[Stats]).reach(&[Shell])],
    disk_grows_with_use [.needs(&[Stats])],
    limits_are_told [.needs(&[Stats, LimitMemory])],
}

async fn something_is_told(context: &Context) -> Result<(), Failure> {
    let stats = context.sandbox().await?.stats().await?;
    ensure!(stats.memory_bytes.or(stats.cpu_micros).or(stats.pids).or(stats.disk_bytes).is_some(), "nothing is told: {stats:?}");
    Ok(())
}

async fn memory_grows_with_use(context: &Context) -> Result<(), Failure> {
    let limits = Limits { memory: context.has(LimitMemory).then_some(256 << 20), ..Limits::default() };
    let sandbox = context.sandbox_with(SandboxSpec { limits, ..SandboxSpec::default() }).await?;
    let Some(before) = sandbox.stats().await?.memory_bytes else {
        return Err(Failure::Ignored("memory is not told here".to_owned()));
    };
    sandbox.put_guest().await?;
    let hog = sandbox.start_guest(&["memory", "64"]).await?;
    let after = sandbox.stats().await?.memory_bytes.unwrap_or_default();
    ensure!(after >= before + (60 << 20), "{before} bytes before, {after} after 64 MiB were taken");
    sandbox.kill(hog.pid).await
}

async fn cpu_grows_with_use(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let Some(before) = sandbox.stats().await?.cpu_micros else {
        return Err(Failure::Ignored("cpu is not told here".to_owned()));
    };
    sandbox.put_guest().await?;
    let (begun, mut millis) = (Instant::now(), 0);
    // On a busy machine it has few turns of the time that it takes.
    while millis < 20 {
        let burnt = sandbox.guest(&["burn", "600", "1"]).await?.stdout_text();
        millis += burnt.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        ensure!(millis >= 20 || begun.elapsed() < SOON * context.subject().patience, "nothing was burnt: {burnt:?}");
    }
    let after = sandbox.stats().await?.cpu_micros.unwrap_or_default();
    // A kernel in user space counts the time that a program was ready to run, of which it may have had a part.
    ensure!(after >= before + millis * 100, "{before} µs before, {after} after {millis} ms were burnt");
    Ok(())
}

async fn processes_are_counted(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    sandbox.shell("true").await?;
    // Where threads count as well, one that serves a call that is over may not have ended yet: the fewest are those that stay.
    let mut before = None;
    for _ in 0..10 {
        let count = sandbox.stats().await?.pids;
        before = before.into_iter().chain(count).min();
        sleep(POLL).await;
    }
    let Some(before) = before else {
        return Err(Failure::Ignored("processes are not told here".to_owned()));
    };
    let forks = sandbox.start_guest(&["forks", "10"]).await?;
    let mut after = 0;
    let counted = async {
        loop {
            after = sandbox.stats().await?.pids.unwrap_or_default();
            if (before + 11..before + 14).contains(&after) {
                return Ok::<_, Failure>(());
            }
            sleep(POLL).await;
        }
    };
    let counted = timeout(SOON, counted).await;
    counted.map_err(|_| Failure::new(format!("{before} before, {after} after 11 were started")))??;
    sandbox.kill(forks.pid).await
}

async fn disk_grows_with_use(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let Some(before) = sandbox.stats().await?.disk_bytes else {
        return Err(Failure::Ignored("disk is not told here".to_owned()));
    };
    sandbox.put("file", noise(8 << 20, 2)).await?;
    if context.subject().reach.contains(&Shell) {
        // A kernel of its own writes when it likes.
        sandbox.text("sync").await?;
    }
    let after = sandbox.stats().await?.disk_bytes.unwrap_or_default();
    ensure!(after >= before + (8 << 20), "{before} bytes before, {after} after 8 MiB were written");
    ensure!(after < before + (16 << 20), "{before} bytes before, {after} after 8 MiB were written");
    Ok(())
}

async fn limits_are_told(context: &Context) -> Result<(), Failure> {
    let limits = Limits { memory: Some(256 << 20), ..Limits::default() };
    let sandbox = context.sandbox_with(SandboxSpec { limits, ..SandboxSpec::default() }).await?;
    ensure_eq!(sandbox.stats().await?.memory_limit_bytes, Some(256 << 20), "the memory limit");
    Ok(())
}
