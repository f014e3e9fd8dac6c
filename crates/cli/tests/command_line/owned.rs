//! What becomes of a sandbox whose client is ended.

use rustix::process::Signal;

use crate::support::{Case, Client, Home, eventually, processes_with};

pub const CASES: &[Case] = &[
    Case::new("owned::ctrl_c_is_the_commands_to_answer", interrupt),
    Case::new("owned::the_third_ctrl_c_ends_everything", third),
    Case::new("owned::term_and_hangup_are_passed_on", terminate),
    Case::new("owned::a_client_killed_by_9_takes_its_sandbox_along", killed),
    Case::new("owned::a_created_sandbox_outlives_clients", outlives),
    Case::new("owned::nothing_is_left_after_run", nothing_left),
];

fn start(home: &Home, line: &str) -> Client {
    let mut client = home.start(&home.run_args(&[], &["sh", "-c", line]));
    client.wait_for_line("ready");
    client
}

fn interrupt(home: &Home) {
    let client = start(home, "trap 'exit 5' INT; echo ready; while :; do sleep 0.1; done");
    client.signal(Signal::INT);
    assert_eq!(client.finish().code, 5);
    let client = start(home, "echo ready; exec sleep 1000");
    client.signal(Signal::INT);
    assert_eq!(client.finish().code, 130);
    assert!(home.ids().is_empty());
}

fn third(home: &Home) {
    let mut client = start(home, "trap 'echo int' INT; trap 'echo term' TERM; echo ready; while :; do sleep 0.1; done");
    client.signal(Signal::INT);
    client.wait_for_line("int");
    client.signal(Signal::INT);
    client.wait_for_line("term");
    client.signal(Signal::INT);
    assert_eq!(client.finish().code, 137);
    assert!(home.ids().is_empty());
}

fn terminate(home: &Home) {
    for signal in [Signal::TERM, Signal::HUP] {
        let client = start(home, "trap 'exit 3' TERM HUP; echo ready; while :; do sleep 0.1; done");
        client.signal(signal);
        assert_eq!(client.finish().code, 3);
    }
    // One that does not listen is given its grace, and no more.
    let client = start(home, "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    client.signal(Signal::TERM);
    assert_eq!(client.finish().code, 143);
    assert!(home.ids().is_empty());
}

fn killed(home: &Home) {
    let mark = format!("98{}", std::process::id());
    let name = home.path().file_name().unwrap().to_string_lossy().bytes().map(u32::from).sum::<u32>();
    let sleep = format!("{mark}{name}");
    // In a session of its own, which a process group's signal would not reach.
    let client = start(home, &format!("setsid sleep {sleep} & echo ready; sleep {sleep}"));
    // What runs behind gVisor's kernel is no process of the host: there it is the sandbox's own that go.
    let (mark, least) = match home.wall.provider {
        "gvisor" => (home.ids().concat(), 1),
        _ => (format!("sleep\0{sleep}"), 2),
    };
    eventually("it runs", || processes_with(&mark).len() >= least);
    client.signal(Signal::KILL);
    assert_eq!(client.finish().code, 137);
    // The kernel, or the agent, does it; without anybody's help.
    eventually("its processes are gone", || processes_with(&mark).is_empty());
    home.ok(&["gc"]);
    assert!(home.ids().is_empty());
}

fn outlives(home: &Home) {
    let id = home.create(&[]);
    let mut client = home.start(&["exec", &id, "--", "sh", "-c", "echo ready; read line; sleep 1000"]);
    client.wait_for_line("ready");
    client.signal(Signal::KILL);
    client.finish();
    assert_eq!(home.shell(&id, "echo alive"), "alive");
    let processes = home.json(&["ps", "--json", &id]);
    assert!(processes.as_array().unwrap().iter().any(|process| process["command"].to_string().contains("ready")), "{processes}");
}

fn nothing_left(home: &Home) {
    home.run(&["sh", "-c", "setsid sleep 1000 & echo x > file"]);
    assert!(home.ids().is_empty());
    crate::support::assert_nothing_left(home);
}
