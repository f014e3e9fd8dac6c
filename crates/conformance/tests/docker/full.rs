use sandbar_core::{CheckpointKind, ErrorKind};

use crate::{
    case::{Case, case},
    engine::Engine,
    world::{World, left, request, say, state},
};

pub const CASES: &[Case] = &[case!(Engine { disk: Some("40m"), ..Engine::of("runc") }, a_full_disk_is_told_and_nothing_is_lost)];

/// Fills the disk with one file; what that says is not of interest.
const FILL: &str = "dd if=/dev/zero of=/fill bs=64k 2>/dev/null; :";

async fn a_full_disk_is_told_and_nothing_is_lost(world: World) {
    let runtime = world.runtime().await;
    let sandbox = runtime.create(request()).await.unwrap();
    say(&sandbox, "echo kept > /file").await.unwrap();
    say(&sandbox, FILL).await.unwrap();
    assert_eq!(say(&sandbox, "cat /file").await.unwrap(), "kept");

    // What the engine has to write does not fit.
    let tree = world.home.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), vec![b'x'; 4 << 20]).unwrap();
    runtime.images().import(&tree, Some("large")).await.unwrap();
    let large = sandbar_runtime::CreateRequest { image: Some("large".to_owned()), ..request() };
    let error = runtime.create(large).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.chain());
    assert_eq!(left(&world).len(), 1, "containers");
    assert_eq!(runtime.list().await.unwrap().len(), 1, "sandboxes");

    // Neither does what is put.
    let put = sandbox.put_file("/more", sandbar_core::PutOptions::default(), &mut &vec![0; 1 << 20][..]).await;
    assert_eq!(put.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    // The state folder is elsewhere: the file that fills the disk is saved with the rest.
    sandbox.checkpoint(CheckpointKind::Disk, None).await.unwrap();
    assert_eq!(state(&sandbox).await, sandbar_core::State::Running);

    say(&sandbox, "rm /fill").await.unwrap();
    let other = runtime.create(request()).await.unwrap();
    assert_eq!(say(&other, "echo here").await.unwrap(), "here");
    assert_eq!(say(&sandbox, "cat /file").await.unwrap(), "kept");
    for sandbox in [other, sandbox] {
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(left(&world), Vec::<String>::new());
}
