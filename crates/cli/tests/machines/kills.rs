use std::fs;

use crate::world::World;

/// Kills sandbar at each step of a sandbox's life.
pub fn leak_nothing(world: &World) {
    let launched = world.monitor.steps[world.monitor.steps.len() - 1];
    let create = world.creation();
    // The first of all boots a template, in the name of the sandbox that is wanted.
    let steps = ["template.begun"].iter().chain(world.monitor.steps).chain(&["template.booted", "template.saved", "template.kept"]);
    for step in steps {
        world.killed_at(step, &create);
        for left in world.is_settled(step) {
            world.ok(&["rm", "-f", &left]);
        }
    }
    let id = world.create();
    assert_eq!(world.ok(&["template", "ls", "--json"]).matches("\"id\"").count(), 1);
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);
    let committed = ["provision.booted", "provision.answered", "provision.committed", "create.provisioned"];
    for step in ["provision.folder"].iter().chain(world.monitor.steps).chain(&committed) {
        world.killed_at(step, &create);
        for left in world.is_settled(step).iter().filter(|left| **left != id) {
            assert_eq!(world.ok(&["exec", left, "--", "sh", "-c", "echo here"]), "here", "{step}");
            world.ok(&["rm", "-f", left]);
        }
    }
    for step in ["checkpoint.begun", "checkpoint.quiet", "checkpoint.memory-saved", "checkpoint.awake"] {
        world.killed_at(step, &["checkpoint", "--with-memory", &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    for step in ["checkpoint.frozen", "checkpoint.saved"] {
        world.killed_at(step, &["checkpoint", &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    for step in [launched, "restore.booted", "restore.answered", "restore.committed", "restore.halted"] {
        world.killed_at(step, &["restore", &id, &checkpoint]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    }
    for (step, verb) in [("stop.handed-over", "stop"), ("stop.halted", "stop"), (launched, "start"), ("start.answered", "start")] {
        // From the other state, which it may be in already.
        let _ = world.run(&[if verb == "stop" { "start" } else { "stop" }, &id]);
        world.killed_at(step, &[verb, &id]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    let _ = world.run(&["start", &id]);
    assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept");
    for step in ["destroy.begun", "destroy.halted", "destroy.removed"] {
        let other = world.create();
        world.killed_at(step, &["rm", "-f", &other]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    world.ok(&["rm", "-f", &id]);
    world.ok(&["checkpoint", "rm", &checkpoint]);
    let template = world.ok(&["template", "ls", "--json"]);
    let template = serde_json::from_str::<serde_json::Value>(&template).unwrap()[0]["id"].as_str().unwrap().to_owned();
    world.ok(&["template", "rm", &template]);
    assert!(world.is_settled("everything").is_empty());
    assert_eq!(fs::read_dir(world.state().join("checkpoints")).map_or(0, Iterator::count), 0);
}
