use std::{io, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::{Acceptor, NoServerSessionStorage},
    sign::SingleCertAndKey,
};
use rustls_platform_verifier::BuilderVerifierExt;
use sandbar_core::{Connection, Context, DomainName, Error, ErrorKind, Result};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::{
    ending::Ending,
    interception::{Failure, Refusal},
    keyring::Keyring,
};

/// How long both handshakes may take: the server's as long as a connection may take to be made, and the client's own.
const HANDSHAKES: Duration = Duration::from_secs(20);
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";
/// Bytes that TLS holds for one end.
const BUFFER: usize = 64 << 10;

/// Both ends of what is within TLS.
pub(super) struct Opened {
    pub(super) inside: Connection,
    pub(super) outside: Connection,
    /// Whether both speak HTTP/2.
    pub(super) is_h2: bool,
}

/// Is the server for who is inside, and the client of the server, which comes first: what it chose is what is offered inside.
pub(super) async fn open(inside: Connection, outside: Connection, host: &DomainName, keyring: &Keyring) -> Result<Opened, Failure> {
    let opening = timeout(HANDSHAKES, shake_hands(inside, outside, host, keyring)).await;
    opening.unwrap_or_else(|_| Err(Refusal::failed(format!("TLS was not agreed upon within {} s", HANDSHAKES.as_secs())).into()))
}

async fn shake_hands(inside: Connection, outside: Connection, host: &DomainName, keyring: &Keyring) -> Result<Opened, Failure> {
    let unreadable = |error: io::Error| Refusal::refused(format!("it begins with a TLS greeting that cannot be read: {error}"));
    let greeting = LazyConfigAcceptor::new(Acceptor::default(), inside).await.map_err(unreadable)?;
    let hello = greeting.client_hello();
    if let Some(shown) = hello.server_name()
        && shown.parse::<DomainName>().ok().as_ref() != Some(host)
    {
        return Err(Refusal::refused(format!("the server name of TLS is {shown}, and {host} was resolved")).into());
    }
    let offered: Option<Vec<Vec<u8>>> = hello.alpn().map(|offered| offered.map(<[u8]>::to_vec).collect());
    let wanted: Vec<Vec<u8>> = offered.iter().flatten().filter(|protocol| matches!(protocol.as_slice(), H2 | HTTP_1_1)).cloned().collect();
    if offered.is_some() && wanted.is_empty() {
        return Err(Refusal::refused("it wants to speak something else than HTTP with a secret's host".to_owned()).into());
    }
    let refused = |error: Error| Refusal::refused(error.chain());
    let name = ServerName::try_from(host.to_string()).map_err(|error| Refusal::refused(error.to_string()))?;
    let mut client = (*keyring.client().map_err(refused)?).clone();
    client.alpn_protocols = wanted;
    let distrusted = |error: io::Error| Refusal::failed(format!("TLS with the server failed: {error}"));
    let mut outside = TlsConnector::from(Arc::new(client)).connect(name, outside).await.map_err(distrusted)?;
    outside.get_mut().1.set_buffer_limit(Some(BUFFER));
    let chosen = outside.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let is_h2 = chosen.as_deref() == Some(H2);
    let server = server(keyring.certified(host).map_err(refused)?.as_ref().clone(), chosen).map_err(refused)?;
    // It does not believe the authority, or gave up.
    let declined = |error: io::Error| Refusal::failed(format!("the client broke TLS off: {error}"));
    let mut inside = greeting.into_stream(Arc::new(server)).await.map_err(declined)?;
    inside.get_mut().1.set_buffer_limit(Some(BUFFER));
    Ok(Opened { inside: Box::new(Ending(inside)), outside: Box::new(outside), is_h2 })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server(certified: rustls::sign::CertifiedKey, protocol: Option<Vec<u8>>) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(cannot)?;
    let mut server = builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    server.alpn_protocols = protocol.into_iter().collect();
    // Each connection has a configuration of its own, so nothing could be resumed.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(server)
}

/// How servers are spoken with, which must be certified by the authorities of a file, or by those that this machine trusts.
///
/// # Errors
/// When there are none.
pub(super) fn client(roots: Option<&Path>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(cannot)?;
    let builder = match roots {
        None => builder.with_platform_verifier().map_err(cannot)?,
        Some(path) => builder.with_root_certificates(read(path)?),
    };
    Ok(builder.with_no_client_auth())
}

fn read(path: &Path) -> Result<RootCertStore> {
    let bad = |message: &str| Error::new(ErrorKind::InvalidInput, "secret", message).with("file", path.display());
    let text = std::fs::read(path).context("secret", || format!("cannot read the authorities in {}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| bad("the file of authorities is no PEM").with_source(error))?;
        roots.add(certificate).map_err(|error| bad("the file of authorities has what is no certificate").with_source(error))?;
    }
    if roots.is_empty() { Err(bad("the file of authorities has no certificate")) } else { Ok(roots) }
}

fn cannot(error: rustls::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "secret", "TLS cannot be used here").with_source(error)
}
