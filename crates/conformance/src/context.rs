use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sandbar_core::{
    CheckpointKind, CheckpointOptions, Feature, FeatureSet, Lifetime, ProvisionRequest, Resource, RestoreRequest, Result, SandboxId,
    SandboxSpec, SavedCheckpoint,
};
use tokio::time::timeout;

use crate::{Failure, Recorder, Sandbox, Subject, host};

/// The most that a destroy may take, where the subject has no more patience.
const DESTROY: Duration = Duration::from_secs(30);

/// Makes the sandboxes of one case and takes care that nothing of them is left.
pub struct Context {
    subject: Arc<Subject>,
    features: FeatureSet,
    /// The folder of this case.
    folder: PathBuf,
    made: Mutex<Vec<Sandbox>>,
    count: AtomicU64,
}

impl Context {
    /// A context for one case; its folder is made.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(subject: Arc<Subject>, case: &str) -> std::io::Result<Self> {
        let folder = subject.folder.join(case.replace("::", "-"));
        DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
        let features = subject.features();
        Ok(Self { subject, features, folder, made: Mutex::default(), count: AtomicU64::new(0) })
    }

    /// The provider under test.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether a feature is claimed here.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// A fresh empty folder on the host, mode 0755.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host_folder(&self, purpose: &str) -> std::io::Result<PathBuf> {
        let path = self.folder.join(format!("{purpose}-{}", self.next()));
        DirBuilder::new().mode(0o755).create(&path)?;
        Ok(path)
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// A request for a sandbox with the subject's own root.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn request(&self, mut spec: SandboxSpec) -> std::io::Result<(ProvisionRequest, Arc<Recorder>)> {
        spec.limits.memory = spec.limits.memory.or(self.subject.memory);
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let id = SandboxId::from_random(random);
        let folder = self.folder.join(id.as_str());
        DirBuilder::new().mode(0o700).create(&folder)?;
        let journal = Arc::new(Recorder::new(folder.clone()));
        let request = ProvisionRequest {
            id,
            spec,
            secret_values: BTreeMap::new(),
            root: self.subject.root.clone(),
            folder,
            ids: self.subject.ids.as_ref().map(|pool| pool.take()),
            lifetime: Lifetime::Detached,
            journal: Arc::clone(&journal) as _,
        };
        Ok((request, journal))
    }

    /// A sandbox with nothing particular about it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn sandbox(&self) -> Result<Sandbox, Failure> {
        self.sandbox_with(SandboxSpec::default()).await
    }

    /// A sandbox of this specification.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn sandbox_with(&self, spec: SandboxSpec) -> Result<Sandbox, Failure> {
        let (request, journal) = self.request(spec)?;
        Ok(self.provision(request, journal).await?)
    }

    /// What a provider says to a specification that it should refuse. Whatever a refused provision has left is a failure; a sandbox
    /// that was made all the same is destroyed with the others.
    ///
    /// # Errors
    /// When something is left.
    pub async fn sandbox_refusal(&self, spec: SandboxSpec) -> Result<Result<Sandbox>, Failure> {
        let (request, journal) = self.request(spec)?;
        self.refusal(request, journal).await
    }

    /// The same for a whole request.
    ///
    /// # Errors
    /// When something is left.
    pub async fn refusal(&self, request: ProvisionRequest, journal: Arc<Recorder>) -> Result<Result<Sandbox>, Failure> {
        let folder = request.folder.clone();
        let outcome = self.provision(request, Arc::clone(&journal)).await;
        if outcome.is_err() {
            let left: Vec<String> = journal.complaints().into_iter().chain(Self::left_in(&folder)).collect();
            if !left.is_empty() {
                return Err(Failure::new(format!("after a provision that was refused: {}", left.join("; "))));
            }
        }
        Ok(outcome)
    }

    /// Makes a sandbox from a request, and remembers it.
    ///
    /// # Errors
    /// Those of the provider.
    pub async fn provision(&self, request: ProvisionRequest, journal: Arc<Recorder>) -> Result<Sandbox> {
        let handle = self.subject.provider.provision(request.clone()).await?;
        Ok(self.remember(Sandbox::new(handle, request, journal, self.subject.patience)))
    }

    /// A sandbox from a checkpoint.
    ///
    /// # Errors
    /// Those of the provider.
    pub async fn fork(&self, of: &Sandbox, layer: &Path, spec: SandboxSpec) -> Result<Sandbox, Failure> {
        self.fork_from(Self::restore_request(of, layer), spec).await
    }

    /// A sandbox from what a checkpoint holds.
    ///
    /// # Errors
    /// Those of the provider.
    pub async fn fork_from(&self, from: RestoreRequest, spec: SandboxSpec) -> Result<Sandbox, Failure> {
        let (mut request, journal) = self.request(spec)?;
        request.root = from.root.clone();
        let handle = self.subject.provider.restore(request.clone(), from).await?;
        Ok(self.remember(Sandbox::new(handle, request, journal, self.subject.patience)))
    }

    /// What puts a sandbox, or a new one, back to a checkpoint of `of`.
    pub fn restore_request(of: &Sandbox, layer: &Path) -> RestoreRequest {
        let mut root = of.request().root.clone();
        root.saved_layers.push(layer.join("layer"));
        RestoreRequest { root, memory: None }
    }

    /// Saves the writable layer of a sandbox into a fresh folder.
    ///
    /// # Errors
    /// Those of the provider.
    pub async fn checkpoint(&self, of: &Sandbox) -> Result<(PathBuf, SavedCheckpoint), Failure> {
        let into = self.host_folder("checkpoint")?;
        let saved = of.checkpoint(CheckpointOptions { kind: CheckpointKind::Disk, into: into.clone() }).await?;
        Ok((into, saved))
    }

    fn remember(&self, sandbox: Sandbox) -> Sandbox {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(sandbox.clone());
        sandbox
    }

    /// Destroys a sandbox now and checks that nothing is left.
    ///
    /// # Errors
    /// When it cannot be destroyed, or something is left.
    pub async fn destroy(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        sandbox.released();
        let most = DESTROY * self.subject.patience;
        let destroyed = timeout(most, sandbox.destroy()).await;
        destroyed.map_err(|_| Failure::new(format!("destroy did not end within {} s", most.as_secs())))??;
        Self::nothing_is_left(sandbox)
    }

    /// Checks that a sandbox which is gone has left nothing.
    ///
    /// # Errors
    /// With everything that was found.
    pub fn nothing_is_left(sandbox: &Sandbox) -> Result<(), Failure> {
        let mut complaints = sandbox.journal().complaints();
        complaints.extend(Self::left_in(&sandbox.request().folder));
        if complaints.is_empty() { Ok(()) } else { Err(Failure::new(format!("after destroy: {}", complaints.join("; ")))) }
    }

    /// What is in, or mounted in, a sandbox's folder.
    pub fn left_in(folder: &Path) -> Vec<String> {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| format!("left behind: {}", entry.path().display()));
        let mounts = host::mounts_of(folder).into_iter().map(|mount| format!("still mounted: {mount}"));
        files.chain(mounts).collect()
    }

    /// Removes the case's folder. In checkpoints of a plain user there are files of the sandbox's other ids, which only the provider may remove.
    async fn remove_folder(&self) -> Result<(), Failure> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let (request, _) = self.request(SandboxSpec::default())?;
                let folder = Resource::Folder { path: self.folder.clone() };
                self.subject.provider.reclaim(&request.id, &[folder]).await.map_err(Failure::from)
            }
            removed => removed.map_err(|error| Failure::new(format!("cannot remove the case's folder: {error}"))),
        }
    }

    /// Destroys every sandbox that the case did not, checks that nothing is left, and removes the case's folder.
    ///
    /// # Errors
    /// The first sandbox with complaints.
    pub async fn finish(&self) -> Result<(), Failure> {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut outcome = Ok(());
        for sandbox in made.iter().filter(|sandbox| !sandbox.is_released()) {
            outcome = outcome.and(self.destroy(sandbox).await);
        }
        drop(made);
        if outcome.is_ok() {
            self.remove_folder().await?;
        }
        outcome
    }
}
