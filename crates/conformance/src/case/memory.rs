use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sandbar_core::{
    CheckpointKind, CheckpointOptions, ErrorKind, ExecEvent, ExecRequest, ExecStream,
    Feature::{Fork, MemoryCheckpoint, Pause, Restore, StopStart},
    RestoreRequest, SandboxSpec, SavedCheckpoint, State,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::{OwnMachine, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::patience,
    stream::read_until,
    suite::cases,
};

cases! { "memory";
    a_process_goes_on_in_a_fork [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    the_source_goes_on_and_its_client_misses_nothing [.needs(&[MemoryCheckpoint]).reach(&[Shell])],
    clients_that_read_meanwhile_have_nothing_ended_in_the_source_nor_in_a_fork [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    open_files_and_the_layer_come_along [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    layer_and_memory_are_of_one_instant [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    forks_have_identities_of_their_own [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    several_begin_from_one_at_the_same_time [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    the_clock_is_right_in_a_fork [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    a_restore_in_place_brings_processes_back [.needs(&[MemoryCheckpoint, Restore]).reach(&[Shell])],
    a_client_goes_on_over_a_restore_in_place [.needs(&[MemoryCheckpoint, Restore]).reach(&[Shell])],
    commands_and_files_work_in_a_fork [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    a_fork_can_be_saved_with_memory_again [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    sockets_between_processes_inside_go_on [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    its_disk_part_begins_without_processes [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    a_record_that_is_none_is_refused_and_leaves_nothing [.needs(&[MemoryCheckpoint, Fork]).reach(&[Shell])],
    memory_that_another_engine_or_processor_saved_is_refused [.needs(&[MemoryCheckpoint, Fork])],
    a_paused_sandbox_is_refused [.needs(&[MemoryCheckpoint, Pause])],
    a_stopped_sandbox_is_refused [.needs(&[MemoryCheckpoint, StopStart])],
    a_failure_leaves_the_sandbox_running [.needs(&[MemoryCheckpoint])],
}

/// Says 1, 2, 3 … until it is ended.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

/// Saves a sandbox with memory into a fresh folder.
pub(super) async fn save(context: &Context, of: &Sandbox) -> Result<(PathBuf, SavedCheckpoint), Failure> {
    let into = context.host_folder("memory")?;
    let saved = of.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into: into.clone() }).await?;
    ensure_eq!(saved.kind, CheckpointKind::Memory, "its kind");
    ensure!(into.join("layer").is_dir(), "there is no layer beside the memory");
    ensure!(saved.bytes > 0 && saved.record != Value::Null, "nothing is said of what was saved: {saved:?}");
    Ok((into, saved))
}

pub(super) fn with_memory(of: &Sandbox, (into, saved): &(PathBuf, SavedCheckpoint)) -> RestoreRequest {
    RestoreRequest { memory: Some((into.clone(), saved.record.clone())), ..Context::restore_request(of, into) }
}

async fn forked(context: &Context, of: &Sandbox, saved: &(PathBuf, SavedCheckpoint)) -> Result<Sandbox, Failure> {
    context.fork_from(with_memory(of, saved), SandboxSpec::default()).await
}

async fn counting(sandbox: &Sandbox) -> Result<ExecStream, Failure> {
    let mut stream = sandbox.start_shell(COUNT).await?;
    read_until(&mut stream, "\n5\n").await?;
    Ok(stream)
}

/// Reads a counter's output from its beginning until it is past `past`: no number is missing, none comes twice.
async fn counts(sandbox: &Sandbox, pid: u32, past: u64) -> Result<(), Failure> {
    in_order(&mut sandbox.reattach(pid, Some(0)).await?, |seen| seen > past).await
}

/// The same until it was read far enough.
async fn in_order(stream: &mut ExecStream, is_enough: impl Fn(u64) -> bool) -> Result<(), Failure> {
    let (mut text, mut offset) = (Vec::new(), 0);
    let reading = async {
        loop {
            let lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let seen: Vec<u64> = String::from_utf8_lossy(&text[..lines]).lines().filter_map(|line| line.parse().ok()).collect();
            ensure!(seen.iter().copied().eq(1..=seen.len() as u64), "the counter says {seen:?}");
            if is_enough(seen.len() as u64) {
                return Ok(());
            }
            match stream.output.next().await? {
                Some(ExecEvent::Output { offset: at, data, .. }) => {
                    ensure_eq!(at, offset, "the offset");
                    offset += data.len() as u64;
                    text.extend_from_slice(&data);
                }
                other => return Err(Failure::new(format!("the counter's output ends with {other:?}"))),
            }
        }
    };
    timeout(patience(), reading).await.map_err(|_| Failure::new("it does not count any further"))?
}

async fn a_process_goes_on_in_a_fork(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let pid = counting(&sandbox).await?.pid;
    let saved = save(context, &sandbox).await?;
    let fork = forked(context, &sandbox, &saved).await?;
    let process = fork.process(pid).await?;
    ensure_eq!(process.status, None, "its status in the fork");
    counts(&fork, pid, 30).await?;
    // Its own signals, and nobody else's.
    fork.kill(pid).await?;
    ensure_eq!(sandbox.process(pid).await?.status, None, "the source's process after the fork's was ended");
    counts(&sandbox, pid, 30).await
}

async fn the_source_goes_on_and_its_client_misses_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell(COUNT).await?;
    for round in 0..2 {
        save(context, &sandbox).await?;
        ensure_eq!(sandbox.status().await.state, State::Running, "the state after checkpoint {round}");
    }
    in_order(&mut stream, |seen| seen > 40).await
}

async fn clients_that_read_meanwhile_have_nothing_ended_in_the_source_nor_in_a_fork(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // As of `sandbar run`: the process ends when its client is gone. In a fork all clients are.
    let bound = |line: &str| ExecRequest { kill_on_disconnect: true, ..ExecRequest::shell(line) };
    let mut counter = sandbox.exec_stream(bound(COUNT)).await?;
    let mut silent = sandbox.exec_stream(bound("until test -e go; do sleep 0.1; done; echo it goes on")).await?;
    let (now, last) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let saved = async {
        let saved = save(context, &sandbox).await?;
        last.store(now.load(Relaxed) + 20, Relaxed);
        sandbox.put("go", "").await?;
        Ok::<_, Failure>(saved)
    };
    let counting = in_order(&mut counter, |seen| {
        now.store(seen, Relaxed);
        seen > last.load(Relaxed)
    });
    let (saved, counted, spoken) = tokio::join!(saved, counting, read_until(&mut silent, "it goes on\n"));
    let saved = saved?;
    counted?;
    spoken?;
    let fork = forked(context, &sandbox, &saved).await?;
    counts(&fork, counter.pid, now.into_inner()).await?;
    ensure_eq!(fork.process(silent.pid).await?.status, None, "the status of the silent one in the fork");
    sandbox.kill(counter.pid).await
}

async fn open_files_and_the_layer_come_along(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("before", "carried over").await?;
    let line = "exec 3>lines; i=0; while :; do i=$((i+1)); echo $i >&3; sleep 0.02; done";
    let pid = sandbox.start_shell(line).await?.pid;
    sandbox.until("test $(wc -l < lines) -ge 5").await?;
    let saved = save(context, &sandbox).await?;
    let fork = forked(context, &sandbox, &saved).await?;
    ensure_eq!(fork.get("before").await?, b"carried over", "a file of the layer");
    fork.until("test $(wc -l < lines) -ge 40").await?;
    fork.kill(pid).await?;
    ensure_eq!(fork.text("seq $(wc -l < lines) | cmp - lines && echo same").await?, "same", "what was written before and after");
    sandbox.kill(pid).await
}

async fn layer_and_memory_are_of_one_instant(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // The process writes what it remembers; if the layer were of a later instant, lines would come twice or overwrite others.
    let line = "i=0; while :; do i=$((i+1)); echo $i >> lines; done";
    let pid = sandbox.start_shell(line).await?.pid;
    sandbox.until("test -s lines").await?;
    for round in 0..2 {
        let saved = save(context, &sandbox).await?;
        let fork = forked(context, &sandbox, &saved).await?;
        let before: usize = fork.text("wc -l < lines").await?.parse().unwrap_or(0);
        fork.until(&format!("test $(wc -l < lines) -gt {}", before + 100)).await?;
        fork.kill(pid).await?;
        let same = fork.text("seq $(wc -l < lines) | cmp - lines && echo same").await;
        ensure_eq!(same?, "same", "the lines of round {round}");
        context.destroy(&fork).await?;
    }
    sandbox.kill(pid).await
}

async fn forks_have_identities_of_their_own(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.shell("echo 0123456789abcdef0123456789abcdef > /etc/machine-id").await?;
    let saved = save(context, &sandbox).await?;
    let look = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1";
    let mut told = vec![sandbox.text(look).await?];
    for _ in 0..2 {
        let fork = forked(context, &sandbox, &saved).await?;
        is_renewed(context, &fork)?;
        told.push(fork.text(look).await?);
    }
    for (index, what) in ["host name", "machine-id", "random bytes"].iter().enumerate() {
        let mut lines: Vec<&str> = told.iter().filter_map(|text| text.lines().nth(index)).collect();
        lines.sort_unstable();
        lines.dedup();
        ensure_eq!(lines.len(), 3, "different {what}s in {told:?}");
    }
    Ok(())
}

/// What a kernel has for itself alone is renewed with the rest.
fn is_renewed(context: &Context, sandbox: &Sandbox) -> Result<(), Failure> {
    let renewal = sandbox.renewal().ok_or_else(|| Failure::new("nothing is said of what was renewed"))?;
    ensure!(!renewal.done.is_empty(), "nothing was renewed: {renewal:?}");
    if context.subject().reach.contains(&OwnMachine) {
        for what in ["entropy: ", "clock: ", "host name: ", "machine-id: "] {
            ensure!(renewal.done.iter().any(|line| line.starts_with(what)), "no {what}in {renewal:?}");
        }
        ensure!(renewal.failed.is_empty(), "{renewal:?}");
    }
    Ok(())
}

async fn several_begin_from_one_at_the_same_time(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let pid = counting(&sandbox).await?.pid;
    let saved = save(context, &sandbox).await?;
    let fork = || async {
        let fork = forked(context, &sandbox, &saved).await?;
        counts(&fork, pid, 20).await?;
        fork.text("echo here").await
    };
    let (one, two, three, four) = tokio::join!(fork(), fork(), fork(), fork());
    for answer in [one?, two?, three?, four?] {
        ensure_eq!(answer, "here", "a fork's answer");
    }
    Ok(())
}

async fn the_clock_is_right_in_a_fork(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // A kernel of its own would go on from there.
    if context.subject().reach.contains(&OwnMachine) {
        ensure_eq!(sandbox.text("date -s @1000000000 > /dev/null; date +%Y").await?, "2001", "the year in the source");
    }
    let saved = save(context, &sandbox).await?;
    let fork = forked(context, &sandbox, &saved).await?;
    let outside = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let before = outside();
    let inside: u64 = fork.text("date +%s").await?.parse().unwrap_or(0);
    let after = outside();
    ensure!((before.saturating_sub(2)..=after + 2).contains(&inside), "it is {inside} in the fork and {before} to {after} here");
    Ok(())
}

async fn a_restore_in_place_brings_processes_back(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.shell("echo 0123456789abcdef0123456789abcdef > /etc/machine-id").await?;
    sandbox.put("file", "old").await?;
    let pid = counting(&sandbox).await?.pid;
    let saved = save(context, &sandbox).await?;
    sandbox.kill(pid).await?;
    sandbox.put("file", "new").await?;
    sandbox.restore(with_memory(&sandbox, &saved)).await?;
    ensure_eq!(sandbox.process(pid).await?.status, None, "the process that had been ended");
    ensure_eq!(sandbox.get("file").await?, b"old", "a file");
    is_renewed(context, &sandbox)?;
    counts(&sandbox, pid, 30).await
}

async fn a_client_goes_on_over_a_restore_in_place(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell(COUNT).await?;
    let mut text = Vec::new();
    read_beyond(&mut stream, &mut text, 10, usize::MAX).await?;
    let saved = save(context, &sandbox).await?;
    // Further than the process will be that comes back.
    let read = usize::try_from(sandbox.process(stream.pid).await?.output_end).unwrap_or_default() + 20;
    read_beyond(&mut stream, &mut text, read, usize::MAX).await?;
    sandbox.restore(with_memory(&sandbox, &saved)).await?;
    let begin = read_beyond(&mut stream, &mut text, read + 100, read).await?;
    ensure!(begin >= 10, "it goes on at {begin}, which it had read before the save");
    let seen: Vec<u64> = String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect();
    // The last may be cut.
    let seen = &seen[..seen.len() - 1];
    ensure!(seen.iter().copied().eq(1..=seen.len() as u64), "the counter says {seen:?}");
    Ok(())
}

/// Reads until the output has `length` bytes, each at its offset, and has gone back to below `seam`: what the process before it had said may come first. Gives
/// the lowest offset of what was read.
async fn read_beyond(stream: &mut ExecStream, text: &mut Vec<u8>, length: usize, seam: usize) -> Result<usize, Failure> {
    let mut lowest = usize::MAX;
    let reading = async {
        loop {
            match stream.output.next().await? {
                Some(ExecEvent::Output { offset, data, .. }) => {
                    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                    ensure!(offset <= text.len(), "bytes are missing before {offset}: it had read {}", text.len());
                    lowest = lowest.min(offset);
                    text.truncate(offset);
                    text.extend_from_slice(&data);
                    if text.len() >= length && lowest < seam {
                        return Ok(lowest);
                    }
                }
                other => return Err(Failure::new(format!("its output ends with {other:?}"))),
            }
        }
    };
    timeout(patience(), reading).await.map_err(|_| Failure::new("its client reads no further"))?
}

async fn commands_and_files_work_in_a_fork(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let saved = save(context, &sandbox).await?;
    let fork = forked(context, &sandbox, &saved).await?;
    fork.put("file", "content").await?;
    ensure_eq!(fork.text("cat file; echo $((6*7))").await?, "content42", "a command");
    ensure!(!sandbox.has("file").await?, "the source has the fork's file");
    Ok(())
}

async fn a_fork_can_be_saved_with_memory_again(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let pid = counting(&sandbox).await?.pid;
    let saved = save(context, &sandbox).await?;
    let child = forked(context, &sandbox, &saved).await?;
    child.put("childs", "x").await?;
    counts(&child, pid, 20).await?;
    let again = save(context, &child).await?;
    let grandchild = forked(context, &child, &again).await?;
    ensure_eq!(grandchild.get("childs").await?, b"x", "the child's file");
    counts(&grandchild, pid, 40).await
}

async fn sockets_between_processes_inside_go_on(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    if !sandbox.shell("command -v python3").await?.status.success() {
        return Err(Failure::Ignored("there is no python3 inside".to_owned()));
    }
    let program = "import socket, time\n\
        server = socket.create_server(('127.0.0.1', 7999)); client = socket.create_connection(('127.0.0.1', 7999)); peer = server.accept()[0]\n\
        number = 0\n\
        while True:\n    number += 1; client.sendall(b'x'); assert peer.recv(1) == b'x'; print(number, flush=True); time.sleep(0.02)\n";
    sandbox.put("program.py", program).await?;
    let mut stream = sandbox.start_shell("exec python3 program.py").await?;
    read_until(&mut stream, "\n5\n").await?;
    let saved = save(context, &sandbox).await?;
    let fork = forked(context, &sandbox, &saved).await?;
    counts(&fork, stream.pid, 30).await
}

async fn its_disk_part_begins_without_processes(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    counting(&sandbox).await?;
    let (into, _) = save(context, &sandbox).await?;
    let fork = context.fork(&sandbox, &into, SandboxSpec::default()).await?;
    ensure_eq!(fork.processes().await?, [], "processes");
    ensure_eq!(fork.get("file").await?, b"kept", "a file");
    Ok(())
}

async fn a_record_that_is_none_is_refused_and_leaves_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (into, saved) = save(context, &sandbox).await?;
    for record in [json!({ "of": "another provider" }), Value::Null] {
        let bad = (into.clone(), SavedCheckpoint { record, ..saved.clone() });
        is_refused(context, &sandbox, &bad, &[ErrorKind::Corrupt, ErrorKind::Conflict, ErrorKind::Unsupported]).await?;
    }
    Ok(())
}

async fn memory_that_another_engine_or_processor_saved_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    let (into, saved) = save(context, &sandbox).await?;
    let words = words(&saved.record);
    ensure!(!words.is_empty(), "nothing is said of what the memory is bound to: {saved:?}");
    for word in words {
        let mut record = saved.record.clone();
        let Some(Value::String(text)) = record.pointer_mut(&word) else { continue };
        // Another word that could be: one of the few that there are, where it is of those.
        *text = if text == "tcg" { "kvm".to_owned() } else { format!("{text}-other") };
        let other = (into.clone(), SavedCheckpoint { record, ..saved.clone() });
        is_refused(context, &sandbox, &other, &[ErrorKind::Conflict]).await.map_err(|failure| failure.during(word))?;
    }
    // Its disk is bound to nothing.
    let fork = context.fork(&sandbox, &into, SandboxSpec::default()).await?;
    ensure_eq!(fork.get("file").await?, b"kept", "a file");
    Ok(())
}

/// Where a record has words.
fn words(record: &Value) -> Vec<String> {
    let fields = record.as_object().into_iter().flatten();
    fields.filter(|(_, value)| value.is_string()).map(|(name, _)| format!("/{name}")).collect()
}

/// A fork from what was saved is refused, and nothing of it is left.
async fn is_refused(context: &Context, of: &Sandbox, saved: &(PathBuf, SavedCheckpoint), kinds: &[ErrorKind]) -> Result<(), Failure> {
    let from = with_memory(of, saved);
    let (mut request, journal) = context.request(SandboxSpec::default())?;
    let folder = request.folder.clone();
    request.root = from.root.clone();
    let outcome = context.subject().provider.restore(request, from).await.map(|_| "a sandbox");
    refused("its restore", outcome, kinds)?;
    let left: Vec<String> = journal.complaints().into_iter().chain(Context::left_in(&folder)).collect();
    ensure!(left.is_empty(), "left: {}", left.join("; "));
    Ok(())
}

async fn a_paused_sandbox_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.pause().await?;
    let into = context.host_folder("memory")?;
    let outcome = sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into }).await;
    refused("a checkpoint with memory", outcome, &[ErrorKind::Conflict])?;
    sandbox.resume().await?;
    ensure_eq!(sandbox.text("echo here").await?, "here", "a command afterwards");
    Ok(())
}

async fn a_stopped_sandbox_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.stop().await?;
    let into = context.host_folder("memory")?;
    let outcome = sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into }).await;
    refused("a checkpoint with memory", outcome, &[ErrorKind::Conflict]).map(drop)
}

async fn a_failure_leaves_the_sandbox_running(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let into = context.host_folder("gone")?.join("not/there");
    let outcome = sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into }).await;
    ensure!(outcome.is_err(), "a checkpoint into a folder that is not there succeeded");
    let status = timeout(Duration::from_secs(20), sandbox.status()).await?;
    ensure_eq!(status.state, State::Running, "the state ({:?})", status.reason);
    ensure_eq!(sandbox.text("echo here").await?, "here", "a command afterwards");
    save(context, &sandbox).await.map(drop)
}
