//! Many commands at once.

use std::collections::BTreeSet;

use crate::support::{Case, Home};

pub const CASES: &[Case] = &[
    Case::new("many::fifty_commands_on_one_sandbox", one_sandbox),
    Case::new("many::fifty_sandboxes_in_one_home", one_home),
    Case::new("many::verbs_on_one_sandbox_exclude_one_another", one_at_a_time),
];

fn one_sandbox(home: &Home) {
    let id = home.create(&[]);
    let clients: Vec<_> =
        (0..50).map(|number| home.start(&["exec", &id, "--", "sh", "-c", &format!("echo {number}; exit {number}")])).collect();
    for (number, client) in clients.into_iter().enumerate() {
        let finished = client.finish();
        assert_eq!((finished.code, finished.text()), (number as i32, format!("{number}\n")), "{finished}");
    }
}

fn one_home(home: &Home) {
    let clients: Vec<_> = (0..50).map(|number| home.start(&home.run_args(&[], &["sh", "-c", &format!("echo {number}")]))).collect();
    let told: BTreeSet<String> = clients
        .into_iter()
        .map(|client| {
            let finished = client.finish();
            assert_eq!(finished.code, 0, "{finished}");
            finished.text()
        })
        .collect();
    assert_eq!(told.len(), 50);
    assert!(home.ids().is_empty());
}

fn one_at_a_time(home: &Home) {
    let id = home.create(&[]);
    let clients: Vec<_> = (0..10).map(|number| home.start(&[if number % 2 == 0 { "stop" } else { "start" }, &id])).collect();
    for client in clients {
        let finished = client.finish();
        assert!(finished.code == 0 || finished.stderr.contains("the sandbox is"), "{finished}");
    }
    let state = home.json(&["inspect", &id])["state"].clone();
    assert!(state == "running" || state == "stopped", "{state}");
    if state == "stopped" {
        home.ok(&["start", &id]);
    }
    assert_eq!(home.shell(&id, "echo well"), "well");
    let removals: Vec<_> = (0..5).map(|_| home.start(&["rm", "-f", &id])).collect();
    for removal in removals {
        let finished = removal.finish();
        assert!(finished.code == 0 || finished.stderr.contains("no such sandbox"), "{finished}");
    }
    assert!(home.ids().is_empty());
}
