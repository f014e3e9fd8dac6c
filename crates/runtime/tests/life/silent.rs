//! Agents that say nothing, of sandboxes that the host sees alive.

use std::{collections::BTreeSet, sync::atomic::Ordering::SeqCst, time::Duration};

use sandbar_core::{ErrorKind, State};
use sandbar_runtime::GcItem;
use tokio::time::Instant;

use crate::{named, setup, support::command, text};

#[tokio::test]
async fn an_agent_that_was_silent_for_a_moment_has_not_crashed() {
    let (_home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    // Both looks of whoever asks: before the lock is held, and under it.
    fake.silent.store(2, SeqCst);
    let seen = sandbox.summary().await.unwrap();
    assert_eq!((seen.state, seen.in_doubt, seen.reason.as_deref()), (State::Crashed, true, Some("the agent does not answer")));
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
    let seen = sandbox.summary().await.unwrap();
    assert_eq!((seen.state, seen.in_doubt, seen.reason), (State::Running, false, None));
    // Starting it would end what runs.
    fake.silent.store(3, SeqCst);
    assert_eq!(sandbox.start().await.unwrap_err().kind(), ErrorKind::Conflict);
    fake.silent.store(3, SeqCst);
    sandbox.settle_doubt().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
}

#[tokio::test]
async fn an_agent_that_stays_silent_is_given_up() {
    let (_home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    fake.silent.store(usize::MAX, SeqCst);
    tokio::time::pause();
    sandbox.settle_doubt().await.unwrap();
    tokio::time::resume();
    fake.silent.store(0, SeqCst);
    // It stays what everybody was told.
    assert_eq!(sandbox.summary().await.unwrap().state, State::Crashed);
    let error = sandbox.exec(command(&["x"])).await.unwrap_err();
    assert!(error.to_string().contains("crashed"), "{error}");
    sandbox.start().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
}

#[tokio::test]
async fn gc_looks_for_some_seconds_and_gives_up_who_was_seen_silent_for_fifteen() {
    let (_home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    let other = runtime.create(named("other")).await.unwrap();
    text(&sandbox, &["write", "file", "kept"]).await;
    let ids = |items: &[GcItem]| items.iter().map(|item| item.name.clone()).collect::<BTreeSet<_>>();
    let both = BTreeSet::from([sandbox.id().to_string(), other.id().to_string()]);
    let look = async || {
        fake.silent.store(usize::MAX, SeqCst);
        tokio::time::pause();
        let begun = Instant::now();
        let report = runtime.gc().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
        tokio::time::resume();
        fake.silent.store(0, SeqCst);
        report
    };
    for _ in 0..2 {
        let report = look().await;
        assert_eq!((ids(&report.in_doubt), report.recovered.len()), (both.clone(), 0), "{report:?}");
    }
    // Somebody hears of one of them.
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
    let report = look().await;
    assert_eq!(ids(&report.in_doubt), BTreeSet::from([sandbox.id().to_string()]), "{report:?}");
    assert_eq!(ids(&report.recovered), BTreeSet::from([other.id().to_string()]), "{report:?}");
    assert_eq!(other.summary().await.unwrap().state, State::Stopped);
    // A look that is answered says the same.
    assert_eq!(sandbox.summary().await.unwrap().state, State::Running);
    for _ in 0..2 {
        assert_eq!(look().await.in_doubt.len(), 1);
    }
    assert!(runtime.gc().await.unwrap().is_empty());
    for _ in 0..2 {
        assert_eq!(look().await.in_doubt.len(), 1);
    }
    assert_eq!(look().await.recovered.len(), 1);
    let told = sandbox.summary().await.unwrap();
    assert_eq!((told.state, told.reason.as_deref()), (State::Stopped, Some("the agent does not answer")));
    sandbox.start().await.unwrap();
    assert_eq!(text(&sandbox, &["read", "file"]).await, "kept");
}

#[tokio::test]
async fn a_start_goes_on_with_the_silence_that_others_saw() {
    let (_home, fake, runtime) = setup().await;
    let sandbox = runtime.create(named("web")).await.unwrap();
    fake.silent.store(usize::MAX, SeqCst);
    tokio::time::pause();
    for _ in 0..2 {
        runtime.gc().await.unwrap();
    }
    let begun = Instant::now();
    sandbox.start().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    tokio::time::resume();
    fake.silent.store(0, SeqCst);
    assert_eq!(sandbox.summary().await.unwrap().state, State::Running);
}
