//! Rings, re-attaching, back-pressure, the list.

use std::time::{Duration, Instant};

use sandbar_protocol::{Attach, Exec, FrameKind, List, Process, reply, request::Operation};

use crate::host::{Host, Session, answer, eventually, exited, shell};

fn list(host: &Host) -> Vec<Process> {
    match host.ask(Operation::List(List {})).1 {
        reply::Answer::Processes(list) => list.processes,
        other => panic!("{other:?}"),
    }
}

fn record(host: &Host, pid: u32) -> Process {
    list(host).into_iter().find(|process| process.pid == pid).unwrap()
}

#[test]
fn a_million_lines_arrive_in_order() {
    let host = Host::new();
    let output = host.run("seq 1000000");
    let mut lines = output.text().lines();
    assert!((1..=1_000_000).all(|number| lines.next() == Some(number.to_string().as_str())));
    assert_eq!((lines.next(), output.lost), (None, 0));
}

#[test]
fn output_and_status_are_kept_after_the_end() {
    let host = Host::new();
    let session = host.shell("echo out; echo err >&2; exit 4");
    let pid = session.started.pid;
    let first = session.collect();
    let again = host.attach(pid, None);
    assert_eq!(again.started.offset, 0);
    assert_eq!(again.collect(), first);
    let tail = host.attach(pid, Some(4)).collect();
    assert_eq!(tail.stdout.len() + tail.stderr.len(), 4);
    assert_eq!(host.attach(pid, Some(8)).collect().status, exited(4));
    assert_eq!(host.refusal(Operation::Attach(Attach { pid, from: Some(9), ..Attach::default() })).kind, "invalid_input");
    assert_eq!(host.refusal(Operation::Attach(Attach { pid: host.pid(), from: None, ..Attach::default() })).kind, "not_found");
    let record = record(&host, pid);
    assert_eq!((record.command.as_str(), record.status), ("/bin/sh -c echo out; echo err >&2; exit 4", Some(exited(4))));
    assert_eq!((record.output_start, record.output_end, record.attached, record.pty), (0, 8, 0, false));
    assert!(record.ended_ms.unwrap() >= record.started_ms);
}

#[test]
fn with_nobody_attached_the_oldest_is_lost_and_counted() {
    let host = Host::with(|config| config.ring_bytes = 10_000);
    let session = host.shell("read wait; seq 20000; echo end");
    drop(session);
    let host_list = || list(&host);
    eventually("it has ended", || host_list().iter().all(|process| process.status.is_some()));
    let process = &list(&host)[0];
    let whole: String = (1..=20_000).map(|number| format!("{number}\n")).chain(["end\n".to_owned()]).collect();
    assert_eq!((process.output_end, process.output_end - process.output_start), (whole.len() as u64, 10_000));
    let output = host.attach(process.pid, None);
    assert_eq!(output.started.offset, process.output_start);
    let output = output.collect();
    assert_eq!((output.lost, output.text()), (0, &whole[whole.len() - 10_000..]));
    let output = host.attach(process.pid, Some(100)).collect();
    assert_eq!((output.lost, output.text()), (process.output_start - 100, &whole[whole.len() - 10_000..]));
}

#[test]
fn a_client_that_comes_back_misses_nothing_of_a_running_process() {
    let host = Host::new();
    let mut session = host.exec(Exec { stdin: true, ..shell("echo one; read line; echo two $line; read line; echo three") });
    session.wait_for("one\n");
    let pid = session.started.pid;
    session.write(b"a\n");
    drop(session);
    eventually("it goes on alone", || record(&host, pid).output_end == 10);
    let mut session = host.attach(pid, Some(4));
    assert_eq!(record(&host, pid).attached, 1);
    session.write(b"b\n");
    let output = session.collect();
    assert_eq!((output.text(), output.status), ("two a\nthree\n", exited(0)));
}

#[test]
fn several_clients_hear_the_same() {
    let host = Host::new();
    let mut first = host.exec(Exec { stdin: true, ..shell("read line; seq 5000; exit 2") });
    let others: Vec<_> = (0..5).map(|_| host.attach(first.started.pid, None)).collect();
    first.write(b"\n");
    let expected = first.collect();
    for other in others {
        assert_eq!(other.collect(), expected);
    }
}

#[test]
fn a_slow_reader_holds_its_process_back_and_nobody_else() {
    let host = Host::with(|config| config.ring_bytes = 256 << 10);
    let mut slow = host.shell("yes");
    let fast = host.attach(slow.started.pid, None);
    slow.wait_for("y\n");
    // Both do not read: the output stands still.
    let still = || {
        let before = record(&host, slow.started.pid).output_end;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            host.ping();
        }
        before == record(&host, slow.started.pid).output_end
    };
    eventually("the process is held back", still);
    let held = record(&host, slow.started.pid);
    assert!(held.output_end < 2 << 20, "{held:?}");
    assert_eq!(host.run("echo others").text(), "others\n");
    assert!(host.resident() < 16 << 10, "{} kB", host.resident());
    // When one of them leaves, the other still counts; when it reads, all goes on, without a gap.
    drop(fast);
    eventually("the other holds it back", still);
    assert!(record(&host, slow.started.pid).output_end < 2 << 20);
    let mut bytes = 0_u64;
    while bytes < 8 << 20 {
        let frame = slow.frame();
        assert_eq!(frame.kind, FrameKind::Stdout);
        assert!(frame.payload.iter().enumerate().all(|(index, byte)| *byte == b"y\n"[(bytes as usize + index) % 2]));
        bytes += frame.payload.len() as u64;
    }
    // With nobody there it runs free: to the client went 8 MiB, and less than two are on the way.
    let pid = slow.started.pid;
    drop(slow);
    eventually("the process is free", || record(&host, pid).output_end > 16 << 20);
    assert!(host.resident() < 16 << 10, "{} kB", host.resident());
}

#[test]
fn a_background_process_that_holds_the_pipes_does_not_hold_the_end() {
    let host = Host::new();
    let output = host.run("(sleep 1000; echo late) & echo done; exit 3");
    assert_eq!((output.text(), output.status), ("done\n", exited(3)));
    // One that writes without end neither.
    let begun = Instant::now();
    let output = host.run("yes & exit 4");
    assert_eq!(output.status, exited(4));
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
}

#[test]
fn what_a_background_process_says_soon_after_is_still_told() {
    /// After the end of a process, milliseconds for which more is waited for.
    const QUIET: u64 = 250;
    let host = Host::new();
    // It says so when the shell has ended, and then writes down when that was, for it may not get the processor in time.
    let line = "(while kill -0 $$ 2>/dev/null; do :; done; echo late; date +%s%3N > said.part; mv said.part said) & echo done";
    let session = host.shell(line);
    let pid = session.started.pid;
    let output = session.collect();
    let said = host.workspace().join("said");
    eventually("it has said so", || said.exists());
    let said: u64 = String::from_utf8(crate::host::read(said)).unwrap().trim().parse().unwrap();
    let ended = record(&host, pid).ended_ms.unwrap();
    match output.text() {
        "done\nlate\n" => {}
        other => assert!(other == "done\n" && said >= ended + QUIET, "{other:?}: it ended at {ended}, and the rest was said at {said}"),
    }
}

#[test]
fn the_last_words_of_a_process_are_told_to_a_slow_client() {
    let host = Host::with(|config| config.ring_bytes = 4096);
    let session = host.shell("head -c 60000 /dev/zero; echo end");
    let pid = session.started.pid;
    eventually("it has ended", || !crate::host::is_alive(pid));
    let output = session.collect();
    assert_eq!((output.stdout.len(), output.lost), (60_004, 0));
}

#[test]
fn the_first_words_of_a_process_are_told_however_soon_it_says_them() {
    let host = Host::with(|config| config.ring_bytes = 4096);
    let signal = |signal| rustix::process::kill_process(rustix::process::Pid::from_raw(host.pid().cast_signed()).unwrap(), signal).unwrap();
    for number in 0..50 {
        // The agent stands still at some moment of the start, while the process goes on.
        let mut stream = host.send(Operation::Exec(shell("head -c 60000 /dev/zero")));
        std::thread::sleep(Duration::from_micros(number * 40));
        signal(rustix::process::Signal::STOP);
        std::thread::sleep(Duration::from_millis(10));
        signal(rustix::process::Signal::CONT);
        let reply::Answer::Started(started) = answer(&mut stream) else { panic!("it is not started") };
        let output = Session { stream, started }.collect();
        assert_eq!((output.stdout.len(), output.lost), (60_000, 0));
    }
}

#[test]
fn the_list_is_bounded() {
    let host = Host::new();
    let sessions: Vec<_> = (0..300).map(|_| host.shell("exit 0")).collect();
    let newest = sessions.last().unwrap().started.pid;
    sessions.into_iter().for_each(|session| drop(session.collect()));
    let list = list(&host);
    assert_eq!(list.len(), 256);
    assert_eq!(list.last().unwrap().pid, newest);
}
