//! Whoever decides about what leaves, while memory is saved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbar_core::{CheckpointKind, CheckpointOptions, ErrorKind};
use tokio::task::JoinSet;

use super::egress::{WITH_MEMORY, open};
use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq},
    sandbox::soon,
    suite::cases,
};

cases! { "egress";
    whoever_decides_may_come_back_while_memory_is_saved [.needs(WITH_MEMORY).reach(&[Shell])],
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
