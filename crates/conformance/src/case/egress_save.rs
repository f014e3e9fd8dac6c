//! Whoever decides about what leaves, while memory is saved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbar_core::{CheckpointKind, CheckpointOptions, ErrorKind, Feature};
use tokio::{io::AsyncReadExt, task::JoinSet};

use super::{
    egress::{WITH_MEMORY, address, begin, is_refused, open, with_network},
    memory::with_memory,
};
use crate::{
    Context, Failure,
    Reach::{OwnMachine, Shell},
    failure::{ensure, ensure_eq},
    guest,
    sandbox::soon,
    suite::cases,
};

cases! { "egress";
    whoever_decides_may_come_back_while_memory_is_saved [.needs(WITH_MEMORY).reach(&[Shell])],
    what_is_loaded_is_asked_for_from_its_first_packet_on [.needs(LOADED).reach(&[Shell])],
}

const LOADED: &[Feature] = &[Feature::NetworkOpen, Feature::NetworkRules, Feature::MemoryCheckpoint, Feature::Fork, Feature::Restore];

async fn what_is_loaded_is_asked_for_from_its_first_packet_on(context: &Context) -> Result<(), Failure> {
    let target = "93.184.215.14:80";
    let (sandbox, mut asking) = open(context).await?;
    // One that has left and says no more, and one that tries for ever.
    let left = begin(&sandbox, &["talk", "93.184.215.14:443", "hello"]).await?.pid;
    let question = soon("a question", asking.next()).await??;
    let mut stream = sandbox.leave(question.id).await?;
    stream.read_exact(&mut [0; 5]).await?;
    let line = format!("while :; do {} talk {target} hello; echo tried; done", guest::COMMAND);
    let trying = sandbox.start_shell(&line).await?.pid;
    is_refused(&mut asking, &address(target)?).await?;
    let into = context.host_folder("loaded")?;
    let saved = match sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into: into.clone() }).await {
        Ok(saved) => (into, saved),
        Err(refusal) => {
            // An engine whose kernel keeps what is redirected where it cannot be saved. A machine's kernel is saved as it is.
            ensure_eq!(refusal.kind(), ErrorKind::Conflict, "the refusal");
            ensure!(!context.subject().reach.contains(&OwnMachine), "a machine was not saved: {refusal}");
            return Ok(());
        }
    };
    let fork = context.fork_from(with_memory(&sandbox, &saved), with_network()).await?;
    sandbox.kill(trying).await?;
    sandbox.restore(with_memory(&sandbox, &saved)).await?;
    for loaded in [&fork, &sandbox] {
        // No command has begun: it is the process that was saved that asks. It is refused, and tries again.
        let mut asking = loaded.egress().await?;
        for _ in 0..2 {
            is_refused(&mut asking, &address(target)?).await?;
        }
        let ended = loaded.ended(left).await?;
        ensure!(ended.status.is_some_and(|status| !status.success()), "what had left before was not broken off: {ended:?}");
        loaded.kill(trying).await?;
    }
    Ok(())
}

async fn whoever_decides_may_come_back_while_memory_is_saved(context: &Context) -> Result<(), Failure> {
    const AGAIN: Duration = Duration::from_millis(5);
    let (sandbox, mut asking) = open(context).await?;
    let refused = Arc::new(AtomicU32::new(0));
    let (decider, count) = (sandbox.clone(), Arc::clone(&refused));
    let mut deciding = JoinSet::new();
    deciding.spawn(async move {
        loop {
            while let Ok(question) = asking.next().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = asking.answer(question.id, false).await;
            }
            asking = loop {
                match decider.egress().await {
                    Ok(asking) => break asking,
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            };
        }
    });
    if let Err(refusal) = sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into: context.host_folder("saved")? }).await
    {
        ensure_eq!(refusal.kind(), ErrorKind::Conflict, "the refusal");
    }
    // What he came back by may have been cut without a word: then he is to hear it.
    let before = refused.load(Ordering::Relaxed);
    let decided = async {
        while refused.load(Ordering::Relaxed) == before {
            let talked = sandbox.guest(&["talk", "93.184.215.14:80", "hello"]).await?;
            ensure!(!talked.status.success(), "it was let out");
        }
        Ok::<_, Failure>(())
    };
    soon("a decision", decided).await?
}
