use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memchr::memmem;
use rustls::{ClientConfig, sign::CertifiedKey};
use sandbar_core::{DomainName, PLACEHOLDER_PREFIX, Result, Secret, Secrets};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{authority::Authority, tls, value, vault::Vault};
use crate::home::Home;

/// Connections to secrets' hosts at the same time: with the heads, windows and buffers of `exchange` and TLS they take 1 GiB at most, where every one is filled.
pub(super) const MOST_CONNECTIONS: usize = 128;
/// How long a certificate is used for new connections, of the week that it is good for.
const RENEWAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The secrets of one sandbox where its connections pass.
pub(crate) struct Keyring {
    home: Home,
    secrets: Secrets,
    /// The authorities that servers are to be certified by; the host's own when `None`.
    roots: Option<PathBuf>,
    /// What was read once, and does not change.
    vault: Mutex<Option<Arc<Vault>>>,
    certified: Mutex<HashMap<DomainName, (Instant, Arc<CertifiedKey>)>>,
    client: Mutex<Option<Arc<ClientConfig>>>,
    places: Arc<Semaphore>,
}

/// Where a placeholder stands.
pub(super) struct Place<'a> {
    pub(super) begin: usize,
    pub(super) secret: &'a Secret,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keyring {
    pub(crate) fn new(home: Home, secrets: Secrets, roots: Option<PathBuf>) -> Self {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        Self { home, secrets, roots, vault: Mutex::default(), certified: Mutex::default(), client: Mutex::default(), places }
    }

    /// Whether a secret is for this host.
    pub(crate) fn has(&self, host: &DomainName) -> bool {
        self.of(host).next().is_some()
    }

    /// The secrets that are for this host.
    pub(super) fn of<'a>(&'a self, host: &'a DomainName) -> impl Iterator<Item = &'a Secret> {
        self.secrets.list.iter().filter(|secret| secret.hosts.contains(host))
    }

    /// Whether everything is there that connections to this host need.
    ///
    /// # Errors
    /// What is gone.
    pub(crate) fn check(&self, host: &DomainName) -> Result<()> {
        self.vault()?;
        self.of(host).try_for_each(|secret| self.value(secret).map(drop))
    }

    /// A place for one connection more.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// What a secret is at this moment.
    ///
    /// # Errors
    /// When its source is gone.
    pub(super) fn value(&self, secret: &Secret) -> Result<String> {
        match self.vault()?.values.get(&secret.name) {
            Some(value) => Ok(value.clone()),
            None => value::of_source(secret),
        }
    }

    pub(super) fn vault(&self) -> Result<Arc<Vault>> {
        let mut vault = lock(&self.vault);
        match &*vault {
            Some(vault) => Ok(Arc::clone(vault)),
            None => Ok(Arc::clone(vault.insert(Arc::new(Vault::read(&self.home, &self.secrets)?)))),
        }
    }

    /// What stands for a host towards the sandbox.
    ///
    /// # Errors
    /// When the authority is gone.
    pub(super) fn certified(&self, host: &DomainName) -> Result<Arc<CertifiedKey>> {
        let mut certified = lock(&self.certified);
        if let Some((made, key)) = certified.get(host)
            && made.elapsed() < RENEWAL
        {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(Authority::of(&self.vault()?.key)?.certify(host)?);
        certified.insert(host.clone(), (Instant::now(), Arc::clone(&key)));
        Ok(key)
    }

    /// How servers are spoken with. What they are to be certified by is read once.
    ///
    /// # Errors
    /// When there are no authorities.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut client = lock(&self.client);
        match &*client {
            Some(client) => Ok(Arc::clone(client)),
            None => Ok(Arc::clone(client.insert(Arc::new(tls::client(self.roots.as_deref())?)))),
        }
    }

    /// The placeholders in these bytes, in order.
    pub(super) fn places<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Place<'a>> {
        memmem::find_iter(bytes, PLACEHOLDER_PREFIX).filter_map(move |begin| {
            let is_it = |secret: &&Secret| bytes[begin..].starts_with(secret.placeholder.as_bytes());
            self.secrets.list.iter().find(is_it).map(|secret| Place { begin, secret })
        })
    }

    /// Bytes that a placeholder has at most.
    pub(super) fn longest(&self) -> usize {
        self.secrets.list.iter().map(|secret| secret.placeholder.len()).max().unwrap_or(0)
    }

    /// The secrets whose placeholders are in a text.
    pub(crate) fn found_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.places(text.as_bytes()).map(|place| place.secret.name.as_str())
    }
}

/// For tests of what has one: with secrets of these names, hosts and values, and servers that are certified by what is in `roots.pem`.
#[cfg(test)]
pub(super) fn example(folder: &std::path::Path, list: &[(&str, &str, &str)]) -> Keyring {
    let home = Home::open(&folder.join("home")).unwrap();
    let mut secrets = Secrets::default();
    for (name, host, value) in list {
        let path = folder.join(name);
        std::fs::write(&path, value).unwrap();
        secrets.list.push(format!("{name}=file:{}@{host}", path.display()).parse().unwrap());
    }
    let vault = Vault::prepare(&mut secrets, &std::collections::BTreeMap::new()).unwrap().unwrap();
    vault.keep(&home, &secrets).unwrap();
    for secret in &mut secrets.list {
        // Known to the test.
        secret.placeholder = format!("{PLACEHOLDER_PREFIX}{}", secret.name);
    }
    Keyring::new(home, secrets, Some(folder.join("roots.pem")))
}
