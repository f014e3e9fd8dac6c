use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use sandbar_core::{Checked, Claim, Feature, Isolation, Result, SandboxProvider};

use super::{
    address::Address,
    client::Client,
    context::Contexts,
    elsewhere::Elsewhere,
    provider::Remote,
    ssh::{Login, SshOptions},
};

/// Providers on other hosts, made when they are asked for by address, and kept: what a host has said need not be asked again.
pub struct Remotes {
    contexts: Contexts,
    login: Login,
    known: Mutex<HashMap<Address, Arc<dyn SandboxProvider>>>,
}

impl Remotes {
    /// Those of a state folder.
    pub fn of(home: &Path, ssh: SshOptions) -> Self {
        Self { contexts: Contexts::of(home), login: Login::new(ssh), known: Mutex::default() }
    }

    /// What a provider's name stands for: the address of a context, an address in its one form, or itself.
    ///
    /// # Errors
    /// `InvalidInput` for what looks like an address and is none; those of the contexts' file.
    pub fn canonical(&self, name: &str) -> Result<String> {
        if Address::is_one(name) {
            return Ok(name.parse::<Address>()?.to_string());
        }
        // A context's name, with a provider of that host behind it.
        let (context, provider) = name.split_once('/').map_or((name, None), |(context, provider)| (context, Some(provider)));
        match self.contexts.find(context)? {
            None => Ok(name.to_owned()),
            Some(url) => match provider {
                None => Ok(url),
                Some(provider) => {
                    let address: Address = url.parse()?;
                    Ok(format!("{}/{provider}", address.origin()).parse::<Address>()?.to_string())
                }
            },
        }
    }

    /// What the host at an address has beside sandboxes.
    ///
    /// # Errors
    /// `InvalidInput` for what is none.
    pub fn elsewhere(&self, address: &str) -> Result<Elsewhere> {
        Ok(Elsewhere::of(Client::new(address.parse()?, self.contexts.clone(), self.login.clone())))
    }

    /// The address of the provider that the host at an address chooses for what is asked; `None` where the address names one.
    ///
    /// # Errors
    /// `InvalidInput` for what is no address; what the other side says when none of its providers will do, and `Unavailable` when it cannot be reached.
    pub async fn choose(
        &self,
        address: &str,
        isolation: Isolation,
        image: Option<&str>,
        features: &[Feature],
        claims: &Arc<[Claim]>,
    ) -> Result<Option<String>> {
        let address: Address = address.parse()?;
        if !address.leaves_the_choice() {
            return Ok(None);
        }
        let chosen = Remote::chosen(address, self.contexts.clone(), self.login.clone(), isolation, image, features).await?;
        let address = chosen.address().clone();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(address.clone()).or_insert_with(|| Arc::new(Checked::new(chosen, Arc::clone(claims))));
        Ok(Some(address.to_string()))
    }

    /// The provider at an address.
    ///
    /// # Errors
    /// `InvalidInput` for what is none.
    pub fn get(&self, address: &str, claims: &Arc<[Claim]>) -> Result<Arc<dyn SandboxProvider>> {
        let address: Address = address.parse()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let provider = known.entry(address).or_insert_with_key(|address| {
            let remote = Remote::at(address.clone(), self.contexts.clone(), self.login.clone());
            Arc::new(Checked::new(remote, Arc::clone(claims)))
        });
        Ok(Arc::clone(provider))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use super::*;

    /// Without that, one address of a host that says nothing would hold up all clients of a server.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_host_that_says_nothing_holds_up_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let provider = Remotes::of(home.path(), SshOptions::default()).get(&address, &Arc::default()).unwrap();
        let asked = tokio::spawn(async move { provider.info() });
        let silent = tokio::task::spawn_blocking(move || listener.accept().unwrap().0).await.unwrap();
        let others = tokio::spawn(async {});
        tokio::time::timeout(Duration::from_secs(30), others).await.expect("nobody else has a turn").unwrap();
        assert!(!asked.is_finished());
        drop(silent);
        assert_eq!(asked.await.unwrap().isolation, sandbar_core::Isolation::None);
    }
}
