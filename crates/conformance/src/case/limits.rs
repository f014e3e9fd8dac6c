use std::time::{Duration, Instant};

use sandbar_core::{
    ErrorKind, ExecRequest,
    Feature::{self, LimitCpu, LimitDisk, LimitDiskRate, LimitMemory, LimitOpenFiles, LimitPids},
    Limits, RemoveOptions, SandboxSpec, State,
};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::Shell,
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::{SOON, noise},
    suite::cases,
};

cases! { "limits";
    those_asked_for_are_told_with_what_holds_them,
    memory_over_the_limit_ends_the_process_and_not_the_sandbox [.needs(&[LimitMemory]).reach(&[Shell])],
    memory_of_all_processes_counts_together [.needs(&[LimitMemory]).reach(&[Shell])],
    files_in_memory_count_as_memory [.needs(&[LimitMemory]).reach(&[Shell])],
    cpu_time_stays_under_the_limit [.needs(&[LimitCpu]).reach(&[Shell]).alone()],
    processes_over_the_limit_are_not_made [.needs(&[LimitPids]).reach(&[Shell])],
    threads_count_as_processes [.needs(&[LimitPids]).reach(&[Shell])],
    an_exec_over_the_process_limit_is_told [.needs(&[LimitPids]).reach(&[Shell])],
    the_disk_over_the_limit_is_full [.needs(&[LimitDisk]).reach(&[Shell])],
    a_put_over_the_disk_limit_is_told_and_leaves_nothing [.needs(&[LimitDisk])],
    a_full_disk_can_be_emptied [.needs(&[LimitDisk]).reach(&[Shell])],
    files_over_the_limit_are_not_opened [.needs(&[LimitOpenFiles]).reach(&[Shell])],
    the_open_file_limit_cannot_be_raised [.needs(&[LimitOpenFiles]).reach(&[Shell])],
    what_the_disk_does_in_a_second_is_bounded [.needs(&[LimitDiskRate]).reach(&[Shell])],
    what_the_disk_does_is_bounded_after_a_start_and_in_a_fork [.needs(&[LimitDiskRate, Feature::StopStart, Feature::DiskCheckpoint, Feature::Fork]).reach(&[Shell])],
    wall_time_over_the_limit_ends_the_command,
    another_sandbox_does_not_feel_them [.needs(&[LimitMemory, LimitPids]).reach(&[Shell])],
    they_hold_after_stop_and_start [.needs(&[LimitPids, LimitOpenFiles, Feature::StopStart]).reach(&[Shell])],
    they_hold_in_a_fork [.needs(&[LimitPids, LimitDisk, Feature::DiskCheckpoint, Feature::Fork]).reach(&[Shell])],
    they_hold_after_a_restore [.needs(&[LimitPids, LimitDisk, Feature::DiskCheckpoint, Feature::Restore]).reach(&[Shell])],
}

const MEBIBYTE: u64 = 1 << 20;

async fn limited(context: &Context, limits: Limits) -> Result<Sandbox, Failure> {
    let sandbox = context.sandbox_with(SandboxSpec { limits, ..SandboxSpec::default() }).await?;
    if context.subject().reach.contains(&Shell) {
        sandbox.put_guest().await?;
    }
    Ok(sandbox)
}

fn number(text: &str, index: usize) -> Result<u64, Failure> {
    let word = text.split_whitespace().nth(index).and_then(|word| word.parse().ok());
    word.ok_or_else(|| Failure::new(format!("no number at {index} in {text:?}")))
}

async fn answers(sandbox: &Sandbox) -> Result<(), Failure> {
    let status = timeout(SOON, sandbox.status()).await?;
    ensure_eq!(status.state, State::Running, "the state ({:?})", status.reason);
    ensure_eq!(timeout(SOON, sandbox.text("echo here")).await??, "here", "a command");
    Ok(())
}

async fn those_asked_for_are_told_with_what_holds_them(context: &Context) -> Result<(), Failure> {
    let has = |feature| context.has(feature);
    let limits = Limits {
        memory: has(LimitMemory).then_some(256 * MEBIBYTE),
        cpu_millis: has(LimitCpu).then_some(1500),
        pids: has(LimitPids).then_some(100),
        disk: has(LimitDisk).then_some(64 * MEBIBYTE),
        open_files: has(LimitOpenFiles).then_some(200),
        disk_rate: has(LimitDiskRate).then_some(64 * MEBIBYTE),
        disk_operations: has(LimitDiskRate).then_some(5000),
    };
    let sandbox = limited(context, limits).await?;
    let reports = sandbox.limits();
    let asked = [
        ("memory", limits.memory),
        ("cpu", limits.cpu_millis.map(u64::from)),
        ("pids", limits.pids.map(u64::from)),
        ("disk", limits.disk),
        ("open-files", limits.open_files),
        ("disk-rate", limits.disk_rate),
        ("disk-operations", limits.disk_operations),
    ];
    for (name, value) in asked.into_iter().filter(|(_, value)| value.is_some()) {
        let report = reports.iter().find(|report| report.limit == name).ok_or_else(|| Failure::new(format!("{name} is not told")))?;
        ensure_eq!(report.value, value, "{name}");
        ensure!(!report.enforced_by.is_empty(), "nothing is said of what holds {name}");
    }
    Ok(())
}

async fn memory_over_the_limit_ends_the_process_and_not_the_sandbox(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { memory: Some(96 * MEBIBYTE), ..Limits::default() }).await?;
    let within = sandbox.start_guest(&["memory", "32"]).await?;
    sandbox.kill(within.pid).await?;
    let over = timeout(SOON, sandbox.guest(&["memory", "400"])).await??;
    ensure!(!over.status.success() && !over.status.timed_out, "400 MiB were taken under a limit of 96: {}", over.status);
    let touched = over.stdout_text().lines().last().and_then(|line| number(line, 1).ok()).unwrap_or(0);
    ensure!(touched <= 96, "{touched} MiB were taken under a limit of 96");
    answers(&sandbox).await
}

async fn memory_of_all_processes_counts_together(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { memory: Some(96 * MEBIBYTE), ..Limits::default() }).await?;
    sandbox.start_guest(&["memory", "48"]).await?;
    let mut second = sandbox.exec_stream(ExecRequest::argv(["./guest", "memory", "80"])).await?;
    // The kernel ends one of the two.
    let outcome = async {
        while sandbox.processes().await?.iter().filter(|process| process.status.is_none()).count() == 2 {
            tokio::time::sleep(crate::sandbox::POLL).await;
        }
        Ok::<_, Failure>(())
    };
    timeout(SOON, outcome).await.map_err(|_| Failure::new("128 MiB in two processes under a limit of 96"))??;
    let _ = second.input.close().await;
    answers(&sandbox).await
}

async fn files_in_memory_count_as_memory(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { memory: Some(64 * MEBIBYTE), ..Limits::default() }).await?;
    if !sandbox.shell("grep -q ' /dev/shm tmpfs ' /proc/mounts").await?.status.success() {
        return Err(Failure::Ignored("there is no /dev/shm inside".to_owned()));
    }
    let result = timeout(SOON, sandbox.guest(&["fill", "/dev/shm/file", "400"])).await??;
    let wrote = number(&result.stdout_text(), 1).unwrap_or(0);
    ensure!(wrote < 100, "{wrote} MiB went into memory under a limit of 64");
    sandbox.text("rm -f /dev/shm/file").await?;
    answers(&sandbox).await
}

/// Microseconds, where they are told.
async fn used_cpu(context: &Context, sandbox: &Sandbox) -> Result<Option<u64>, Failure> {
    if context.has(Feature::Stats) { Ok(sandbox.stats().await?.cpu_micros) } else { Ok(None) }
}

/// Milliseconds of CPU that two busy threads have used, and of the time in which they did.
async fn burnt(context: &Context, sandbox: &Sandbox) -> Result<(u64, u64), Failure> {
    let begun = Instant::now();
    let before = used_cpu(context, sandbox).await?;
    let text = sandbox.guest(&["burn", "3000", "2"]).await?.stdout_text();
    let (inside, wall) = (number(&text, 1)?, number(&text, 3)?);
    // A kernel in user space counts waiting as running; the host knows better. What it counts is also what starting them took.
    let after = used_cpu(context, sandbox).await?;
    let outside = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(before.zip(after).map_or((inside, wall), |(before, after)| (after.saturating_sub(before) / 1000, outside)))
}

async fn cpu_time_stays_under_the_limit(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { cpu_millis: Some(500), ..Limits::default() }).await?;
    // Beside it one that is free to take all, in a group as well, for what this machine has left to give to one.
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32 * 1000;
    let free = limited(context, Limits { cpu_millis: Some(all), ..Limits::default() }).await?;
    let (limited, free) = tokio::join!(burnt(context, &sandbox), burnt(context, &free));
    let ((cpu, wall), (available, _)) = (limited?, free?);
    let available = available.min(wall);
    // The kernel deals in periods of 100 ms and threads may overrun their last slice.
    ensure!(cpu * 1000 <= wall * 650, "{cpu} ms of CPU in {wall} ms under a limit of one half");
    // A period's time that is missed while others have the processors is not made up for in the next.
    ensure!(cpu * 1000 >= available * 100, "{cpu} ms of CPU where {available} ms were to be had: far under the limit of one half");
    Ok(())
}

async fn processes_over_the_limit_are_not_made(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { pids: Some(40), ..Limits::default() }).await?;
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["./guest", "forks", "200"])).await?;
    let made = number(&crate::stream::read_until(&mut stream, "ready\n").await?, 1)?;
    ensure!((5..40).contains(&made), "{made} processes were made under a limit of 40");
    ensure_eq!(timeout(SOON, sandbox.status()).await?.state, State::Running, "the state meanwhile");
    sandbox.kill(stream.pid).await?;
    answers(&sandbox).await
}

async fn threads_count_as_processes(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { pids: Some(40), ..Limits::default() }).await?;
    let made = number(&sandbox.guest(&["threads", "200"]).await?.stdout_text(), 1)?;
    ensure!((5..40).contains(&made), "{made} threads were started under a limit of 40");
    answers(&sandbox).await
}

async fn an_exec_over_the_process_limit_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { pids: Some(40), ..Limits::default() }).await?;
    let stream = sandbox.start_guest(&["forks", "200"]).await?;
    let outcome = timeout(SOON, sandbox.exec(ExecRequest::argv(["true"]))).await?;
    refused("one more", outcome, &[ErrorKind::ResourceExhausted])?;
    sandbox.put("file", "x").await.or_else(|error| refused("put", Err::<(), _>(error), &[ErrorKind::ResourceExhausted]).map(drop))?;
    sandbox.kill(stream.pid).await?;
    answers(&sandbox).await
}

async fn the_disk_over_the_limit_is_full(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { disk: Some(24 * MEBIBYTE), ..Limits::default() }).await?;
    for path in ["file", "/tmp/file"] {
        let text = sandbox.guest(&["fill", path, "80"]).await?.stdout_text();
        let (wrote, errno) = (number(&text, 1)?, number(&text, 2));
        ensure!(wrote < 25, "{wrote} MiB went to {path} under a limit of 24 ({text:?})");
        // ENOSPC or EDQUOT.
        ensure!(errno.as_ref().is_ok_and(|errno| matches!(errno, 28 | 122)), "it ended with {text:?}");
        sandbox.remove_path(path, RemoveOptions::default()).await?;
    }
    answers(&sandbox).await
}

async fn a_put_over_the_disk_limit_is_told_and_leaves_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { disk: Some(24 * MEBIBYTE), ..Limits::default() }).await?;
    let before = sandbox.read_dir(".").await?.len();
    refused("put", sandbox.put("file", noise(48 << 20, 1)).await, &[ErrorKind::ResourceExhausted])?;
    ensure_eq!(sandbox.read_dir(".").await?.len(), before, "entries");
    sandbox.put("small", noise(1 << 20, 1)).await?;
    Ok(())
}

async fn a_full_disk_can_be_emptied(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { disk: Some(24 * MEBIBYTE), ..Limits::default() }).await?;
    for _ in 0..3 {
        let wrote = number(&sandbox.guest(&["fill", "file", "80"]).await?.stdout_text(), 1)?;
        ensure!(wrote >= 8, "only {wrote} MiB went into a disk of 24");
        sandbox.remove_path("file", RemoveOptions::default()).await?;
    }
    sandbox.put("small", noise(4 << 20, 1)).await?;
    Ok(())
}

/// How long it takes until a file of this size is on the disk.
async fn write(sandbox: &Sandbox, mebibytes: u64) -> Result<Duration, Failure> {
    let begun = Instant::now();
    sandbox.text(&format!("dd if=/dev/zero of=/written bs=64k count={} conv=fsync 2>/dev/null; rm /written", mebibytes * 16)).await?;
    Ok(begun.elapsed())
}

async fn what_the_disk_does_in_a_second_is_bounded(context: &Context) -> Result<(), Failure> {
    const WRITTEN: u64 = 16;
    // What a second allows may have been saved up, and so be written at once.
    let least = Duration::from_secs(2);
    let plain = context.sandbox().await?;
    let unlimited = write(&plain, WRITTEN).await?;
    let few = Limits { disk_rate: Some(WRITTEN * MEBIBYTE / 4), ..Limits::default() };
    let limited_by_bytes = write(&limited(context, few).await?, WRITTEN).await?;
    let often = write_often(&plain).await?;
    let seldom = Limits { disk_operations: Some(20), ..Limits::default() };
    let limited_by_operations = write_often(&limited(context, seldom).await?).await?;
    for (what, took, unlimited) in [("bytes", limited_by_bytes, unlimited), ("operations", limited_by_operations, often)] {
        ensure!(took >= least, "with a limit of {what} it took {took:?}, without one {unlimited:?}");
        if unlimited >= least {
            return Err(Failure::Ignored(format!("the disk is too busy to tell: without a limit of {what} it took {unlimited:?}")));
        }
    }
    Ok(())
}

/// How long it takes to have something written sixty times.
async fn write_often(sandbox: &Sandbox) -> Result<Duration, Failure> {
    let begun = Instant::now();
    sandbox.text("i=0; while [ $i -lt 60 ]; do echo $i > /written; sync; i=$((i+1)); done; rm /written").await?;
    Ok(begun.elapsed())
}

async fn what_the_disk_does_is_bounded_after_a_start_and_in_a_fork(context: &Context) -> Result<(), Failure> {
    let spec = SandboxSpec { limits: Limits { disk_rate: Some(4 * MEBIBYTE), ..Limits::default() }, ..SandboxSpec::default() };
    let sandbox = context.sandbox_with(spec.clone()).await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    let started = write(&sandbox, 12).await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let fork = context.fork(&sandbox, &layer, spec).await?;
    let forked = write(&fork, 12).await?;
    for (when, took) in [("after a start", started), ("in a fork", forked)] {
        ensure!(took >= Duration::from_secs(2), "12 MiB at 4 MiB a second took {took:?} {when}");
    }
    Ok(())
}

async fn files_over_the_limit_are_not_opened(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { open_files: Some(64), ..Limits::default() }).await?;
    let opened = number(&sandbox.guest(&["files", "1000"]).await?.stdout_text(), 1)?;
    ensure!((32..64).contains(&opened), "{opened} files were opened under a limit of 64");
    answers(&sandbox).await
}

async fn the_open_file_limit_cannot_be_raised(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { open_files: Some(64), ..Limits::default() }).await?;
    let result = sandbox.shell("ulimit -Hn; ulimit -n 4096; ulimit -n; ./guest files 1000").await?;
    let text = result.stdout_text();
    ensure!(text.starts_with("64\n"), "the hard limit is not 64: {text:?}");
    ensure!(!text.contains("4096") && !text.contains("opened 1000"), "it was raised: {text:?}");
    Ok(())
}

async fn wall_time_over_the_limit_ends_the_command(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let request = ExecRequest::shell("sleep 1000").with_timeout(Duration::from_millis(200));
    let status = timeout(SOON, sandbox.exec(request)).await??.status;
    ensure!(status.timed_out, "it ended with {status}");
    answers(&sandbox).await
}

async fn another_sandbox_does_not_feel_them(context: &Context) -> Result<(), Failure> {
    let full = limited(context, Limits { pids: Some(40), memory: Some(96 * MEBIBYTE), ..Limits::default() }).await?;
    let other = limited(context, Limits { pids: Some(40), memory: Some(96 * MEBIBYTE), ..Limits::default() }).await?;
    let forks = full.start_guest(&["forks", "200"]).await?;
    let made = number(
        &crate::stream::read_until(&mut other.exec_stream(ExecRequest::argv(["./guest", "forks", "10"])).await?, "ready\n").await?,
        1,
    )?;
    ensure_eq!(made, 10, "processes in the other sandbox");
    full.kill(forks.pid).await?;
    answers(&other).await
}

/// Whether at most 40 processes and 64 files can be had.
async fn hold(sandbox: &Sandbox, disk: bool) -> Result<(), Failure> {
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["./guest", "forks", "200"])).await?;
    let made = number(&crate::stream::read_until(&mut stream, "ready\n").await?, 1)?;
    ensure!(made < 40, "{made} processes were made under a limit of 40");
    sandbox.kill(stream.pid).await?;
    if disk {
        let wrote = number(&sandbox.guest(&["fill", "file", "80"]).await?.stdout_text(), 1)?;
        ensure!(wrote < 25, "{wrote} MiB were written under a limit of 24");
        sandbox.remove_path("file", RemoveOptions::default()).await?;
    } else {
        let opened = number(&sandbox.guest(&["files", "1000"]).await?.stdout_text(), 1)?;
        ensure!(opened < 64, "{opened} files were opened under a limit of 64");
    }
    Ok(())
}

async fn they_hold_after_stop_and_start(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { pids: Some(40), open_files: Some(64), ..Limits::default() }).await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    hold(&sandbox, false).await
}

async fn they_hold_in_a_fork(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let limits = Limits { pids: Some(40), disk: Some(24 * MEBIBYTE), ..Limits::default() };
    hold(&context.fork(&sandbox, &layer, SandboxSpec { limits, ..SandboxSpec::default() }).await?, true).await
}

async fn they_hold_after_a_restore(context: &Context) -> Result<(), Failure> {
    let sandbox = limited(context, Limits { pids: Some(40), disk: Some(24 * MEBIBYTE), ..Limits::default() }).await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    hold(&sandbox, true).await
}
