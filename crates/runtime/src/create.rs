//! Making sandboxes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sandbar_core::{
    CheckpointId, Context, Error, ErrorKind, Feature, Lifetime, Network, ProvisionRequest, RestoreRequest, Result, RootSource,
    SandboxHandle, SandboxId, SandboxSpec, SecretValue, check_name,
};

use crate::{
    CreateRequest, Runtime, Sandbox,
    choice::{Choice, Wish},
    clock,
    egress::{Vault, values, variables},
    fault, home,
    image::Pin,
    ledger::{Age, LedgerJournal, NewSandbox, SandboxRow},
    lock::SandboxLock,
    root::Resolved,
    runtime::{gone, to_the_end},
};

/// How long a creation waits for somebody who has the lock of its id: more than `gc` needs to remove one that has no sandbox yet.
const COLLECTED: Duration = Duration::from_secs(5);

/// A sandbox about to be made, from an image or from a checkpoint.
pub(crate) struct Plan {
    /// A fresh one when `None`.
    pub(crate) id: Option<SandboxId>,
    pub(crate) name: Option<String>,
    pub(crate) choice: Choice,
    pub(crate) image: String,
    pub(crate) root: RootSource,
    /// Keeps the image until the row is written.
    pub(crate) pin: Option<Arc<Pin>>,
    pub(crate) spec: SandboxSpec,
    pub(crate) lifetime: Lifetime,
    /// What is to be kept of its secrets here.
    pub(crate) vault: Option<Vault>,
    /// What another host is to keep of them.
    pub(crate) secret_values: BTreeMap<String, SecretValue>,
    /// The checkpoint it begins from.
    pub(crate) from: Option<(CheckpointId, RestoreRequest)>,
}

impl Runtime {
    /// Makes a sandbox and returns when its agent answers.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `Unavailable` with what is missing, `InvalidInput` and `Unsupported` for what cannot be.
    pub async fn create(&self, request: CreateRequest) -> Result<Sandbox> {
        let runtime = self.clone();
        to_the_end(async move {
            let deed = match &request.provider {
                Some(provider) => runtime.deed("create").at(provider),
                None => runtime.deed("create"),
            };
            match runtime.create_now(request).await {
                Ok(sandbox) => deed.on(sandbox.id(), sandbox.name()).end(Ok(sandbox)),
                failed => deed.end(failed),
            }
        })
        .await
    }

    async fn create_now(&self, mut request: CreateRequest) -> Result<Sandbox> {
        request.name.as_deref().map_or(Ok(()), check_name)?;
        request.spec.limits.check()?;
        if request.spec.network == Network::Default {
            request.spec.network = self.config().network.clone();
        }
        let image = request.image.as_deref().or(self.config().image.as_deref());
        let policy = request.spec.network.policy();
        request.spec.secrets.check(|name| request.spec.env.contains_key(name), policy.as_ref())?;
        let wish = Wish {
            provider: request.provider.as_deref(),
            isolation: request.isolation,
            image,
            features: request.spec.features().collect(),
            spec: Some(&request.spec),
            is_question: false,
        };
        let choice = self.choose(wish).await?;
        let Resolved { image, root, pin } = self.resolve_image(image, &choice).await?;
        let CreateRequest { id, name, mut spec, secret_values, lifetime, .. } = request;
        let (vault, secret_values) = if choice.provider.is_elsewhere() {
            spec.secrets.vault = None;
            (None, values(&spec.secrets, &secret_values)?)
        } else {
            (Vault::prepare(&mut spec.secrets, &secret_values)?, BTreeMap::new())
        };
        let pin = pin.map(Arc::new);
        self.bring_up(Plan { id, name, choice, image, root, pin, spec, lifetime, vault, secret_values, from: None }).await
    }

    /// The lock of an id that no sandbox has. `gc` may have it for a moment, when it finds the file before it is locked here.
    async fn lock_of_new(&self, id: &SandboxId) -> Result<SandboxLock> {
        if let Some(lock) = SandboxLock::try_take(self.home(), id, "create")? {
            return Ok(lock);
        }
        let lock = SandboxLock::take(self.home(), id, "create", COLLECTED).await?;
        // It was no `gc`: somebody has made a sandbox of this id meanwhile.
        if self.ledger().sandbox(id)?.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "create", "somebody works on a sandbox of this id").with("id", id));
        }
        Ok(lock)
    }

    /// Carries out a plan. Undoes what it did when it fails.
    pub(crate) async fn bring_up(&self, mut plan: Plan) -> Result<Sandbox> {
        let provider = &plan.choice.provider;
        if let Some(holder) = self.holder() {
            holder.allow(&plan.spec, provider.info().isolation, provider.is_elsewhere())?;
            holder.allow_network(&plan.spec.network, &self.config().network)?;
        }
        let id = plan.id.take().map_or_else(|| Ok(SandboxId::from_random(random()?)), Ok)?;
        let lock = self.lock_of_new(&id).await?;
        let expires_ms = plan.spec.ttl.map(|ttl| clock::now_ms().saturating_add(clock::millis(ttl)));
        let asks = !plan.choice.provider.is_elsewhere() && plan.choice.provider.info().features.has(Feature::NetworkRules);
        let gated = plan.spec.network.policy().is_some() && asks;
        let new = NewSandbox {
            id: &id,
            name: plan.name.as_deref(),
            provider: &plan.choice.name,
            image: &plan.image,
            choice: &plan.choice.reason,
            lifetime: plan.lifetime,
            expires_ms,
            gated,
            base: plan.from.as_ref().map(|(base, _)| base),
            spec: &plan.spec,
            root: &plan.root,
            key: self.holder().map(|holder| holder.key),
            first_id: rustix::process::geteuid().is_root().then_some(self.config().first_id),
            operator: self.me(),
        };
        let ids = match self.ledger().insert_sandbox(&new) {
            Ok(ids) => ids,
            Err(error) => {
                // Another sandbox may have this id, if the caller chose it.
                if self.ledger().sandbox(&id)?.is_none() {
                    lock.remove();
                }
                return Err(error);
            }
        };
        plan.pin = None;
        fault::point("create.row");
        let kept = plan.vault.as_ref().map_or(Ok(()), |vault| vault.keep(self.home(), &plan.spec.secrets));
        let made = match kept {
            Ok(()) => self.make_place(&id, &plan, ids).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(handle) => {
                let revision = self.ledger().standing(&id)?.ok_or_else(|| gone(&id))?.2;
                fault::point("create.finished");
                drop(lock);
                let remark = plan.choice.notable.then(|| format!("{}: {}", plan.choice.name, plan.choice.reason));
                let sandbox = Sandbox::with_handle(self.clone(), id, plan.name, remark, revision, handle);
                if !plan.spec.secrets.is_empty()
                    && let Err(error) = sandbox.establish_trust().await
                {
                    sandbox.destroy_now().await?;
                    return Err(error);
                }
                if expires_ms.is_some() {
                    self.arrange_deadline(&sandbox, plan.lifetime).await?;
                }
                if gated {
                    self.arrange_egress(&sandbox, plan.lifetime).await?;
                }
                Ok(sandbox)
            }
            Err(error) => {
                // Also of one that was named: another host's client names what was chosen here. A remembered probe must not speak for it any more.
                if error.kind() == ErrorKind::Unavailable && !plan.choice.provider.is_elsewhere() {
                    self.ledger().delete_probe(&plan.choice.name)?;
                }
                let row = self.row(&id)?;
                if let Err(undoing) = self.undo_provision(&row, lock).await {
                    tracing::warn!(%id, error = undoing.chain(), "a sandbox that could not be made could not be undone either");
                }
                Err(error)
            }
        }
    }

    async fn make_place(&self, id: &SandboxId, plan: &Plan, ids: Option<sandbar_core::IdRange>) -> Result<Arc<dyn SandboxHandle>> {
        let folder = self.home().sandbox(id);
        home::make(&folder).context("create", || format!("cannot make {}", folder.display()))?;
        fault::point("create.folder");
        let request = ProvisionRequest {
            id: id.clone(),
            spec: as_provided(&plan.spec, plan.name.as_deref()),
            secret_values: plan.secret_values.clone(),
            root: plan.root.clone(),
            folder: folder.clone(),
            ids,
            lifetime: plan.lifetime,
            journal: Arc::new(LedgerJournal::of_new(Arc::clone(self.ledger()), id.clone(), folder)),
        };
        let handle = match &plan.from {
            None => plan.choice.provider.provision(request).await?,
            Some((_, from)) => plan.choice.provider.restore(request, from.clone()).await?,
        };
        fault::point("create.provisioned");
        Ok(handle.into())
    }

    /// Removes everything of a sandbox that never came to be, its row last.
    pub(crate) async fn undo_provision(&self, row: &SandboxRow, lock: SandboxLock) -> Result<()> {
        let undo = async {
            self.reclaim(row, Age::Any).await?;
            self.remove_folder(&row.provider, &row.id, self.home().sandbox(&row.id)).await?;
            self.ledger().delete_sandbox(&row.id)?;
            self.forget_secrets(&row.spec)
        };
        match undo.await {
            Ok(()) => {
                lock.remove();
                Ok(())
            }
            Err(error) => {
                self.ledger().note_attempt(&row.id, &error.chain())?;
                Err(error)
            }
        }
    }

    /// Gives resources back, and forgets them.
    pub(crate) async fn reclaim(&self, row: &SandboxRow, age: Age) -> Result<()> {
        let resources = self.ledger().resources(&row.id, age)?;
        if resources.is_empty() {
            return Ok(());
        }
        self.provider(&row.provider)?.reclaim(&row.id, &resources).await?;
        resources.iter().try_for_each(|resource| self.ledger().forget(&row.id, resource))
    }

    /// Removes a folder that a provider has filled. What this user may not remove (files of other ids, without root) its provider may.
    pub(crate) async fn remove_folder(&self, provider: &str, id: &SandboxId, folder: std::path::PathBuf) -> Result<()> {
        // It is empty as a rule: the provider has removed what was in it.
        if std::fs::remove_dir(&folder).is_ok() {
            return Ok(());
        }
        let path = folder.clone();
        let removed = tokio::task::spawn_blocking(move || home::remove(&path)).await;
        let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let Err(error) = removed else { return Ok(()) };
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            if let Ok(provider) = self.provider(provider) {
                provider.reclaim(id, &[sandbar_core::Resource::Folder { path: folder.clone() }]).await?;
            } else {
                // A checkpoint that came from elsewhere may name a provider that this build does not have.
                let path = folder.clone();
                crate::image::blocking(move || crate::system::as_layer_owner(|| home::remove(&path))).await?;
            }
            if !folder.exists() {
                return Ok(());
            }
        }
        Err(error).context("remove", || format!("cannot remove {}", folder.display()))
    }
}

/// The specification as the provider gets it: the host name is the sandbox's name, unless another one was asked for; and the variables that secrets need are
/// set, unless somebody has.
pub(crate) fn as_provided(spec: &SandboxSpec, name: Option<&str>) -> SandboxSpec {
    let hostname = spec.hostname.clone().or_else(|| name.map(str::to_owned));
    let mut env = spec.env.clone();
    for (name, value) in variables(&spec.secrets) {
        env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    SandboxSpec { hostname, env, ..spec.clone() }
}

/// Random bytes, for an id or a secret.
pub(crate) fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from).context("create", || "cannot get random bytes".to_owned())?;
    Ok(bytes)
}
