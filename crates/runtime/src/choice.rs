//! Which provider makes a sandbox, and why.

use std::sync::Arc;

use rustix::process::geteuid;
use sandbar_backends::{
    Provider,
    remote::{Address, Needs},
};
use sandbar_core::{Error, ErrorKind, Feature, FeatureSet, Isolation, Result, SandboxProvider, SandboxSpec};

use crate::{image::HOST, root::BASE, runtime::Runtime};

/// The name that asks for a choice, also where the configuration names a provider.
pub(crate) const AUTO: &str = "auto";

/// What a request has that says something about the network.
const NETWORKS: [Feature; 3] = [Feature::NetworkNone, Feature::NetworkOpen, Feature::NetworkRules];

/// A provider with the reason why it was chosen, which `inspect` shows.
#[derive(Clone)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) provider: Arc<dyn SandboxProvider>,
    pub(crate) reason: String,
    /// Whether the reason says more than that the usual one was taken.
    pub(crate) notable: bool,
}

/// What is asked of a provider.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish<'a> {
    /// Its name.
    pub(crate) provider: Option<&'a str>,
    /// The least isolation.
    pub(crate) isolation: Option<Isolation>,
    /// The image.
    pub(crate) image: Option<&'a str>,
    /// What the specification needs.
    pub(crate) features: Vec<Feature>,
    /// The specification, where there is one.
    pub(crate) spec: Option<&'a SandboxSpec>,
    /// Whether it is only asked, and nothing made: then what was tried a moment ago holds, whatever came of it.
    pub(crate) is_question: bool,
}

impl Runtime {
    /// Chooses a provider.
    ///
    /// One that is named, by the request or by the configuration, is taken without asking whether it is usable: making the sandbox tells. Of another host without a provider's name that
    /// host chooses, by the same rules. Otherwise, and for
    /// the name `auto`, the usable ones that meet the floor and claim everything that is asked for are taken in the order of their isolation, the weakest
    /// first, and within it in the order of the table; so the container is the default (quick, offline, on any Linux), and a floor gives the cheapest wall
    /// that meets it. What has no wall is never chosen, only named.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown name, `Unsupported` when the named one is below the floor, `Unavailable` with what each provider lacks
    /// when there is none.
    pub(crate) async fn choose(&self, wish: Wish<'_>) -> Result<Choice> {
        let config = self.config();
        let floor = wish.isolation.max(config.isolation).unwrap_or(Isolation::None);
        let (name, reason) = match (wish.provider, &config.provider) {
            (Some(name), _) if name != AUTO => (name, "asked for by name"),
            (None, Some(name)) if name != AUTO => (name.as_str(), "named by the configuration"),
            _ => return self.first_usable(floor, &wish).await,
        };
        let runtime = wish.spec.and_then(|spec| spec.runtime.as_deref());
        let needs = Needs { isolation: floor, image: wish.image, features: &wish.features, runtime };
        match self.providers().chosen_elsewhere(name, &needs).await? {
            None => self.named(name, floor, wish.spec, reason),
            Some(chosen) => {
                let choice = self.named(&chosen, floor, wish.spec, &format!("{reason}; the other host's choice among its providers"))?;
                Ok(Choice { notable: wish.isolation.is_some(), ..choice })
            }
        }
    }

    /// The provider of this name; for `auto` the one that is taken where none is named, and nothing is asked for. Providers are tried for it as [`probed_lately`](Self::probed_lately) does.
    ///
    /// # Errors
    /// `NotFound` with the names there are; `Unavailable` with what each provider lacks when there is none.
    pub async fn provider_for(&self, name: &str) -> Result<Arc<dyn SandboxProvider>> {
        match name {
            AUTO => self.provider_with(None, None, Vec::new(), None).await,
            name => self.choose(Wish { provider: Some(name), is_question: true, ..Wish::default() }).await.map(|choice| choice.provider),
        }
    }

    /// The provider that is taken where none is named, and this is asked for; of what is not said the configuration's image and network, as when a sandbox is made. A `runtime`
    /// within it is asked for by its name. Providers are tried for it as [`probed_lately`](Self::probed_lately) does.
    ///
    /// # Errors
    /// `Unavailable` with what each provider lacks when there is none; `Unsupported` when the configuration names one below the floor.
    pub async fn provider_with(
        &self,
        isolation: Option<Isolation>,
        image: Option<&str>,
        mut features: Vec<Feature>,
        runtime: Option<String>,
    ) -> Result<Arc<dyn SandboxProvider>> {
        let image = image.or(self.config().image.as_deref());
        if !features.iter().any(|feature| NETWORKS.contains(feature)) {
            features.extend(self.config().network.features());
        }
        if runtime.is_some() && !features.contains(&Feature::Runtime) {
            features.push(Feature::Runtime);
        }
        let spec = SandboxSpec { runtime, ..SandboxSpec::default() };
        let wish = Wish { isolation, image, features, spec: Some(&spec), is_question: true, ..Wish::default() };
        self.choose(wish).await.map(|choice| choice.provider)
    }

    /// Refuses a provider below the configuration's floor.
    pub(crate) fn require_floor(&self, choice: &Choice, spec: &SandboxSpec) -> Result<()> {
        let floor = self.config().isolation.unwrap_or(Isolation::None);
        self.named(&choice.name, floor, Some(spec), &choice.reason).map(|_| ())
    }

    fn named(&self, name: &str, floor: Isolation, spec: Option<&SandboxSpec>, reason: &str) -> Result<Choice> {
        let name = self.providers().canonical(name)?;
        let name = name.as_str();
        let provider = self.provider(name)?;
        let isolation = spec.map_or_else(|| provider.info().isolation, |spec| provider.isolation(spec));
        if isolation < floor {
            let host = if provider.is_elsewhere() { format!("{}/", name.parse::<Address>()?.origin()) } else { String::new() };
            let meeting = self.providers().iter().filter(|known| known.isolation >= floor);
            let meeting: Vec<String> = meeting.map(|known| format!("{host}{}", known.name)).collect();
            let error = Error::new(ErrorKind::Unsupported, "create", format!("{name} has isolation {isolation}, below the floor {floor}"));
            return Err(error.with_hint(match (meeting.join(" or --on "), host.is_empty()) {
                (meeting, true) if meeting.is_empty() => format!("no provider in this build has isolation {floor} or stronger"),
                (meeting, true) => format!("isolation {floor} is available with --on {meeting}"),
                (meeting, false) if meeting.is_empty() => format!("name a provider of that host which has it: --on {host}PROVIDER"),
                // Which of them it has, that host knows.
                (meeting, false) => format!("isolation {floor} may be available there with --on {meeting}"),
            }));
        }
        Ok(Choice { name: name.to_owned(), provider, reason: reason.to_owned(), notable: false })
    }

    async fn first_usable(&self, floor: Isolation, wish: &Wish<'_>) -> Result<Choice> {
        let mut candidates: Vec<_> = self.providers().iter().collect();
        if candidates.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "create", "this build has no walls, which need a Linux kernel")
                .with_hint("name a Linux host: `--on ssh://user@host`, or once and for all `sandbar context add` and `context use`"));
        }
        candidates.sort_by_key(|known| known.isolation);
        let mut passed_over = Vec::new();
        let mut hints = Vec::new();
        // One below the floor is passed over because its user said so.
        let mut surprising = false;
        for Provider { name, isolation, provider } in candidates {
            if *isolation == Isolation::None {
                continue;
            }
            // A runtime that is named may be a stronger wall than the provider's usual one.
            let isolation = match wish.spec.filter(|spec| spec.runtime.is_some()) {
                Some(spec) => provider.isolation(spec),
                None => *isolation,
            };
            if isolation < floor {
                passed_over.push(format!("{name} has only {isolation}"));
                continue;
            }
            if let Some(lack) = lack(&provider.info().features, wish) {
                surprising = true;
                passed_over.push(format!("{name} {lack}"));
                continue;
            }
            match self.verdict(name, provider, wish.is_question).await? {
                Ok(_) if needs_base(&provider.info().features, wish) && self.images().resolve(Some(BASE)).await.is_err() => {
                    surprising = true;
                    passed_over.push(format!("{name} needs an image, and its default `{BASE}` is not here"));
                    hints.push(format!("{name}: {}", how_to_get_base(name)));
                }
                Ok(verdict) => {
                    let mut reason = match wish.isolation.is_some() || floor > Isolation::None {
                        true => format!("the first usable provider with isolation {floor} or stronger: {verdict}"),
                        false => format!("the first usable provider: {verdict}"),
                    };
                    if !passed_over.is_empty() {
                        reason = format!("{reason} (passed over: {})", passed_over.join("; "));
                    }
                    let notable = surprising || wish.isolation.is_some() || wish.provider.is_some();
                    return Ok(Choice { name: (*name).to_owned(), provider: Arc::clone(provider), reason, notable });
                }
                Err((verdict, how)) => {
                    surprising = true;
                    passed_over.push(format!("{name}: {verdict}"));
                    hints.extend(how.map(|how| format!("{name}: {how}")));
                }
            }
        }
        let unwalled = self.providers().iter().filter(|known| known.isolation == Isolation::None);
        passed_over.extend(unwalled.map(|known| format!("{} is no wall, and is only taken by name", known.name)));
        let wanted = if floor > Isolation::None { format!(" with isolation {floor} or stronger") } else { String::new() };
        let message = format!("no provider here{wanted} can do what is asked: {}", passed_over.join("; "));
        let error = Error::new(ErrorKind::Unavailable, "create", message);
        // The edge prints each on a line of its own.
        Err(if hints.is_empty() { error } else { error.with_hint(hints.join("\n")) })
    }

    /// What the probe says, or said lately if it was good.
    async fn verdict(
        &self,
        name: &str,
        provider: &Arc<dyn SandboxProvider>,
        is_question: bool,
    ) -> Result<Result<String, (String, Option<String>)>> {
        let user = geteuid().as_raw();
        let version = env!("CARGO_PKG_VERSION");
        if let Some(verdict) = self.ledger().usable_probe(name, user, version)? {
            return Ok(Ok(verdict));
        }
        let probe = if is_question { self.probed_lately(name, provider).await? } else { provider.probe().await };
        if !probe.usable {
            return Ok(Err((probe.verdict, probe.hint)));
        }
        self.ledger().set_probe(name, user, version, &probe.verdict)?;
        Ok(Ok(probe.verdict))
    }
}

/// Whether a sandbox of it begins with the image `base`: what takes no image at all begins with an empty folder.
fn needs_base(claimed: &FeatureSet, wish: &Wish<'_>) -> bool {
    wish.image.is_none() && begins_with_base(claimed)
}

/// The same of one that nobody named an image for.
pub(crate) fn begins_with_base(claimed: &FeatureSet) -> bool {
    claimed.has(Feature::LayeredImage) && !claimed.has(Feature::HostImage)
}

/// What to do where a provider's default image is missing.
pub(crate) fn how_to_get_base(provider: &str) -> String {
    format!("sandbar setup {provider} makes it; or name another one with --image")
}

/// What keeps a provider from what is asked, in words that follow its name.
fn lack(claimed: &FeatureSet, wish: &Wish<'_>) -> Option<String> {
    let image = match wish.image {
        None => None,
        Some(HOST) => Some(Feature::HostImage),
        Some(_) => Some(Feature::LayeredImage),
    };
    let lacking: Vec<&str> =
        wish.features.iter().copied().chain(image).filter(|feature| !claimed.has(*feature)).map(Feature::name).collect();
    (!lacking.is_empty()).then(|| format!("does not have {} here", lacking.join(", ")))
}
