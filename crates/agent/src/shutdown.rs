use std::{collections::HashSet, rc::Rc, time::Duration};

use bytes::BytesMut;
use rustix::process::Signal;
use sandbar_protocol::{
    Chunk, FrameError, FrameKind, MAX_BULK, ProcessList, Reply, Shutdown, VERSION, encode_frame, encode_message, reply,
};
use tokio::{io::AsyncReadExt, net::UnixStream, time::Instant};

use crate::{agent::Agent, guest, process::Process, procfs, reaper, session, signals};

/// Nobody waits longer between TERM and KILL, whatever the request says.
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// After KILL the kernel needs a moment for each process; this is for the whole of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked again, where no event tells of a process that ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long the last output may take to get from the pipes to the rings.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends all processes, hands over their records and newest output, and ends the agent when the host has taken them.
pub(crate) async fn run(agent: &Rc<Agent>, request: Shutdown, mut stream: UnixStream) {
    agent.closing.set(true);
    let grace = Duration::from_millis(request.grace_ms).min(MAX_GRACE);
    for process in agent.table.running() {
        if process.pty {
            // An interactive shell ignores TERM.
            process.hint(Signal::HUP);
        }
        process.hint(Signal::TERM);
        process.hint(Signal::CONT);
    }
    wait_for(grace, agent, || agent.table.running().is_empty()).await;
    kill_everything(agent).await;
    if agent.guest.is_some() {
        // The host ends the machine as soon as it has everything.
        guest::sync();
    }
    let all = agent.table.all();
    wait_for(LAST_WORDS, agent, || all.iter().all(|process| process.status().is_some())).await;
    if hand_over(agent, &all, request.output_limit, &mut stream).await.is_ok() {
        // The host closes when it has everything.
        let mut ignored = [0; 256];
        while stream.read(&mut ignored).await.is_ok_and(|length| length > 0) {}
    }
    agent.end();
}

/// Waits until something is so, at most this long.
async fn wait_for(most: Duration, agent: &Agent, done: impl Fn() -> bool) {
    let end = Instant::now() + most;
    while !done() && Instant::now() < end {
        let next = (Instant::now() + LOOK).min(end);
        tokio::select! {
            () = agent.table.reaped.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn hand_over(agent: &Agent, all: &[Rc<Process>], limit: u64, stream: &mut UnixStream) -> Result<(), FrameError> {
    let mut bytes = BytesMut::from(VERSION.encode().as_slice());
    let processes = all.iter().map(|process| process.record(agent.epoch.get())).collect();
    encode_message(&mut bytes, &Reply { answer: Some(reply::Answer::Processes(ProcessList { processes })) })?;
    session::send(stream, &mut bytes).await?;
    // The newest processes first get their share of the limit, each the end of its output.
    let mut left = limit;
    let mut shares = Vec::new();
    for process in all.iter().rev() {
        let ring = process.ring.borrow();
        let share = left.min(ring.end() - ring.start());
        left -= share;
        shares.push((process, ring.end() - share));
    }
    for (process, mut offset) in shares.into_iter().rev() {
        if offset < process.ring.borrow().end() {
            encode_message(&mut bytes, &Chunk { pid: process.pid.as_raw_pid().cast_unsigned(), offset })?;
        }
        while let Some(length) = frame(process, offset, &mut bytes)? {
            offset += length;
            session::send(stream, &mut bytes).await?;
        }
    }
    encode_frame(&mut bytes, FrameKind::End, &[])?;
    session::send(stream, &mut bytes).await?;
    Ok(())
}

fn frame(process: &Process, offset: u64, bytes: &mut BytesMut) -> Result<Option<u64>, FrameError> {
    let ring = process.ring.borrow();
    let Some((kind, output)) = ring.peek(offset) else { return Ok(None) };
    let length = output.len().min(MAX_BULK);
    encode_frame(bytes, kind, &output[..length])?;
    Ok(Some(length as u64))
}

/// Ends everything that descends from this process, and reaps it.
pub(crate) async fn kill_everything(agent: &Agent) {
    let end = Instant::now() + PATIENCE;
    let own = rustix::process::getpid();
    let mut stopped = HashSet::new();
    while Instant::now() < end {
        reaper::reap(agent);
        let gone = if own.is_init() {
            // Orphans become children of process 1: when there is no child any more, there is nothing.
            signals::kill_all();
            signals::is_childless()
        } else {
            kill_descendants(own.as_raw_pid(), &mut stopped)
        };
        if gone {
            return;
        }
        let next = (Instant::now() + LOOK).min(end);
        tokio::select! {
            () = agent.table.reaped.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Stops all descendants before it kills them, so that those that fork faster than they are found lose the race: each look finds only
/// children of those that were not stopped at the look before.
fn kill_descendants(own: i32, stopped: &mut HashSet<i32>) -> bool {
    const LOOKS: usize = 64;
    for _ in 0..LOOKS {
        let found: Vec<_> = procfs::descendants(own).into_iter().filter(|row| !row.is_zombie).collect();
        let new: Vec<_> = found.iter().filter(|row| stopped.insert(row.pid)).collect();
        new.iter().for_each(|row| row.signal(Signal::STOP));
        if new.is_empty() {
            found.iter().for_each(|row| row.signal(Signal::KILL));
            // A number may come back as another process, which must be stopped too.
            stopped.clear();
            return found.is_empty();
        }
    }
    false
}
