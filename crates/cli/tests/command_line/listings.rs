//! What is told of sandboxes, to people and to scripts.

use serde_json::Value;

use crate::support::{Case, Home};

pub const CASES: &[Case] = &[
    Case::new("listings::create_prints_the_id_alone", create),
    Case::new("listings::names_ids_and_beginnings_are_accepted", references),
    Case::new("listings::the_shapes_of_json_stay", shapes),
    Case::new("listings::tables_have_the_id_first", tables),
    Case::new("listings::text_from_inside_is_made_harmless", harmless),
    Case::new("listings::logs_are_kept_apart_and_in_order", logs),
    Case::new("listings::completions_and_version_need_no_state", stateless).on(&["dangerous-host"]),
];

fn create(home: &Home) {
    let created = home.sandbar(&["create", "--on", home.wall.provider]);
    assert_eq!(created.code, 0, "{created}");
    assert_eq!(created.text().lines().count(), 1);
    assert_eq!(created.text().trim_end().len(), 15);
}

fn references(home: &Home) {
    let id = home.create(&["--name", "web"]);
    home.create(&[]);
    for reference in ["web", id.as_str(), &id[..14]] {
        assert_eq!(home.ok(&["exec", reference, "--", "echo", "x"]), "x");
    }
    let ambiguous = home.sandbar(&["exec", "sb-", "--", "true"]);
    assert_eq!(ambiguous.code, 125, "{ambiguous}");
    assert!(ambiguous.stderr.contains("sb-"), "{ambiguous}");
    let taken = home.sandbar(&["create", "--on", home.wall.provider, "--name", "web"]);
    assert_eq!(taken.code, 125, "{taken}");
    assert!(taken.stderr.contains("web"), "{taken}");
    let bad = home.sandbar(&["create", "--on", home.wall.provider, "--name", "../x"]);
    assert_eq!(bad.code, 125, "{bad}");
    assert_eq!(home.ids().len(), 2);
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn shapes(home: &Home) {
    let id = home.create(&["--name", "web"]);
    home.shell(&id, "echo hello");
    const SUMMARY: [&str; 11] =
        ["created_ms", "expires_ms", "id", "image", "isolation", "name", "owned", "ports", "provider", "reason", "state"];
    let list = home.json(&["ls", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(keys(&list[0]), SUMMARY);
    assert_eq!(
        (list[0]["id"].as_str(), list[0]["name"].as_str(), list[0]["state"].as_str()),
        (Some(id.as_str()), Some("web"), Some("running"))
    );
    let inspected = home.json(&["inspect", "web"]);
    let more = ["base", "choice", "ids", "image_id", "limits", "operation", "port_failures", "provider_notes", "renewal", "spec"];
    let mut expected: Vec<&str> = SUMMARY.into_iter().chain(more).collect();
    expected.sort_unstable();
    assert_eq!(keys(&inspected), expected);
    let processes = home.json(&["ps", "--json", "web"]);
    assert_eq!(
        keys(&processes[0]),
        ["attached", "command", "ended_ms", "epoch", "output_end", "output_start", "pid", "pty", "started_ms", "status"]
    );
    assert_eq!(keys(&processes[0]["status"]), ["code", "signal", "timed_out"]);
    let usage = ["cpu_micros", "disk_bytes", "disk_limit_bytes", "id", "memory_bytes", "memory_limit_bytes", "name", "pids"];
    assert_eq!(keys(&home.json(&["stats", "--json", "web"])), usage);
    assert_eq!(keys(&home.json(&["stats", "--json"])[0]), usage);
    assert_eq!(home.json(&["checkpoints", "--json"]), Value::Array(Vec::new()));
    assert!(home.json(&["image", "ls", "--json"]).is_array());
    assert!(home.json(&["gc", "--json"]).is_object());
}

fn tables(home: &Home) {
    let id = home.create(&["--name", "web"]);
    let pid = home.ok(&["exec", "-d", &id, "--", "sleep", "1000"]);
    for (args, first, heading) in [(vec!["ls"], &id, "ID"), (vec!["stats"], &id, "ID"), (vec!["ps", &id], &pid, "PID")] {
        let table = home.ok(&args);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with(heading), "{table}");
        assert!(lines[1].starts_with(first.as_str()), "{table}");
    }
    assert_eq!(home.ok(&["checkpoints"]).lines().count(), 1);
}

fn harmless(home: &Home) {
    let id = home.create(&[]);
    home.ok(&["exec", &id, "--", "sh", "-c", "# \x1b]0;owned\x07\x1b[2J\ntrue"]);
    let table = home.ok(&["ps", &id]);
    assert!(table.contains("owned") && !table.chars().any(|c| c.is_control() && c != '\n'), "{table}");
    let failed = home.sandbar(&["exec", &id, "--", "no-such\x1b[2J"]);
    assert!(!failed.stderr.contains('\x1b'), "{failed}");
}

fn logs(home: &Home) {
    let id = home.create(&[]);
    let first = home.ok(&["exec", "-d", &id, "--", "sh", "-c", "echo one; echo two >&2; exit 3"]);
    let ended = home.sandbar(&["attach", &id, &first]);
    assert_eq!((ended.code, ended.text().as_str(), ended.stderr.as_str()), (3, "one\n", "two\n"), "{ended}");
    let logs = home.sandbar(&["logs", &id, &first]);
    assert_eq!((logs.code, logs.text().as_str(), logs.stderr.as_str()), (0, "one\n", "two\n"), "{logs}");
    let second = home.ok(&["exec", "-d", &id, "--", "sh", "-c", "echo three; sleep 1000"]);
    let follow = {
        let mut follow = home.start(&["logs", "-f", &id, &second]);
        follow.wait_for_line("three");
        home.ok(&["kill", "-s", "KILL", &id, &second]);
        follow.finish()
    };
    assert_eq!(follow.code, 0, "{follow}");
    let all = home.sandbar(&["logs", &id]);
    assert_eq!(all.text(), "one\nthree\n", "{all}");
    assert!(all.stderr.contains(&format!("==> {first}")) && all.stderr.contains(&format!("==> {second}")), "{all}");
    assert_eq!(home.sandbar(&["attach", "--from", "4", &id, &first]).text(), "");
    assert_eq!(home.sandbar(&["logs", &id, "99999"]).code, 125);
}

fn stateless(home: &Home) {
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.ok(&["completions", shell]).contains("checkpoint"));
    }
    assert!(home.ok(&["version"]).starts_with("sandbar "));
    assert!(home.ok(&["--help"]).contains("Examples:"));
    assert!(home.ok(&["run", "--help"]).contains("Examples:"));
    assert!(!home.state().exists());
}
