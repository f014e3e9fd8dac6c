use sandbar_core::CheckpointKind;

use crate::world::{World, request, say};

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_go_from_wall_to_wall() {
    let engine = tempfile::tempdir().unwrap();
    let Some(world) = World::new(&engine) else { return };
    let runtime = world.runtime().await;
    let here = runtime.create(request()).await.unwrap();
    say(&here, "echo docker > /file; rm /etc/group; chown 1234:5678 /file; touch -d '2001-02-03 04:05:06' /file").await.unwrap();
    let saved = here.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    let fork = |from: String, on: &str| {
        let options = sandbar_runtime::ForkOptions { provider: Some(on.to_owned()), ..Default::default() };
        let runtime = runtime.clone();
        async move { runtime.fork(&from, 1, options).await.unwrap().remove(0) }
    };
    let there = fork(saved.id.to_string(), "container").await;
    assert_eq!(say(&there, "cat /file; stat -c '%u %g %Y' /file").await.unwrap(), "docker\n1234 5678 981173106");
    say(&there, "test ! -e /etc/group && test -e /etc/passwd && test ! -e /.sandbar || echo wrong >> /file").await.unwrap();
    say(&there, "echo container >> /file; rm /etc/passwd").await.unwrap();
    let again = there.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    let back = fork(again.id.to_string(), "docker").await;
    let gone = "test ! -e /etc/group && test ! -e /etc/passwd && cat /file; stat -c '%u %g' /file";
    assert_eq!(say(&back, gone).await.unwrap(), "docker\ncontainer\n1234 5678");
    for sandbox in [here, there, back] {
        sandbox.destroy().await.unwrap();
    }
}
