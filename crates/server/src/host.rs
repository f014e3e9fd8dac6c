use std::sync::Arc;

use axum::Json;
use sandbar_core::{Error, ErrorKind, Feature, Isolation, Result, SandboxProvider, SandboxSpec};
use sandbar_runtime::{Address, Diagnosis, Runtime};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Admin, May, Read},
    extract::{Path, Query},
    problem::{Answer, Problem},
};

/// What clients of one number understand of the other side. It grows when an old client would misunderstand a new server.
const PROTOCOL: u32 = 1;

/// Tell what the server's host can do for sandboxes: everything is tried, which may take a moment, and holds for some seconds
#[utoipa::path(get, path = "/v1/doctor", tag = "host", operation_id = "doctor",
    responses((status = 200, body = Diagnosis), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn diagnose(app: May<Read>) -> Answer<Json<Diagnosis>> {
    Ok(Json(app.runtime.diagnosed_lately().await?))
}

/// Tell what the server's host can do for sandboxes, and have each usable provider make one that says hello
#[utoipa::path(post, path = "/v1/doctor", tag = "host", operation_id = "self_test",
    responses((status = 200, body = Diagnosis), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn self_test(app: May<Admin>) -> Answer<Json<Diagnosis>> {
    Ok(Json(app.runtime.self_test().await?))
}

/// What is asked about a provider.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// Whether it is to be tried, which may take a moment.
    #[serde(default)]
    probe: bool,
    /// Of `auto`: the least isolation that is accepted.
    isolation: Option<Isolation>,
    /// Of `auto`: the image that is to be begun with.
    image: Option<String>,
    /// Of `auto`: names of what is needed, with commas between.
    features: Option<String>,
    /// The runtime within the provider that is to be used, as in the creation of a sandbox: its isolation is told.
    runtime: Option<String>,
}

impl Question {
    /// Answers for a name.
    async fn provider(&self, runtime: &Runtime, name: &str) -> Result<Arc<dyn SandboxProvider>> {
        let bad = |message: &str| Error::new(ErrorKind::InvalidInput, "provider", message);
        if name != "auto" {
            let asks = self.isolation.is_some() || self.image.is_some() || self.features.is_some();
            return if asks {
                Err(bad("what a provider is to have is asked of auto, which chooses one"))
            } else {
                runtime.provider_for(name).await
            };
        }
        let words = self.features.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
        let known = |word: &str| {
            let found = Feature::ALL.iter().copied().find(|feature| feature.name() == word);
            found.ok_or_else(|| bad("this version knows no such feature").with("feature", format!("{word:?}")))
        };
        let features = words.map(known).collect::<Result<_>>()?;
        runtime.provider_with(self.isolation, self.image.as_deref(), features, self.runtime.clone()).await
    }
}

/// A provider of the server's host.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Offer {
    /// What clients of this number understand; 1.
    protocol: u32,
    /// The version of the server's program.
    version: &'static str,
    /// The provider's name.
    name: String,
    /// How strong its wall is.
    isolation: Isolation,
    /// What it can do on the server's host.
    features: Vec<String>,
    /// One sentence about the wall.
    description: String,
    /// Versions of the engine, ways of working.
    notes: Vec<String>,
    /// What trying it has shown; only where that was asked for.
    probe: Option<Tried>,
}

/// What trying has shown.
#[derive(Debug, Serialize, ToSchema)]
struct Tried {
    /// Whether a sandbox can be expected to be made.
    usable: bool,
    /// One sentence.
    verdict: String,
    /// What the user can do about it.
    hint: Option<String>,
}

/// Tell what a provider of the server's host can do; `auto` is the one that is taken where none is named, and this is asked for
#[utoipa::path(get, path = "/v1/providers/{name}", tag = "host", operation_id = "inspect_provider",
    params(("name" = String, Path), Question),
    responses((status = 200, body = Offer), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn provider(app: May<Read>, Path(name): Path<String>, Query(question): Query<Question>) -> Answer<Json<Offer>> {
    require_own(&app.runtime, Some(&name))?;
    let provider = question.provider(&app.runtime, &name).await?;
    let info = provider.info();
    let probe = match question.probe {
        false => None,
        true => {
            let sandbar_core::Probe { usable, verdict, hint } = app.runtime.probed_lately(&info.name, &provider).await?;
            Some(Tried { usable, verdict, hint })
        }
    };
    Ok(Json(Offer {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION"),
        name: info.name,
        isolation: match question.runtime {
            None => info.isolation,
            runtime => provider.isolation(&SandboxSpec { runtime, ..SandboxSpec::default() }),
        },
        features: info.features.iter().map(|feature| feature.name().to_owned()).collect(),
        description: info.description,
        notes: info.notes,
        probe,
    }))
}

/// Refuses a provider on yet another host: a server answers for its own. A name may be that of a context of its state folder, and where there is none, or `auto`, the
/// configuration may have one.
///
/// # Errors
/// `InvalidInput`; those of the contexts' file.
pub(crate) fn require_own(runtime: &Runtime, provider: Option<&str>) -> Result<()> {
    let Some(name) = provider.filter(|name| *name != "auto").or(runtime.config().provider.as_deref()) else { return Ok(()) };
    if !Address::is_one(name) && !Address::is_one(&runtime.providers().canonical(name)?) {
        return Ok(());
    }
    let message = "a server makes sandboxes on its own host";
    Err(Error::new(ErrorKind::InvalidInput, "provider", message).with("provider", format!("{name:?}")))
}
