use std::{io::ErrorKind as Io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use sandbar_core::{Connection, Error, ErrorKind, Result};
use sandbar_relay::Patient;
use tokio_rustls::TlsConnector;

use super::problem::OPERATION;

/// Speaks TLS with a server, whose certificate must be for this host and come from whom `authority` names, or this machine trusts.
pub(super) async fn connect(stream: Patient, host: &str, authority: Option<&str>) -> Result<Connection> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Error::new(ErrorKind::InvalidInput, OPERATION, "not a host's name").with("host", host).with_source(error))?;
    let connector = TlsConnector::from(Arc::new(config(authority)?));
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) if error.kind() == Io::InvalidData => {
            Err(Error::new(ErrorKind::PermissionDenied, OPERATION, "the server's certificate is not to be trusted, or it speaks no TLS")
                .with("host", host)
                .with_hint("a certificate of one's own is named with sandbar context add --authority FILE")
                .with_source(error))
        }
        Err(error) => {
            Err(Error::new(ErrorKind::Unavailable, OPERATION, "the server does not speak TLS").with("host", host).with_source(error))
        }
    }
}

fn config(authority: Option<&str>) -> Result<ClientConfig> {
    let cannot = |error: rustls::Error| Error::new(ErrorKind::Unavailable, OPERATION, "TLS cannot be used here").with_source(error);
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(cannot)?;
    let builder = match authority {
        None => builder.with_platform_verifier().map_err(cannot)?,
        Some(text) => builder.with_root_certificates(roots(text)?),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(text: &str) -> Result<RootCertStore> {
    let bad = |message: &str| Error::new(ErrorKind::InvalidInput, OPERATION, message);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| bad("the authority's file is no PEM").with_source(error))?;
        roots.add(certificate).map_err(|error| bad("the authority's file has what is no certificate").with_source(error))?;
    }
    if roots.is_empty() { Err(bad("the authority's file has no certificate")) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_no_authority() {
        for text in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(config(Some(text)).err().unwrap().kind(), ErrorKind::InvalidInput, "{text:?}");
        }
        assert!(config(None).is_ok());
    }
}
