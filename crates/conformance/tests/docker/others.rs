use std::{collections::BTreeMap, sync::Arc};

use sandbar_core::{Lifetime, NoJournal, ProvisionRequest, SandboxId, SandboxSpec};

use crate::{
    case::{Case, case},
    engine::Engine,
    world::{World, left, request, say},
};

pub const CASES: &[Case] = &[case!(Engine::of("runc"), gc_finds_what_the_ledger_lost_and_leaves_what_is_not_ours)];

async fn gc_finds_what_the_ledger_lost_and_leaves_what_is_not_ours(world: World) {
    let runtime = world.runtime().await;
    let other = World { home: tempfile::tempdir().unwrap(), socket: world.socket.clone() };
    let others = other.runtime().await;
    let theirs = others.create(request()).await.unwrap();
    let ours = runtime.create(request()).await.unwrap();
    // Made with no ledger, as if its rows were lost.
    let root = runtime.images().resolve(Some("busybox")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lost = ProvisionRequest {
        id: SandboxId::from_random([7; 8]),
        spec: SandboxSpec::default(),
        secret_values: BTreeMap::new(),
        root,
        folder: folder.path().to_owned(),
        ids: None,
        lifetime: Lifetime::Detached,
        journal: Arc::new(NoJournal),
    };
    let id = lost.id.clone();
    let handle = runtime.providers().get("docker").unwrap().provision(lost).await.unwrap();
    assert_eq!(left(&world).len(), 3);
    let report = runtime.gc().await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.removed.iter().any(|item| item.name.contains(id.as_str())), "{report:?}");
    drop(handle);
    assert_eq!(say(&theirs, "echo here").await.unwrap(), "here", "another state folder's sandbox");
    assert_eq!(say(&ours, "echo here").await.unwrap(), "here", "a sandbox of the ledger");
    assert_eq!(left(&world).len(), 2);
    ours.destroy().await.unwrap();
    theirs.destroy().await.unwrap();
}
