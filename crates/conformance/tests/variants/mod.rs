//! The providers as this machine can test them.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use sandbar_backends::{ProviderOptions, Registry};
use sandbar_conformance::{Account, Availability, Claims, IdPool, Subject, World};
use sandbar_core::{RootSource, SandboxProvider};
use sandbar_runtime::image::ImageStore;

pub mod container;

/// The user that `cargo xtask setup` makes.
pub const TEST_USER: &str = "sandbar-test";

pub type Preparing<'a> = Pin<Box<dyn Future<Output = Availability> + Send + 'a>>;

/// A provider of the registry that works here, and where its variant keeps things.
pub struct Found {
    provider: Arc<dyn SandboxProvider>,
    claims: Claims,
    folder: PathBuf,
    home: PathBuf,
}

impl Found {
    /// Looks a provider up and probes it; the reason when it cannot be used.
    pub async fn find(world: &World, variant: &str, provider: &str) -> Result<Self, String> {
        Self::find_with(world, variant, provider, ProviderOptions::new).await
    }

    /// The same with options for the state folder.
    pub async fn find_with(
        world: &World,
        variant: &str,
        provider: &str,
        options: impl FnOnce(PathBuf) -> ProviderOptions,
    ) -> Result<Self, String> {
        let folder = |name: &str| world.folder(name).map_err(|error| format!("no folder: {error}"));
        let (folder, home) = (folder(variant)?, folder(&format!("{variant}/state"))?);
        let registry = Registry::new(&options(home.clone()));
        let provider = registry.get(provider).map_err(|error| error.chain())?;
        let probe = provider.probe().await;
        if !probe.usable {
            return Err(format!("{}{}", probe.verdict, probe.hint.map(|hint| format!(" ({hint})")).unwrap_or_default()));
        }
        Ok(Self { provider, claims: registry.claims().clone(), folder, home })
    }

    /// The image `host`.
    pub async fn host_image(&self) -> Result<RootSource, String> {
        let root = match ImageStore::open(&self.home) {
            Ok(store) => store.resolve(None).await,
            Err(error) => Err(error),
        };
        root.map_err(|error| format!("there is no image `host`: {}", error.chain()))
    }

    pub fn subject(self, variant: &str, root: RootSource) -> Subject {
        Subject {
            name: variant.to_owned(),
            provider: self.provider,
            claims: self.claims,
            root,
            folder: self.folder,
            ids: is_root().then(IdPool::new),
            reach: Vec::new(),
            crash: None,
            only: None,
            memory: None,
            patience: 1,
            threads: None,
        }
    }
}

/// Whether a user can give itself several ids.
pub fn can_map(account: &Account) -> bool {
    account.has_ranges() && ["/usr/bin/newuidmap", "/bin/newuidmap"].iter().any(|program| Path::new(program).exists())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
