//! Starting commands, and how they end.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use sandbar_protocol::{EnvVar, Event, Exec, SignalProcess, UserRef, event, input, request::Operation, user_ref};

use crate::host::{Host, argv, eventually, exited, is_alive, shell, signaled};

fn var(name: &str, value: Option<&str>) -> EnvVar {
    EnvVar { name: name.into(), value: value.map(Into::into) }
}

#[test]
fn exit_codes_are_told() {
    let host = Host::new();
    for code in [0, 1, 7, 255] {
        assert_eq!(host.run(&format!("exit {code}")).status, exited(code));
    }
}

#[test]
fn a_signal_that_ends_a_process_is_told() {
    let host = Host::new();
    assert_eq!(host.run("kill -9 $$").status, signaled(9));
    assert_eq!(host.run("kill -SEGV $$").status, signaled(11));
}

#[test]
fn stdout_and_stderr_are_apart() {
    let host = Host::new();
    let output = host.run("echo out; echo err >&2; echo more");
    assert_eq!((output.text(), output.stderr.as_slice()), ("out\nmore\n", b"err\n".as_slice()));
}

#[test]
fn stdin_without_a_client_is_at_its_end() {
    assert_eq!(Host::new().run("cat; echo end").text(), "end\n");
}

#[test]
fn what_cannot_be_executed_is_refused_by_its_reason() {
    let host = Host::new();
    let write = |name: &str, content: &str, mode: u32| {
        let path = host.workspace().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("closed", "#!/bin/sh\n", 0o644);
    write("interpreted", "#!/no/such/interpreter\n", 0o755);
    let kind = |request: Exec| host.refusal(Operation::Exec(request)).kind;
    assert_eq!(kind(argv(&["no-such-command"])), "command_not_found");
    assert_eq!(kind(argv(&["/no/such/command"])), "command_not_found");
    assert_eq!(kind(argv(&["./closed"])), "command_not_executable");
    assert_eq!(kind(argv(&["/"])), "command_not_executable");
    assert_eq!(kind(argv(&["./interpreted"])), "command_not_executable");
    assert_eq!(kind(Exec::default()), "invalid_input");
    assert_eq!(kind(argv(&["a\0b"])), "invalid_input");
    assert_eq!(kind(argv(&["/bin/echo", &"x".repeat(200 << 10)])), "invalid_input");
    let user = UserRef { which: Some(user_ref::Which::Name("nobody-of-that-name".into())), gid: None };
    assert_eq!(kind(Exec { user: Some(user), ..shell("true") }), "invalid_input");
    let failure = host.refusal(Operation::Exec(Exec { workdir: Some(b"/no/such".to_vec()), ..shell("true") }));
    assert_eq!(failure.kind, "invalid_input");
    assert!(failure.message.contains("working directory \"/no/such\" does not exist"), "{}", failure.message);
    assert_eq!(host.run("echo fine").text(), "fine\n");
}

#[test]
fn a_script_without_an_interpreter_line_is_the_shells() {
    let host = Host::new();
    let path = host.workspace().join("script");
    fs::write(&path, "echo script $0 $1\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let request = Exec { env: vec![var("PATH", Some("/no/such:.:/bin"))], ..argv(&["script", "one"]) };
    assert_eq!(host.exec(request).collect().text(), "script ./script one\n");
}

#[test]
fn the_environment_is_the_sandboxs_with_the_requests_changes() {
    let host = Host::with(|config| config.env = vec![var("A", Some("1")), var("B", Some("2"))]);
    let request = Exec { env: vec![var("B", None), var("C", Some("3"))], ..shell("echo $A,$B,$C,$PATH,$HOME; pwd; umask") };
    let output = host.exec(request).collect();
    let workspace = host.workspace();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    // The user's own, whatever this program's environment says.
    let user = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let home = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[2] == user).unwrap()[5];
    assert_eq!(output.text(), format!("1,,3,{path},{home}\n{}\n0022\n", workspace.display()));
}

#[test]
fn a_command_starts_without_anything_of_the_agents() {
    let host = Host::with(|config| {
        config.open_files = Some(64);
        config.oom_score_adj = 300;
    });
    let line = "ls /proc/self/fd; cat /proc/self/oom_score_adj; ulimit -n; grep -E 'NoNewPrivs|Sig(Blk|Ign)|CapAmb' /proc/self/status";
    let output = host.run(line);
    let lines: Vec<_> = output.text().lines().collect();
    // The agent's own score is what it was, though children borrow its memory on their way.
    let score = |pid| String::from_utf8(crate::host::read(format!("/proc/{pid}/oom_score_adj"))).unwrap();
    assert_eq!(score(host.pid()), score(std::process::id()));
    // `ls` itself has the directory open.
    let expected = ["0", "1", "2", "3", "300", "64"];
    assert_eq!(&lines[..6], expected, "{lines:?}");
    for (name, value) in
        [("SigBlk", "0000000000000000"), ("SigIgn", "0000000000000000"), ("CapAmb", "0000000000000000"), ("NoNewPrivs", "1")]
    {
        assert!(lines.iter().any(|line| line.starts_with(name) && line.ends_with(value)), "{name} in {lines:?}");
    }
}

#[test]
fn another_user_is_become_and_capabilities_are_dropped() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::with(|config| config.capabilities = Some(1));
    let user = |uid, gid| Some(UserRef { which: Some(user_ref::Which::Uid(uid)), gid });
    let line = "id -u; id -g; id -G; cd /; grep -E 'Cap(Eff|Bnd|Inh)' /proc/self/status | cut -f2";
    let request = |user| Exec { user, workdir: Some(b"/".to_vec()), ..shell(line) };
    let none = "0000000000000000";
    assert_eq!(host.exec(request(user(4242, None))).collect().text(), format!("4242\n4242\n4242\n{none}\n{none}\n0000000000000001\n"));
    assert_eq!(host.exec(request(user(4242, Some(5)))).collect().text(), format!("4242\n5\n5\n{none}\n{none}\n0000000000000001\n"));
    let output = host.exec(request(None)).collect();
    assert_eq!(output.text(), format!("0\n0\n0\n{none}\n0000000000000001\n0000000000000001\n"));
}

#[test]
fn random_bytes_come_back_through_stdin() {
    let host = Host::new();
    let mut bytes = vec![0; 3 << 20];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    let mut session = host.exec(Exec { stdin: true, ..argv(&["cat"]) });
    let mut twin = session.stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        for chunk in sent.chunks(100_000) {
            sandbar_protocol::write_frame(&mut twin, sandbar_protocol::FrameKind::Bytes, chunk).unwrap();
        }
        sandbar_protocol::write_frame(&mut twin, sandbar_protocol::FrameKind::End, &[]).unwrap();
    });
    session.started.pid = 0;
    let output = session.collect();
    writer.join().unwrap();
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
    assert_eq!(output.status, exited(0));
}

#[test]
fn stdin_that_nobody_reads_is_thrown_away_and_that_is_told_once() {
    let host = Host::new();
    let mut session = host.exec(Exec { stdin: true, ..shell("exec <&-; echo closed; until test -e go; do sleep 0.01; done; exit 3") });
    session.wait_for("closed\n");
    session.write(&vec![7; 1 << 20]);
    session.end();
    let told = session.frame().message::<Event>().unwrap().what;
    assert!(matches!(told, Some(event::What::InputClosed(_))), "{told:?}");
    fs::write(host.workspace().join("go"), "").unwrap();
    let output = session.collect();
    assert_eq!((output.status, output.input_closed), (exited(3), 0));
}

#[test]
fn signals_reach_the_group() {
    let host = Host::new();
    // The first `wait` ends with the signal. The second one is for the child, whose word nobody would wait long for.
    let line = "trap 'echo caught' USR1; (trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.01; done) & echo ready; \
                wait; wait; exit 5";
    let mut session = host.shell(line);
    let mut seen = session.wait_for("ready");
    if !seen.contains("ready\nready") {
        seen += &session.wait_for("ready");
    }
    session.input(input::What::Signal(10));
    let output = session.collect();
    assert_eq!(output.status, exited(5));
    assert!(output.text().contains("caught") && output.text().contains("child"), "{output:?}");

    let mut session = host.shell("trap 'exit 6' TERM; echo ready; while :; do sleep 0.01; done");
    session.wait_for("ready");
    let pid = session.started.pid;
    host.done(Operation::Signal(SignalProcess { pid, signal: 15 }));
    assert_eq!(session.collect().status, exited(6));
    let refused = |pid, signal| host.refusal(Operation::Signal(SignalProcess { pid, signal })).kind;
    assert_eq!(refused(pid, 15), "conflict");
    assert_eq!(refused(pid, 0), "invalid_input");
    assert_eq!(refused(pid, 65), "invalid_input");
    assert_eq!(refused(host.pid(), 15), "not_found");
    assert_eq!(refused(u32::MAX, 15), "not_found");
}

/// Whether nobody is in a process group.
fn is_empty(group: u32) -> bool {
    rustix::process::test_kill_process_group(rustix::process::Pid::from_raw(group.cast_signed()).unwrap()).is_err()
}

#[test]
fn a_timeout_ends_in_term() {
    let host = Host::new();
    let start = Instant::now();
    let session = host.exec(Exec { timeout_ms: 2000, ..shell("sleep 1000 & wait") });
    let group = session.started.pid;
    let output = session.collect();
    assert!(output.status.timed_out);
    assert_eq!(output.status.signal, Some(15));
    assert!(start.elapsed() < Duration::from_secs(25));
    eventually("the group ends with it", || is_empty(group));
}

#[test]
fn a_timeout_ends_in_kill_where_term_is_ignored() {
    let host = Host::new();
    // By then it must have come to ignore it.
    let request = Exec { timeout_ms: 10_000, grace_ms: 100, ..shell("trap '' TERM; echo ready; while :; do sleep 0.01; done") };
    let status = host.exec(request).collect().status;
    assert_eq!((status.signal, status.timed_out), (Some(9), true));
}

#[test]
fn a_member_of_the_group_that_ignores_term_ends_with_its_leader() {
    let host = Host::new();
    let line = "(trap '' TERM; while :; do sleep 1; done) & sleep 1000";
    let session = host.exec(Exec { timeout_ms: 2000, grace_ms: 60_000, ..shell(line) });
    let group = session.started.pid;
    assert!(session.collect().status.timed_out);
    eventually("the group is empty", || is_empty(group));
}

#[test]
fn a_process_that_ends_in_time_is_not_timed_out() {
    let host = Host::new();
    let output = host.exec(Exec { timeout_ms: 20_000, ..shell("exit 3") }).collect();
    assert_eq!(output.status, exited(3));
}

#[test]
fn a_process_outlives_its_client_unless_it_must_not() {
    let host = Host::new();
    let mut stays = host.shell("echo ready; sleep 30");
    let mut goes = host.exec(Exec { kill_on_disconnect: true, ..shell("echo ready; sleep 30") });
    let mut waits = host.exec(Exec { kill_on_disconnect: true, stdin: true, ..shell("echo ready; sleep 30") });
    for session in [&mut stays, &mut goes, &mut waits] {
        session.wait_for("ready");
    }
    // One whose client still pushes stdin that is not read.
    waits.stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut twin = waits.stream.try_clone().unwrap();
    while sandbar_protocol::write_frame(&mut twin, sandbar_protocol::FrameKind::Bytes, &[0; 60_000]).is_ok() {}
    drop(twin);
    let [stays, goes, waits] = [stays, goes, waits].map(|session| session.started.pid);
    eventually("they were killed", || !is_alive(goes) && !is_alive(waits));
    assert!(is_alive(stays));
}

#[test]
fn a_client_that_ends_its_words_still_listens() {
    let host = Host::new();
    let session = host.exec(Exec { kill_on_disconnect: true, ..shell("sleep 0.2; echo late") });
    session.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(session.collect().text(), "late\n");

    let session = host.exec(Exec { kill_on_disconnect: true, ..shell("sleep 30") });
    session.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let pid = session.started.pid;
    drop(session);
    eventually("it was killed", || !is_alive(pid));
}

#[test]
fn children_that_are_stopped_on_their_way_arrive() {
    let host = Host::new();
    // Everything of this session's user that is not yet a command is stopped as soon as it is seen, and not for ever: where whoever stops
    // has the processor before whoever is stopped, that would never arrive.
    let stopper = "import collections, os, signal\n\
        stopped = collections.Counter()\n\
        agent = os.getppid()\n\
        print('ready', flush=True)\n\
        while True:\n\
        \tfor pid in open(f'/proc/{agent}/task/{agent}/children').read().split() + \
        [p for t in os.listdir(f'/proc/{agent}/task') for p in open(f'/proc/{agent}/task/{t}/children').read().split()]:\n\
        \t\ttry:\n\
        \t\t\tif stopped[pid] < 3 and os.readlink(f'/proc/{pid}/exe').endswith('sandbar-agent'):\n\
        \t\t\t\tos.kill(int(pid), signal.SIGSTOP)\n\
        \t\t\t\tstopped[pid] += 1\n\
        \t\texcept OSError: pass\n";
    if host.run("command -v python3").text().is_empty() {
        return;
    }
    let mut session = host.exec(argv(&["python3", "-c", stopper]));
    session.wait_for("ready");
    for _ in 0..8 {
        let sessions: Vec<_> = (0..4).map(|_| host.send(Operation::Exec(argv(&["true"])))).collect();
        // The event loop goes on whatever happens to them.
        host.ping();
        for mut stream in sessions {
            let started = crate::host::answer(&mut stream);
            assert!(matches!(started, sandbar_protocol::reply::Answer::Started(_)), "{started:?}");
        }
    }
}

#[test]
fn two_hundred_commands_run_at_once() {
    let host = Host::new();
    let sessions: Vec<_> = (0..200).map(|index| host.shell(&format!("read line; echo {index}; exit {}", index % 256))).collect();
    let pids: std::collections::BTreeSet<_> = sessions.iter().map(|session| session.started.pid).collect();
    assert_eq!(pids.len(), 200);
    for (index, session) in sessions.into_iter().enumerate() {
        let output = session.collect();
        assert_eq!((output.text(), output.status), (format!("{index}\n").as_str(), exited(index as i32 % 256)));
    }
}
