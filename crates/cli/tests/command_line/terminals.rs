//! A person at a terminal.

use rustix::process::{Signal, kill_process};

use crate::support::{Case, Home, Terminal, eventually};

pub const CASES: &[Case] = &[
    Case::new("terminals::a_command_has_a_terminal_of_our_size", size),
    Case::new("terminals::a_resize_is_told", resize),
    Case::new("terminals::ctrl_c_goes_to_the_command", ctrl_c),
    Case::new("terminals::the_terminal_is_as_it_was_after_every_end", restored),
    Case::new("terminals::detached_commands_run_on_and_are_attached_again", detach),
    Case::new("terminals::a_shell_is_opened", shell),
    Case::new("terminals::without_t_there_is_none", none),
];

fn size(home: &Home) {
    let (code, shown) = Terminal::start(home, &home.run_args(&["-it"], &["sh", "-c", "tty; stty size; echo $TERM"]), 33, 101).finish();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("/dev/pts/") && shown.contains("33 101") && shown.contains("xterm"), "{shown}");
}

fn resize(home: &Home) {
    let line = "while stty size; read line; do :; done";
    let terminal = Terminal::start(home, &home.run_args(&["-it"], &["sh", "-c", line]), 24, 80);
    terminal.expect("24 80");
    terminal.resize(50, 132);
    eventually("the new size is told", || {
        terminal.type_in("\r");
        terminal.shown().contains("50 132")
    });
    terminal.type_in("\x04");
    terminal.finish();
}

fn ctrl_c(home: &Home) {
    let mut terminal = Terminal::start(home, &home.run_args(&["-it"], &["sh", "-c", "echo ready; exec sleep 1000"]), 24, 80);
    terminal.expect("ready");
    assert!(terminal.is_raw());
    terminal.type_in("\x03");
    assert_eq!(terminal.wait(), 130, "{}", terminal.shown());
    assert!(!terminal.is_raw());
}

fn restored(home: &Home) {
    let start = || {
        let terminal = Terminal::start(home, &home.run_args(&["-it"], &["sh", "-c", "read line; exit $line"]), 24, 80);
        eventually("raw mode", || terminal.is_raw());
        terminal
    };
    // It ends by itself.
    let mut terminal = start();
    terminal.type_in("9\r");
    assert_eq!((terminal.wait(), terminal.is_raw()), (9, false), "{}", terminal.shown());
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut terminal = start();
        terminal.signal(signal);
        assert_eq!((terminal.wait(), terminal.is_raw()), (status, false), "{signal:?}: {}", terminal.shown());
    }
    // Somebody removes the sandbox.
    let mut terminal = start();
    home.ok(&["rm", "-f", &home.ids()[0]]);
    terminal.wait();
    assert!(!terminal.is_raw());
}

fn detach(home: &Home) {
    let id = home.create(&[]);
    let mut terminal =
        Terminal::start(home, &["exec", "-it", &id, "--", "sh", "-c", "echo ready; read a; echo got $a; read b; exit $b"], 24, 80);
    terminal.expect("ready");
    // The client dies without a word; the command does not.
    kill_process(terminal.pid(), Signal::KILL).unwrap();
    terminal.wait();
    let processes = home.json(&["ps", "--json", &id]);
    let pid = processes[0]["pid"].to_string();
    assert!(processes[0]["status"].is_null(), "{processes}");

    let mut terminal = Terminal::start(home, &["attach", &id, &pid], 24, 80);
    terminal.expect("ready");
    terminal.type_in("hello\r");
    terminal.expect("got hello");
    terminal.type_in("\x10\x11");
    assert_eq!((terminal.wait(), terminal.is_raw()), (0, false), "{}", terminal.shown());
    assert!(terminal.shown().contains("detached"), "{}", terminal.shown());

    let mut terminal = Terminal::start(home, &["attach", &id, &pid], 24, 80);
    terminal.expect("got hello");
    terminal.type_in("6\r");
    assert_eq!(terminal.wait(), 6, "{}", terminal.shown());
    // Somebody who only looks takes nothing along.
    let other = home.ok(&["exec", "-d", "-t", &id, "--", "sh", "-c", "echo looked; tty; sleep 1000"]);
    let terminal = Terminal::start(home, &["attach", &id, &other], 24, 80);
    terminal.expect("/dev/pts/");
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.finish().0, 143);
    let processes = home.json(&["ps", "--json", &id]);
    assert!(
        processes.as_array().unwrap().iter().any(|process| process["pid"] == other.parse::<u32>().unwrap() && process["status"].is_null()),
        "{processes}"
    );
    // It has ended; what is kept is still told, with the status.
    let again = home.sandbar(&["attach", &id, &pid]);
    assert_eq!(again.code, 6, "{again}");
    assert!(again.text().contains("got hello"), "{again}");
}

fn shell(home: &Home) {
    let id = home.create(&[]);
    let mut terminal = Terminal::start(home, &["shell", &id], 24, 80);
    terminal.type_in("echo $((6*7))-$0; exit 4\r");
    assert_eq!(terminal.wait(), 4, "{}", terminal.shown());
    assert!(terminal.shown().contains("42-"), "{}", terminal.shown());
}

fn none(home: &Home) {
    let run = home.run(&["sh", "-c", "tty; test -t 0 || test -t 1 || test -t 2 || echo none"]);
    assert_eq!(run.text(), "not a tty\nnone\n");
}
