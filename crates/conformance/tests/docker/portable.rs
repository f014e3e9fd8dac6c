use sandbar_core::{CheckpointKind, ExecRequest};
use sandbar_runtime::{CreateRequest, ForkOptions, Runtime, Sandbox};

use crate::{
    case::{Case, case},
    engine::Engine,
    hard_image::{self, as_gvisor_shows, assert_same},
    world::{World, request, say},
};

pub const CASES: &[Case] = &[
    case!(Engine::of("runc"), checkpoints_go_from_wall_to_wall),
    case!(Engine::of("runc"), a_tree_with_everything_goes_from_wall_to_wall).needs(hard_image::NEEDS),
];

/// What of a look an engine takes from an archive: no time before 1970, and no attribute of no bytes.
fn as_engines_load(told: &str) -> String {
    told.replace(" -1500000000 ", " 0 ").replace(", ('user.none', '')", "")
}

/// A fork of a checkpoint, on a provider.
async fn fork(runtime: &Runtime, of: &str, on: &str) -> Sandbox {
    let options = ForkOptions { provider: Some(on.to_owned()), ..Default::default() };
    runtime.fork(of, 1, options).await.unwrap_or_else(|error| panic!("on {on}: {}", error.chain())).remove(0)
}

/// A checkpoint of the disk; its id.
async fn save(sandbox: &Sandbox) -> String {
    sandbox.checkpoint(CheckpointKind::Disk, None).await.unwrap().id.to_string()
}

async fn tree(sandbox: &Sandbox, verb: &str) -> String {
    let result = sandbox.exec(ExecRequest::argv(hard_image::words(verb))).await.unwrap();
    assert!(result.status.success(), "{verb}: {}", result.stderr_text());
    result.stdout_text()
}

async fn a_tree_with_everything_goes_from_wall_to_wall(world: World) {
    let runtime = world.runtime().await;
    let root = world.home.path().join("hard-root");
    hard_image::make(&root);
    runtime.images().import(&root, Some("hard")).await.unwrap();
    let mut done = Vec::new();
    for wall in ["docker", "container", "gvisor"] {
        let shown = |told: &str, there: &str| {
            let told = if wall == "gvisor" || there == "gvisor" { as_gvisor_shows(told) } else { told.to_owned() };
            if there == "docker" { as_engines_load(&told) } else { told }
        };
        let hard = CreateRequest { provider: Some(wall.to_owned()), image: Some("hard".to_owned()), ..request() };
        let made = runtime.create(hard).await.unwrap_or_else(|error| panic!("on {wall}: {}", error.chain()));
        tree(&made, "above").await;
        if wall == "gvisor" {
            // As long as it runs, its kernel has times and pipes of its own.
            made.stop().await.unwrap();
            made.start().await.unwrap();
        }
        let checkpoint = save(&made).await;
        let told = tree(&made, "look").await;
        assert!(!told.contains("gone") && told.contains("replaced/new") && told.contains("third name"), "{told}");
        let mut above = Vec::new();
        // To the engine, or from it and, in a second layer, back.
        for there in if wall == "docker" { &["container", "gvisor"][..] } else { &["docker"] } {
            let arrived = fork(&runtime, &checkpoint, there).await;
            assert_same(&shown(&told, there), &shown(&tree(&arrived, "look").await, there), &format!("from {wall} to {there}"));
            if wall == "docker" {
                let second = save(&arrived).await;
                let back = fork(&runtime, &second, wall).await;
                let after = tree(&back, "look").await;
                let shown = |told: &str| as_engines_load(&shown(told, there));
                assert_same(&shown(&told), &shown(&after), &format!("from {there}, where it came from {wall}, back"));
                above.push(back);
            }
            above.push(arrived);
        }
        done.extend(above.into_iter().chain([made]));
    }
    for sandbox in done {
        sandbox.destroy().await.unwrap();
    }
}

async fn checkpoints_go_from_wall_to_wall(world: World) {
    let runtime = world.runtime().await;
    let here = runtime.create(request()).await.unwrap();
    say(&here, "echo docker > /file; rm /etc/group; chown 1234:5678 /file; touch -d '2001-02-03 04:05:06' /file").await.unwrap();
    let saved = here.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    let there = fork(&runtime, saved.id.as_str(), "container").await;
    assert_eq!(say(&there, "cat /file; stat -c '%u %g %Y' /file").await.unwrap(), "docker\n1234 5678 981173106");
    say(&there, "test ! -e /etc/group && test -e /etc/passwd && test ! -e /.sandbar || echo wrong >> /file").await.unwrap();
    say(&there, "echo container >> /file; rm /etc/passwd").await.unwrap();
    let again = there.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    let back = fork(&runtime, again.id.as_str(), "docker").await;
    let gone = "test ! -e /etc/group && test ! -e /etc/passwd && cat /file; stat -c '%u %g' /file";
    assert_eq!(say(&back, gone).await.unwrap(), "docker\ncontainer\n1234 5678");
    for sandbox in [here, there, back] {
        sandbox.destroy().await.unwrap();
    }
}
