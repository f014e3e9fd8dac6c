//! The end of everything, and what the host is handed at it.

use std::{
    collections::BTreeMap,
    io::Read,
    time::{Duration, Instant},
};

use sandbar_protocol::{
    AGENT_SOCKET, Attach, Chunk, Exec, FrameError, FrameKind, Identity, Ping, Process, Quiesce, Resumed, Shutdown, Usage, WAKE_FILE,
    read_frame, reply, request::Operation,
};

use crate::host::{Host, Output, eventually, exited, is_alive, shell, signaled};

struct Left {
    processes: Vec<Process>,
    output: BTreeMap<u32, (u64, Output)>,
}

fn shut_down(host: &Host, grace_ms: u64, output_limit: u64) -> Left {
    let (mut stream, answer) = host.ask(Operation::Shutdown(Shutdown { grace_ms, output_limit }));
    let reply::Answer::Processes(list) = answer else { panic!("{answer:?}") };
    let mut output: BTreeMap<u32, (u64, Output)> = BTreeMap::new();
    let mut of = 0;
    loop {
        let frame = read_frame(&mut stream).unwrap().unwrap();
        match frame.kind {
            FrameKind::Message => {
                let chunk = frame.message::<Chunk>().unwrap();
                of = chunk.pid;
                output.insert(of, (chunk.offset, Output::default()));
            }
            FrameKind::Stdout => output.get_mut(&of).unwrap().1.stdout.extend_from_slice(&frame.payload),
            FrameKind::Stderr => output.get_mut(&of).unwrap().1.stderr.extend_from_slice(&frame.payload),
            FrameKind::End => return Left { processes: list.processes, output },
            FrameKind::Bytes => panic!(),
        }
    }
}

#[test]
fn records_and_output_are_handed_over() {
    let mut host = Host::new();
    host.run("echo out; echo err >&2; exit 3");
    let mut polite = host.shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    polite.wait_for("ready");
    // The grace ends as soon as all have ended.
    let left = shut_down(&host, 20_000, 1 << 20);
    let statuses: Vec<_> = left.processes.iter().map(|process| process.status.unwrap()).collect();
    assert_eq!(statuses, [exited(3), exited(5)]);
    let first = &left.output[&left.processes[0].pid];
    assert_eq!((first.0, first.1.text(), first.1.stderr.as_slice()), (0, "out\n", b"err\n".as_slice()));
    assert_eq!(left.output[&polite.started.pid].1.text(), "ready\nbye\n");
    assert_eq!(polite.collect().text(), "bye\n");
    assert!(host.agent.wait().unwrap().success());
}

#[test]
fn what_does_not_end_in_its_grace_is_killed_and_handed_over() {
    let mut host = Host::new();
    let mut rude = host.shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    rude.wait_for("ready");
    let left = shut_down(&host, 200, 1 << 20);
    let statuses: Vec<_> = left.processes.iter().map(|process| process.status.unwrap()).collect();
    assert_eq!(statuses, [signaled(9)]);
    assert_eq!(left.output[&rude.started.pid].1.text(), "ready\n");
    assert!(host.agent.wait().unwrap().success());
}

#[test]
fn the_newest_output_is_handed_over_first() {
    let host = Host::new();
    let old = host.shell("echo old").started.pid;
    let middle = host.shell("echo middle").started.pid;
    let new = host.shell("echo new").started.pid;
    let ended = |pid| !is_alive(pid);
    eventually("they have ended", || ended(old) && ended(middle) && ended(new));
    let left = shut_down(&host, 1000, 8);
    assert!(!left.output.contains_key(&old));
    assert_eq!((left.output[&middle].0, left.output[&middle].1.text()), (3, "dle\n"));
    assert_eq!(left.output[&new].1.text(), "new\n");
}

#[test]
fn every_descendant_ends_at_shutdown() {
    let mut host = Host::new();
    // A session of its own, orphaned, deaf to TERM, and one that forks on and on.
    let line = "setsid sh -c 'trap \"\" TERM HUP; echo $$; (setsid sleep 1000 & echo $!); : > told; while :; do sleep 1000; done' & \
                setsid sh -c 'while :; do (sleep 1000 &); : > forks; sleep 0.02; done' & \
                until test -e told -a -e forks; do sleep 0.01; done; echo end";
    let mut session = host.shell(line);
    let seen = session.wait_for("end");
    let pids: Vec<u32> = seen.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), 2, "{seen:?}");
    let begun = Instant::now();
    shut_down(&host, 100, 0);
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    let forked = || {
        let marker = host.workspace().into_os_string();
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == marker))
    };
    assert!(!forked());
    host.agent.wait().unwrap();
}

#[test]
fn as_process_1_it_reaps_all_and_ends_all() {
    let Some(mut host) = Host::as_init() else { return };
    let mut session = host.shell(
        "(setsid sh -c 'trap \"\" TERM HUP; : > deaf; while :; do sleep 1000; done' &); (sleep 0.05 &); \
         until test -e deaf; do sleep 0.01; done; echo $PPID; echo end",
    );
    assert!(session.wait_for("end").starts_with("1\n"));
    // Requests to end come from the host, and not as signals, which anyone inside may send.
    let line = "kill -TERM 1; kill -KILL 1; kill -STOP 1; kill -INT 1; while ps -e -o stat= | grep -q Z; do sleep 0.01; done; echo reaped";
    assert_eq!(host.exec(Exec { timeout_ms: 20_000, ..shell(line) }).collect().text(), "reaped\n");
    // The agent, the deaf shell and its sleep.
    eventually("only three are left", || matches!(host.ask(Operation::Usage(Usage {})).1, reply::Answer::Usage(usage) if usage.pids == 3));
    let left = shut_down(&host, 50, 100);
    assert_eq!(left.processes.len(), 2);
    assert!(host.agent.wait().unwrap().success());
}

#[test]
fn term_ends_the_agent_with_its_descendants() {
    let mut host = Host::new();
    let mut session = host.shell("setsid sleep 1000 & echo $!; wait");
    let child = session.wait_for("\n").trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(host.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(host.agent.wait().unwrap().success());
    assert!(!is_alive(child) && !is_alive(session.started.pid));
}

#[test]
fn orphans_are_reaped() {
    let host = Host::new();
    let output = host.run("(sleep 0.05 & echo $!)");
    let orphan: u32 = output.text().trim().parse().unwrap();
    eventually("the orphan is no zombie", || !std::path::Path::new(&format!("/proc/{orphan}")).exists());
}

#[test]
fn quiesce_cuts_all_connections_and_later_all_goes_on() {
    let host = Host::new();
    let mut session = host.exec(Exec { kill_on_disconnect: true, stdin: true, ..shell("echo ready; read line; echo after") });
    session.wait_for("ready\n");
    let mut watch = host.done(Operation::Watch(sandbar_protocol::Watch { path: b".".to_vec(), recursive: false }));
    let start = Instant::now();
    host.done(Operation::Quiesce(Quiesce { resume_after_ms: 300 }));
    assert_eq!(session.stream.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(watch.read(&mut [0; 10]).unwrap(), 0);
    host.ping();
    assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
    let mut again = host.attach(session.started.pid, Some(6));
    again.write(b"\n");
    assert_eq!(again.collect().text(), "after\n");
}

#[test]
fn an_agent_that_makes_its_socket_has_none_while_it_is_quiet_and_is_woken_by_a_file() {
    let host = Host::in_folder();
    let (socket, wake) = (host.folder().join(AGENT_SOCKET), host.folder().join(WAKE_FILE));
    // With a stdin, or it would end at once, and say so before it is cut off.
    let mut session = host.exec(Exec { stdin: true, ..shell("echo before; read line") });
    session.wait_for("before\n");
    host.done(Operation::Quiesce(Quiesce { resume_after_ms: 600_000 }));
    assert_eq!(session.stream.read(&mut [0; 10]).unwrap(), 0);
    eventually("there is no socket", || !socket.exists());
    std::fs::write(&wake, "").unwrap();
    eventually("it listens again", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert!(!wake.exists(), "the file counts once");
    host.ping();
}

#[test]
fn term_ends_an_agent_that_is_quiet() {
    let mut host = Host::in_folder();
    host.done(Operation::Quiesce(Quiesce { resume_after_ms: 600_000 }));
    let socket = host.folder().join(AGENT_SOCKET);
    eventually("there is no socket", || !socket.exists());
    let pid = rustix::process::Pid::from_raw(host.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(host.agent.wait().unwrap().success());
}

#[test]
fn clients_that_were_cut_off_to_be_saved_come_back_to_their_places() {
    let host = Host::new();
    // More output than is kept, which nobody reads while the agent is quiet.
    let mut session = host.exec(Exec { stdin: true, ..shell("read line; echo $line; seq 1 1000000") });
    session.write(b"heard\n");
    let mut seen = session.wait_for("heard\n");
    let pid = session.started.pid;
    host.done(Operation::Quiesce(Quiesce { resume_after_ms: 200 }));
    // What was on its way arrives before the end of the connection, which may come in the middle of a frame.
    let cut = loop {
        match read_frame(&mut session.stream) {
            Ok(Some(frame)) => seen.push_str(std::str::from_utf8(&frame.payload).unwrap()),
            cut => break cut,
        }
    };
    assert!(matches!(cut, Ok(None) | Err(FrameError::Cut)), "{cut:?}");
    host.ping();
    let request = |epoch| Attach { pid, from: Some(seen.len() as u64), epoch: Some(epoch), ..Attach::default() };
    // In another epoch the output since the save is what counts, whatever offset was seen before.
    let elsewhere = host.session(Operation::Attach(Attach { from: Some(u64::MAX), ..request(7) }));
    assert!(elsewhere.started.offset >= seen.len() as u64);
    drop(elsewhere);
    let again = host.session(Operation::Attach(request(0)));
    assert_eq!((again.started.offset, again.started.input), (seen.len() as u64, 6));
    let output = again.collect();
    assert_eq!(output.lost, 0);
    assert_eq!((seen + output.text()).lines().count(), 1_000_001);
}

#[test]
fn usage_counts_the_agent_and_its_descendants() {
    let host = Host::new();
    let mut session = host.shell("sleep 100 & echo ready; wait");
    session.wait_for("ready");
    let (_, answer) = host.ask(Operation::Usage(Usage {}));
    let reply::Answer::Usage(usage) = answer else { panic!("{answer:?}") };
    assert_eq!(usage.pids, 3);
    assert!((500_000..100_000_000).contains(&usage.memory_bytes), "{usage:?}");
}

#[test]
fn a_restore_counts_and_reports() {
    let host = Host::new();
    // What would change this machine is refused by its form, so that the test changes nothing.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let identity = Identity { hostname: "not a name".into(), machine_id: "short".into() };
    let request = Resumed { seed: vec![1; 32], now_ns: now, identity: Some(identity), config: None };
    let (_, answer) = host.ask(Operation::Resumed(request));
    let reply::Answer::Renewed(renewal) = answer else { panic!("{answer:?}") };
    assert!(renewal.done.contains(&"epoch: 1".to_owned()), "{renewal:?}");
    assert!(
        renewal.failed.iter().any(|line| line.starts_with("host name: "))
            && renewal.failed.iter().any(|line| line.starts_with("machine-id: "))
    );
    assert_eq!(host.ping(), 1);
    assert_eq!(host.shell("true").started.epoch, 1);
    let _ = host.ask(Operation::Ping(Ping {}));
}
