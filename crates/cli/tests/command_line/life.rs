//! The life of a sandbox, by its verbs.

use crate::support::{Case, Home, eventually};

const WALLS: &[&str] = &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless"];

pub const CASES: &[Case] = &[
    Case::new("life::rm_refuses_what_runs", rm),
    Case::new("life::stop_keeps_files_and_logs_and_start_runs_on", stop),
    Case::new("life::paused_sandboxes_are_refused_and_go_on", pause),
    Case::new("life::checkpoints_are_restored_and_forked", checkpoint).on(WALLS),
    Case::new("life::a_sandbox_is_forked_as_it_is", fork).on(WALLS),
    Case::new("life::volumes_are_there_and_read_only_ones_refuse", volumes).on(WALLS),
    Case::new("life::a_time_to_live_ends_it", ttl),
    Case::new("life::one_that_fails_does_not_keep_the_others", several),
];

fn rm(home: &Home) {
    let id = home.create(&[]);
    let refused = home.sandbar(&["rm", &id]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("running") && refused.stderr.contains("hint: "), "{refused}");
    home.ok(&["stop", &id]);
    home.ok(&["rm", &id]);
    assert!(home.ids().is_empty());
    assert_eq!(home.sandbar(&["rm", "-f", &id]).code, 125);
}

fn stop(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo kept > file; echo said");
    home.ok(&["stop", &id]);
    assert_eq!(home.json(&["ls", "--json"])[0]["state"], "stopped");
    let refused = home.sandbar(&["exec", &id, "--", "true"]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("sandbar start"), "{refused}");
    assert_eq!(home.ok(&["logs", &id]), "said");
    home.ok(&["start", &id]);
    assert_eq!(home.shell(&id, "cat file"), "kept");
    let twice = home.sandbar(&["start", &id]);
    assert_eq!(twice.code, 125, "{twice}");
}

fn pause(home: &Home) {
    let id = home.create(&[]);
    if home.lacks("pause", &["pause", &id]) {
        return assert_eq!(home.shell(&id, "echo on"), "on");
    }
    assert_eq!(home.json(&["ls", "--json"])[0]["state"], "paused");
    let refused = home.sandbar(&["exec", &id, "--", "true"]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("sandbar resume"), "{refused}");
    home.ok(&["resume", &id]);
    assert_eq!(home.shell(&id, "echo on"), "on");
}

fn checkpoint(home: &Home) {
    let id = home.create(&["--name", "web"]);
    home.shell(&id, "echo first > /root/file");
    let checkpoint = home.ok(&["checkpoint", "web", "--name", "clean"]);
    assert!(checkpoint.starts_with("cp-"), "{checkpoint}");
    let listed = home.json(&["checkpoints", "--json"]);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["name"].as_str()), (Some(checkpoint.as_str()), Some("clean")));
    home.shell(&id, "echo second > /root/file");
    let forks = home.ok(&["fork", "clean", "-n", "2"]);
    let forks: Vec<&str> = forks.lines().collect();
    assert_eq!(forks.len(), 2);
    for fork in &forks {
        assert_eq!(home.shell(fork, "cat /root/file"), "first");
    }
    home.ok(&["restore", "web", "clean"]);
    assert_eq!(home.shell(&id, "cat /root/file"), "first");
    home.ok(&["rm", "-f", forks[0], forks[1], &id]);
    home.ok(&["checkpoint", "rm", "clean"]);
    assert_eq!(home.ok(&["checkpoints"]).lines().count(), 1);
    let missing = home.sandbar(&["fork", "clean"]);
    assert_eq!(missing.code, 125, "{missing}");
}

fn fork(home: &Home) {
    let id = home.create(&[]);
    home.shell(&id, "echo now > /root/file");
    let fork = home.ok(&["fork", &id]);
    home.shell(&id, "echo later > /root/file");
    assert_eq!(home.shell(&fork, "cat /root/file"), "now");
    assert_eq!(home.shell(&id, "cat /root/file"), "later");
}

fn volumes(home: &Home) {
    let folder = home.work().join("a b:c");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "theirs").unwrap();
    home.wall.hand_over(&folder);
    let writable = format!("{}:/data x", folder.display());
    let run = home.sandbar(&home.run_args(&["-v", &writable], &["sh", "-c", "cat '/data x/file'; echo ours > '/data x/new'"]));
    assert_eq!((run.code, run.text().as_str()), (0, "theirs"), "{run}");
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "ours\n");
    let read_only = format!("{writable}:ro");
    let run = home.sandbar(&home.run_args(&["-v", &read_only], &["sh", "-c", "cat '/data x/file'; ! echo x > '/data x/file'"]));
    assert_eq!((run.code, run.text().as_str()), (0, "theirs"), "{run}");
    // A relative source is taken from the caller's folder.
    let args = home.run_args(&["-v", "a b:c:/here"], &["cat", "/here/file"]);
    let mut command = home.command(&args);
    command.current_dir(home.work());
    assert_eq!(crate::support::Client::start(command, &args).finish().text(), "theirs");
}

fn ttl(home: &Home) {
    // Long enough for it to be asked for before, on a machine that is busy.
    let id = home.create(&["--ttl", "15"]);
    assert!(home.json(&["inspect", &id])["expires_ms"].is_u64());
    eventually("its time is over", || home.ids().is_empty());
}

fn several(home: &Home) {
    let (first, second) = (home.create(&[]), home.create(&[]));
    let stopped = home.sandbar(&["stop", &first, "no-such-sandbox", &second]);
    assert_eq!(stopped.code, 125, "{stopped}");
    assert!(stopped.stderr.contains("no-such-sandbox"), "{stopped}");
    let list = home.json(&["ls", "--json"]);
    assert!(list.as_array().unwrap().iter().all(|sandbox| sandbox["state"] == "stopped"), "{list}");
}
