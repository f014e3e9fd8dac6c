//! What the machine makes of agents, honest and hostile, and of walls that fail.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::BytesMut;
use sandbar_core::{
    AttachRequest, CheckpointKind, CheckpointOptions, ErrorKind, ExecEvent, ExecRequest, ExitStatus, OutputKind, PutOptions,
    RestoreRequest, RootSource, SandboxHandle, SandboxProvider, State,
};
use sandbar_protocol::{
    Chunk, DirEntries, Entry, Event, Failure, FrameKind, KindOfFile, Lost, Process, ProcessList, Status, encode_frame, encode_message,
    event, reply::Answer, request::Operation,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    STEPS,
    fake::{Bench, broken_reader, exited, poll_once, reply, started},
};

mod memory;

fn failure(kind: &str, message: &str) -> Failure {
    Failure { kind: kind.to_owned(), message: message.to_owned(), errno: None }
}

fn save_to(into: &std::path::Path) -> CheckpointOptions {
    CheckpointOptions { kind: CheckpointKind::Disk, into: into.to_owned() }
}

fn from_nothing() -> RestoreRequest {
    RestoreRequest { root: RootSource::empty(), memory: None }
}

#[tokio::test]
async fn exec_is_one_connection_and_tells_offsets() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|operation, _, mut writer| async move {
        let Operation::Exec(exec) = operation else { panic!("not an exec") };
        assert_eq!(exec.argv, [b"/bin/sh".to_vec(), b"-c".to_vec(), b"x".to_vec()]);
        writer.message(&started(42)).await.unwrap();
        writer.bytes(FrameKind::Stdout, b"abc").await.unwrap();
        writer.message(&Event { what: Some(event::What::Lost(Lost { bytes: 10 })) }).await.unwrap();
        writer.bytes(FrameKind::Stderr, b"de").await.unwrap();
        writer.message(&exited(3)).await.unwrap();
    });
    let dials = bench.fake.dials.load(Ordering::SeqCst);
    let mut stream = sandbox.exec_stream(ExecRequest::shell("x")).await.unwrap();
    assert_eq!(stream.pid, 42);
    let mut events = Vec::new();
    while let Some(event) = stream.output.next().await.unwrap() {
        events.push(event);
    }
    let output = |kind, offset, data: &'static str| ExecEvent::Output { kind, offset, data: data.into() };
    let expected = [
        output(OutputKind::Stdout, 0, "abc"),
        ExecEvent::Lost { bytes: 10 },
        output(OutputKind::Stderr, 13, "de"),
        ExecEvent::Exited(ExitStatus::exited(3)),
    ];
    assert_eq!(events, expected);
    assert!(stream.output.next().await.unwrap().is_none(), "nothing comes after the end");
    assert_eq!(bench.fake.dials.load(Ordering::SeqCst) - dials, 1);
}

#[tokio::test]
async fn what_the_agent_refuses_keeps_its_kind_and_a_made_up_kind_does_not_pass() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    for (kind, expected) in [("command_not_found", ErrorKind::CommandNotFound), ("own_the_host", ErrorKind::Internal)] {
        bench.fake.answer(move |_, _, mut writer| async move {
            let _ = writer.message(&reply(Answer::Failure(failure(kind, "no \u{1b}[2J such")))).await;
        });
        let error = sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err();
        assert_eq!(error.kind(), expected);
        assert!(!error.to_string().contains('\u{1b}'), "an agent cannot drive the user's terminal");
    }
}

#[tokio::test]
async fn answers_of_another_kind_oversized_frames_and_noise_are_corrupt() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, _, mut writer| async move {
        let _ = writer.message(&reply(Answer::Done(sandbar_protocol::Ack {}))).await;
    });
    assert_eq!(sandbox.stat("x", true).await.unwrap_err().kind(), ErrorKind::Corrupt);
    bench.fake.answer(|_, _, writer| async move {
        let mut bytes = BytesMut::from(sandbar_protocol::VERSION.encode().as_slice());
        bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0]);
        let _ = writer.into_inner().write_all(&bytes).await;
    });
    assert_eq!(sandbox.stat("x", true).await.unwrap_err().kind(), ErrorKind::Corrupt);
    bench.fake.answer(|_, _, writer| async move {
        let _ = writer.into_inner().write_all(b"HTTP/1.1 400 Bad Request\r\n").await;
    });
    assert_eq!(sandbox.processes().await.unwrap_err().kind(), ErrorKind::Corrupt);
    bench.fake.answer(|_, _, mut writer| async move {
        let _ = writer.message(&started(0)).await;
    });
    assert_eq!(sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err().kind(), ErrorKind::Corrupt);
    bench.fake.answer(|_, _, mut writer| async move {
        let _ = writer.message(&started(1)).await;
        let _ = writer.bytes(FrameKind::Bytes, b"no output").await;
    });
    assert_eq!(sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_process_that_closed_its_stdin_refuses_more_of_it() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, mut reader, mut writer| async move {
        writer.message(&started(1)).await.unwrap();
        writer.message(&Event { what: Some(event::What::InputClosed(sandbar_protocol::Empty {})) }).await.unwrap();
        writer.bytes(FrameKind::Stdout, b"still here").await.unwrap();
        while let Ok(Some(_)) = reader.next().await {}
    });
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["x"]).with_stdin()).await.unwrap();
    stream.input.write("taken".into()).await.unwrap();
    assert!(matches!(stream.output.next().await.unwrap(), Some(ExecEvent::Output { .. })));
    assert_eq!(stream.input.write("refused".into()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    stream.input.close().await.unwrap();
    assert_eq!(stream.input.write("closed".into()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_newer_agent_of_the_same_major_is_understood_and_another_major_is_named() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    for (major, minor, kind) in [(1, 9, None), (2, 0, Some(ErrorKind::Unavailable))] {
        bench.fake.answer(move |_, _, writer| async move {
            let mut bytes = BytesMut::from(sandbar_protocol::Preamble { major, minor }.encode().as_slice());
            encode_message(&mut bytes, &reply(Answer::Processes(ProcessList::default()))).unwrap();
            let _ = writer.into_inner().write_all(&bytes).await;
        });
        let listed = sandbox.processes().await;
        assert_eq!(listed.as_ref().err().map(|error| error.kind()), kind, "{listed:?}");
    }
}

#[tokio::test]
async fn a_cut_says_what_became_of_the_sandbox() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let fake = std::sync::Arc::clone(&bench.fake);
    bench.fake.answer(move |_, _, mut writer| {
        let fake = std::sync::Arc::clone(&fake);
        async move {
            writer.message(&started(1)).await.unwrap();
            *fake.gone.lock().unwrap() = Some("the agent was ended by signal 9".to_owned());
        }
    });
    let error = sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("the agent was ended by signal 9"), "{error}");
    let error = sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.message().contains("signal 9"), "{error}");
    assert_eq!(sandbox.status().await.state, State::Crashed);
}

#[tokio::test]
async fn an_exec_that_a_restore_or_a_stop_cuts_off_says_so() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    // Runs until its connection is torn, as by the end of the agent: here, when the test drops the sender.
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let cutter = cut.clone();
    bench.fake.answer(move |operation, _, mut writer| {
        let mut cut = cutter.subscribe();
        async move {
            if let Operation::Exec(_) = operation {
                writer.message(&started(1)).await.unwrap();
                let _ = cut.recv().await;
            }
        }
    });
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["x"])).await.unwrap();
    sandbox.restore(from_nothing()).await.unwrap();
    cut.send(()).unwrap();
    let error = stream.output.next().await.unwrap_err();
    assert_eq!(error.message(), "the sandbox was restored to another checkpoint while this ran");

    let mut stream = sandbox.exec_stream(ExecRequest::argv(["x"])).await.unwrap();
    sandbox.stop().await.unwrap();
    cut.send(()).unwrap();
    let error = stream.output.next().await.unwrap_err();
    assert_eq!(error.message(), "the sandbox was stopped while this ran");
    assert_eq!(sandbox.exec(ExecRequest::argv(["x"])).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_given_up() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, mut reader, _writer| async move { while let Ok(Some(_)) = reader.next().await {} });
    assert_eq!(sandbox.stat("x", true).await.unwrap_err().kind(), ErrorKind::TimedOut);
    bench.fake.failing.lock().unwrap().push("ping");
    let status = sandbox.status().await;
    assert_eq!(status.state, State::Crashed, "running is never told without an answer");
    let error = sandbox.remove_path("x", Default::default()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable), "long work needs a sign of life: {error}");
}

#[tokio::test]
async fn directories_are_bounded_sorted_and_their_names_checked() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let entry = |name: &str| Entry { name: name.into(), kind: KindOfFile::File.into(), ..Entry::default() };
    bench.fake.answer(move |_, _, mut writer| async move {
        writer.message(&reply(Answer::Entries(DirEntries { entries: vec![entry("b")], last: false }))).await.unwrap();
        writer.message(&reply(Answer::Entries(DirEntries { entries: vec![entry("a")], last: true }))).await.unwrap();
    });
    let names: Vec<_> = sandbox.read_dir(".").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a", "b"]);
    bench.fake.answer(move |_, _, mut writer| async move {
        let _ = writer.message(&reply(Answer::Entries(DirEntries { entries: vec![entry("../../etc/shadow")], last: true }))).await;
    });
    assert_eq!(sandbox.read_dir(".").await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_download_that_is_cut_or_fails_in_the_middle_is_an_error() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let file = || Entry { kind: KindOfFile::File.into(), size: 6, ..Entry::default() };
    bench.fake.answer(move |_, _, mut writer| async move {
        writer.message(&reply(Answer::Entry(file()))).await.unwrap();
        writer.bytes(FrameKind::Bytes, b"abc").await.unwrap();
        writer.bytes(FrameKind::Bytes, b"def").await.unwrap();
        writer.end().await.unwrap();
    });
    let (stat, mut content) = sandbox.get_file("x", 0).await.unwrap();
    let mut text = String::new();
    content.read_to_string(&mut text).await.unwrap();
    assert_eq!((stat.size, text.as_str()), (6, "abcdef"));
    for fails in [false, true] {
        bench.fake.answer(move |_, _, mut writer| async move {
            writer.message(&reply(Answer::Entry(file()))).await.unwrap();
            writer.bytes(FrameKind::Bytes, b"abc").await.unwrap();
            if fails {
                let what = event::What::Failure(failure("internal", "the disk broke"));
                writer.message(&Event { what: Some(what) }).await.unwrap();
            }
        });
        let (_, mut content) = sandbox.get_file("x", 0).await.unwrap();
        let error = content.read_to_string(&mut String::new()).await.unwrap_err();
        assert_eq!(error.to_string().contains("the disk broke"), fails, "{error}");
        assert!(content.read(&mut [0]).await.is_err(), "an error is not followed by an end");
    }
}

#[tokio::test]
async fn a_download_may_come_in_pieces_of_any_size() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let whole: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    let sent = whole.clone();
    bench.fake.answer(move |_, _, writer| {
        let mut bytes = BytesMut::from(sandbar_protocol::VERSION.encode().as_slice());
        let entry = Entry { kind: KindOfFile::File.into(), ..Entry::default() };
        encode_message(&mut bytes, &reply(Answer::Entry(entry))).unwrap();
        for (index, piece) in sent.chunks(70_001).enumerate() {
            encode_frame(&mut bytes, FrameKind::Bytes, &[]).unwrap();
            encode_frame(&mut bytes, FrameKind::Bytes, &piece[..index + 1]).unwrap();
            encode_frame(&mut bytes, FrameKind::Bytes, &piece[index + 1..]).unwrap();
        }
        encode_frame(&mut bytes, FrameKind::End, &[]).unwrap();
        async move {
            let mut stream = writer.into_inner();
            for piece in bytes.chunks(3) {
                stream.write_all(piece).await.unwrap();
            }
        }
    });
    let (_, mut content) = sandbox.get_file("x", 0).await.unwrap();
    let mut back = Vec::new();
    content.read_to_end(&mut back).await.unwrap();
    assert!(back == whole);
}

#[tokio::test]
async fn an_upload_that_is_refused_early_stops_and_a_broken_source_sends_no_end() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, _reader, mut writer| async move {
        let _ = writer.message(&reply(Answer::Failure(failure("resource_exhausted", "no space left")))).await;
    });
    let error = sandbox.put_file("x", PutOptions::default(), &mut tokio::io::repeat(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);

    let (tell, heard) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    bench.fake.answer(move |_, mut reader, _writer| {
        let tell = tell.lock().unwrap().take();
        async move {
            let mut kinds = Vec::new();
            while let Ok(Some(frame)) = reader.next().await {
                kinds.push(frame.kind);
            }
            let _ = tell.unwrap().send(kinds);
        }
    });
    let mut broken = AsyncReadExt::chain(&b"abc"[..], broken_reader());
    let error = sandbox.put_file("x", PutOptions::default(), &mut broken).await.unwrap_err();
    assert!(error.chain().contains("the source broke"), "{}", error.chain());
    assert!(!heard.await.unwrap().contains(&FrameKind::End));
}

#[tokio::test]
async fn bytes_that_come_with_the_answer_of_a_dial_are_not_lost() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, reader, writer| async move {
        let mut bytes = BytesMut::from(sandbar_protocol::VERSION.encode().as_slice());
        encode_message(&mut bytes, &reply(Answer::Done(sandbar_protocol::Ack {}))).unwrap();
        bytes.extend_from_slice(b"220 hello");
        let mut stream = reader.into_parts().0.unsplit(writer.into_inner());
        stream.write_all(&bytes).await.unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"EHLO");
    });
    let mut stream = sandbox.connect_port(25).await.unwrap();
    stream.write_all(b"EHLO").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "220 hello");
}

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
async fn a_connection_that_is_cut_while_a_place_comes_up_is_made_again_at_once() {
    let bench = Bench::new();
    // As one that a kernel loses while it goes on from memory.
    bench.fake.cut_pings.store(3, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    let sandbox = bench.sandbox().await;
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(sandbox.status().await.state, State::Running);
}

#[tokio::test]
async fn a_place_that_ends_while_it_comes_up_says_why() {
    let bench = Bench::new();
    bench.fake.failing.lock().unwrap().push("life");
    let error = bench.provider.provision(bench.request.clone()).await.err().unwrap().chain();
    assert!(error.contains("it died when it was asked") && !error.contains("restored"), "{error}");
}

#[tokio::test]
async fn a_provision_that_fails_leaves_nothing_and_one_that_nobody_awaits_is_undone() {
    let bench = Bench::new();
    for what in ["boot", "ping"] {
        *bench.fake.failing.lock().unwrap() = vec![what];
        let gone = (what == "ping").then(|| "it died".to_owned());
        let fake = std::sync::Arc::clone(&bench.fake);
        *fake.gone.lock().unwrap() = gone;
        let error = bench.provider.provision(bench.request.clone()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(bench.names().is_empty() && fake.alive.lock().unwrap().is_empty(), "{what}");
    }
    bench.fake.failing.lock().unwrap().clear();
    *bench.fake.gone.lock().unwrap() = None;
    {
        let provision = bench.provider.provision(bench.request.clone());
        tokio::pin!(provision);
        // One poll starts the work, then the caller goes away.
        let _ = poll_once(provision.as_mut()).await;
    }
    while bench.book.commits.lock().unwrap().is_empty() || !bench.names().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(bench.fake.alive.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_checkpoint_thaws_whatever_fails_and_when_nobody_waits() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let into = tempfile::tempdir().unwrap();
    for what in ["freeze", "save", ""] {
        *bench.fake.failing.lock().unwrap() = vec![what];
        assert_eq!(sandbox.checkpoint(save_to(into.path())).await.is_ok(), what.is_empty());
        assert!(!bench.fake.frozen.load(Ordering::SeqCst), "{what}");
    }
    {
        let checkpoint = sandbox.checkpoint(save_to(into.path()));
        tokio::pin!(checkpoint);
        let _ = poll_once(checkpoint.as_mut()).await;
    }
    let thawed = || bench.book.steps.lock().unwrap().iter().filter(|step| **step == "checkpoint.thawed").count();
    while thawed() < 4 {
        tokio::task::yield_now().await;
    }
    assert!(!bench.fake.frozen.load(Ordering::SeqCst));
    sandbox.pause().await.unwrap();
    sandbox.checkpoint(save_to(into.path())).await.unwrap();
    assert_eq!(sandbox.status().await.state, State::Paused, "what was paused stays paused");
}

#[tokio::test]
async fn a_restore_that_fails_leaves_the_old_one_running() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    *bench.fake.failing.lock().unwrap() = vec!["boot"];
    assert!(sandbox.restore(from_nothing()).await.is_err());
    bench.fake.failing.lock().unwrap().clear();
    assert_eq!(sandbox.status().await.state, State::Running);
    assert_eq!(bench.names(), ["g1"]);
    sandbox.restore(from_nothing()).await.unwrap();
    assert_eq!(bench.names(), ["g2"]);
    assert_eq!(bench.fake.alive.lock().unwrap().len(), 1);
    let (record, _) = bench.book.commits.lock().unwrap().last().unwrap().clone();
    let accounted = bench.provider.resources(&record).unwrap().unwrap();
    assert!(accounted.iter().all(|resource| format!("{resource:?}").contains('2')), "{accounted:?}");
    sandbox.destroy().await.unwrap();
    assert!(bench.names().is_empty() && bench.fake.alive.lock().unwrap().is_empty());
}

#[tokio::test]
async fn every_step_has_a_name_in_the_list_and_every_name_is_met() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    let into = tempfile::tempdir().unwrap();
    sandbox.checkpoint(save_to(into.path())).await.unwrap();
    sandbox.restore(from_nothing()).await.unwrap();
    sandbox.stop().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.destroy().await.unwrap();
    assert_eq!(*bench.book.steps.lock().unwrap(), STEPS);
}

#[tokio::test]
async fn exposed_ports_pass_bytes_both_ways_and_end_with_the_handle() {
    let bench = Bench::new();
    let sandbox = bench.sandbox().await;
    bench.fake.answer(|_, reader, mut writer| async move {
        writer.message(&reply(Answer::Done(sandbar_protocol::Ack {}))).await.unwrap();
        let mut stream = reader.into_parts().0.unsplit(writer.into_inner());
        // Answers only after the client's end-of-file: half-close must pass.
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
    });
    let exposed = sandbox.expose_port(80, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let again = sandbox.expose_port(80, "127.0.0.1:0".parse().unwrap()).await.unwrap_err();
    let taken = sandbox.expose_port(81, exposed.listen).await.unwrap_err();
    assert_eq!((again.kind(), taken.kind()), (ErrorKind::AlreadyExists, ErrorKind::AlreadyExists));
    let mut client = tokio::net::TcpStream::connect(exposed.listen).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "HELLO");
    assert_eq!(sandbox.unexpose_port(81).await.unwrap_err().kind(), ErrorKind::NotFound);
    drop::<Box<dyn SandboxHandle>>(sandbox);
    while tokio::net::TcpStream::connect(exposed.listen).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
