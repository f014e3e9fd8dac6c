//! Firecracker for real: in a machine where KVM works (`cargo xtask lab`), with and without the jailer.
//!
//! `SANDBAR_TEST_VM` names a folder with a kernel store and an unpacked root file system `rootfs` with a busybox in it; `prepare` makes the store
//! of a Debian package in that folder, where no emulation slows it down.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sandbar_backends::firecracker::Firecracker;
use sandbar_core::{
    CheckpointKind, CheckpointOptions, ExecRequest, IdRange, ImageKind, Journal, Lifetime, ProvisionRequest, Resource, RestoreRequest,
    Result, RootSource, SandboxHandle, SandboxId, SandboxProvider, SandboxSpec, State,
};
use sandbar_guest::{KernelStore, RootImage};
use serde_json::Value;

/// What a ledger would hold.
#[derive(Default)]
struct Book(Mutex<Vec<Resource>>);

impl Journal for Book {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.0.lock().unwrap().push(resource.clone());
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        self.0.lock().unwrap().retain(|held| held != resource);
        Ok(())
    }

    fn commit(&self, _: &Value, _: State) -> Result<()> {
        Ok(())
    }
}

fn stock() -> Option<PathBuf> {
    std::env::var_os("SANDBAR_TEST_VM").map(PathBuf::from)
}

fn root(stock: &Path, saved_layers: Vec<PathBuf>) -> RootSource {
    RootSource {
        kind: ImageKind::Layers { digest: "sha256:test".to_owned() },
        layers: vec![stock.join("rootfs")],
        saved_layers,
        host: None,
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        workdir: None,
        user: None,
    }
}

fn request(home: &Path, number: u64, root: RootSource) -> (ProvisionRequest, Arc<Book>) {
    let id = SandboxId::from_random((u64::from(std::process::id()) << 16 | number).to_le_bytes());
    let folder = home.join(id.as_str());
    fs::create_dir(&folder).unwrap();
    let book = Arc::<Book>::default();
    let ids = rustix::process::geteuid()
        .is_root()
        .then_some(IdRange { first: 1_000_000_000 + u32::try_from(number).unwrap() * 65_536, count: 65_536 });
    let journal = Arc::clone(&book) as Arc<dyn Journal>;
    (ProvisionRequest { id, spec: SandboxSpec::default(), root, folder, ids, lifetime: Lifetime::Owned, journal }, book)
}

async fn shell(handle: &dyn SandboxHandle, line: &str) -> String {
    let result = handle.exec(ExecRequest::shell(line)).await.unwrap_or_else(|error| panic!("{line}: {}", error.chain()));
    assert!(result.status.success(), "{line}: {result:?}");
    result.stdout_text().trim().to_owned()
}

#[test]
fn prepare() {
    let Some(stock) = stock() else { return };
    if std::env::var_os("SANDBAR_LAB").is_none() {
        let package = fs::read_dir(&stock)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|name| name == "deb"));
        KernelStore::new(&stock).import(&package.unwrap(), None, None).unwrap_or_else(|error| panic!("{}", error.chain()));
        RootImage::new(&stock).of(&root(&stock, Vec::new())).unwrap_or_else(|error| panic!("{}", error.chain()));
    }
}

#[tokio::test]
async fn a_machine_lives_is_saved_with_memory_and_forked() {
    let (Some(home), Some(_)) = (stock(), std::env::var_os("SANDBAR_LAB")) else { return };
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:8.2} {what}", begun.elapsed().as_secs_f64());
    let provider = Firecracker::provider(&home);
    let probe = provider.probe().await;
    say(&format!("{probe:?}"));
    assert!(probe.usable);
    let (first, book) = request(&home, 1, root(&home, Vec::new()));
    let handle = provider.provision(first.clone()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    say("provisioned");
    say(&shell(&*handle, "uname -a; id; ls /; mount | head -5; hostname; ps | head -4").await);
    shell(&*handle, "echo kept > /root/disk").await;
    let streamed = handle.exec(ExecRequest::shell("cat /proc/uptime; exit 7")).await.unwrap();
    assert!(format!("{:?}", streamed.status).contains('7'), "{streamed:?}");
    // A process whose state is in memory alone.
    shell(&*handle, "(n=0; while true; do n=$((n+1)); echo $n > /tmp/count; sleep 0.2; done) >/dev/null 2>&1 </dev/null & echo started")
        .await;
    handle.pause().await.unwrap();
    say("paused");
    handle.resume().await.unwrap();
    say(&format!("resumed; count {}", shell(&*handle, "cat /tmp/count").await));

    let disk = home.join("disk-checkpoint");
    fs::create_dir(&disk).unwrap();
    let saved = handle
        .checkpoint(CheckpointOptions { kind: CheckpointKind::Disk, into: disk.clone() })
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    say(&format!("disk saved: {saved:?}"));
    assert_eq!(fs::read_to_string(disk.join("layer/root/disk")).unwrap(), "kept\n");

    let into = home.join("memory-checkpoint");
    fs::create_dir(&into).unwrap();
    let saved = handle
        .checkpoint(CheckpointOptions { kind: CheckpointKind::Memory, into: into.clone() })
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    say(&format!("memory saved: {saved:?}"));
    let count: u32 = shell(&*handle, "cat /tmp/count").await.parse().unwrap();
    shell(&*handle, "echo changed > /root/disk").await;

    let mut forks = Vec::new();
    for number in [2, 3] {
        let root = root(&home, vec![into.join("layer")]);
        let (forked, book) = request(&home, number, root.clone());
        let from = RestoreRequest { root, memory: Some((into.clone(), saved.record.clone())) };
        let fork = provider.restore(forked, from).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        say("forked");
        assert_eq!(shell(&*fork, "cat /root/disk").await, "kept");
        say(&format!(
            "fork: count {} (original {count}), hostname {}",
            shell(&*fork, "cat /tmp/count").await,
            shell(&*fork, "hostname").await
        ));
        forks.push((fork, book));
    }
    for (fork, book) in forks {
        fork.destroy().await.unwrap();
        assert_eq!(*book.0.lock().unwrap(), [], "rows are left");
    }
    say("forks destroyed");
    handle.stop().await.unwrap_or_else(|error| panic!("{}", error.chain()));
    say("stopped");
    handle.start().await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(shell(&*handle, "cat /root/disk").await, "changed");
    say("started again");
    let root = root(&home, vec![into.join("layer")]);
    handle
        .restore(RestoreRequest { root, memory: Some((into.clone(), saved.record.clone())) })
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(shell(&*handle, "cat /root/disk").await, "kept");
    say("restored in place");
    let held = book.0.lock().unwrap().clone();
    handle.destroy().await.unwrap();
    assert_eq!(*book.0.lock().unwrap(), [], "rows are left");
    for resource in held {
        match resource {
            Resource::Process { pid, .. } => assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left"),
            Resource::Cgroup { path } | Resource::Folder { path } => assert!(!path.exists(), "{} is left", path.display()),
            other => panic!("{other:?}"),
        }
    }
    say("destroyed");
    assert!(begun.elapsed() < Duration::from_secs(1200));
}

/// Shows what a machine prints, as it prints it.
fn show_console(folder: &Path) {
    use std::{io::Read, os::unix::fs::OpenOptionsExt};

    let pipe = folder.join("g1/console");
    std::thread::spawn(move || {
        let mut opened: Option<fs::File> = None;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let mut bytes = [0; 4096];
            match opened.as_mut().map(|file| file.read(&mut bytes)) {
                Some(Ok(count @ 1..)) => eprint!("{}", String::from_utf8_lossy(&bytes[..count])),
                _ => opened = fs::File::options().read(true).write(true).custom_flags(0o4000).open(&pipe).ok(),
            }
        }
    });
}

#[tokio::test]
async fn a_stopped_machine_starts_again_on_its_disk() {
    let (Some(home), Some(_)) = (stock(), std::env::var_os("SANDBAR_LAB")) else { return };
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:8.2} {what}", begun.elapsed().as_secs_f64());
    let provider = Firecracker::provider(&home);
    say(&format!("{:?}", provider.info().notes));
    let (first, book) = request(&home, 9, root(&home, Vec::new()));
    show_console(&first.folder);
    let handle = provider.provision(first.clone()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    say("provisioned");
    shell(&*handle, "echo kept > /root/disk").await;
    handle.stop().await.unwrap_or_else(|error| panic!("{}", error.chain()));
    say("stopped");
    handle.start().await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(shell(&*handle, "cat /root/disk").await, "kept");
    say("started again");
    handle.destroy().await.unwrap();
    assert_eq!(*book.0.lock().unwrap(), [], "rows are left");
    say("destroyed");
}
