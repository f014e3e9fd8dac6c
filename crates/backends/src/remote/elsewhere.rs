use http::Method;
use sandbar_core::Result;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncRead;

use super::client::{Ask, Client};

/// What another sandbar has beside sandboxes, as its server tells of it: there, and not here.
///
/// Every call fails with what the other side says, and with `Unavailable` when it cannot be reached, or tells of things in a way that is not known.
pub struct Elsewhere {
    client: Client,
}

impl Elsewhere {
    pub(super) fn of(client: Client) -> Self {
        Self { client }
    }

    /// Its images.
    ///
    /// # Errors
    /// As the type says; so do all others.
    pub async fn images(&self) -> Result<Value> {
        self.list("images").await
    }

    /// Has an image fetched from a registry, by the other side.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn pull_image(&self, reference: &str) -> Result<Value> {
        self.client.ask(Ask::post("/v1/images/pull", &json!({ "reference": reference })).slow()).await
    }

    /// Sends an image: a tar (plain, gzip or zstd) of a file system, of an OCI layout, or of `docker save`; `tag` says which one, where it holds several.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn import_image(&self, archive: &mut (dyn AsyncRead + Send + Unpin), tag: Option<&str>, name: Option<&str>) -> Result<Value> {
        let ask = with_some(Ask::new(Method::POST, "/v1/images/import"), [("tag", tag), ("name", name)]);
        self.client.send_for(ask, "application/x-tar", archive).await
    }

    /// Removes an image, or a name of it.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn remove_image(&self, reference: &str) -> Result<Value> {
        self.client.ask(removal("images", reference)).await
    }

    /// Its kernels.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn kernels<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        self.list("kernels").await
    }

    /// Sends a kernel that has everything built in, or a package with one.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn import_kernel<T: DeserializeOwned>(&self, kernel: &mut (dyn AsyncRead + Send + Unpin), name: Option<&str>) -> Result<T> {
        let ask = with_some(Ask::new(Method::POST, "/v1/kernels/import"), [("name", name)]);
        self.client.send_for(ask, "application/octet-stream", kernel).await
    }

    /// Removes a kernel.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn remove_kernel(&self, name: &str) -> Result<()> {
        self.client.tell(removal("kernels", name)).await
    }

    /// Its templates.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn templates<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        self.list("templates").await
    }

    /// Removes a template.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn remove_template(&self, id: &str) -> Result<()> {
        self.client.tell(removal("templates", id)).await
    }

    /// Its server's keys.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn keys<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        self.list("keys").await
    }

    /// Has a key made for its server. The answer has the secret.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn create_key(&self, wanted: &Value) -> Result<Value> {
        self.client.ask(Ask::post("/v1/keys", wanted)).await
    }

    /// Removes a key.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn remove_key(&self, name: &str) -> Result<()> {
        self.client.tell(removal("keys", name)).await
    }

    async fn list<T: DeserializeOwned>(&self, kind: &str) -> Result<T> {
        self.client.ask(Ask::get(format!("/v1/{kind}"))).await
    }
}

fn with_some<const COUNT: usize>(ask: Ask, parameters: [(&str, Option<&str>); COUNT]) -> Ask {
    parameters.into_iter().fold(ask, |ask, (key, value)| match value {
        Some(value) => ask.with(key, value),
        None => ask,
    })
}

fn removal(kind: &str, name: &str) -> Ask {
    let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    Ask::new(Method::DELETE, format!("/v1/{kind}/{name}"))
}
