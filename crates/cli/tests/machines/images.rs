use std::fs;

use crate::world::World;

/// Kills sandbar wherever an image of memory gets one more that needs it, or one less: it is there as long as somebody does, and can be removed then.
pub fn are_counted(world: &World) {
    let id = world.create();
    world.ok(&["exec", &id, "--", "sh", "-c", "echo kept > /file"]);
    let checkpoint = world.ok(&["checkpoint", "--with-memory", &id]);
    world.ok(&["rm", "-f", &id]);
    let launched = world.monitor.steps[world.monitor.steps.len() - 1];
    let of_a_fork =
        ["create.row", "create.folder", "provision.folder", launched, "provision.booted", "provision.answered", "provision.committed"];
    for step in of_a_fork.iter().chain(&["create.provisioned", "create.finished"]) {
        world.killed_at(step, &["fork", &checkpoint]);
        is_needed_by(world, step, &checkpoint, &world.is_settled(step));
    }
    // A fork of a sandbox saves its disk first, for itself alone.
    let id = world.ok(&["fork", &checkpoint]);
    for step in ["checkpoint.inserted", "checkpoint.saved", "checkpoint.filled", "checkpoint.renamed", "fork.saved", launched] {
        world.killed_at(step, &["fork", &id]);
        let left = world.is_settled(step);
        assert!(left.contains(&id), "{step}");
        for fork in left.iter().filter(|left| **left != id) {
            world.ok(&["rm", "-f", fork]);
        }
        assert_eq!(world.ok(&["exec", &id, "--", "cat", "/file"]), "kept", "{step}");
        assert_eq!(images(world), 1, "{step}");
    }
    for step in
        ["destroy.row", "destroy.begun", "destroy.halted", "destroy.removed", "destroy.provider", "destroy.folder", "destroy.finished"]
    {
        let fork = world.ok(&["fork", &checkpoint]);
        world.killed_at(step, &["rm", "-f", &fork]);
        assert_eq!(world.is_settled(step), [id.as_str()], "{step}");
    }
    is_needed_by(world, "the last of them", &checkpoint, &[id]);
    let mut checkpoint = Some(checkpoint);
    for step in ["checkpoint-rm.row", "checkpoint-rm.folder"] {
        let image = checkpoint.take().unwrap_or_else(|| {
            let id = world.create();
            let image = world.ok(&["checkpoint", "--with-memory", &id]);
            world.ok(&["rm", "-f", &id]);
            image
        });
        world.killed_at(step, &["checkpoint", "rm", &image]);
        assert!(world.is_settled(step).is_empty(), "{step}");
        // It was removed, or it can be.
        let _ = world.run(&["checkpoint", "rm", &image]);
        assert_eq!(images(world), 0, "{step}");
    }
    world.ok(&["gc"]);
    assert_eq!(images(world), 0);
}

/// The image cannot be removed while these are there, and their memory is there for them; then they go.
fn is_needed_by(world: &World, step: &str, checkpoint: &str, forks: &[String]) {
    assert_eq!(images(world), 1, "{step}");
    for fork in forks {
        assert!(!world.run(&["checkpoint", "rm", checkpoint]).status.success(), "{step}: {fork} needs it");
        assert_eq!(world.ok(&["exec", fork, "--", "cat", "/file"]), "kept", "{step}");
        world.ok(&["rm", "-f", fork]);
    }
}

fn images(world: &World) -> usize {
    fs::read_dir(world.state().join("checkpoints")).map_or(0, Iterator::count)
}
