use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
};
use sandbar_core::{Context, Error, ErrorKind, Result};
use tokio_rustls::TlsAcceptor;

const OPERATION: &str = "server certificate";

/// What a server shows to those who speak TLS with it, and the key that is its own. Cheap to clone.
#[derive(Clone)]
pub struct Certificate(Arc<Files>);

/// Where it is read from, and what was last read.
struct Files {
    chain: PathBuf,
    key: PathBuf,
    shown: RwLock<Shown>,
}

/// What is shown to clients.
#[derive(Clone)]
struct Shown {
    acceptor: TlsAcceptor,
    own: CertificateDer<'static>,
}

impl Certificate {
    /// Reads a chain of certificates, the server's own first, and its private key (PKCS#8, PKCS#1 or SEC1, not encrypted), both in PEM. A later change of the
    /// files is noticed by [`read_again`](Self::read_again).
    ///
    /// # Errors
    /// Those of reading a file; `InvalidInput` for a file that has no certificate or no key, and for a key that is another certificate's.
    pub fn read(chain: &Path, key: &Path) -> Result<Self> {
        let shown = RwLock::new(Shown::read(chain, key)?);
        Ok(Self(Arc::new(Files { chain: chain.to_owned(), key: key.to_owned(), shown })))
    }

    /// Reads the same files again, for whoever connects from now on. Connections that are there stay as they are.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), after which what was read before is still shown.
    pub fn read_again(&self) -> Result<()> {
        let shown = Shown::read(&self.0.chain, &self.0.key)?;
        *self.0.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        tracing::info!("the certificate was read again");
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is for the host of this name.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        let shown = self.shown();
        ParsedCertificate::try_from(&shown.own).is_ok_and(|own| verify_server_name(&own, &name).is_ok())
    }

    /// Speaks TLS with whoever connects now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.shown().acceptor
    }
}

impl Shown {
    fn read(chain: &Path, key: &Path) -> Result<Self> {
        let read = |path: &Path| fs::read(path).context(OPERATION, || format!("cannot read {}", path.display()));
        let bad = |message: &str, path: &Path| Error::new(ErrorKind::InvalidInput, OPERATION, message).with("path", path.display());
        let certificates = CertificateDer::pem_slice_iter(&read(chain)?).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| bad("the file of certificates is no PEM", chain).with_source(error))?;
        let Some(own) = certificates.first().cloned() else { return Err(bad("the file has no certificate in PEM", chain)) };
        ParsedCertificate::try_from(&own).map_err(|error| bad("the file has what is no certificate", chain).with_source(error))?;
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| {
            bad("the file has no private key in PEM", key)
                .with_source(error)
                .with_hint("an encrypted key must be decrypted first: openssl pkey -in FILE -out DECRYPTED")
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions();
        let configured = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, secret));
        let mut config = configured.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => bad("the key is not that of the certificate", key).with("certificate", chain.display()),
            error => bad("the key cannot be used", key).with_source(error),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), own })
    }
}
