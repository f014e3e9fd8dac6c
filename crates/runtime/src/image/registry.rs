//! A registry, as far as a pull needs one: documents and layers, with bounded patience and errors in our words.

use std::{io, net::Ipv4Addr, path::PathBuf, time::Duration};

use oci_client::{
    Client, Reference,
    client::{BlobResponse, ClientConfig, ClientProtocol, SizedStream},
    errors::{DigestError, OciDistributionError, OciErrorCode},
    manifest as media,
    secrets::RegistryAuth,
};
use sandbar_core::{Error, ErrorKind, Result};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::StreamReader;

use super::{
    Digest, ImageName, credentials,
    manifest::{Blob, LARGEST_DOCUMENT},
};

pub(super) const OPERATION: &str = "image pull";

/// How registries are talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryOptions {
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a registry may be silent in the middle of an answer.
    pub idle_timeout: Duration,
    /// How long fetching a manifest or a configuration may take, all tries together.
    pub document_timeout: Duration,
    /// How often something is tried again that brought nothing.
    pub tries: u32,
    /// Files as `docker login` writes them; the first that knows a registry counts.
    pub credentials: Vec<PathBuf>,
    /// Registries (`HOST[:PORT]`) that are spoken to without TLS, besides those on loopback.
    pub plain: Vec<String>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            document_timeout: Duration::from_secs(60),
            tries: 3,
            credentials: credentials::usual_files(),
            plain: Vec::new(),
        }
    }
}

/// The registry of one image.
pub(super) struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
    pub(super) options: RegistryOptions,
}

impl Registry {
    /// Prepares to talk to the registry that an image's name says; nothing is sent yet.
    pub(super) fn new(name: &ImageName, options: &RegistryOptions) -> Result<Self> {
        let reference = name.reference()?;
        let host = reference.resolve_registry();
        let plain = is_loopback(host) || options.plain.iter().any(|registry| registry == host);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(options.connect_timeout),
            read_timeout: Some(options.idle_timeout),
            user_agent: concat!("sandbar/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = credentials::find(&options.credentials, reference.registry());
        let client = Client::try_from(config).map_err(|source| {
            Error::new(ErrorKind::Unavailable, OPERATION, "TLS cannot be set up")
                .with_hint("install the package ca-certificates")
                .with_source(source)
        })?;
        Ok(Self { client, reference, auth, options: options.clone() })
    }

    /// The manifest (or list) that the image's name means, verified if the name has a digest.
    pub(super) async fn manifest(&self) -> Result<(Vec<u8>, Digest)> {
        self.manifest_of(&self.reference).await
    }

    /// One manifest of a list.
    pub(super) async fn manifest_by(&self, digest: &Digest) -> Result<Vec<u8>> {
        let (text, _) = self.manifest_of(&self.reference.clone_with_digest(digest.to_string())).await?;
        digest.verify(OPERATION, "manifest", &text)?;
        Ok(text)
    }

    async fn manifest_of(&self, reference: &Reference) -> Result<(Vec<u8>, Digest)> {
        const ACCEPTED: &[&str] = &[
            media::OCI_IMAGE_MEDIA_TYPE,
            media::OCI_IMAGE_INDEX_MEDIA_TYPE,
            media::IMAGE_MANIFEST_MEDIA_TYPE,
            media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
        ];
        let text = self
            .document(|| async {
                let (text, _) = self.client.pull_manifest_raw(reference, &self.auth, ACCEPTED).await?;
                Ok(text.to_vec())
            })
            .await?;
        // The client library has no limit of its own; until here the deadline is what bounds a registry that means harm.
        if text.len() as u64 > LARGEST_DOCUMENT {
            return Err(too_large(text.len() as u64));
        }
        let digest = Digest::of(&text);
        Ok((text, digest))
    }

    /// A blob that is a document, verified.
    pub(super) async fn blob(&self, blob: &Blob) -> Result<Vec<u8>> {
        if blob.size > LARGEST_DOCUMENT {
            return Err(too_large(blob.size));
        }
        let text = self
            .document(|| async {
                let stream = self.client.pull_blob_stream(&self.reference, blob.digest.to_string().as_str()).await?;
                let mut text = Vec::new();
                StreamReader::new(stream).take(LARGEST_DOCUMENT + 1).read_to_end(&mut text).await?;
                Ok(text)
            })
            .await?;
        blob.digest.verify(OPERATION, "document", &text)?;
        Ok(text)
    }

    /// The bytes of a blob from an offset on, and the offset that they really begin at: a registry may not know how
    /// to begin in the middle.
    pub(super) async fn stream(&self, blob: &Blob, offset: u64) -> Result<(SizedStream, u64), OciDistributionError> {
        let digest = blob.digest.to_string();
        if offset == 0 {
            return Ok((self.client.pull_blob_stream(&self.reference, digest.as_str()).await?, 0));
        }
        match self.client.pull_blob_stream_partial(&self.reference, digest.as_str(), offset, None).await? {
            BlobResponse::Full(stream) => Ok((stream, 0)),
            BlobResponse::Partial(stream) => Ok((stream, offset)),
        }
    }

    /// What went wrong, in our words.
    pub(super) fn explain(&self, error: OciDistributionError) -> Error {
        let kind = kind(&error);
        let (message, hint) = match kind {
            ErrorKind::PermissionDenied => (
                "the registry refuses",
                Some(format!(
                    "check the name, or log in with `docker login {0}` or `podman login {0}` (a login that a helper program keeps is not seen)",
                    self.reference.registry()
                )),
            ),
            ErrorKind::NotFound => ("the registry has no such image", None),
            ErrorKind::Unavailable | ErrorKind::TimedOut => ("the registry does not answer", None),
            ErrorKind::Corrupt => ("the registry's answer is damaged", None),
            _ => ("the registry's answer is not understood", None),
        };
        let mut ours = Error::new(kind, OPERATION, message).with("image", self.reference.whole()).with_source(error);
        if let Some(hint) = hint {
            ours = ours.with_hint(hint);
        }
        ours
    }

    /// Fetches something small, with a few tries and a deadline for all of them.
    async fn document<Fetch>(&self, fetch: impl Fn() -> Fetch) -> Result<Vec<u8>>
    where
        Fetch: Future<Output = Result<Vec<u8>, OciDistributionError>>,
    {
        let tries = async {
            let mut failed = 0;
            loop {
                match fetch().await {
                    Err(error) if is_transient(&error) => {
                        failed += 1;
                        if failed >= self.options.tries {
                            return Err(self.explain(error).with("tries", failed));
                        }
                        tracing::debug!(failed, "trying again: {error}");
                        tokio::time::sleep(pause(failed)).await;
                    }
                    done => return done.map_err(|error| self.explain(error)),
                }
            }
        };
        match tokio::time::timeout(self.options.document_timeout, tries).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(ErrorKind::TimedOut, OPERATION, "the registry does not answer")
                .with("image", self.reference.whole())
                .with("seconds", self.options.document_timeout.as_secs())),
        }
    }
}

/// How long to wait before trying again after this many failures in a row.
pub(super) fn pause(failed: u32) -> Duration {
    Duration::from_millis(100 << failed.min(5))
}

/// The client library compares digests at the end of a stream, and tells of it as of a broken one.
pub(super) fn is_digest_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<DigestError>())
}

/// Whether trying again may help.
pub(super) fn is_transient(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RequestError(error) => !error.is_builder() && !error.is_redirect(),
        OciDistributionError::IoError(error) => !is_digest_error(error),
        OciDistributionError::ServerError { code, .. } => matches!(code, 408 | 429 | 500 | 502 | 503 | 504),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| error.code == OciErrorCode::Toomanyrequests)
        }
        _ => false,
    }
}

fn kind(error: &OciDistributionError) -> ErrorKind {
    use OciDistributionError as Oci;
    match error {
        Oci::AuthenticationFailure(_) | Oci::UnauthorizedError { .. } | Oci::ServerError { code: 401 | 403, .. } => {
            ErrorKind::PermissionDenied
        }
        Oci::ServerError { code: 404, .. } | Oci::ImageManifestNotFoundError(_) => ErrorKind::NotFound,
        Oci::RegistryError { envelope, .. } => {
            let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            if has(&[OciErrorCode::Denied, OciErrorCode::Unauthorized]) {
                ErrorKind::PermissionDenied
            } else if has(&[
                OciErrorCode::ManifestUnknown,
                OciErrorCode::NameUnknown,
                OciErrorCode::BlobUnknown,
                OciErrorCode::ManifestBlobUnknown,
                OciErrorCode::NotFound,
            ]) {
                ErrorKind::NotFound
            } else {
                ErrorKind::Unavailable
            }
        }
        Oci::RequestError(error) if error.is_timeout() => ErrorKind::TimedOut,
        Oci::IoError(error) if is_digest_error(error) => ErrorKind::Corrupt,
        Oci::RequestError(_) | Oci::IoError(_) | Oci::ServerError { .. } => ErrorKind::Unavailable,
        Oci::DigestError(_)
        | Oci::JsonError(_)
        | Oci::ManifestParsingError(_)
        | Oci::VersionedParsingError(_)
        | Oci::ManifestEncodingError(_) => ErrorKind::Corrupt,
        Oci::UnsupportedMediaTypeError(_) | Oci::UnsupportedSchemaVersionError(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    }
}

/// Whether a registry is on this machine, where there is nobody to overhear.
fn is_loopback(registry: &str) -> bool {
    let host = registry.split(':').next().unwrap_or(registry);
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn too_large(size: u64) -> Error {
    let message = format!("a document of the image is larger than {LARGEST_DOCUMENT} bytes");
    Error::new(ErrorKind::ResourceExhausted, OPERATION, message).with("size", size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("10.0.0.1:5000", false),
            ("localhost.example", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }
}
