//! Which provider makes a sandbox, and why.

use std::sync::Arc;

use rustix::process::geteuid;
use sandbar_backends::Provider;
use sandbar_core::{Error, ErrorKind, Isolation, Result, SandboxProvider};

use crate::runtime::Runtime;

/// A provider with the reason why it was chosen, which `inspect` shows.
#[derive(Clone)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) provider: Arc<dyn SandboxProvider>,
    pub(crate) reason: String,
    /// Whether nobody named it: then a remembered probe spoke for it, and must not any more if it fails.
    pub(crate) automatic: bool,
}

impl Runtime {
    /// Chooses a provider.
    ///
    /// One that is named, by the request or by the configuration, is taken without asking whether it is usable: making the sandbox tells. Otherwise the usable ones
    /// that meet the floor are taken in the order of their isolation, the weakest first, and within it in the order of the table; so the container is
    /// the default (quick, offline, on any Linux), and a floor gives the cheapest wall that meets it. What has no wall is never chosen, only named.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown name, `Unsupported` when the named one is below the floor, `Unavailable` with what each provider lacks
    /// when there is none.
    pub(crate) async fn choose(&self, wanted: Option<&str>, floor: Option<Isolation>) -> Result<Choice> {
        let config = self.config();
        let floor = floor.max(config.isolation).unwrap_or(Isolation::None);
        match (wanted, &config.provider) {
            (Some(name), _) => self.named(name, floor, "asked for by name"),
            (None, Some(name)) => self.named(name, floor, "named by the configuration"),
            (None, None) => self.first_usable(floor).await,
        }
    }

    /// Refuses a provider below the configuration's floor.
    pub(crate) fn require_floor(&self, choice: &Choice) -> Result<()> {
        let floor = self.config().isolation.unwrap_or(Isolation::None);
        self.named(&choice.name, floor, &choice.reason).map(|_| ())
    }

    fn named(&self, name: &str, floor: Isolation, reason: &str) -> Result<Choice> {
        let provider = self.provider(name)?;
        let isolation = provider.info().isolation;
        if isolation < floor {
            let meeting: Vec<&str> = self.providers().iter().filter(|known| known.isolation >= floor).map(|known| known.name).collect();
            let error = Error::new(ErrorKind::Unsupported, "create", format!("{name} has isolation {isolation}, below the floor {floor}"));
            return Err(match meeting.is_empty() {
                true => error.with_hint(format!("no provider in this build has isolation {floor} or stronger")),
                false => error.with_hint(format!("isolation {floor} is available with --on {}", meeting.join(" or --on "))),
            });
        }
        Ok(Choice { name: name.to_owned(), provider: Arc::clone(provider), reason: reason.to_owned(), automatic: false })
    }

    async fn first_usable(&self, floor: Isolation) -> Result<Choice> {
        let mut candidates: Vec<_> = self.providers().iter().collect();
        candidates.sort_by_key(|known| known.isolation);
        let mut passed_over = Vec::new();
        let mut hint = None;
        for Provider { name, isolation, provider } in candidates {
            if *isolation == Isolation::None {
                continue;
            }
            if *isolation < floor {
                passed_over.push(format!("{name} has only {isolation}"));
                continue;
            }
            match self.verdict(name, provider.as_ref()).await? {
                Ok(verdict) => {
                    let mut reason = format!("the first usable provider with isolation {floor} or stronger: {verdict}");
                    if !passed_over.is_empty() {
                        reason = format!("{reason} (passed over: {})", passed_over.join("; "));
                    }
                    return Ok(Choice { name: (*name).to_owned(), provider: Arc::clone(provider), reason, automatic: true });
                }
                Err((verdict, how)) => {
                    passed_over.push(format!("{name}: {verdict}"));
                    hint = hint.or_else(|| how.map(|how| format!("{name}: {how}")));
                }
            }
        }
        let list =
            if passed_over.is_empty() { "there is no provider with a wall in this build".to_owned() } else { passed_over.join("; ") };
        let error = Error::new(ErrorKind::Unavailable, "create", format!("no usable provider with isolation {floor} or stronger: {list}"));
        Err(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    /// What the probe says, or said lately if it was good.
    async fn verdict(&self, name: &str, provider: &dyn SandboxProvider) -> Result<Result<String, (String, Option<String>)>> {
        let user = geteuid().as_raw();
        let version = env!("CARGO_PKG_VERSION");
        if let Some(verdict) = self.ledger().usable_probe(name, user, version)? {
            return Ok(Ok(verdict));
        }
        let probe = provider.probe().await;
        if !probe.usable {
            return Ok(Err((probe.verdict, probe.hint)));
        }
        self.ledger().set_probe(name, user, version, &probe.verdict)?;
        Ok(Ok(probe.verdict))
    }
}
