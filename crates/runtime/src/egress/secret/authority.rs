use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use sandbar_core::{DomainName, Error, ErrorKind, Result};

/// What certificates say of who signed them.
const NAME: &str = "sandbar: secrets of one sandbox";
/// By which OpenSSL looks for that name in a folder (X509_NAME_hash(3)).
pub(super) const HASH: &str = "588a660e";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority is good for: longer than any sandbox.
const LONG: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
/// How long a certificate is good for.
const SHORT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A certificate authority of one sandbox and of those that began from it. It may sign for the hosts of its secrets and those below them only, whoever
/// gets its key.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one: its certificate and its key, as PEM.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub(super) fn make<'a>(hosts: impl Iterator<Item = &'a DomainName>) -> Result<(String, String)> {
        let key = KeyPair::generate().map_err(cannot)?;
        let permitted_subtrees = hosts.map(|host| GeneralSubtree::DnsName(host.to_string())).collect();
        // What is not spoken of at all would be allowed: names permit no addresses, only names.
        let everywhere = [CidrSubnet::V4([0; 4], [0; 4]), CidrSubnet::V6([0; 16], [0; 16])];
        let excluded_subtrees = everywhere.map(GeneralSubtree::IpAddress).into();
        let mut parameters = parameters();
        (parameters.not_before, parameters.not_after) = validity(LONG);
        parameters.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
        let certificate = parameters.self_signed(&key).map_err(cannot)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The one that has this key.
    ///
    /// # Errors
    /// `Corrupt` when it is none.
    pub(super) fn of(key: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key)
            .map_err(|error| Error::new(ErrorKind::Corrupt, "secret", "the authority's key is damaged").with_source(error))?;
        Ok(Self { issuer: Issuer::new(parameters(), key) })
    }

    /// A certificate for a host, with a key of its own.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub(super) fn certify(&self, host: &DomainName) -> Result<CertifiedKey> {
        let key = KeyPair::generate().map_err(cannot)?;
        let mut parameters = CertificateParams::default();
        (parameters.not_before, parameters.not_after) = validity(SHORT);
        // A host's name may be longer than a common name; the one that counts is the alternative.
        parameters.distinguished_name = named("sandbar");
        parameters.subject_alt_names = vec![SanType::DnsName(host.as_str().try_into().map_err(cannot)?)];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(cannot)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(cannot)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
    }
}

/// What every authority has in common: what is signed by it says who signed by these.
fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named(NAME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From yesterday on: a sandbox's clock may be behind.
fn validity(length: Duration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = SystemTime::now();
    (now.checked_sub(DAY).unwrap_or(now).into(), now.checked_add(length).unwrap_or(now).into())
}

fn cannot(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "secret", "a certificate cannot be made").with_source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };

    use super::*;

    fn verifies(authority: &str, certified: &CertifiedKey, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&certified.cert[0], &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn it_signs_for_its_hosts_and_is_believed_for_no_other() {
        let hosts: Vec<DomainName> = ["api.test", "b.example"].map(|name| name.parse().unwrap()).into();
        let (certificate, key) = Authority::make(hosts.iter()).unwrap();
        let authority = Authority::of(&key).unwrap();
        for host in &hosts {
            assert!(verifies(&certificate, &authority.certify(host).unwrap(), host.as_str()), "{host}");
        }
        let stolen = authority.certify(&"bank.test".parse().unwrap()).unwrap();
        assert!(!verifies(&certificate, &stolen, "bank.test"));
        let (other, _) = Authority::make(hosts.iter()).unwrap();
        assert!(!verifies(&other, &authority.certify(&hosts[0]).unwrap(), "api.test"));
        assert_eq!(Authority::of("x").err().unwrap().kind(), ErrorKind::Corrupt);
    }
}
