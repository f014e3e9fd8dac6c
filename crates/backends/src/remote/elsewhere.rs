use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body_util::BodyExt;
use sandbar_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{io::AsyncRead, sync::mpsc};

use super::{
    address::Address,
    client::{Ask, Client},
    marker::Marker,
    problem::{lost, strange},
};

/// What a server tells of a checkpoint that has left, at the end of it.
const EXPORTED: &str = "sandbar-exported";

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

    /// Whether a provider, by its name in the ledger, is one of this host's.
    pub fn has(&self, provider: &str) -> bool {
        Address::is_one(provider) && provider.parse::<Address>().is_ok_and(|address| address.origin() == self.client.address.origin())
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

    /// A part of its audit log, as its server answers: from a place on, which is the beginning if it is left out.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn audit<T: DeserializeOwned>(&self, cursor: Option<&str>, limit: usize, since_ms: u64, sandbox: Option<&str>) -> Result<T> {
        let ask = Ask::get("/v1/audit").with("limit", limit.to_string()).with("since_ms", since_ms.to_string());
        self.client.ask(with_some(ask, [("cursor", cursor), ("sandbox", sandbox)])).await
    }

    /// What its host can do; with `say_hello` by sandboxes that it makes.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn doctor<T: DeserializeOwned>(&self, say_hello: bool) -> Result<T> {
        let method = if say_hello { Method::POST } else { Method::GET };
        self.client.ask(Ask::new(method, "/v1/doctor").slow()).await
    }

    /// Has what crashed there cleared up.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub async fn gc<T: DeserializeOwned>(&self) -> Result<T> {
        self.client.ask(Ask::new(Method::POST, "/v1/gc").slow()).await
    }

    /// Fetches a checkpoint as one file, of which `folder` is what is kept here; `options` are the server's. The file goes to `into`, piece by piece; what is told of it at its end is
    /// returned. Whoever takes the pieces no more ends it.
    ///
    /// # Errors
    /// As [`images`](Self::images); `Unsupported` for a checkpoint that this host does not have.
    pub async fn export_checkpoint<T: DeserializeOwned>(
        &self,
        folder: &Path,
        options: &[(&str, bool)],
        into: mpsc::Sender<Bytes>,
    ) -> Result<T> {
        let marker = Marker::read(folder)?.filter(|marker| marker.is_of(&self.client.address));
        let marker = marker.ok_or_else(|| Error::new(ErrorKind::Unsupported, "checkpoint export", "the checkpoint is not on that host"))?;
        let ask = Ask::get(format!("/v1/checkpoints/{}/export", marker.checkpoint)).slow();
        // Whoever says TE says of the connection that it has it (RFC 9110, section 10.1.4).
        let ask = ask.header(header::CONNECTION, "TE".to_owned()).header(header::TE, "trailers".to_owned());
        let ask = options.iter().filter(|(_, wanted)| *wanted).fold(ask, |ask, (name, _)| ask.with(name, "true"));
        let answer = self.client.open(ask).await?;
        if !announces_its_end(answer.headers()) {
            return Err(strange("the server is of a version that does not tell what it has written, or something between keeps that back"));
        }
        let mut body = answer.into_body();
        let mut end = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            match frame.map_err(|error| lost("the file was cut off").with_source(error))?.into_data() {
                Ok(piece) => into.send(piece).await.map_err(|_| lost("nobody takes the file any more"))?,
                Err(frame) => end.extend(frame.into_trailers().unwrap_or_default()),
            }
        }
        let told = end.get(EXPORTED).ok_or_else(|| strange("the end of the file does not say what it is"))?;
        serde_json::from_slice(told.as_bytes()).map_err(|error| strange("the end of the file cannot be understood").with_source(error))
    }

    async fn list<T: DeserializeOwned>(&self, kind: &str) -> Result<T> {
        self.client.ask(Ask::get(format!("/v1/{kind}"))).await
    }
}

/// Whether it is said that the end will be told. Otherwise nothing need be read.
fn announces_its_end(head: &HeaderMap) -> bool {
    let announced = head.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    announced.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(EXPORTED))
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_an_end_that_is_announced_is_waited_for() {
        let head = |values: &[&'static str]| values.iter().map(|value| (header::TRAILER, HeaderValue::from_static(value))).collect();
        for announced in
            [&["sandbar-exported"][..], &["Sandbar-Exported"], &["expires, sandbar-exported"], &["expires", "sandbar-exported"]]
        {
            assert!(announces_its_end(&head(announced)), "{announced:?}");
        }
        for silent in [&[][..], &["expires"], &["sandbar-exported-not"]] {
            assert!(!announces_its_end(&head(silent)), "{silent:?}");
        }
    }
}
