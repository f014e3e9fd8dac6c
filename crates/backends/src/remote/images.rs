use http::Method;
use sandbar_core::Result;
use serde_json::{Value, json};
use tokio::io::AsyncRead;

use super::client::{Ask, Client};

/// The images of another sandbar, as its server tells of them: there, and not here.
pub struct Images {
    client: Client,
}

impl Images {
    pub(super) fn of(client: Client) -> Self {
        Self { client }
    }

    /// All of them.
    ///
    /// # Errors
    /// What the other side says; `Unavailable` when it cannot be reached.
    pub async fn list(&self) -> Result<Value> {
        self.client.ask(Ask::get("/v1/images")).await
    }

    /// Has one fetched from a registry, by the other side.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn pull(&self, reference: &str) -> Result<Value> {
        self.client.ask(Ask::post("/v1/images/pull", &json!({ "reference": reference })).slow()).await
    }

    /// Sends one: a tar (plain, gzip or zstd) of a file system, of an OCI layout, or of `docker save`; `tag` says which one, where it holds several.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn import(&self, archive: &mut (dyn AsyncRead + Send + Unpin), tag: Option<&str>, name: Option<&str>) -> Result<Value> {
        let mut ask = Ask::new(Method::POST, "/v1/images/import");
        for (key, value) in [("tag", tag), ("name", name)] {
            if let Some(value) = value {
                ask = ask.with(key, value);
            }
        }
        self.client.send_for(ask, "application/x-tar", archive).await
    }

    /// Removes one, or a name of it.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn remove(&self, reference: &str) -> Result<Value> {
        let reference: String = form_urlencoded::byte_serialize(reference.as_bytes()).collect();
        self.client.ask(Ask::new(Method::DELETE, format!("/v1/images/{reference}"))).await
    }
}
