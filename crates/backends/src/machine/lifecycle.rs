use std::{sync::Arc, time::Duration};

use sandbar_core::{Error, ErrorKind, RestoreRequest, Result, State};
use sandbar_protocol::{Chunk, FrameError, FrameKind, Shutdown, reply::Answer, request::Operation};
use tokio::time::timeout;

use super::{
    Backend, Facts, answer,
    client::{Call, SIGN_OF_LIFE, exchange},
    exec::MAX_PROCESSES,
    live::{Current, Fate, Running, Shared},
    output::{self, Keeping},
    provision::{BootSteps, boot, complain},
    record::{Record, generation_folder, generations_on_disk},
};

/// Between `TERM` and `KILL` when a sandbox is stopped.
const GRACE: Duration = Duration::from_secs(5);
/// How long the agent may be silent while it hands its output over.
const SILENCE: Duration = Duration::from_secs(5);
/// How long handing over may take altogether, beyond the grace and the settling.
const HAND_OVER: Duration = Duration::from_secs(30);

pub(super) async fn pause<B: Backend>(shared: Arc<Shared<B>>) -> Result<()> {
    let _change = shared.change.lock().await;
    let running = shared.running("pause")?;
    shared.backend.freeze(running.place()).await?;
    running.current().set_paused(true);
    commit(&shared, &running.current().record, State::Paused)
}

pub(super) async fn resume<B: Backend>(shared: Arc<Shared<B>>) -> Result<()> {
    let _change = shared.change.lock().await;
    let running = shared.running("resume")?;
    shared.backend.thaw(running.place()).await?;
    running.current().set_paused(false);
    commit(&shared, &running.current().record, State::Running)
}

/// Ends the processes, keeps their output, keeps the layer.
pub(super) async fn stop<B: Backend>(shared: Arc<Shared<B>>) -> Result<()> {
    let _change = shared.change.lock().await;
    let Some(running) = Running::of(shared.current()) else { return Ok(()) };
    let journal = Arc::clone(&shared.request.journal);
    journal.step("stop.begun");
    let sandbox = shared.request.folder.clone();
    // One that was asked to end before may be at its last work, and answer nobody.
    let is_ending = output::begun_or_kept(&sandbox);
    // The output is worth less than the stop: a full disk must not keep a sandbox running.
    let keeping = blocking(move || Keeping::begin(&sandbox)).await;
    let keeping = keeping.inspect_err(|error| tracing::warn!(error = %error.chain(), "the output is not kept")).ok();
    running.current().doom(Fate::Stopped);
    if shared.backend.facts(running.place()) == Facts::Frozen {
        shared.backend.thaw(running.place()).await?;
    }
    let mut keeping = keeping;
    let incomplete = hand_over(&shared, &running, &mut keeping, is_ending).await;
    journal.step("stop.handed-over");
    let current = running.current();
    shared.backend.halt(running.place(), &shared.folder_of(current), &current.journal()).await?;
    journal.step("stop.halted");
    if let Some(keeping) = keeping {
        complain("what was left of the output", blocking(move || keeping.finish(incomplete)).await);
    }
    let record = Record::new(current.record.generation, current.record.root.clone(), None, current.holdings.held());
    commit(&shared, &record, State::Stopped)?;
    shared.replace(Current::new(record, Arc::clone(&current.holdings)));
    journal.step("stop.committed");
    Ok(())
}

/// Asks the agent to end everything and takes what it gives. Whatever the agent does, the stop goes on; the answer is why something is
/// missing.
async fn hand_over<B: Backend>(
    shared: &Arc<Shared<B>>,
    running: &Running<B::Place>,
    keeping: &mut Option<Keeping>,
    is_ending: bool,
) -> Option<String> {
    let call = Call { shared: Arc::clone(shared), running: running.clone(), verb: "stop" };
    let received = async {
        if !is_ending {
            // Nothing is handed over by a machine that hangs. What is not written to its disk yet is lost then, so it has twice as long as it has elsewhere.
            call.ping(2 * SIGN_OF_LIFE).await?;
        }
        timeout(GRACE + B::SETTLING + HAND_OVER, receive(&call, keeping))
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "stop", "handing over the output took too long")))
    };
    let error = received.await.err()?;
    tracing::warn!(error = %error.chain(), "the agent did not hand over all output");
    Some(error.chain())
}

async fn receive<B: Backend>(call: &Call<B>, keeping: &mut Option<Keeping>) -> Result<()> {
    let mut link = call.dial().await?;
    let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
    let shutdown = Operation::Shutdown(Shutdown { grace_ms, output_limit: output::LIMIT });
    let silent = || Error::new(ErrorKind::TimedOut, "stop", "the agent does not end its processes");
    let answer = timeout(GRACE + B::SETTLING, exchange(&mut link, shutdown)).await.map_err(|_| silent())?;
    let answer = match answer {
        Ok(answer) => call.accept(answer)?,
        Err(error) => return Err(call.explain(error).await),
    };
    let Answer::Processes(list) = answer else { return Err(call.unexpected()) };
    if list.processes.len() > MAX_PROCESSES {
        return Err(answer::nonsense(call.verb, "more processes than there can be"));
    }
    let processes = list.processes.into_iter().map(|process| answer::process(call.verb, process)).collect::<Result<_>>()?;
    if let Some(keeping) = keeping {
        keeping.processes(processes);
    }
    loop {
        let frame = match timeout(SILENCE, link.reader.next()).await.map_err(|_| silent())? {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(call.explain(FrameError::Cut).await),
            Err(error) => return Err(call.explain(error).await),
        };
        if frame.kind == FrameKind::End {
            return Ok(());
        }
        let Some(mut taken) = keeping.take() else { continue };
        let (taken, done) = blocking(move || {
            let done = match frame.kind {
                FrameKind::Message => match frame.message::<Chunk>() {
                    Ok(chunk) => taken.chunk(chunk).map(|()| true),
                    Err(error) => Err(error.into()),
                },
                _ => taken.output(&frame),
            };
            Ok((taken, done))
        })
        .await?;
        *keeping = Some(taken);
        match done {
            Ok(true) => {}
            Ok(false) => {
                return Err(Error::new(ErrorKind::ResourceExhausted, "stop", format!("more than {} bytes of output", output::LIMIT)));
            }
            Err(error) => return Err(Error::io("stop", "cannot keep the output", error)),
        }
    }
}

/// Runs again on the kept layer.
pub(super) async fn start<B: Backend>(shared: Arc<Shared<B>>) -> Result<()> {
    let _change = shared.change.lock().await;
    let journal = Arc::clone(&shared.request.journal);
    journal.step("start.begun");
    let current = shared.current();
    if let Some(place) = &current.record.place {
        // One whose agent does not answer has crashed, whatever else of it is still there.
        let state = super::status::status(&shared).await.state;
        if state != State::Crashed {
            return Err(Error::new(ErrorKind::Conflict, "start", "the sandbox runs already").with("state", state));
        }
        // What is left of it goes first.
        shared.backend.halt(place, &shared.folder_of(&current), &current.journal()).await?;
    }
    let Record { generation, root, .. } = &current.record;
    let from = RestoreRequest { root: root.clone(), memory: None };
    let steps = BootSteps { booted: "start.booted", answered: "start.answered" };
    let started = boot(&shared.backend, &shared.request, &current.holdings, *generation, &from, &steps).await?;
    if let Err(error) = commit(&shared, &started.record, State::Running) {
        if let Some(place) = &started.record.place {
            complain("a start that failed", shared.backend.halt(place, &shared.folder_of(&started), &started.journal()).await);
        }
        return Err(error);
    }
    shared.replace(started);
    journal.step("start.committed");
    let sandbox = shared.request.folder.clone();
    complain("the output of the last run", blocking(move || output::forget(&sandbox)).await);
    Ok(())
}

/// Ends everything and removes everything but the sandbox's own folder, which is the runtime's.
pub(super) async fn destroy<B: Backend>(shared: Arc<Shared<B>>) -> Result<()> {
    let _change = shared.change.lock().await;
    let journal = Arc::clone(&shared.request.journal);
    journal.step("destroy.begun");
    let current = shared.current();
    current.doom(Fate::Destroyed);
    let (sandbox, folder) = (&shared.request.folder, shared.folder_of(&current));
    let mut result = match &current.record.place {
        Some(place) => shared.backend.end(place, &folder, &current.journal(), "destroy.halted").await,
        None => {
            journal.step("destroy.halted");
            shared.backend.remove(&folder, &current.journal()).await
        }
    };
    // What a restore that was interrupted left beside it.
    for generation in generations_on_disk(sandbox) {
        result = result.and(shared.backend.remove(&generation_folder(sandbox, generation), &current.journal()).await);
    }
    if output::begun_or_kept(sandbox) {
        let sandbox = sandbox.clone();
        result = result.and(blocking(move || output::forget(&sandbox)).await);
    }
    journal.step("destroy.removed");
    result
}

/// Commits the record with the state that follows.
pub(super) fn commit<B: Backend>(shared: &Shared<B>, record: &Record<B::Place>, state: State) -> Result<()> {
    shared.request.journal.commit(&record.to_json()?, state)
}

/// Work that blocks, elsewhere.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, "machine", "a task of file work ended early").with_source(error)),
    }
}
