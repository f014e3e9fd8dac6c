use std::time::Duration;

use sandbar_core::{Error, ErrorKind, FileKind, PutOptions, Result, SandboxHandle, Secrets, State};
use tokio::{io::AsyncReadExt, time::timeout};

use super::{authority::HASH, vault::Vault};
use crate::Sandbox;

/// The authorities of the sandbox's image, and its own.
const BUNDLE: &str = "/etc/sandbar/authorities.pem";
/// Its own alone. It is written last: where it is, the others are.
const OWN: &str = "/etc/sandbar/authority.pem";
/// Where distributions keep the authorities that programs believe: Debian, Alpine and Arch; Fedora and its kin, before and behind the link; openSUSE;
/// Alpine and BSD.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where they keep each authority in a file of its own, which OpenSSL finds by the hash of its name, and others by reading all: Debian, Alpine, Arch, openSUSE;
/// Fedora and its kin.
const FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];
/// Bytes of such a file at most: they have a quarter of a MiB.
const MOST: u64 = 4 << 20;
/// Folders that the image's variable may name.
const MOST_FOLDERS: usize = 8;
/// How long all that may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Variables by which programs are told what to believe, and whether they want all of it or what comes on top of their own.
const VARIABLES: [(&str, &str); 10] = [
    ("SSL_CERT_FILE", BUNDLE),
    ("CURL_CA_BUNDLE", BUNDLE),
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("PIP_CERT", BUNDLE),
    ("GIT_SSL_CAINFO", BUNDLE),
    ("CARGO_HTTP_CAINFO", BUNDLE),
    ("AWS_CA_BUNDLE", BUNDLE),
    ("NIX_SSL_CERT_FILE", BUNDLE),
    ("DENO_CERT", OWN),
    ("NODE_EXTRA_CA_CERTS", OWN),
];

/// What the commands of a sandbox with secrets have in their environment, where nobody has set it otherwise. One that another host has, has it of that host.
pub(crate) fn variables(secrets: &Secrets) -> impl Iterator<Item = (&str, &str)> {
    let here = if secrets.vault.is_some() { secrets.list.as_slice() } else { &[] };
    let trust = VARIABLES.into_iter().filter(|_| !here.is_empty());
    trust.chain(here.iter().map(|secret| (secret.name.as_str(), secret.placeholder.as_str())))
}

impl Sandbox {
    /// Sees to it that programs inside believe who signs for the hosts of the secrets. What is there already is left as it is.
    ///
    /// # Errors
    /// When the files cannot be written inside.
    pub(crate) async fn establish_trust(&self) -> Result<()> {
        let row = self.runtime().row(self.id())?;
        // One that is frozen is looked at when it runs again, by whoever decides about what leaves it. Of one on another host, that one keeps the secrets.
        if row.spec.secrets.vault.is_none() || row.state != State::Running {
            return Ok(());
        }
        let own = Vault::read(self.runtime().home(), &row.spec.secrets)?.certificate;
        let handle = self.usable(&[State::Running]).await?;
        // Variables of the image have named another file, which ours stands in for, and other folders.
        let variable = |name: &str| row.root.env.get(name).map(String::as_str);
        let named = variable("SSL_CERT_FILE").filter(|path| path.starts_with('/'));
        let folders = variable("SSL_CERT_DIR").unwrap_or_default().split(':').filter(|path| path.starts_with('/'));
        let folders: Vec<&str> = folders.take(MOST_FOLDERS).chain(FOLDERS).collect();
        let late = |_| Error::new(ErrorKind::TimedOut, "secret", "the agent takes too long to write the authorities").with("id", self.id());
        timeout(PATIENCE, install(handle.as_ref(), &own, named, &folders)).await.map_err(late)?
    }
}

async fn install(handle: &dyn SandboxHandle, own: &str, named: Option<&str>, folders: &[&str]) -> Result<()> {
    if read(handle, OWN).await?.as_deref() == Some(own) {
        return Ok(());
    }
    let mut roots: Option<String> = None;
    for path in named.into_iter().chain(SYSTEM) {
        let Some(text) = read(handle, path).await? else { continue };
        let is_there = text.contains(own);
        let all = if is_there { text } else { format!("{}\n{own}", text.trim_end()) };
        if !is_there
            && named != Some(path)
            && let Err(error) = write(handle, path, &all).await
        {
            // A link to what is read-only: the variables lead to the other one.
            tracing::debug!(path, error = error.chain(), "the sandbox's own file of authorities stays as it is");
        }
        roots.get_or_insert(all);
    }
    for folder in folders {
        if !is_folder(handle, folder).await? {
            continue;
        }
        // The name is that of our authorities alone: what is there is another sandbox's, whose layer this one began from.
        if let Err(error) = write(handle, &format!("{folder}/{HASH}.0"), own).await {
            tracing::debug!(folder, error = error.chain(), "the sandbox's own folder of authorities stays as it is");
        }
    }
    write(handle, BUNDLE, roots.as_deref().unwrap_or(own)).await?;
    write(handle, OWN, own).await
}

/// A file, if there is one that can be read.
async fn read(handle: &dyn SandboxHandle, path: &str) -> Result<Option<String>> {
    let file = match handle.get_file(path, 0).await {
        Ok((_, file)) => file,
        Err(error) if is_of_the_agent(&error) => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut text = String::new();
    let read = file.take(MOST + 1).read_to_string(&mut text).await;
    Ok(read.ok().filter(|length| *length as u64 <= MOST).map(|_| text))
}

async fn is_folder(handle: &dyn SandboxHandle, path: &str) -> Result<bool> {
    match handle.stat(path, true).await {
        Ok(stat) => Ok(stat.kind == FileKind::Directory),
        Err(error) if is_of_the_agent(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Whether it is nothing about the file.
fn is_of_the_agent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut)
}

async fn write(handle: &dyn SandboxHandle, path: &str, text: &str) -> Result<()> {
    let options = PutOptions { owner: Some((0, 0)), make_parents: true, ..PutOptions::default() };
    handle.put_file(path, options, &mut text.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_host_sees_to_is_not_set_here() {
        let mut secrets = Secrets { vault: None, list: vec!["TOKEN=env:X@a.test".parse().unwrap()] };
        assert_eq!(variables(&secrets).count(), 0);
        secrets.vault = Some("x".to_owned());
        let set: Vec<&str> = variables(&secrets).map(|(name, _)| name).collect();
        assert!(set.contains(&"TOKEN") && set.contains(&"SSL_CERT_FILE"), "{set:?}");
    }
}
