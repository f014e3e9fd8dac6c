use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use sandbar_core::{
    DomainName, Error, ErrorKind, Isolation, Lifetime, Limits, Network, Result, SandboxId, SandboxSpec, SandboxStats, Secret, SecretSource,
    SecretValue, Secrets, State as SandboxState, Volume,
};
use sandbar_runtime::{CreateRequest, Inspect, Runtime, SandboxSummary};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Manage, May, Read},
    extract::{Body, Path, Query},
    idempotency,
    page::{Page, Wanted},
    problem::{Answer, Problem},
};

/// What a new sandbox shall be. Everything may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Creation {
    /// Its id, of a client that must know it before the sandbox is there: `sb-` and twelve characters of `bcdfghjkmnpqrstv`.
    id: Option<SandboxId>,
    /// A name that no other sandbox has.
    name: Option<String>,
    /// The provider, or `auto`; the server's choice if it is left out.
    provider: Option<String>,
    /// The least isolation that is accepted.
    isolation: Option<Isolation>,
    /// The image; the provider's default if it is left out.
    image: Option<String>,
    /// The host name inside.
    hostname: Option<String>,
    /// What it may use at most.
    limits: Limits,
    /// What it may reach: `none`, `open`, or rules such as `allow=example.com:443`; the provider's default if it is left out.
    #[schema(value_type = Option<String>)]
    network: Option<Network>,
    /// Secrets that it uses and never sees, for the token and keys with the scope `admin`. With an `Idempotency-Key` a request
    /// with other values is the same request, and the first one's values stay: of values nothing is remembered there that could be compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<GivenSecret>,
    /// Folders of the server's host inside.
    volumes: Vec<HostFolder>,
    /// Environment of every command.
    env: BTreeMap<String, String>,
    /// Working directory of every command.
    workdir: Option<String>,
    /// The user of every command: NAME, UID or UID:GID.
    user: Option<String>,
    /// It is destroyed this many milliseconds after its creation.
    ttl_ms: Option<u64>,
    /// The runtime within the provider.
    runtime: Option<String>,
}

/// A folder of the server's host inside a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HostFolder {
    /// Its absolute path there.
    #[schema(value_type = String)]
    source: PathBuf,
    /// Its absolute path inside.
    #[schema(value_type = String)]
    target: PathBuf,
    /// Whether writing is refused.
    #[serde(default)]
    read_only: bool,
}

/// A secret: inside is a placeholder, which the server's host replaces in the headers of requests to the secret's own hosts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GivenSecret {
    /// The variable inside that has the placeholder.
    name: String,
    /// The hosts that get the value; exactly these names, which the network must allow.
    #[schema(value_type = Vec<String>)]
    hosts: Vec<DomainName>,
    /// Its value, which no answer has.
    #[schema(value_type = String)]
    value: SecretValue,
}

impl GivenSecret {
    fn take_apart(self) -> (Secret, SecretValue) {
        let hosts: BTreeSet<DomainName> = self.hosts.into_iter().collect();
        let hosts = hosts.into_iter().collect();
        (Secret { name: self.name, source: SecretSource::Given, hosts, placeholder: String::new() }, self.value)
    }
}

impl Creation {
    /// Whether it asks for secrets.
    pub(crate) const fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// What the runtime is asked for.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be.
    pub(crate) fn request(self, runtime: &Runtime) -> Result<CreateRequest> {
        if let Some(volume) = self.volumes.iter().find(|volume| !volume.source.is_absolute()) {
            return Err(Error::new(ErrorKind::InvalidInput, "create", "the source of a volume is an absolute path of the server's host")
                .with("source", volume.source.display()));
        }
        let (secrets, values): (Vec<Secret>, Vec<SecretValue>) = self.secrets.into_iter().map(GivenSecret::take_apart).unzip();
        let secret_values = secrets.iter().map(|secret| secret.name.clone()).zip(values).collect();
        let volume = |HostFolder { source, target, read_only }| Volume { source, target, read_only };
        let spec = SandboxSpec {
            hostname: self.hostname,
            limits: self.limits,
            network: self.network.unwrap_or_default(),
            secrets: Secrets { vault: None, list: secrets },
            volumes: self.volumes.into_iter().map(volume).collect(),
            env: self.env,
            workdir: self.workdir,
            user: self.user.map(|user| user.parse()).transpose()?,
            ttl: self.ttl_ms.map(Duration::from_millis),
            runtime: self.runtime,
        };
        crate::host::require_own(runtime, self.provider.as_deref())?;
        Ok(CreateRequest {
            id: self.id,
            name: self.name,
            provider: self.provider,
            isolation: self.isolation,
            image: self.image,
            spec,
            secret_values,
            lifetime: Lifetime::Detached,
        })
    }
}

/// Make a sandbox
///
/// Answers when it is ready for commands. With the header `Idempotency-Key`, the same request with the same key is the same sandbox, for a day,
/// also when the server was killed meanwhile.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "sandboxes", operation_id = "create_sandbox", request_body = Creation,
    params(("Idempotency-Key" = Option<String>, Header, description = "Any text of up to 255 characters")),
    responses((status = 201, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(app: May<Manage>, headers: HeaderMap, Body(creation): Body<Creation>) -> Answer<impl IntoResponse> {
    let key = idempotency::key(&headers)?;
    let text = serde_json::to_vec(&creation).unwrap_or_default();
    let request = creation.request(&app.runtime)?;
    let id = match key {
        None => app.runtime.create(request).await?.id().clone(),
        // To its end, also when the client goes away: it will ask again.
        Some(key) => {
            let (creations, runtime) = (Arc::clone(&app.creations), app.runtime.clone());
            let asked = tokio::spawn(async move { creations.once(&runtime, &key, &text, request).await }).await;
            asked.map_err(|error| Error::new(ErrorKind::Internal, "create", "a task failed").with_source(error))??
        }
    };
    let summary = app.runtime.sandbox(id.as_str()).await?.summary().await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, format!("/v1/sandboxes/{id}"))], Json(summary)))
}

/// List the sandboxes
#[utoipa::path(get, path = "/v1/sandboxes", tag = "sandboxes", operation_id = "list_sandboxes", params(Wanted),
    responses((status = 200, body = Page<SandboxSummary>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Read>, Query(wanted): Query<Wanted>) -> Answer<Json<Page<SandboxSummary>>> {
    let (items, next) = app.runtime.list_after(wanted.after()?, wanted.limit()?).await?;
    Ok(Json(Page::new(items, next)))
}

/// Tell everything about a sandbox
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "sandboxes", operation_id = "inspect_sandbox",
    params(("id" = String, Path, description = "An id, a name, or the beginning of an id")),
    responses((status = 200, body = Inspect), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn inspect(app: May<Read>, Path(id): Path<String>) -> Answer<Json<Inspect>> {
    Ok(Json(app.runtime.sandbox(&id).await?.inspect().await?))
}

/// How a sandbox is removed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removal {
    /// Also while it runs.
    #[serde(default)]
    force: bool,
}

/// Remove a sandbox
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", tag = "sandboxes", operation_id = "remove_sandbox", params(("id" = String, Path), Removal),
    responses((status = 204, description = "It is gone"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Manage>, Path(id): Path<String>, Query(removal): Query<Removal>) -> Answer<StatusCode> {
    let sandbox = app.runtime.sandbox(&id).await?;
    if !removal.force && matches!(sandbox.summary().await?.state, SandboxState::Running | SandboxState::Paused) {
        return Err(Error::new(ErrorKind::Conflict, "remove", "the sandbox runs")
            .with("id", sandbox.id())
            .with_hint("stop it first, or use force=true")
            .into());
    }
    sandbox.destroy().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tell what a sandbox uses
#[utoipa::path(get, path = "/v1/sandboxes/{id}/stats", tag = "sandboxes", operation_id = "sandbox_stats", params(("id" = String, Path)),
    responses((status = 200, body = SandboxStats), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stats(app: May<Read>, Path(id): Path<String>) -> Answer<Json<SandboxStats>> {
    Ok(Json(app.runtime.sandbox(&id).await?.stats().await?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(value: &str) -> serde_json::Value {
        json!({ "network": "allow=api.test:443", "secrets": [{ "name": "TOKEN", "hosts": ["api.test", "API.test"], "value": value }] })
    }

    #[test]
    fn nothing_of_a_secret_is_shown_or_remembered_of_a_request() {
        let read = |value: &str| serde_json::from_value::<Creation>(asked(value)).unwrap();
        let creation = read("hunter2");
        assert!(creation.has_secrets() && !format!("{creation:?}").contains("hunter2"));
        // What the digest of an idempotency key is made of: whoever has the ledger cannot try values on it.
        let remembered = serde_json::to_string(&creation).unwrap();
        assert!(remembered.contains("TOKEN") && !remembered.contains("hunter2"), "{remembered}");
        assert_eq!(remembered, serde_json::to_string(&read("other")).unwrap());
        let without: Creation = serde_json::from_value(json!({})).unwrap();
        assert!(!serde_json::to_string(&without).unwrap().contains("secrets"));
    }

    #[test]
    fn a_secret_has_a_value_of_the_request_and_no_other_source() {
        let (secret, value) = serde_json::from_value::<Creation>(asked("hunter2")).unwrap().secrets.remove(0).take_apart();
        assert_eq!((secret.source, secret.hosts.len(), value.reveal()), (SecretSource::Given, 1, "hunter2"));
        for other in [json!({ "source": "file:/etc/shadow" }), json!({ "value": 1_234_567 }), json!({ "vault": "x" })] {
            let mut body = asked("hunter2");
            body["secrets"][0].as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
            let error = serde_json::from_value::<Creation>(body).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("1234567"), "{error}");
        }
    }
}
