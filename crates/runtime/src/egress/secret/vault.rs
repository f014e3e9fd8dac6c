use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use sandbar_core::{Context, Error, ErrorKind, PLACEHOLDER_PREFIX, Result, SecretSource, SecretValue, Secrets};
use serde::{Deserialize, Serialize};

use super::{authority::Authority, value};
use crate::{
    create::random,
    home::{self, Home},
};

/// What the host keeps of a sandbox's secrets: a file of mode 0600 in the state folder, and nowhere else. Forks have the same one; it goes with the last
/// sandbox or checkpoint whose row names it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Vault {
    /// The authority's certificate and its key, as PEM.
    pub(super) certificate: String,
    pub(super) key: String,
    /// By the names of the secrets, those whose source cannot be read again.
    pub(super) values: BTreeMap<String, String>,
}

impl Vault {
    /// Fills in what a new sandbox's secrets have not got yet, and gives what is to be kept of them. `None`: there are none. `given` has the values that came
    /// with the request, by name.
    ///
    /// # Errors
    /// When a source cannot be read; `InvalidInput` for a value that is missing, or of no secret.
    pub(crate) fn prepare(secrets: &mut Secrets, given: &BTreeMap<String, SecretValue>) -> Result<Option<Self>> {
        secrets.vault = None;
        value::require_awaited(secrets, given)?;
        if secrets.is_empty() {
            return Ok(None);
        }
        let mut values = BTreeMap::new();
        for secret in &mut secrets.list {
            // A file is looked at, so that a mistake is told now.
            let value = value::at_first(secret, given)?;
            if !matches!(secret.source, SecretSource::File(_)) {
                values.insert(secret.name.clone(), value);
            }
            secret.placeholder = format!("{PLACEHOLDER_PREFIX}{}", token()?);
        }
        let (certificate, key) = Authority::make(secrets.list.iter().flat_map(|secret| &secret.hosts))?;
        secrets.vault = Some(token()?);
        Ok(Some(Self { certificate, key, values }))
    }

    /// Writes it. The row that names it is there already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&self, home: &Home, secrets: &Secrets) -> Result<()> {
        let Some(id) = &secrets.vault else { return Ok(()) };
        let path = home.vault(id);
        let text = serde_json::to_vec(self)
            .map_err(|source| Error::new(ErrorKind::Internal, "secret", "cannot be written as JSON").with_source(source))?;
        let write = || {
            home::make(&home.vaults())?;
            let new = path.with_extension("new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().context("secret", || format!("cannot write {}", path.display()))
    }

    /// Reads the one of these secrets.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Corrupt` when it is damaged.
    pub(super) fn read(home: &Home, secrets: &Secrets) -> Result<Self> {
        let path = secrets.vault.as_deref().map(|id| home.vault(id));
        let path = path.ok_or_else(|| Error::new(ErrorKind::NotFound, "secret", "nothing is kept of the sandbox's secrets"))?;
        let text = fs::read(&path).context("secret", || format!("cannot read {}", path.display()))?;
        // The parser's own words would repeat what it has read.
        serde_json::from_slice(&text).map_err(|_| {
            Error::new(ErrorKind::Corrupt, "secret", "what is kept of the sandbox's secrets is damaged").with("file", path.display())
        })
    }

    /// The ids of those that there are, with what was left of one half written.
    pub(crate) fn all(home: &Home) -> Vec<String> {
        let entries = fs::read_dir(home.vaults()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes one; one that is gone is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(home: &Home, id: &str) -> Result<()> {
        let remove = |path: PathBuf| match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("secret", || format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
        remove(home.vault(id).with_extension("new")).and(remove(home.vault(id)))
    }
}

/// 128 random bits.
fn token() -> Result<String> {
    random::<16>().map(hex::encode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_is_for_its_owner_alone_and_says_nothing_of_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "hunter2").unwrap();
        let mut secrets = Secrets { vault: Some("../x".into()), list: vec![format!("T=file:{}@a.test", path.display()).parse().unwrap()] };
        let vault = Vault::prepare(&mut secrets, &BTreeMap::new()).unwrap().unwrap();
        let id = secrets.vault.clone().unwrap();
        assert!(id.len() == 32 && secrets.list[0].placeholder.len() == PLACEHOLDER_PREFIX.len() + 32);
        vault.keep(&home, &secrets).unwrap();
        assert_eq!(fs::metadata(home.vault(&id)).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(home.vaults()).unwrap().mode() & 0o7777, 0o700);
        let read = Vault::read(&home, &secrets).unwrap();
        assert_eq!((read.key, read.values.len()), (vault.key, 0));
        fs::write(home.vault(&id), "{\"certificate\": hunter2").unwrap();
        let error = Vault::read(&home, &secrets).err().unwrap();
        assert!(error.kind() == ErrorKind::Corrupt && !error.chain().contains("hunter2"), "{error}");
        assert_eq!(Vault::all(&home), [id.as_str()]);
        Vault::remove(&home, &id).unwrap();
        Vault::remove(&home, &id).unwrap();
        assert_eq!(Vault::all(&home), [""; 0]);
        assert!(Vault::prepare(&mut Secrets::default(), &BTreeMap::new()).unwrap().is_none());
    }

    #[test]
    fn what_comes_with_the_request_is_in_the_vault_and_not_in_the_specification() {
        let given = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), SecretValue::new(value))]);
        let asked = || Secrets { vault: None, list: vec!["T=given@a.test".parse().unwrap()] };
        let mut secrets = asked();
        let vault = Vault::prepare(&mut secrets, &given("T", "hunter2")).unwrap().unwrap();
        assert_eq!(vault.values["T"], "hunter2");
        assert!(!serde_json::to_string(&secrets).unwrap().contains("hunter2"));
        // One that is missing, that no secret waits for, and that cannot stand in a header.
        for given in [BTreeMap::new(), given("OTHER", "hunter2"), given("T", "hunter2\nX: y"), given("T", "")] {
            let error = Vault::prepare(&mut asked(), &given).err().unwrap();
            assert!(error.kind() == ErrorKind::InvalidInput && !error.chain().contains("hunter2"), "{error}");
        }
        let mut of_variable = Secrets { vault: None, list: vec!["T=env:NO_SUCH_VARIABLE@a.test".parse().unwrap()] };
        assert!(Vault::prepare(&mut of_variable, &given("T", "hunter2")).is_err());
    }
}
