use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use sandbar_core::{Checked, Claim, Result, SandboxProvider};

use super::{
    address::Address,
    client::Client,
    context::Contexts,
    elsewhere::Elsewhere,
    needs::Needs,
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
    pub async fn choose(&self, address: &str, needs: &Needs<'_>, claims: &Arc<[Claim]>) -> Result<Option<String>> {
        let address: Address = address.parse()?;
        if !address.leaves_the_choice() {
            return Ok(None);
        }
        let chosen = Remote::chosen(address, self.contexts.clone(), self.login.clone(), needs).await?;
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
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
        time::Duration,
    };

    use sandbar_core::{ErrorKind, Feature, Isolation, SandboxSpec};
    use serde_json::{Value, json};

    use super::*;

    /// What a server says of its container, which is as strong as this.
    fn offer(isolation: Isolation) -> (&'static str, Value) {
        let offer = json!({
            "protocol": 1, "version": "0.0.1", "name": "container", "isolation": isolation, "features": ["limit-memory", "runtime"],
            "description": "a container", "notes": [], "probe": null,
        });
        ("200 OK", offer)
    }

    /// A server of before takes no question with needs.
    fn as_before(needs: Option<&str>) -> (&'static str, Value) {
        match needs {
            None | Some("probe=false") => offer(Isolation::Namespaces),
            Some(_) => ("400 Bad Request", json!({ "kind": "invalid_input", "detail": "unknown field `features`", "status": 400 })),
        }
    }

    /// Answers by the query. Gives its address, and has what it was asked.
    fn server(answer: fn(Option<&str>) -> (&'static str, Value)) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let questions = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&questions);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let question = head.split(' ').nth(1).unwrap().to_owned();
                let (status, body) = answer(question.split_once('?').map(|(_, query)| query));
                heard.lock().unwrap().push(question);
                let body = body.to_string();
                write!(client, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
        });
        (address, questions)
    }

    #[tokio::test]
    async fn a_server_of_before_chooses_without_the_needs_and_never_below_the_floor() {
        let home = tempfile::tempdir().unwrap();
        let (address, questions) = server(as_before);
        let remotes = Remotes::of(home.path(), SshOptions::default());
        let choose = async |isolation: Isolation, features: &[Feature]| {
            remotes.choose(&address, &Needs { isolation, image: None, features, runtime: None }, &Arc::default()).await
        };
        let container = Some(format!("{address}/container"));
        assert_eq!(choose(Isolation::None, &[Feature::LimitMemory]).await.unwrap(), container);
        let asked = ["/v1/providers/auto?features=limit-memory", "/v1/providers/auto"];
        assert_eq!(std::mem::take(&mut *questions.lock().unwrap()), asked);
        assert_eq!(choose(Isolation::Namespaces, &[]).await.unwrap(), container, "the floor is met");
        let refused = choose(Isolation::Vm, &[]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.message().contains("does not choose by a floor") && refused.chain().contains("0.0.1"), "{refused}");
        assert!(refused.hint().is_some_and(|hint| hint.contains(&format!("{address}/"))), "{refused}");
        // Nothing is asked for: nothing is said.
        questions.lock().unwrap().clear();
        assert_eq!(choose(Isolation::None, &[Feature::HostImage]).await.unwrap(), container);
        assert_eq!(*questions.lock().unwrap(), ["/v1/providers/auto"]);
    }

    #[tokio::test]
    async fn a_runtime_has_the_wall_that_the_other_host_says() {
        let strong = SandboxSpec { runtime: Some("runsc".into()), ..SandboxSpec::default() };
        let home = tempfile::tempdir().unwrap();
        let remotes = Remotes::of(home.path(), SshOptions::default());
        let (address, questions) = server(|needs| {
            let is_strong = needs.is_some_and(|needs| needs.ends_with("runtime=runsc"));
            offer(if is_strong { Isolation::UserKernel } else { Isolation::Namespaces })
        });
        let needs = Needs { isolation: Isolation::UserKernel, image: None, features: &[Feature::Runtime], runtime: Some("runsc") };
        let chosen = remotes.choose(&address, &needs, &Arc::default()).await.unwrap().unwrap();
        let asked = ["/v1/providers/auto?isolation=user-kernel&features=runtime&runtime=runsc"];
        assert_eq!(*questions.lock().unwrap(), asked);
        let container = remotes.get(&chosen, &Arc::default()).unwrap();
        assert_eq!(container.isolation(&strong), Isolation::UserKernel);
        // What was asked with a runtime is not said of others.
        assert_eq!(container.isolation(&SandboxSpec::default()), Isolation::Namespaces);
        assert_eq!(container.info().isolation, Isolation::Namespaces);
        // And nothing is asked twice.
        assert_eq!(container.isolation(&strong), Isolation::UserKernel);
        assert_eq!(questions.lock().unwrap().len(), 3);

        let (address, _) = server(as_before);
        assert_eq!(remotes.get(&format!("{address}/container"), &Arc::default()).unwrap().isolation(&strong), Isolation::Namespaces);
    }

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
