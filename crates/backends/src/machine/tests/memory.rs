//! What the machine makes of memory that is saved and loaded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbar_core::{CheckpointKind, CheckpointOptions, ErrorKind, ExecEvent, ExecRequest, ExitStatus, OutputKind, RestoreRequest, State};
use sandbar_protocol::{FrameKind, Started, reply::Answer, request::Operation};

use super::{
    super::{
        MEMORY_STEPS,
        fake::{Bench, exited, reply},
    },
    from_nothing,
};

/// An agent with one process, of which it is told what it does at each connection.
fn memory_bench(connections: impl Fn(u32, Operation) -> (Started, Option<&'static str>) + Send + Sync + 'static) -> Bench {
    let bench = Bench::new();
    bench.fake.has_memory.store(true, Ordering::SeqCst);
    let (count, connections) = (AtomicU32::new(0), Arc::new(connections));
    bench.fake.answer(move |operation, mut reader, mut writer| {
        let number = count.fetch_add(u32::from(matches!(operation, Operation::Exec(_) | Operation::Attach(_))), Ordering::SeqCst);
        let connections = Arc::clone(&connections);
        async move {
            match operation {
                Operation::Quiesce(_) => writer.message(&reply(Answer::Done(sandbar_protocol::Ack {}))).await.unwrap(),
                Operation::Resumed(resumed) => {
                    let done = vec![resumed.identity.unwrap().hostname, resumed.seed.len().to_string()];
                    let renewal = sandbar_protocol::Renewal { done, failed: vec!["clock: \u{1b}no".to_owned()] };
                    writer.message(&reply(Answer::Renewed(renewal))).await.unwrap();
                }
                operation => {
                    let (started, output) = connections(number, operation);
                    writer.message(&reply(Answer::Started(started))).await.unwrap();
                    // Two bytes are taken, then the connection is cut.
                    if started.input == 0 {
                        let _ = reader.next().await;
                    }
                    if let Some(output) = output {
                        writer.bytes(FrameKind::Stdout, output.as_bytes()).await.unwrap();
                    }
                    if output == Some("end") {
                        let rest = reader.next().await.unwrap().unwrap();
                        writer.bytes(FrameKind::Stderr, &rest.payload).await.unwrap();
                        writer.message(&exited(0)).await.unwrap();
                    }
                }
            }
        }
    });
    bench
}

#[tokio::test]
async fn a_client_that_was_cut_off_for_a_save_goes_on_where_it_was() {
    let bench = memory_bench(|number, operation| match (number, operation) {
        (0, Operation::Exec(_)) => (Started { pid: 5, ..Started::default() }, Some("be")),
        (1, Operation::Attach(attach)) => {
            assert_eq!((attach.pid, attach.from, attach.epoch), (5, Some(2), Some(0)));
            (Started { pid: 5, offset: 2, epoch: 0, input: 4 }, Some("end"))
        }
        other => panic!("{other:?}"),
    });
    let sandbox = bench.sandbox().await;
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["x"]).with_stdin()).await.unwrap();
    stream.input.write("four".into()).await.unwrap();
    assert_eq!(stream.output.next().await.unwrap(), Some(ExecEvent::Output { kind: OutputKind::Stdout, offset: 0, data: "be".into() }));
    assert_eq!(stream.output.next().await.unwrap(), Some(ExecEvent::Output { kind: OutputKind::Stdout, offset: 2, data: "end".into() }));
    stream.input.write("more".into()).await.unwrap();
    assert_eq!(stream.output.next().await.unwrap(), Some(ExecEvent::Output { kind: OutputKind::Stderr, offset: 5, data: "more".into() }));
    assert_eq!(stream.output.next().await.unwrap(), Some(ExecEvent::Exited(ExitStatus::exited(0))));
}

#[tokio::test]
async fn input_that_was_lost_with_its_connection_is_told() {
    let bench = memory_bench(|number, _| match number {
        0 => (Started { pid: 5, ..Started::default() }, None),
        _ => (Started { pid: 5, offset: 0, epoch: 0, input: 2 }, Some("x")),
    });
    let sandbox = bench.sandbox().await;
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["x"]).with_stdin()).await.unwrap();
    stream.input.write("four".into()).await.unwrap();
    assert!(matches!(stream.output.next().await.unwrap(), Some(ExecEvent::Output { .. })));
    let error = stream.input.write("more".into()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("on the way"), "{error}");
}

#[tokio::test]
async fn an_agent_that_cuts_its_clients_off_for_ever_is_given_up() {
    let bench = memory_bench(|_, _| (Started { pid: 5, input: 1, ..Started::default() }, None));
    let sandbox = bench.sandbox().await;
    let error = sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn memory_is_saved_while_the_agent_is_quiet_and_loaded_with_a_new_identity() {
    let bench = memory_bench(|_, _| (Started { pid: 5, input: 1, ..Started::default() }, None));
    let sandbox = bench.sandbox().await;
    let into = tempfile::tempdir().unwrap();
    let options = CheckpointOptions { kind: CheckpointKind::Memory, into: into.path().to_owned() };
    assert_eq!(sandbox.checkpoint(options.clone()).await.unwrap().kind, CheckpointKind::Memory);
    let steps = bench.book.steps.lock().unwrap().clone();
    assert!(steps.windows(MEMORY_STEPS.len()).any(|steps| *steps == MEMORY_STEPS), "{steps:?}");
    *bench.fake.failing.lock().unwrap() = vec!["save"];
    sandbox.checkpoint(options.clone()).await.unwrap_err();
    bench.fake.failing.lock().unwrap().clear();
    assert_eq!(sandbox.status().await.state, State::Running, "a save that failed leaves it running");
    assert_eq!(sandbox.renewal(), None);
    let from = RestoreRequest { memory: Some((into.path().to_owned(), "saved".into())), ..from_nothing() };
    sandbox.restore(from).await.unwrap();
    let renewal = sandbox.renewal().unwrap();
    assert_eq!(renewal.done, [bench.request.id.to_string(), "32".to_owned()]);
    assert!(!renewal.failed[0].contains('\u{1b}'), "an agent cannot drive the user's terminal");
    sandbox.pause().await.unwrap();
    assert_eq!(sandbox.checkpoint(options.clone()).await.unwrap_err().kind(), ErrorKind::Conflict);
    sandbox.stop().await.unwrap();
    assert_eq!(sandbox.checkpoint(options).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_sets_the_time_late_is_told_it_once_more() {
    let bench = Bench::new();
    bench.fake.has_memory.store(true, Ordering::SeqCst);
    let count = AtomicU32::new(0);
    bench.fake.answer(move |operation, _, mut writer| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let Operation::Resumed(resumed) = operation else { panic!("{operation:?}") };
            assert_eq!((resumed.identity.is_some(), resumed.seed.len()), (number == 0, 32));
            if number < 2 {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            let done = ["epoch", "clock", "entropy"].map(|what| format!("{what}: {number}")).to_vec();
            let renewal = sandbar_protocol::Renewal { done, failed: Vec::new() };
            writer.message(&reply(Answer::Renewed(renewal))).await.unwrap();
        }
    });
    let sandbox = bench.sandbox().await;
    sandbox.restore(RestoreRequest { memory: Some(("/nowhere".into(), "saved".into())), ..from_nothing() }).await.unwrap();
    assert_eq!(sandbox.renewal().unwrap().done, ["epoch: 0", "clock: 0", "entropy: 0", "epoch: 1", "clock: 1", "epoch: 2", "clock: 2"]);
}
