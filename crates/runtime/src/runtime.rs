use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use sandbar_core::{Claim, Error, ErrorKind, Feature, Isolation, Lifetime, Result, SandboxId, SandboxProvider, SandboxSpec, SecretValue};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinSet,
};

use crate::{
    ProviderOptions, Registry, RuntimeConfig, Sandbox, SandboxSummary,
    audit::AuditWriter,
    egress::LocalEgress,
    home::Home,
    image::ImageStore,
    keeper,
    key::Holder,
    lately::Trials,
    ledger::{Ledger, SandboxRow},
    ports::LocalPorts,
    process_identity::ProcessIdentity,
    system,
};

/// Everything that is kept in one state folder, and the providers that work on it. Cheap to clone.
///
/// # Behavior
/// - any number of processes may have one state folder open; none must be running.
/// - what changes a sandbox goes on to its end when its caller stops waiting for it (a dropped future), and is finished or undone by
///   the next process when this one is killed.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
    /// On whose behalf; `None`: of the state folder's owner.
    pub(crate) holder: Option<Arc<Holder>>,
    /// Whether the owner came with the token, by a server.
    pub(crate) by_token: bool,
}

pub(crate) struct Inner {
    config: RuntimeConfig,
    home: Home,
    ledger: Arc<Ledger>,
    images: ImageStore,
    providers: Registry,
    me: ProcessIdentity,
    ports: LocalPorts,
    egress: LocalEgress,
    audit: AuditWriter,
    trials: Trials,
    /// Self-tests come one after the other.
    self_test: Arc<Mutex<()>>,
}

/// A runtime that may be gone.
#[derive(Clone)]
pub(crate) struct WeakRuntime(Weak<Inner>);

impl WeakRuntime {
    pub(crate) fn upgrade(&self) -> Option<Runtime> {
        self.0.upgrade().map(|inner| Runtime { inner, holder: None, by_token: false })
    }
}

/// What a new sandbox shall be.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Its id, of somebody who must know it before the sandbox is there; a fresh one when `None`.
    pub id: Option<SandboxId>,
    /// A name that no other sandbox has; see [`check_name`](sandbar_core::check_name).
    pub name: Option<String>,
    /// The provider. `None`: the configuration's; else, and for `auto`, the weakest usable one that meets the floor and has what is asked for, which is
    /// the container where it works. `dangerous-host` is never chosen, only named.
    pub provider: Option<String>,
    /// The least isolation that is accepted.
    pub isolation: Option<Isolation>,
    /// The image; `None`: the configuration's, else the provider's default.
    pub image: Option<String>,
    /// Everything else.
    pub spec: SandboxSpec,
    /// The values of those of its secrets that are [given](sandbar_core::SecretSource::Given), by their names.
    pub secret_values: BTreeMap<String, SecretValue>,
    /// Whether it outlives this process.
    pub lifetime: Lifetime,
}

impl Runtime {
    /// Opens a state folder, making it if needed, with the providers of this build; finishes or undoes what processes that died were doing.
    ///
    /// # Errors
    /// `PermissionDenied`, `ResourceExhausted` or `Corrupt` when the state folder cannot be used, with the reason.
    pub async fn open(mut config: RuntimeConfig) -> Result<Self> {
        config.home = absolute(&config.home);
        let providers = Registry::new(&ProviderOptions {
            gvisor: config.gvisor.clone(),
            firecracker: config.firecracker.clone(),
            qemu: config.qemu.clone(),
            docker_host: config.docker_host.clone(),
            ssh: config.ssh.clone(),
            ..ProviderOptions::new(&config.home)
        });
        Self::open_with(config, providers).await
    }

    /// As [`open`](Self::open), with these providers.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(config: RuntimeConfig, providers: Registry) -> Result<Self> {
        let runtime = Self::assemble(config, providers)?;
        if !keeper::is_keeper() {
            runtime.recover_lightly().await;
        }
        Ok(runtime)
    }

    /// Opens without looking at what others left.
    fn assemble(mut config: RuntimeConfig, providers: Registry) -> Result<Self> {
        config.home = absolute(&config.home);
        let home = Home::open(&config.home)?;
        let boot = config.boot_id.clone().map_or_else(system::boot_id, Ok)?;
        let me = ProcessIdentity::current(&boot)?;
        let ledger = Arc::new(Ledger::open(&home.ledger(), &boot)?);
        let images = ImageStore::open(home.path())?;
        let audit = AuditWriter::new(home.audit());
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                home,
                ledger,
                images,
                providers,
                me,
                ports: LocalPorts::default(),
                egress: LocalEgress::default(),
                audit,
                trials: Trials::default(),
                self_test: Arc::default(),
            }),
            holder: None,
            by_token: false,
        })
    }

    /// The sandbox that is meant: an id, a name, or a prefix of an id (with or without `sb-`) that no other id has.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` with the matches when there are several.
    pub async fn sandbox(&self, reference: &str) -> Result<Sandbox> {
        match self.ledger().find_sandbox(reference, self.own()) {
            Ok(row) => Ok(Sandbox::of(self.clone(), &row)),
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.audit_unknown(reference);
                }
                Err(error)
            }
        }
    }

    /// All sandboxes, the oldest first, without asking them how they are.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        Ok(self.ledger().sandboxes(self.own())?.iter().map(|row| Sandbox::of(self.clone(), row)).collect())
    }

    /// All sandboxes, the oldest first. States are what is true now: each running one was asked, all at the same time.
    ///
    /// # Errors
    /// When the ledger cannot be read. A sandbox that does not answer is no error, but told in its summary.
    pub async fn list(&self) -> Result<Vec<SandboxSummary>> {
        self.summarize(self.ledger().sandboxes(self.own())?).await
    }

    /// A page of that list: at most `limit` after the one that was made at this moment (Unix milliseconds) and has this id. With it comes the place where the
    /// next page begins, if there is one. Only those of the page are asked.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn list_after(&self, after: Option<(u64, &str)>, limit: usize) -> Result<(Vec<SandboxSummary>, Option<(u64, SandboxId)>)> {
        let mut rows = self.ledger().sandboxes_after(after, limit.saturating_add(1), self.own())?;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| !is_last).map(|row| (row.created_ms, row.id.clone()));
        Ok((self.summarize(rows).await?, next))
    }

    async fn summarize(&self, rows: Vec<SandboxRow>) -> Result<Vec<SandboxSummary>> {
        /// Asking is a connection each.
        const AT_ONCE: usize = 64;
        let mut rows = rows.into_iter().enumerate();
        let mut tasks = JoinSet::new();
        let mut found = Vec::new();
        loop {
            while tasks.len() < AT_ONCE
                && let Some((index, row)) = rows.next()
            {
                let sandbox = Sandbox::of(self.clone(), &row);
                tasks.spawn(async move { (index, sandbox.summarize(row).await) });
            }
            let Some(done) = tasks.join_next().await else { break };
            let (index, summary) = done.map_err(|error| Error::new(ErrorKind::Internal, "list", "a task failed").with_source(error))?;
            match summary {
                Ok(summary) => found.push((index, summary)),
                // Removed since the rows were read.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|(index, _)| *index);
        Ok(found.into_iter().map(|(_, summary)| summary).collect())
    }

    /// The providers: their names, what they are, and probes.
    pub fn providers(&self) -> &Registry {
        &self.inner.providers
    }

    /// The images of this state folder. To remove one, [`remove_image`](Self::remove_image) knows who needs it.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    /// On whose behalf this is used; `None`: of the state folder's owner.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_deref()
    }

    /// Whether the sandboxes and checkpoints of everybody are seen.
    pub fn sees_all(&self) -> bool {
        self.own().is_none()
    }

    /// Whose sandboxes and checkpoints alone are seen.
    pub(crate) fn own(&self) -> Option<i64> {
        self.holder().and_then(Holder::own)
    }

    /// A reference that does not keep the runtime: for tasks that the runtime itself keeps.
    pub(crate) fn downgrade(&self) -> WeakRuntime {
        WeakRuntime(Arc::downgrade(&self.inner))
    }

    pub(crate) fn home(&self) -> &Home {
        &self.inner.home
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    pub(crate) fn me(&self) -> &ProcessIdentity {
        &self.inner.me
    }

    pub(crate) fn local_ports(&self) -> &LocalPorts {
        &self.inner.ports
    }

    pub(crate) fn audit_writer(&self) -> &AuditWriter {
        &self.inner.audit
    }

    pub(crate) fn trials(&self) -> &Trials {
        &self.inner.trials
    }

    /// Waits until no other self-test is under way.
    pub(crate) async fn self_test_turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.inner.self_test).lock_owned().await
    }

    pub(crate) fn local_egress(&self) -> &LocalEgress {
        &self.inner.egress
    }

    /// A provider by its name.
    pub(crate) fn provider(&self, name: &str) -> Result<Arc<dyn SandboxProvider>> {
        self.providers().get(name)
    }

    /// Refuses what a provider does not claim.
    pub(crate) fn require(&self, name: &str, feature: Feature) -> Result<()> {
        let features = self.provider(name)?.info().features;
        Claim::require(name, &features, feature, self.providers().claims())
    }

    /// The row of a sandbox.
    pub(crate) fn row(&self, id: &SandboxId) -> Result<SandboxRow> {
        self.ledger().sandbox(id)?.ok_or_else(|| gone(id))
    }
}

/// Processes have different working directories, and a keeper has none.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A sandbox whose row is not there any more.
pub(crate) fn gone(id: &SandboxId) -> Error {
    Error::new(ErrorKind::NotFound, "sandbox", "there is no such sandbox any more").with("id", id)
}

/// Runs to its end whatever becomes of the caller: a change that is cut in the middle would have to be undone by somebody else.
pub(crate) async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Internal, "runtime", "the work was cut off").with_source(error)),
    }
}
