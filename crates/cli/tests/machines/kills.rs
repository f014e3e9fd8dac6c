use std::fs;

use sandbar_backends::machine;

use crate::world::World;

/// Kills sandbar at each step of a sandbox's life.
pub fn leak_nothing(world: &World) {
    let launched = world.monitor.steps[world.monitor.steps.len() - 1];
    let create = world.creation();
    // The first of all boots a template, in the name of the sandbox that is wanted.
    let steps = machine::TEMPLATE_STEPS[..1].iter().chain(world.monitor.steps).chain(&machine::TEMPLATE_STEPS[1..]);
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
    for step in ["provision.begun", "provision.folder"].iter().chain(world.monitor.steps_from_template).chain(&committed) {
        world.killed_at(step, &create);
        for left in world.is_settled(step).iter().filter(|left| **left != id) {
            assert_eq!(world.ok(&["exec", left, "--", "sh", "-c", "echo here"]), "here", "{step}");
            world.ok(&["rm", "-f", left]);
        }
    }
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    // Whatever it was doing, it is there, and can be put back.
    let is_there = |step: &str| {
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        if world.inspect(&id)["state"] == "running" {
            assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
        }
        world.ok(&["restore", &id, &checkpoint]);
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
    };
    for step in ["checkpoint.begun"].iter().chain(&machine::MEMORY_STEPS) {
        world.killed_at(step, &["checkpoint", "--with-memory", &id]);
        is_there(step);
    }
    for step in ["checkpoint.frozen", "checkpoint.saved", "checkpoint.thawed"] {
        world.killed_at(step, &["checkpoint", &id]);
        is_there(step);
    }
    let restoring = ["restore.booted", "restore.answered", "restore.committed", "restore.halted", "restore.removed"];
    for step in ["restore.begun", "restore.folder", launched].iter().chain(&restoring) {
        world.killed_at(step, &["restore", &id, &checkpoint]);
        is_there(step);
    }
    for step in ["stop.begun", "stop.handed-over", "stop.halted", "stop.committed"] {
        world.killed_at(step, &["stop", &id]);
        is_there(step);
    }
    for step in ["start.begun", launched, "start.booted", "start.answered", "start.committed"] {
        world.ok(&["stop", &id]);
        world.killed_at(step, &["start", &id]);
        is_there(step);
    }
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
    assert!(world.steps().is_subset(&world.killed.borrow()), "nobody is killed at {:?}", world.steps().difference(&world.killed.borrow()));
}
