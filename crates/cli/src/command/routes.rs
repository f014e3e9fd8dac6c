//! Everything that the command line can do, a server can: for each verb the operation of the OpenAPI document that does it, or why there is none. What is in neither
//! list fails here, so that a new verb is a decision about the server too.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory};
use serde_json::Value;

use super::Cli;

/// Verbs, and operations that do the same. A verb of several steps has several.
const SERVED: &[(&str, &[&str])] = &[
    ("run", &["create_sandbox", "exec_stream", "remove_sandbox"]),
    ("create", &["create_sandbox"]),
    ("exec", &["exec_stream", "exec", "start_process"]),
    ("shell", &["exec_stream"]),
    ("ps", &["list_processes", "inspect_process"]),
    ("attach", &["attach"]),
    ("kill", &["signal_process"]),
    ("logs", &["list_processes", "attach"]),
    ("cp", &["read_file", "write_file", "read_tree", "write_tree"]),
    ("ls", &["list_sandboxes"]),
    ("inspect", &["inspect_sandbox"]),
    ("stats", &["sandbox_stats"]),
    ("checkpoint", &["create_checkpoint", "remove_checkpoint"]),
    ("checkpoint export", &["export_checkpoint"]),
    ("checkpoint import", &["import_checkpoint"]),
    ("checkpoint rm", &["remove_checkpoint"]),
    ("checkpoints", &["list_checkpoints", "inspect_checkpoint"]),
    ("restore", &["restore_sandbox"]),
    ("fork", &["fork"]),
    ("pause", &["pause_sandbox"]),
    ("resume", &["resume_sandbox"]),
    ("stop", &["stop_sandbox"]),
    ("start", &["start_sandbox"]),
    ("rm", &["remove_sandbox"]),
    ("gc", &["collect_garbage"]),
    ("expose", &["expose_port"]),
    ("unexpose", &["unexpose_port"]),
    ("net log", &["network_log"]),
    ("net set", &["set_network"]),
    ("audit", &["audit"]),
    ("image pull", &["pull_image"]),
    ("image import", &["import_image"]),
    ("image ls", &["list_images"]),
    ("image rm", &["remove_image"]),
    ("kernel import", &["import_kernel"]),
    ("kernel ls", &["list_kernels"]),
    ("kernel rm", &["remove_kernel"]),
    ("template build", &["build_template"]),
    ("template ls", &["list_templates"]),
    ("template rm", &["remove_template"]),
    ("key create", &["create_key"]),
    ("key ls", &["list_keys"]),
    ("key rm", &["remove_key"]),
    ("doctor", &["doctor", "self_test"]),
    ("version", &["inspect_provider"]),
];

/// Verbs that no server does for a client.
const OWN: &[(&str, &str)] = &[
    ("serve", "it is the server"),
    ("setup", "it installs packages on this machine, as whoever has its terminal"),
    ("context add", "the names of other hosts are the client's own"),
    ("context use", "the names of other hosts are the client's own"),
    ("context ls", "the names of other hosts are the client's own"),
    ("context clean", "the names of other hosts are the client's own"),
    ("context rm", "the names of other hosts are the client's own"),
    ("completions", "they are the client's shell's"),
];

/// Operations that no verb is for: steps of verbs that are made of others, and what only a client over a network needs.
const FOR_CLIENTS: &[&str] = &[
    "extend_sandbox",
    "remove_path",
    "stat_path",
    "list_folder",
    "make_folder",
    "rename_path",
    "make_link",
    "watch_path",
    "watch_ports",
    "connect_port",
    "events",
    "metrics",
];

/// Verbs that name a sandbox or a checkpoint that is known here, which knows its host.
const OF_ITS_HOST: &[&str] = &[
    "exec",
    "shell",
    "ps",
    "attach",
    "kill",
    "logs",
    "cp",
    "inspect",
    "stats",
    "checkpoint",
    "checkpoint export",
    "checkpoint rm",
    "restore",
    "pause",
    "resume",
    "stop",
    "start",
    "rm",
    "expose",
    "unexpose",
    "net log",
    "net set",
];

/// Verbs that another host is not asked for, beside those that no server does.
const HERE_ALONE: &[(&str, &str)] = &[
    ("ls", "it lists what the ledger here has, on whichever host: what others have made there cannot be named from here"),
    ("checkpoints", "likewise"),
    ("checkpoint import", "what a server takes in has a row there alone, and could not be named from here"),
    ("version", "it is the client's; doctor --on tells of the other side"),
];

/// The verbs below a command that take `--on`.
fn taking_on(command: &Command, before: &str, inherited: bool, found: &mut BTreeSet<String>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        let name = format!("{before}{}", inner.get_name());
        let on = inner.get_arguments().find(|argument| argument.get_long() == Some("on"));
        if inherited || on.is_some() {
            found.insert(name.clone());
        }
        taking_on(inner, &format!("{name} "), inherited || on.is_some_and(clap::Arg::is_global_set), found);
    }
}

#[test]
fn every_verb_takes_another_host_or_knows_it_or_has_a_reason() {
    let (mut all, mut taking) = (BTreeSet::new(), BTreeSet::new());
    verbs(&Cli::command(), "", &mut all);
    taking_on(&Cli::command(), "", false, &mut taking);
    let without = HERE_ALONE.iter().chain(OWN).map(|(verb, _)| *verb).chain(OF_ITS_HOST.iter().copied());
    let without: BTreeSet<String> = without.map(str::to_owned).collect();
    let taking: BTreeSet<String> = taking.intersection(&all).cloned().collect();
    assert_eq!(taking.intersection(&without).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(taking.union(&without).cloned().collect::<BTreeSet<_>>(), all);
}

/// The verbs below a command that do something by themselves.
fn verbs(command: &Command, before: &str, found: &mut BTreeSet<String>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        let name = format!("{before}{}", inner.get_name());
        if !inner.has_subcommands() || inner.is_args_conflicts_with_subcommands_set() {
            found.insert(name.clone());
        }
        verbs(inner, &format!("{name} "), found);
    }
}

#[test]
fn every_verb_is_served_or_has_a_reason() {
    let mut found = BTreeSet::new();
    verbs(&Cli::command(), "", &mut found);
    let listed: Vec<&str> = SERVED.iter().map(|(verb, _)| *verb).chain(OWN.iter().map(|(verb, _)| *verb)).collect();
    assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), listed.iter().copied().collect());
    assert_eq!(found.len(), listed.len(), "a verb is listed twice");
    assert!(OWN.iter().all(|(_, reason)| !reason.is_empty()));
}

#[test]
fn every_operation_is_that_of_a_verb_or_has_a_reason() {
    let document: Value = serde_json::to_value(sandbar_server::document()).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations: BTreeSet<&str> = paths
        .flat_map(|operations| operations.as_object().unwrap().values().map(|operation| operation["operationId"].as_str().unwrap()))
        .collect();
    let listed: BTreeSet<&str> = SERVED.iter().flat_map(|(_, operations)| *operations).chain(FOR_CLIENTS).copied().collect();
    assert_eq!(operations, listed);
}
