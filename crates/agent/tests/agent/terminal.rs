//! Pseudo terminals.

use sandbar_protocol::{Exec, PtySize, input, request::Operation};

use crate::host::{Host, Session, eventually, exited, is_alive, shell};

fn open(host: &Host, line: &str) -> Session {
    host.exec(Exec { pty: Some(PtySize { rows: 33, columns: 77 }), stdin: true, ..shell(line) })
}

#[test]
fn a_terminal_has_its_size_and_takes_another() {
    let host = Host::new();
    let line = "trap 'stty size' WINCH; stty size; echo $TERM; test -t 0 -a -t 2 && echo terminal; while :; do sleep 0.01; done";
    let mut session = open(&host, line);
    let seen = session.wait_for("terminal");
    assert!(seen.contains("33 77\r\nxterm-256color\r\n"), "{seen:?}");
    session.input(input::What::Resize(PtySize { rows: 10, columns: 20 }));
    session.wait_for("10 20");
}

#[test]
fn control_characters_and_signals_reach_the_foreground() {
    let host = Host::new();
    let mut session = open(&host, "trap 'exit 9' INT; echo ready; while :; do sleep 0.01; done");
    session.wait_for("ready");
    session.write(b"\x03");
    assert_eq!(session.collect().status, exited(9));

    // A shell with job control puts its jobs into groups of their own.
    let inner = "trap 'echo inner; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut session = open(&host, &format!("set -m; trap 'echo caught' INT; ({inner}); echo $?; while :; do sleep 0.05; done"));
    session.wait_for("ready");
    session.input(input::What::Signal(2));
    if !session.wait_for("inner").contains("9\r\n") {
        session.wait_for("9\r\n");
    }
}

#[test]
fn the_end_of_input_is_the_terminals_character() {
    let host = Host::new();
    let mut session = open(&host, "stty -echo; echo ready; cat; echo end");
    session.wait_for("ready");
    session.write(b"line\nhalf");
    session.end();
    let output = session.collect();
    assert!(output.text().ends_with("line\r\nhalfend\r\n"), "{:?}", output.text());
    assert_eq!(output.status, exited(0));
}

#[test]
fn a_shell_that_ignores_term_goes_with_its_client() {
    let host = Host::new();
    let request = Exec {
        pty: Some(PtySize { rows: 5, columns: 5 }),
        kill_on_disconnect: true,
        ..shell("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    };
    let mut session = host.exec(request);
    session.wait_for("ready");
    let pid = session.started.pid;
    drop(session);
    eventually("it was killed", || !is_alive(pid));
}

#[test]
fn last_words_are_heard_on_a_busy_machine() {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let busy = || Busy(std::process::Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
    let _busy: Vec<Busy> = (0..4 * processors).map(|_| busy()).collect();
    let host = Host::new();
    for round in 0..5 {
        let sessions: Vec<Session> = (0..40).map(|_| open(&host, "echo first; echo second; echo last words")).collect();
        for (number, session) in sessions.into_iter().enumerate() {
            let output = session.collect();
            assert_eq!(output.text(), "first\r\nsecond\r\nlast words\r\n", "round {round}, command {number}");
            assert_eq!(output.status, exited(0));
        }
    }
}

/// A process that wants a processor for itself, as long as this is there.
struct Busy(std::process::Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_impossible_size_is_refused() {
    let host = Host::new();
    let request = Exec { pty: Some(PtySize { rows: 70_000, columns: 1 }), ..shell("true") };
    assert_eq!(host.refusal(Operation::Exec(request)).kind, "invalid_input");
}
