//! What this machine can do for sandboxes, and what to do next.

use std::{path::Path, sync::Arc, time::Duration};

use sandbar_backends::{
    Provider,
    doctor::{Check, examine},
};
use sandbar_core::{Error, ErrorKind, ExecRequest, Isolation, Probe, Result, SandboxProvider, SandboxSpec};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    CreateRequest, Runtime,
    choice::{begins_with_base, how_to_get_base},
    root::BASE,
    runtime::to_the_end,
};

/// A provider's probe has deadlines of its own; this is for those that an engine or the kernel keeps from being met.
const PATIENCE: Duration = Duration::from_secs(120);
/// A whole life, of an emulated machine that was never booted too.
const LIFETIME: Duration = Duration::from_secs(600);
/// When its sandbox ends by itself, whatever has become of whoever made it: a little later.
const END: Duration = Duration::from_secs(LIFETIME.as_secs() + 60);
/// What a sandbox says if it works.
const HELLO: &str = "hello";

/// What was found.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Whether code can be run behind a wall here: a provider with one is usable, and whatever was asked to say hello has said it.
    pub healthy: bool,
    /// The providers, the strongest wall first.
    pub providers: Vec<ProviderDiagnosis>,
    /// The host.
    pub host: Vec<Check>,
}

/// A provider.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProviderDiagnosis {
    /// Its name, as given to `--on`.
    pub name: String,
    /// How strong its wall is.
    pub isolation: Isolation,
    /// Whether a sandbox can be expected to be made, if need be of an image that is named: from trying.
    pub usable: bool,
    /// One sentence: what was found, or what is missing.
    pub verdict: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// Whether a sandbox of it was made, has said hello and is gone; `None` where that was not tried, since it was not asked for, or the default image is missing.
    pub said_hello: Option<bool>,
    /// Whether it is usable and its default image is not here.
    #[serde(default)]
    pub lacks_base: bool,
}

impl Diagnosis {
    /// The host alone, where there is no state folder to be had.
    pub async fn of_host(home: &Path) -> Self {
        Self { healthy: false, providers: Vec::new(), host: examine(home).await }
    }
}

impl Runtime {
    /// Tries what this machine has, everything at the same time and within deadlines. With `say_hello`, makes a sandbox with each usable provider too, one after
    /// the other.
    pub async fn diagnose(&self, say_hello: bool) -> Diagnosis {
        let home = self.config().home.clone();
        let host = tokio::spawn(async move { examine(&home).await });
        let mut asked = JoinSet::new();
        let has_base = self.images().resolve(Some(BASE)).await.is_ok();
        for (place, Provider { name, isolation, provider }) in self.providers().iter().enumerate() {
            let (name, isolation, provider) = (*name, *isolation, Arc::clone(provider));
            asked.spawn(async move { (place, ProviderDiagnosis::of(name, isolation, provider, has_base).await) });
        }
        let mut providers = asked.join_all().await;
        providers.sort_by_key(|(place, _)| *place);
        let mut providers: Vec<ProviderDiagnosis> = providers.into_iter().map(|(_, provider)| provider).collect();
        for provider in providers.iter_mut().filter(|provider| say_hello && provider.usable && !provider.lacks_base) {
            let said = tokio::time::timeout(LIFETIME, self.say_hello(&provider.name)).await.unwrap_or_else(|_| Err(late(LIFETIME)));
            provider.said_hello = Some(said.is_ok());
            if let Err(error) = said {
                provider.verdict = format!("did not say hello: {}", error.chain());
                provider.hint = error.hint().map(str::to_owned);
            }
        }
        let walled = |provider: &ProviderDiagnosis| provider.usable && provider.isolation > Isolation::None;
        let healthy = providers.iter().any(walled) && providers.iter().all(|provider| provider.said_hello != Some(false));
        Diagnosis { healthy, providers, host: host.await.unwrap_or_default() }
    }

    /// The same with a sandbox of each usable provider: one test after the other, whoever asks, and each goes on to its end when its caller stops waiting.
    ///
    /// # Errors
    /// `Internal` where it is cut off.
    pub async fn self_test(&self) -> Result<Diagnosis> {
        let turn = self.self_test_turn().await;
        let runtime = self.clone();
        to_the_end(async move {
            let diagnosis = runtime.diagnose(true).await;
            drop(turn);
            Ok(diagnosis)
        })
        .await
    }

    /// A whole life with one command.
    async fn say_hello(&self, provider: &str) -> Result<()> {
        let spec = SandboxSpec { ttl: Some(END), ..SandboxSpec::default() };
        let sandbox = self.create(CreateRequest { provider: Some(provider.to_owned()), spec, ..CreateRequest::default() }).await?;
        let said = sandbox.exec(ExecRequest::argv(["echo", HELLO])).await;
        // Gone before anything is said about it.
        let gone = sandbox.destroy().await;
        let said = said?;
        gone?;
        if said.stdout_text().trim() != HELLO {
            let message = format!("its command said {:?} and {:?}", said.stdout_text(), said.stderr_text());
            return Err(Error::new(ErrorKind::Unavailable, "doctor", message));
        }
        Ok(())
    }
}

impl ProviderDiagnosis {
    async fn of(name: &str, isolation: Isolation, provider: Arc<dyn SandboxProvider>, has_base: bool) -> Self {
        let Probe { usable, mut verdict, mut hint } = tried(provider.as_ref()).await;
        let lacks_base = usable && !has_base && begins_with_base(&provider.info().features);
        if lacks_base {
            verdict = format!("its default image `{BASE}` is not here; {verdict}");
            hint = Some(how_to_get_base(name));
        }
        Self { name: name.to_owned(), isolation, usable, verdict, hint, said_hello: None, lacks_base }
    }

    pub(crate) fn to_probe(&self) -> Probe {
        Probe { usable: self.usable, verdict: self.verdict.clone(), hint: self.hint.clone() }
    }
}

/// What a provider's probe says, within a deadline.
pub(crate) async fn tried(provider: &dyn SandboxProvider) -> Probe {
    let probe = tokio::time::timeout(PATIENCE, provider.probe()).await;
    probe.unwrap_or_else(|_| Probe { usable: false, verdict: late(PATIENCE).message().to_owned(), hint: None })
}

fn late(patience: Duration) -> Error {
    Error::new(ErrorKind::TimedOut, "doctor", format!("no answer within {} seconds", patience.as_secs()))
}
