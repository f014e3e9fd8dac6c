//! What is left of a sandbox when it is stopped, and for how long its agent is waited for.

use std::sync::atomic::Ordering;

use sandbar_core::{AttachRequest, ErrorKind, ExitStatus, SandboxProvider, State};
use sandbar_protocol::{Chunk, FrameKind, Process, ProcessList, Status, reply::Answer, request::Operation};
use tokio::time::Instant;

use super::super::fake::{Bench, reply};

#[tokio::test]
async fn a_stop_keeps_output_and_another_process_reads_it() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|operation, _, mut writer| async move {
        assert!(matches!(operation, Operation::Shutdown(_)));
        let ended = Some(Status { code: Some(5), signal: None, timed_out: false });
        let process = Process { pid: 9, command: "x".to_owned(), status: ended, output_end: 3, ..Process::default() };
        writer.message(&reply(Answer::Processes(ProcessList { processes: vec![process] }))).await.unwrap();
        writer.message(&Chunk { pid: 9, offset: 0 }).await.unwrap();
        writer.bytes(FrameKind::Stdout, b"out").await.unwrap();
        writer.end().await.unwrap();
    });
    sandbox.stop().await.unwrap();
    assert_eq!(sandbox.status().await.state, State::Stopped);
    let (record, state) = bench.book.commits.lock().unwrap().last().unwrap().clone();
    assert_eq!(state, State::Stopped);
    let again = bench.provider.attach(AttachRequest { provision: bench.request.clone(), record }).await.unwrap();
    assert_eq!(again.processes().await.unwrap()[0].pid, 9);
    let result = again.reattach(9, None).await.unwrap().collect(100).await.unwrap();
    assert_eq!((result.status, result.stdout_text().as_str()), (ExitStatus::exited(5), "out"));
    assert_eq!(again.signal(9, sandbar_core::Signal::TERM).await.unwrap_err().kind(), ErrorKind::Conflict);
    again.start().await.unwrap();
    assert_eq!(again.status().await.state, State::Running);
    assert_eq!(bench.names(), ["g1"], "the kept output goes with the next start");
}

#[tokio::test]
async fn an_agent_that_hands_nothing_over_cannot_keep_a_sandbox_from_stopping() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, _, mut writer| async move {
        let _ = writer.bytes(FrameKind::Stdout, b"noise").await;
    });
    sandbox.stop().await.unwrap();
    assert!(sandbox.processes().await.unwrap().is_empty());
    assert!(bench.fake.alive.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_not_waited_for_as_one_that_settles() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.failing.lock().unwrap().push("answers");
    let begun = Instant::now();
    sandbox.stop().await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 15, "a sign of life is waited for");
    bench.fake.failing.lock().unwrap().clear();
    sandbox.start().await.unwrap();

    // One that was asked to end before may be writing its disks.
    std::fs::create_dir(bench.folder.join("output.new")).unwrap();
    bench.fake.failing.lock().unwrap().push("answers");
    let begun = Instant::now();
    sandbox.stop().await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 65);
    bench.fake.failing.lock().unwrap().clear();
    sandbox.start().await.unwrap();

    // Somebody has waited already.
    bench.fake.failing.lock().unwrap().push("answers");
    let dials = bench.fake.dials.load(Ordering::SeqCst);
    sandbox.stop_crashed().await.unwrap();
    assert_eq!(bench.fake.dials.load(Ordering::SeqCst), dials, "it is asked for nothing");
    assert_eq!(sandbox.status().await.state, State::Stopped);
    assert!(bench.fake.alive.lock().unwrap().is_empty() && sandbox.processes().await.unwrap().is_empty());
}
