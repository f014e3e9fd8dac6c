use std::{path::PathBuf, sync::Arc};

use sandbar_core::{Checked, Claim, Error, ErrorKind, Isolation, Result, SandboxProvider};

#[cfg(target_os = "linux")]
use crate::{container, dangerous_host, docker, firecracker, gvisor, qemu};
use crate::{
    options::{FirecrackerOptions, GvisorOptions, QemuOptions},
    remote::{Address, Elsewhere, Needs, Remotes, SshOptions},
};

/// What every provider is made with.
#[derive(Debug, Clone, Default)]
pub struct ProviderOptions {
    /// The state folder (`SANDBAR_HOME`).
    pub home: PathBuf,
    /// How `gvisor` uses `runsc`.
    pub gvisor: GvisorOptions,
    /// How `firecracker` uses Firecracker.
    pub firecracker: FirecrackerOptions,
    /// How `qemu` uses QEMU.
    pub qemu: QemuOptions,
    /// Where the container engine is, in the form of `DOCKER_HOST`; found when `None`.
    pub docker_host: Option<String>,
    /// How `ssh://` is used.
    pub ssh: SshOptions,
}

impl ProviderOptions {
    /// The defaults, for a state folder.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into(), ..Self::default() }
    }
}

/// One provider of this build.
pub struct Enrolled {
    /// Its name, as given to `--on`.
    pub name: &'static str,
    /// How strong its wall is.
    pub isolation: Isolation,
    /// What it can do at its best.
    pub claim: fn() -> Claim,
    make: fn(&ProviderOptions, Arc<[Claim]>) -> Arc<dyn SandboxProvider>,
}

/// Every provider of this build, the strongest wall first. A backend is enrolled by one entry here.
#[cfg(target_os = "linux")]
pub const PROVIDERS: &[Enrolled] = &[
    Enrolled {
        name: "firecracker",
        isolation: Isolation::Vm,
        claim: firecracker::claim,
        make: |options, claims| Arc::new(Checked::new(firecracker::Firecracker::provider(&options.home, &options.firecracker), claims)),
    },
    Enrolled {
        name: "qemu",
        isolation: Isolation::Vm,
        claim: qemu::claim,
        make: |options, claims| Arc::new(Checked::new(qemu::Qemu::provider(&options.home, &options.qemu), claims)),
    },
    Enrolled {
        name: "gvisor",
        isolation: Isolation::UserKernel,
        claim: gvisor::claim,
        make: |options, claims| Arc::new(Checked::new(gvisor::Gvisor::provider(&options.home, options.gvisor.clone()), claims)),
    },
    Enrolled {
        name: "container",
        isolation: Isolation::Namespaces,
        claim: container::claim,
        make: |options, claims| Arc::new(Checked::new(container::Container::provider(&options.home), claims)),
    },
    Enrolled {
        name: "docker",
        isolation: Isolation::Namespaces,
        claim: docker::claim,
        make: |options, claims| Arc::new(Checked::new(docker::Docker::provider(&options.home, options.docker_host.as_deref()), claims)),
    },
    Enrolled {
        name: "dangerous-host",
        isolation: Isolation::None,
        claim: dangerous_host::claim,
        make: |options, claims| Arc::new(Checked::new(dangerous_host::DangerousHost::provider(&options.home), claims)),
    },
];

/// None: a wall needs a Linux kernel. Those of other hosts have addresses.
#[cfg(not(target_os = "linux"))]
pub const PROVIDERS: &[Enrolled] = &[];

/// The providers, made and wrapped in [`Checked`] with one another's claims. The default has none: an embedder adds those it wants.
#[derive(Clone, Default)]
pub struct Registry {
    providers: Vec<Provider>,
    claims: Arc<[Claim]>,
    /// Those on other hosts, which have addresses for names.
    remotes: Option<Arc<Remotes>>,
}

/// A provider of a [`Registry`].
#[derive(Clone)]
pub struct Provider {
    /// Its name.
    pub name: &'static str,
    /// How strong its wall is.
    pub isolation: Isolation,
    /// It.
    pub provider: Arc<dyn SandboxProvider>,
}

impl Registry {
    /// All providers of this build. Touches nothing: a provider looks at the machine when it is asked.
    pub fn new(options: &ProviderOptions) -> Self {
        let claims: Arc<[Claim]> = PROVIDERS.iter().map(|enrolled| (enrolled.claim)()).collect();
        let made = PROVIDERS.iter().map(|enrolled| Provider {
            name: enrolled.name,
            isolation: enrolled.isolation,
            provider: (enrolled.make)(options, Arc::clone(&claims)),
        });
        let remotes = Some(Arc::new(Remotes::of(&options.home, options.ssh.clone())));
        Self { providers: made.collect(), claims, remotes }
    }

    /// The same with one more, or one in the place of its name: for embedders and tests.
    #[must_use]
    pub fn with(mut self, claim: Claim, isolation: Isolation, provider: impl SandboxProvider + 'static) -> Self {
        let name = claim.provider;
        let others = self.claims.iter().filter(|other| other.provider != name).cloned();
        self.claims = others.chain([claim]).collect();
        self.providers.retain(|known| known.name != name);
        let provider = Arc::new(Checked::new(provider, Arc::clone(&self.claims)));
        self.providers.push(Provider { name, isolation, provider });
        self.providers.sort_by_key(|known| std::cmp::Reverse(known.isolation));
        self
    }

    /// What a provider's name stands for, in the one form in which it is kept: a context's name is an address.
    ///
    /// # Errors
    /// `InvalidInput` for what looks like an address and is none; those of the contexts' file.
    pub fn canonical(&self, name: &str) -> Result<String> {
        match &self.remotes {
            Some(remotes) if self.providers.iter().all(|known| known.name != name) => remotes.canonical(name),
            _ => Ok(name.to_owned()),
        }
    }

    /// What another host has beside sandboxes, where this name stands for one.
    ///
    /// # Errors
    /// As [`canonical`](Self::canonical).
    pub fn elsewhere(&self, name: &str) -> Result<Option<Elsewhere>> {
        let name = self.canonical(name)?;
        match self.remotes.as_ref().filter(|_| Address::is_one(&name)) {
            Some(remotes) => remotes.elsewhere(&name).map(Some),
            None => Ok(None),
        }
    }

    /// Where a name stands for another host and for no provider there: the address of the one that this host chooses for what is asked.
    ///
    /// # Errors
    /// As [`canonical`](Self::canonical); what the other side says when none of its providers will do, and `Unavailable` when it cannot be reached.
    pub async fn chosen_elsewhere(&self, name: &str, needs: &Needs<'_>) -> Result<Option<String>> {
        let name = self.canonical(name)?;
        match self.remotes.as_ref().filter(|_| Address::is_one(&name)) {
            Some(remotes) => remotes.choose(&name, needs, &self.claims).await,
            None => Ok(None),
        }
    }

    /// The provider of this name, or at this address.
    ///
    /// # Errors
    /// `NotFound`, with the names there are; `InvalidInput` for what looks like an address and is none.
    pub fn get(&self, name: &str) -> Result<Arc<dyn SandboxProvider>> {
        if let Some(remotes) = self.remotes.as_ref().filter(|_| Address::is_one(name)) {
            return remotes.get(name, &self.claims);
        }
        self.providers.iter().find(|known| known.name == name).map(|known| Arc::clone(&known.provider)).ok_or_else(|| {
            let names: Vec<&str> = self.providers.iter().map(|known| known.name).collect();
            Error::new(ErrorKind::NotFound, "provider", "this build has no such provider").with("name", format!("{name:?}")).with_hint(
                format!("there are {}, contexts (sandbar context ls), and https:// or ssh:// for another host", names.join(", ")),
            )
        })
    }

    /// All of them, the strongest wall first.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter()
    }

    /// What everybody claims at best.
    pub fn claims(&self) -> &Arc<[Claim]> {
        &self.claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_what_providers_say_of_themselves() {
        let registry = Registry::new(&ProviderOptions::new("/nonexistent"));
        for (enrolled, known) in PROVIDERS.iter().zip(registry.iter()) {
            let info = known.provider.info();
            let claim = (enrolled.claim)();
            assert_eq!((enrolled.name, enrolled.name, enrolled.isolation), (info.name.as_str(), claim.provider, info.isolation));
            assert!(info.features.iter().all(|feature| claim.features.has(feature)), "{}", enrolled.name);
        }
        assert!(PROVIDERS.is_sorted_by_key(|enrolled| std::cmp::Reverse(enrolled.isolation)));
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_there_are() {
        let registry = Registry::new(&ProviderOptions::new("/nonexistent"));
        let error = registry.get("nope").err().unwrap();
        assert!(error.hint().unwrap().contains("dangerous-host"));
    }
}
