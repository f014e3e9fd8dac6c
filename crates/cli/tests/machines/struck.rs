use std::collections::BTreeSet;

use sandbar_backends::machine::{MEMORY_STEPS, TEMPLATE_STEPS};

use crate::world::{
    Victim::{self, Agent, Beside, Machine},
    World,
};

/// The steps at which there is no machine yet, or no more.
const WITHOUT: [&str; 12] = [
    "template.begun",
    "template.saved",
    "template.kept",
    "provision.begun",
    "provision.folder",
    "restore.begun",
    "restore.folder",
    "start.begun",
    "stop.halted",
    "stop.committed",
    "destroy.halted",
    "destroy.removed",
];

/// Kills the machine, its agent, or the process beside it, while sandbar stands at each step of a sandbox's life: sandbar says so, or has what was asked for.
pub fn are_told(world: &World) {
    let create = world.creation();
    let launched = world.monitor.steps[world.monitor.steps.len() - 1];
    for step in [launched].iter().chain(&TEMPLATE_STEPS[1..2]) {
        let told = world.struck_at(step, &create, Machine);
        assert_eq!(told.status.code(), Some(125), "{step}: {told:?}");
        assert!(world.is_settled(step).is_empty(), "{step}");
    }
    let id = world.create();
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    // The process beside Firecracker has what the machine prints, and the machine goes on without it: `ends` shows that.
    let victims = if world.monitor.name == "qemu" { &[Machine, Beside][..] } else { &[Machine] };
    for &victim in victims {
        for step in ["provision.booted", "provision.answered", "provision.committed"] {
            is_told(world, step, &create, victim);
            for other in world.is_settled(step).iter().filter(|other| **other != id) {
                is_put_back(world, other, &checkpoint, step);
                world.ok(&["rm", "-f", other]);
            }
        }
        for (verb, steps) in [
            (vec!["checkpoint", "--with-memory", &id], ["checkpoint.begun"].iter().chain(&MEMORY_STEPS).copied().collect::<Vec<_>>()),
            (vec!["checkpoint", &id], vec!["checkpoint.frozen", "checkpoint.saved", "checkpoint.thawed"]),
            (
                vec!["restore", &id, &checkpoint],
                vec!["restore.booted", "restore.answered", "restore.committed", "restore.halted", "restore.removed"],
            ),
            (vec!["stop", &id], vec!["stop.begun", "stop.handed-over"]),
            (vec!["start", &id], vec!["start.booted", "start.answered", "start.committed"]),
        ] {
            for step in steps {
                if verb[0] == "start" {
                    world.ok(&["stop", &id]);
                }
                is_told(world, step, &verb, victim);
                assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
                is_put_back(world, &id, &checkpoint, step);
            }
        }
    }
    for (step, verb) in [
        ("checkpoint.begun", &["checkpoint", "--with-memory", &id][..]),
        ("checkpoint.awake", &["checkpoint", "--with-memory", &id]),
        ("checkpoint.thawed", &["checkpoint", &id]),
        ("stop.begun", &["stop", &id]),
    ] {
        is_told(world, step, verb, Agent);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
        is_put_back(world, &id, &checkpoint, step);
    }
    world.ok(&["rm", "-f", &id]);
    for &victim in victims {
        let other = world.ok(&["fork", &checkpoint]);
        is_told(world, "destroy.begun", &["rm", "-f", &other], victim);
        assert!(world.is_settled("destroy.begun").is_empty());
    }
    // Before the last step of a boot there is no monitor, or it has no guest.
    let before = &world.monitor.steps[..world.monitor.steps.len() - 1];
    let without: BTreeSet<String> = WITHOUT.iter().chain(before).map(|step| (*step).to_owned()).collect();
    assert_eq!(
        world.steps().difference(&*world.killed.borrow()).cloned().collect::<BTreeSet<_>>(),
        without,
        "no machine was killed at these"
    );
}

fn is_told(world: &World, step: &str, arguments: &[&str], victim: Victim) {
    let told = world.struck_at(step, arguments, victim);
    assert!(matches!(told.status.code(), Some(0 | 125)), "{step} without its {victim:?}: {told:?}");
}

fn is_put_back(world: &World, id: &str, checkpoint: &str, step: &str) {
    world.ok(&["restore", id, checkpoint]);
    assert_eq!(world.ok(&["exec", id, "--", "cat", "/file"]), "kept", "{step}");
}
