use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Somebody who vouches for servers, and a certificate of one.
pub struct Authority {
    pub folder: TempDir,
}

impl Authority {
    /// One that has vouched for a server of these names.
    pub fn of(names: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("sandbar-tls-").tempdir_in("/var/tmp").unwrap();
        let mut own = CertificateParams::new(Vec::new()).unwrap();
        own.distinguished_name.push(DnType::CommonName, "authority of a test");
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("authority"), own.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(own, key);
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(folder.path().join("certificate"), certificate.pem()).unwrap();
        fs::write(folder.path().join("key"), key.serialize_pem()).unwrap();
        Self { folder }
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}
