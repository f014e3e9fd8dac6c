//! A wall without anything behind it, and agents that say what a test wants: for tests of what the machine makes of hostile agents.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointKind, CheckpointOptions, Connection, Error, ErrorKind, Feature, FeatureSet, Isolation, Journal, Lifetime, LimitReport, Probe,
    ProviderInfo, ProvisionRequest, Resource, Result, RootSource, SandboxHandle, SandboxId, SandboxProvider, SandboxSpec, SandboxStats,
    SavedCheckpoint, State,
};
use sandbar_protocol::{
    Event, Exited, FrameReader, FrameWriter, Pong, Reply, Request, Started, Status, event, reply::Answer, request::Operation,
};
use serde_json::Value;
use tokio::{
    io::{DuplexStream, ReadHalf, WriteHalf, duplex, split},
    task::JoinHandle,
};

use super::{Backend, Boot, Facts, Machine, Memory};

pub(super) type AgentReader = FrameReader<ReadHalf<DuplexStream>>;
pub(super) type AgentWriter = FrameWriter<WriteHalf<DuplexStream>>;
type Script = dyn Fn(Operation, AgentReader, AgentWriter) -> JoinHandle<()> + Send + Sync;

/// What a test sees of the wall, and can do to it.
#[derive(Default)]
pub(super) struct Fake {
    /// Places that were booted and not halted, by number.
    pub(super) alive: Mutex<Vec<u32>>,
    pub(super) frozen: AtomicBool,
    /// Why everything is gone, if it is.
    pub(super) gone: Mutex<Option<String>>,
    /// What fails from now on.
    pub(super) failing: Mutex<Vec<&'static str>>,
    pub(super) dials: AtomicU32,
    /// So many of the next pings have their connection cut.
    pub(super) cut_pings: AtomicU32,
    /// Whether it claims to save memory.
    pub(super) has_memory: AtomicBool,
    boots: AtomicU32,
    script: Mutex<Option<Arc<Script>>>,
}

impl Fake {
    /// Answers everything but pings from now on.
    pub(super) fn answer<F: Future<Output = ()> + Send + 'static>(
        &self,
        script: impl Fn(Operation, AgentReader, AgentWriter) -> F + Send + Sync + 'static,
    ) {
        *self.script.lock().unwrap() = Some(Arc::new(move |operation, reader, writer| tokio::spawn(script(operation, reader, writer))));
    }

    fn fail_if_told(&self, what: &'static str) -> Result<()> {
        if self.failing.lock().unwrap().contains(&what) {
            return Err(Error::new(ErrorKind::Unavailable, "fake", format!("{what} fails")));
        }
        Ok(())
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let (reader, writer) = split(stream);
        let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
        if reader.preamble().await.is_err() {
            return;
        }
        let Ok(Request { operation: Some(operation) }) = reader.message::<Request>().await else { return };
        if let Operation::Ping(_) = operation {
            let one_less = |left: u32| left.checked_sub(1);
            if self.cut_pings.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                return;
            }
            if self.fail_if_told("life").is_err() {
                *self.gone.lock().unwrap() = Some("it died when it was asked".to_owned());
            } else if self.fail_if_told("ping").is_ok() {
                let _ = writer.message(&reply(Answer::Pong(Pong { agent: "fake".to_owned(), ..Pong::default() }))).await;
            }
            return;
        }
        let script = self.script.lock().unwrap().clone();
        if let Some(script) = script {
            let _ = script(operation, reader, writer).await;
        }
    }
}

pub(super) fn reply(answer: Answer) -> Reply {
    Reply { answer: Some(answer) }
}

pub(super) fn started(pid: u32) -> Reply {
    reply(Answer::Started(Started { pid, ..Started::default() }))
}

pub(super) fn exited(code: i32) -> Event {
    let status = Some(Status { code: Some(code), signal: None, timed_out: false });
    Event { what: Some(event::What::Exited(Exited { status })) }
}

pub(super) struct FakeWall(pub(super) Arc<Fake>);

#[async_trait]
impl Backend for FakeWall {
    type Place = u32;

    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: "fake".to_owned(),
            isolation: Isolation::None,
            features: if self.0.has_memory.load(Ordering::SeqCst) {
                [Feature::MemoryCheckpoint].into_iter().collect()
            } else {
                FeatureSet::default()
            },
            description: String::new(),
            notes: Vec::new(),
        }
    }

    async fn probe(&self) -> Probe {
        Probe { usable: true, verdict: String::new(), hint: None }
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<u32> {
        self.0.fail_if_told("boot")?;
        boot.journal.intend(&Resource::Cgroup { path: format!("/fake/{}", boot.generation).into() })?;
        let place = self.0.boots.fetch_add(1, Ordering::SeqCst);
        self.0.alive.lock().unwrap().push(place);
        Ok(place)
    }

    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<u32> {
        assert_eq!(memory.record, &Value::from("saved"));
        self.boot(boot).await
    }

    async fn dial(&self, place: &u32) -> Result<Connection> {
        self.0.dials.fetch_add(1, Ordering::SeqCst);
        if self.facts(place) != Facts::Alive {
            return Err(Error::new(ErrorKind::Unavailable, "dial", "nobody listens"));
        }
        let (near, far) = duplex(64 << 10);
        tokio::spawn(Arc::clone(&self.0).serve(far));
        Ok(Box::new(near))
    }

    fn facts(&self, place: &u32) -> Facts {
        if let Some(reason) = self.0.gone.lock().unwrap().clone() {
            return Facts::Gone(reason);
        }
        if !self.0.alive.lock().unwrap().contains(place) {
            return Facts::Gone("it was halted".to_owned());
        }
        if self.0.frozen.load(Ordering::SeqCst) { Facts::Frozen } else { Facts::Alive }
    }

    async fn freeze(&self, _: &u32) -> Result<()> {
        self.0.fail_if_told("freeze")?;
        self.0.frozen.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn thaw(&self, _: &u32) -> Result<()> {
        self.0.frozen.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn save(&self, _: Option<&u32>, _: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        let is_frozen = self.0.frozen.load(Ordering::SeqCst);
        assert_eq!(is_frozen, options.kind == CheckpointKind::Disk, "memory is saved while it runs, a disk while it does not");
        tokio::task::yield_now().await;
        self.0.fail_if_told("save")?;
        Ok(SavedCheckpoint { kind: options.kind, bytes: 1, files: 1, record: Value::Null })
    }

    async fn halt(&self, place: &u32, _: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        self.0.alive.lock().unwrap().retain(|alive| alive != place);
        let _ = journal;
        Ok(())
    }

    async fn remove(&self, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        let _ = std::fs::remove_dir_all(folder);
        journal.forget(&Resource::Folder { path: folder.to_owned() })
    }

    async fn usage(&self, _: &u32, _: &Path) -> Result<SandboxStats> {
        Ok(SandboxStats::default())
    }

    fn limits(&self, _: Option<&u32>, _: &SandboxSpec) -> Vec<LimitReport> {
        Vec::new()
    }

    async fn reclaim(&self, _: &SandboxId, _: &[Resource]) -> Result<()> {
        Ok(())
    }
}

/// A journal that keeps everything.
#[derive(Default)]
pub(super) struct Book {
    pub(super) held: Mutex<Vec<Resource>>,
    pub(super) commits: Mutex<Vec<(Value, State)>>,
    pub(super) steps: Mutex<Vec<&'static str>>,
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

    fn commit(&self, record: &Value, state: State) -> Result<()> {
        self.commits.lock().unwrap().push((record.clone(), state));
        Ok(())
    }

    fn step(&self, name: &'static str) {
        self.steps.lock().unwrap().push(name);
    }
}

/// A sandbox behind the fake wall with everything around it.
pub(super) struct Bench {
    pub(super) fake: Arc<Fake>,
    pub(super) book: Arc<Book>,
    pub(super) provider: Machine<FakeWall>,
    pub(super) request: ProvisionRequest,
    pub(super) folder: PathBuf,
    _home: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (fake, book) = (Arc::<Fake>::default(), Arc::<Book>::default());
        let request = ProvisionRequest {
            id: SandboxId::from_random([7; 8]),
            spec: SandboxSpec::default(),
            secret_values: BTreeMap::new(),
            root: RootSource::empty(),
            folder: home.path().to_owned(),
            ids: None,
            lifetime: Lifetime::Detached,
            journal: Arc::clone(&book) as Arc<dyn Journal>,
        };
        let provider = Machine::new(FakeWall(Arc::clone(&fake)));
        Self { fake, book, provider, request, folder: home.path().to_owned(), _home: home }
    }

    pub(super) async fn sandbox(&self) -> Box<dyn SandboxHandle> {
        self.provider.provision(self.request.clone()).await.unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A reader that fails.
pub(super) fn broken_reader() -> impl tokio::io::AsyncRead + Unpin {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the source broke")))
        }
    }
    Broken
}

/// Polls a future once: a caller that begins something and goes away.
pub(super) async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
