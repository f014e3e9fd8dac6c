//! Each limit, gone over.

use sandbar_core::{CheckpointKind, CheckpointOptions, Feature, Limits, SandboxProvider, SandboxSpec};

use crate::world::World;

fn spec(limits: Limits) -> SandboxSpec {
    SandboxSpec { limits, ..SandboxSpec::default() }
}

fn has(world: &World, feature: Feature) -> bool {
    let claimed = world.provider.info().features.has(feature);
    if !claimed {
        eprintln!("{feature} is not offered here");
    }
    claimed
}

#[tokio::test]
async fn memory_over_the_limit_ends_the_process_and_not_the_sandbox() {
    let world = World::new();
    if !has(&world, Feature::LimitMemory) {
        return;
    }
    let sandbox = world.sandbox(spec(Limits { memory: Some(64 << 20), ..Limits::default() })).await;
    let result = sandbox.try_shell("python3 -c 'x=bytearray(200<<20); print(len(x))'").await;
    assert!(!result.status.success() && result.stdout.is_empty(), "{result:?}");
    sandbox.shell("true").await;
    let stats = sandbox.handle.stats().await.unwrap();
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    assert!(stats.memory_bytes.is_some_and(|bytes| bytes < 64 << 20), "{stats:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn processor_time_is_shared_out() {
    let world = World::new();
    if !has(&world, Feature::LimitCpu) {
        return;
    }
    let sandbox = world.sandbox(spec(Limits { cpu_millis: Some(200), ..Limits::default() })).await;
    let measure =
        "import time; a=time.monotonic(); c=time.process_time()\nwhile time.monotonic()-a < 1: pass\nprint(time.process_time()-c)";
    let used: f64 = sandbox.shell(&format!("python3 -c '{measure}'")).await.parse().unwrap();
    assert!(used < 0.5, "{used} s of processor time in a second, with a fifth allowed");
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_inside_and_leaves_exec_working() {
    let world = World::new();
    if !has(&world, Feature::LimitPids) {
        return;
    }
    let sandbox = world.sandbox(spec(Limits { pids: Some(20), ..Limits::default() })).await;
    let bomb =
        "import os,time\nn=0\ntry:\n  while True:\n    if os.fork()==0:\n      time.sleep(1000)\n    n+=1\nexcept OSError: pass\nprint(n)";
    let made: u32 = sandbox.shell(&format!("python3 -c '{bomb}'")).await.parse().unwrap();
    assert!((10..20).contains(&made), "{made}");
    assert!(sandbox.handle.processes().await.is_ok());
    sandbox.destroy().await;
}

#[tokio::test]
async fn open_files_are_counted() {
    let world = World::new();
    let sandbox = world.sandbox(spec(Limits { open_files: Some(32), ..Limits::default() })).await;
    assert_eq!(sandbox.shell("ulimit -Hn; ulimit -Sn").await, "32\n32");
    let result = sandbox.try_shell("ulimit -n 64").await;
    assert!(!result.status.success(), "{result:?}");
    assert!(
        !sandbox
            .try_shell("python3 -c '[open(\"/\") if 0 else __import__(\"os\").open(\"/\",0) for _ in range(40)]'")
            .await
            .status
            .success()
    );
    sandbox.destroy().await;
}

#[tokio::test]
async fn a_full_disk_is_the_sandboxs_own() {
    let world = World::new();
    if !has(&world, Feature::LimitDisk) {
        return;
    }
    let sandbox = world.sandbox(spec(Limits { disk: Some(16 << 20), ..Limits::default() })).await;
    let result = sandbox.try_shell("head -c 32M /dev/zero > /root/big").await;
    assert!(!result.status.success() && result.stderr.windows(8).any(|part| part == b"No space"), "{result:?}");
    sandbox.shell("rm /root/big; echo kept > /root/small").await;
    let into = world.home.path().join("checkpoint");
    for _running_then_stopped in 0..2 {
        std::fs::create_dir(&into).unwrap();
        sandbox.handle.checkpoint(CheckpointOptions { kind: CheckpointKind::Disk, into: into.clone() }).await.unwrap();
        assert_eq!(std::fs::read_to_string(into.join("layer/root/small")).unwrap(), "kept\n");
        std::fs::remove_dir_all(&into).unwrap();
        sandbox.handle.stop().await.unwrap();
    }
    sandbox.handle.start().await.unwrap();
    assert_eq!(sandbox.shell("cat /root/small").await, "kept");
    assert!(!sandbox.try_shell("head -c 32M /dev/zero > /root/big").await.status.success());
    let stats = sandbox.handle.stats().await.unwrap();
    assert!(stats.disk_bytes.is_some_and(|bytes| bytes <= 17 << 20) && stats.disk_limit_bytes == Some(16 << 20), "{stats:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn every_limit_is_reported() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    let reports = sandbox.handle.limits();
    let names: Vec<&str> = reports.iter().map(|report| report.limit.as_str()).collect();
    assert_eq!(names, ["memory", "cpu", "pids", "disk", "open-files"]);
    assert!(reports.iter().all(|report| !report.enforced_by.is_empty()));
    sandbox.destroy().await;
}
