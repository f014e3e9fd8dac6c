//! Where no control group can be made: the same by descent and signals.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sandbar_core::{
    AttachRequest, CheckpointKind, ExecRequest, Feature, Lifetime, NoJournal, ProvisionRequest, RootSource, SandboxHandle, SandboxProvider,
    State,
};

use super::*;

fn without_groups(home: &Path) -> DangerousHostProvider {
    let provider = DangerousHost::provider(home);
    provider.backend().0.groups.set(None).unwrap();
    provider
}

fn request(folder: &Path) -> ProvisionRequest {
    std::fs::create_dir(folder).unwrap();
    ProvisionRequest {
        id: SandboxId::from_random([3; 8]),
        spec: SandboxSpec::default(),
        secret_values: BTreeMap::new(),
        root: RootSource::empty(),
        folder: folder.to_owned(),
        ids: None,
        lifetime: Lifetime::Detached,
        journal: Arc::new(NoJournal),
    }
}

/// The state beyond doubt: on a busy machine an agent may be silent for longer than a status waits for it.
async fn certain(sandbox: &dyn SandboxHandle) -> State {
    let begun = Instant::now();
    loop {
        let status = sandbox.status().await;
        if status.certain {
            return status.state;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status:?}");
    }
}

#[tokio::test]
async fn without_a_group_pausing_is_not_claimed_and_descendants_end_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let provider = without_groups(home.path());
    assert!(!provider.info().features.has(Feature::Pause));
    let sandbox = provider.provision(request(&home.path().join("one"))).await.unwrap();
    let line = "setsid sleep 100 >/dev/null 2>&1 & echo $!; (setsid sh -c 'sleep 100 & echo $!; : > told; wait' &)
        until test -e told; do sleep 0.01; done";
    let pids = sandbox.exec(ExecRequest::shell(line)).await.unwrap().stdout_text();
    let processes: Vec<_> = pids.lines().map(|pid| HostProcess::of(pid.parse().unwrap()).unwrap()).collect();
    assert_eq!(processes.len(), 2);
    let into = home.path().join("checkpoint");
    std::fs::create_dir(&into).unwrap();
    sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Disk, into: into.clone() }).await.unwrap();
    assert_eq!(certain(&*sandbox).await, State::Running, "a checkpoint stops by signals, and lets go on");
    for process in &processes {
        assert_ne!(ProcessStat::read(process.pid).unwrap().state, 'T');
    }
    sandbox.destroy().await.unwrap();
    assert!(processes.iter().all(|process| !process.is_alive()));
}

#[tokio::test]
async fn what_another_sandbar_stopped_by_signals_can_be_resumed() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (without_groups(home.path()), without_groups(home.path()));
    let request = request(&home.path().join("one"));
    let sandbox = first.provision(request.clone()).await.unwrap();
    let place = |agent| Place { agent, folder: request.folder.join("g1"), cgroup: None };
    let parent = sandbox.exec(ExecRequest::shell("echo $PPID")).await.unwrap().stdout_text();
    let agent = HostProcess::of(parent.trim().parse().unwrap()).unwrap();
    first.backend().0.freeze(&place(agent)).unwrap();
    assert_eq!(certain(&*sandbox).await, State::Paused);
    second.backend().0.thaw(&place(agent)).unwrap();
    assert_eq!(certain(&*sandbox).await, State::Running);
    let record = serde_json::json!({ "version": 1, "generation": 1, "root": request.root, "place": place(agent), "resources": [] });
    let attached = second.attach(AttachRequest { provision: request, record }).await.unwrap();
    attached.destroy().await.unwrap();
    assert!(!agent.is_alive());
}
