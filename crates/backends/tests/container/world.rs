//! A state folder, an image, and sandboxes in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use sandbar_backends::container::{Container, ContainerProvider};
use sandbar_core::{
    AttachRequest, ExecRequest, ExecResult, HostImage, IdRange, ImageKind, Journal, Lifetime, ProvisionRequest, Resource, Result,
    RootSource, SandboxHandle, SandboxId, SandboxProvider, SandboxSpec, State,
};
use serde_json::Value;

/// What a ledger would hold.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) held: Mutex<Vec<Resource>>,
    record: Mutex<Value>,
}

impl Journal for Book {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.held.lock().unwrap().push(resource.clone());
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        self.held.lock().unwrap().retain(|held| held != resource);
        Ok(())
    }

    fn commit(&self, record: &Value, _: State) -> Result<()> {
        *self.record.lock().unwrap() = record.clone();
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) home: tempfile::TempDir,
    pub(crate) provider: ContainerProvider,
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl World {
    pub(crate) fn new() -> Self {
        let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let home = tempfile::Builder::new().prefix("sandbar-test-").tempdir_in(parent).unwrap();
        let provider = Container::provider(home.path());
        Self { home, provider }
    }

    /// A small form of the image `host`.
    pub(crate) fn image(&self) -> RootSource {
        let skeleton = self.home.path().join("skeleton");
        for folder in ["", "etc", "proc", "sys", "dev", "tmp", "root", "usr", "run", "var"] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(skeleton.join(folder)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            let _ = symlink(format!("usr/{link}"), skeleton.join(link));
        }
        fs::write(skeleton.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n").unwrap();
        fs::write(skeleton.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
        RootSource {
            kind: ImageKind::Host { fingerprint: String::new() },
            layers: vec![skeleton],
            saved_layers: Vec::new(),
            host: Some(HostImage { folders: vec!["/usr".into()] }),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]),
            workdir: None,
            user: None,
        }
    }

    /// Whether there are users inside beside root.
    pub(crate) fn has_users(&self) -> bool {
        !self.provider.info().notes[0].contains("one id")
    }

    pub(crate) fn request(&self, spec: SandboxSpec) -> (ProvisionRequest, Arc<Book>) {
        // Tests run side by side, in one process or in many.
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let id = SandboxId::from_random((u64::from(std::process::id()) << 16 | u64::from(count)).to_le_bytes());
        let folder = self.home.path().join(id.as_str());
        fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        let book = Arc::<Book>::default();
        let request = ProvisionRequest {
            id,
            spec,
            secret_values: BTreeMap::new(),
            root: self.image(),
            folder,
            ids: is_root().then_some(IdRange { first: 1_000_000_000 + count * 65_536, count: 65_536 }),
            lifetime: Lifetime::Detached,
            journal: Arc::clone(&book) as Arc<dyn Journal>,
        };
        (request, book)
    }

    pub(crate) async fn sandbox(&self, spec: SandboxSpec) -> Sandbox {
        let (request, book) = self.request(spec);
        self.provision(request, book).await
    }

    pub(crate) async fn provision(&self, request: ProvisionRequest, book: Arc<Book>) -> Sandbox {
        let handle = self.provider.provision(request.clone()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        Sandbox { handle, request, book }
    }
}

pub(crate) struct Sandbox {
    pub(crate) handle: Box<dyn SandboxHandle>,
    pub(crate) request: ProvisionRequest,
    pub(crate) book: Arc<Book>,
}

impl Sandbox {
    pub(crate) async fn try_shell(&self, line: &str) -> ExecResult {
        self.handle.exec(ExecRequest::shell(line)).await.unwrap_or_else(|error| panic!("{line}: {}", error.chain()))
    }

    pub(crate) async fn shell(&self, line: &str) -> String {
        let result = self.try_shell(line).await;
        assert!(result.status.success(), "{line}: {result:?}");
        result.stdout_text().trim().to_owned()
    }

    pub(crate) fn agent(&self) -> u32 {
        let held = self.book.held.lock().unwrap();
        held.iter().find_map(|resource| if let Resource::Process { pid, .. } = resource { Some(*pid) } else { None }).unwrap()
    }

    /// The same sandbox, as another process would find it.
    pub(crate) async fn attached(&self, world: &World) -> Box<dyn SandboxHandle> {
        let record = self.book.record.lock().unwrap().clone();
        world.provider.attach(AttachRequest { provision: self.request.clone(), record }).await.unwrap()
    }

    /// Destroys it and looks whether anything is left.
    pub(crate) async fn destroy(self) {
        let held = self.book.held.lock().unwrap().clone();
        self.handle.destroy().await.unwrap();
        assert_eq!(*self.book.held.lock().unwrap(), [], "rows are left");
        for resource in held {
            match resource {
                Resource::Process { pid, .. } => assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left"),
                Resource::Cgroup { path } | Resource::Folder { path } => assert!(!path.exists(), "{} is left", path.display()),
                Resource::Loop { backing } => {
                    let name = backing.file_name().unwrap().to_string_lossy().into_owned();
                    let devices = fs::read_dir("/sys/block").unwrap().flatten();
                    let ours = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
                    let folder = self.request.folder.to_string_lossy().into_owned();
                    assert!(!ours.into_iter().any(|file| file.contains(&folder) && file.contains(&name)), "a loop device is left");
                }
                Resource::Engine { .. } => {}
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.request.id.as_str()), "a mount is left");
        assert_eq!(fs::read_dir(&self.request.folder).unwrap().count(), 0, "files are left");
    }
}

/// A test that fails leaves nothing running either.
impl Drop for Sandbox {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.book.held.lock().unwrap());
        for resource in &held {
            if let Resource::Process { pid, .. } = resource
                && let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed())
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for resource in held {
            if let Resource::Cgroup { path } = resource {
                while fs::remove_dir(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy) {
                    std::thread::yield_now();
                }
            }
        }
    }
}
