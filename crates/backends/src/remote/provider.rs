use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use sandbar_core::{
    AttachRequest, Error, ErrorKind, Feature, FeatureSet, ImageKind, Isolation, Lifetime, Network, Probe, ProviderInfo, ProvisionRequest,
    Resource, RestoreRequest, Result, SandboxHandle, SandboxId, SandboxProvider, SandboxSpec, Secret, SecretValue,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    runtime::{Handle as Threads, RuntimeFlavor},
    task::block_in_place,
};

use super::{
    address::Address,
    client::{Ask, Client},
    context::Contexts,
    handle::{Handle, remove, resource, user_text},
    lease::{LEASE, Lease},
    marker::Marker,
    needs::Needs,
    problem::{OPERATION, strange},
    record::{Record, Seen},
    ssh::Login,
};

/// The name by which a host is asked for its own choice.
pub(super) const AUTO: &str = "auto";

/// The word by which a provider's isolation with a runtime within it is asked for.
pub(super) const RUNTIME: &str = "runtime";

/// What both sides must understand.
const PROTOCOL: u32 = 1;

/// What a choice may take: that host may have to try each of its providers, and waits ten seconds for a program that hangs.
const CHOOSING: Duration = Duration::from_secs(150);

/// What no sandbox on another host has: images and folders of this one.
pub(super) const NEVER: [Feature; 4] = [Feature::HostImage, Feature::LayeredImage, Feature::VolumeReadOnly, Feature::VolumeReadWrite];

/// A provider of another sandbar.
pub struct Remote {
    client: Arc<Client>,
    offer: OnceLock<Offer>,
    /// Its isolation with runtimes within it.
    with_runtime: Mutex<BTreeMap<String, Isolation>>,
}

/// What a provider says of itself there.
#[derive(Debug, Clone, Deserialize)]
struct Offer {
    protocol: u32,
    version: String,
    name: String,
    isolation: Isolation,
    features: Vec<String>,
    description: String,
    notes: Vec<String>,
    probe: Option<Probe>,
}

impl Remote {
    /// The provider at an address. Speaks to nobody yet.
    pub(super) fn at(address: Address, contexts: Contexts, login: Login) -> Self {
        Self { client: Arc::new(Client::new(address, contexts, login)), offer: OnceLock::new(), with_runtime: Mutex::default() }
    }

    /// The one that a host chooses among its own for what is asked.
    pub(super) async fn chosen(host: Address, contexts: Contexts, login: Login, needs: &Needs<'_>) -> Result<Self> {
        let auto = Self::at(host.origin(), contexts.clone(), login.clone());
        let question = || Ask::get(format!("/v1/providers/{AUTO}")).within(CHOOSING);
        let offer = match auto.put(needs.put_into(question())).await {
            // A server of another version does not take all that is said. What it would choose without, may do; it is looked at as if it had been named.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let offer = auto.put(question()).await?;
                if offer.isolation < needs.isolation {
                    let message = "the server is of a version that does not choose by a floor, or not by all that is needed";
                    return Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                        .with("its version", &offer.version)
                        .with("its choice", &offer.name)
                        .with("floor", needs.isolation)
                        .with_hint(format!("name a provider of that host which has it: --on {}/PROVIDER", host.origin()))
                        .with_source(error));
                }
                offer
            }
            answer => answer?,
        };
        let chosen = Self::at(Address { provider: Some(offer.name.clone()), ..host }, contexts, login);
        // With a runtime in the question, the isolation in the answer is that of others too.
        Ok(if needs.runtime.is_none() { Self { offer: OnceLock::from(offer), ..chosen } } else { chosen })
    }

    pub(super) fn address(&self) -> &Address {
        &self.client.address
    }

    async fn ask(&self, probe: bool) -> Result<Offer> {
        let name = self.client.address.provider.as_deref().unwrap_or(AUTO);
        let ask = Ask::get(format!("/v1/providers/{name}")).with("probe", if probe { "true" } else { "false" });
        self.put(if probe { ask.slow() } else { ask }).await
    }

    /// Puts a question about a provider there.
    async fn put(&self, ask: Ask) -> Result<Offer> {
        let value: Value = self.client.ask(ask).await?;
        let other =
            |version: &str| strange("the server is of another version, which this one does not understand").with("its version", version);
        let version = value.get("version").and_then(Value::as_str).unwrap_or("?").to_owned();
        let offer = Offer::deserialize(value).map_err(|error| other(&version).with_source(error))?;
        if offer.protocol == PROTOCOL { Ok(offer) } else { Err(other(&version)) }
    }

    async fn offer(&self) -> Result<&Offer> {
        if let Some(offer) = self.offer.get() {
            return Ok(offer);
        }
        let offer = self.ask(false).await?;
        Ok(self.offer.get_or_init(|| offer))
    }

    /// The same from where nobody can wait.
    fn offer_now(&self) -> Result<&Offer> {
        self.offer.get().map_or_else(|| now(self.offer()), Ok)
    }

    /// Asks for its isolation with a runtime within it. A server of before takes no such question, and says what its provider is without one.
    async fn isolation_with(&self, runtime: &str) -> Result<Isolation> {
        let name = self.client.address.provider.as_deref().unwrap_or(AUTO);
        match self.put(Ask::get(format!("/v1/providers/{name}")).with(RUNTIME, runtime)).await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(self.offer().await?.isolation),
            answer => Ok(answer?.isolation),
        }
    }

    /// The same, once, from where nobody can wait.
    fn isolation_with_now(&self, runtime: &str) -> Result<Isolation> {
        let known = || self.with_runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(isolation) = known().get(runtime).copied() {
            return Ok(isolation);
        }
        let isolation = now(self.isolation_with(runtime))?;
        known().insert(runtime.to_owned(), isolation);
        Ok(isolation)
    }

    /// Has it made there, and tells the ledger. What was made is removed again if something fails.
    async fn make(&self, request: ProvisionRequest, ask: Ask) -> Result<Box<dyn SandboxHandle>> {
        request.journal.intend(&resource(&self.client, &request.id))?;
        request.journal.step("remote.intended");
        match self.made(&request, ask).await {
            Ok(handle) => Ok(Box::new(handle)),
            Err(error) => {
                if error.kind() == ErrorKind::AlreadyExists {
                    // Somebody else's, or ours of a ledger that has forgotten it: not ours to remove.
                    request.journal.forget(&resource(&self.client, &request.id))?;
                    return Err(error);
                }
                match remove(&self.client, &request.id).await {
                    Ok(()) => request.journal.forget(&resource(&self.client, &request.id))?,
                    Err(undoing) => tracing::warn!(error = undoing.chain(), "what was begun on another host could not be undone yet"),
                }
                Err(error)
            }
        }
    }

    async fn made(&self, request: &ProvisionRequest, ask: Ask) -> Result<Handle> {
        self.client.tell(ask.slow()).await?;
        request.journal.step("remote.made");
        let sandbox = format!("/v1/sandboxes/{}", request.id);
        let lease = (request.lifetime == Lifetime::Owned).then(|| Lease::begin(Arc::clone(&self.client), sandbox.clone()));
        let record = Record::new(self.client.ask::<Seen>(Ask::get(sandbox)).await?);
        request.journal.commit(&record.to_value(), record.state)?;
        Ok(self.handle(request, record, lease))
    }

    fn handle(&self, request: &ProvisionRequest, record: Record, lease: Option<Arc<Lease>>) -> Handle {
        Handle {
            id: request.id.clone(),
            client: Arc::clone(&self.client),
            journal: Arc::clone(&request.journal),
            record: Mutex::new(record),
            ports: crate::expose::ExposedPorts::default(),
            lease: Mutex::new(lease),
        }
    }
}

/// How long it lives without a word from here, milliseconds.
fn ttl_ms(request: &ProvisionRequest) -> Option<u64> {
    let lease = (request.lifetime == Lifetime::Owned).then_some(LEASE);
    request.spec.ttl.into_iter().chain(lease).min().map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// Its secrets as the server takes them: each with its value, which is in no answer.
fn given_secrets(request: &ProvisionRequest) -> Result<Value> {
    let given = |secret: &Secret| match request.secret_values.get(&secret.name) {
        Some(value) => Ok(json!({ "name": secret.name, "hosts": secret.hosts, "value": value.reveal() })),
        None => Err(Error::new(ErrorKind::InvalidInput, "secret", "another host is to keep it, and no value is given with it")
            .with("secret", &secret.name)),
    };
    request.spec.secrets.list.iter().map(given).collect()
}

/// Bytes of a value that is looked for in errors: shorter ones are found where they are not meant.
const SHORTEST: usize = 8;

/// What another host, or something between, says of a creation may have its body in it. Then it is not told.
fn without_values(error: Error, values: &BTreeMap<String, SecretValue>) -> Error {
    let said = format!("{} {}", error.chain(), error.hint().unwrap_or_default());
    if values.values().any(|value| value.reveal().len() >= SHORTEST && said.contains(value.reveal())) {
        return Error::new(error.kind(), OPERATION, "the other host refuses, and says a secret with it, which is not told");
    }
    error
}

fn hostname(request: &ProvisionRequest) -> &str {
    request.spec.hostname.as_deref().unwrap_or(request.id.as_str())
}

#[async_trait]
impl SandboxProvider for Remote {
    /// Asks the other host, once. Where it cannot be asked everything is claimed, so that what is tried says why it cannot be.
    fn info(&self) -> ProviderInfo {
        let name = self.client.address.to_string();
        match self.offer_now() {
            Ok(offer) => {
                let known = |name: &String| Feature::ALL.iter().copied().find(|feature| feature.name() == name);
                ProviderInfo {
                    name,
                    isolation: offer.isolation,
                    features: offer.features.iter().filter_map(known).filter(|feature| !NEVER.contains(feature)).collect(),
                    description: format!("another host: {}", offer.description),
                    notes: [format!("{} of sandbar {}", offer.name, offer.version)]
                        .into_iter()
                        .chain(offer.notes.iter().cloned())
                        .collect(),
                }
            }
            Err(error) => ProviderInfo {
                name,
                isolation: Isolation::None,
                features: Feature::ALL.iter().copied().filter(|feature| !NEVER.contains(feature)).collect::<FeatureSet>(),
                description: "another host".to_owned(),
                notes: vec![format!("not known: {}", error.chain())],
            },
        }
    }

    /// Where it cannot be asked with the runtime, as without.
    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        let with_runtime = spec.runtime.as_deref().and_then(|runtime| self.isolation_with_now(runtime).ok());
        with_runtime.unwrap_or_else(|| self.info().isolation)
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    async fn probe(&self) -> Probe {
        match self.ask(true).await {
            Ok(Offer { probe: Some(probe), .. }) => probe,
            Ok(_) => Probe { usable: false, verdict: "the other host does not say whether it is usable".to_owned(), hint: None },
            Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
        }
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>> {
        let ImageKind::Elsewhere { image } = &request.root.kind else { return Err(of_this_host()) };
        let spec = &request.spec;
        let network = (spec.network != Network::Default).then_some(&spec.network);
        let mut env = request.root.env.clone();
        env.extend(spec.env.clone());
        let mut body = json!({
            "id": request.id,
            "provider": self.offer().await?.name,
            "image": image,
            "hostname": hostname(&request),
            "limits": spec.limits,
            "network": network,
            "env": env,
            "workdir": spec.workdir.as_ref().or(request.root.workdir.as_ref()),
            "user": spec.user.as_ref().or(request.root.user.as_ref()).map(user_text),
            "ttl_ms": ttl_ms(&request),
            "runtime": spec.runtime,
        });
        if spec.secrets.is_empty() {
            return self.make(request, Ask::post("/v1/sandboxes", &body)).await;
        }
        body["secrets"] = given_secrets(&request)?;
        let values = request.secret_values.clone();
        self.make(request, Ask::post("/v1/sandboxes", &body)).await.map_err(|error| without_values(error, &values))
    }

    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>> {
        let record = Record::read(&request.record)?;
        Ok(Box::new(self.handle(&request.provision, record, None)))
    }

    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>> {
        let ImageKind::Elsewhere { .. } = &from.root.kind else { return Err(of_this_host()) };
        let marker = Marker::of_root(&from.root, &self.client.address)?;
        let body = json!({
            "from": marker.checkpoint,
            "id": request.id,
            "hostname": hostname(&request),
            "limits": request.spec.limits,
            // Where none is named, that host stays with the checkpoint's.
            "provider": self.client.address.provider,
            "ttl_ms": ttl_ms(&request),
            "without_memory": from.memory.is_none(),
        });
        self.make(request, Ask::post("/v1/forks", &body)).await
    }

    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()> {
        let mut outcome = Ok(());
        for held in resources {
            let reclaimed = match held {
                Resource::Engine { .. } if *held == resource(&self.client, id) => remove(&self.client, id).await,
                Resource::Folder { path } => match tokio::fs::remove_dir_all(path).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::io(OPERATION, "cannot remove a folder", error).with("path", path.display()))
                    }
                    _ => Ok(()),
                },
                other => {
                    Err(Error::new(ErrorKind::Internal, OPERATION, "not a resource of another host").with("resource", format!("{other:?}")))
                }
            };
            outcome = outcome.and(reclaimed);
        }
        outcome
    }

    async fn discard_checkpoint(&self, folder: &Path) -> Result<()> {
        let Some(marker) = Marker::read(folder)?.filter(|marker| marker.is_of(&self.client.address)) else { return Ok(()) };
        let ask = Ask::new(http::Method::DELETE, format!("/v1/checkpoints/{}", marker.checkpoint)).slow();
        match self.client.tell(ask).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// What comes of asking, from where nobody can wait.
fn now<T: Send>(asking: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let failed = || Error::new(ErrorKind::Internal, OPERATION, "no thread can be had to ask");
    let ask = || {
        thread::scope(|scope| {
            let asked = thread::Builder::new().spawn_scoped(scope, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| failed().with_source(error))?.block_on(asking)
            });
            asked.map_err(|error| failed().with_source(error))?.join().unwrap_or_else(|_| Err(failed()))
        })
    };
    // The other host may take its time. Where others have the same thread, they get another one.
    match Threads::try_current().map(|threads| threads.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(ask),
        _ => ask(),
    }
}

fn of_this_host() -> Error {
    Error::new(ErrorKind::Unsupported, OPERATION, "what only this host has cannot be begun from on another one")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use sandbar_core::{NoJournal, RootSource, Secrets};

    use super::*;

    #[test]
    fn a_secret_goes_with_its_value_and_not_without() {
        let list = vec!["TOKEN=env:MY_TOKEN@api.test,b.test".parse().unwrap(), "KEY=file:/run/key@api.test".parse().unwrap()];
        let spec = SandboxSpec { secrets: Secrets { vault: None, list }, ..SandboxSpec::default() };
        let mut request = ProvisionRequest {
            id: SandboxId::from_random([7; 8]),
            spec,
            secret_values: BTreeMap::from([("TOKEN".to_owned(), SecretValue::new("hunter2"))]),
            root: RootSource::elsewhere(None),
            folder: PathBuf::new(),
            ids: None,
            lifetime: Lifetime::Detached,
            journal: Arc::new(NoJournal),
        };
        let error = given_secrets(&request).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.chain().contains("KEY") && !error.chain().contains("hunter2"), "{error}");
        request.secret_values.insert("KEY".to_owned(), SecretValue::new("hunter3"));
        // Of where they came from the other host learns nothing.
        let given = json!([
            { "name": "TOKEN", "hosts": ["api.test", "b.test"], "value": "hunter2" },
            { "name": "KEY", "hosts": ["api.test"], "value": "hunter3" },
        ]);
        assert_eq!(given_secrets(&request).unwrap(), given);
    }

    #[test]
    fn an_error_with_a_value_in_it_is_not_told() {
        let values = BTreeMap::from([("TOKEN".to_owned(), SecretValue::new("correct horse"))]);
        let error = |message: &str| Error::new(ErrorKind::InvalidInput, OPERATION, message);
        for told in
            [error("no: correct horse"), error("no").with_hint("try correct horse"), error("no").with_source(error("correct horse"))]
        {
            let told = without_values(told, &values);
            assert!(told.kind() == ErrorKind::InvalidInput && !format!("{told:?} {}", told.chain()).contains("horse"), "{told:?}");
        }
        assert_eq!(without_values(error("no horse"), &values).message(), "no horse");
    }
}
