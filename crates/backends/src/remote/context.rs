use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{ErrorKind as Io, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context as _, Error, ErrorKind, Result, check_name};
use serde::{Deserialize, Serialize};

use super::address::{Address, Scheme};

const OPERATION: &str = "context";
/// Beneath the state folder.
const FILE: &str = "contexts.json";
/// A key for servers of which no context has one.
const KEY: &str = "SANDBAR_KEY";

/// Another sandbar, under a short name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Where it is.
    pub url: String,
    /// What opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The certificates, in PEM, of whom a server's certificate must come from; those that this machine trusts when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("url", &self.url).field("has_key", &self.key.is_some()).finish_non_exhaustive()
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kept {
    current: Option<String>,
    contexts: BTreeMap<String, Place>,
}

/// The other sandbars that this state folder has names and keys for: a file that only its owner reads.
#[derive(Debug, Clone)]
pub struct Contexts {
    file: PathBuf,
}

impl Contexts {
    /// Those of a state folder.
    pub fn of(home: &Path) -> Self {
        Self { file: home.join(FILE) }
    }

    /// All, by name, and which one is used where no provider is named.
    ///
    /// # Errors
    /// `PermissionDenied` for a file that others may read; `Corrupt`.
    pub fn list(&self) -> Result<(BTreeMap<String, Place>, Option<String>)> {
        let Kept { current, contexts } = self.read()?;
        Ok((contexts, current))
    }

    /// Remembers one, in the place of another of its name.
    ///
    /// A sandbox is remembered with its server's address and without the context that it was made by, so all contexts of one server have one key and one
    /// authority; one that has none uses that of the others.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name or no address, or for a key where there is none to give; `Conflict` for a key or an authority that is not that of
    /// another context of the same server.
    pub fn add(&self, name: &str, place: Place) -> Result<()> {
        check_name(name)?;
        if crate::PROVIDERS.iter().any(|provider| provider.name == name) || name == "auto" {
            let message = "a provider has this name";
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message).with("name", name));
        }
        let address: Address = place.url.parse()?;
        if address.scheme == Scheme::Ssh && (place.key.is_some() || place.authority.is_some()) {
            let message = "ssh:// goes by what ssh itself has: there is no key or certificate to give";
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message));
        }
        self.change(|kept| {
            kept.contexts.insert(name.to_owned(), Place { url: address.to_string(), ..place });
            agreed(&kept.contexts, &address).map(drop)
        })
    }

    /// Takes this one where no provider is named; none when `None`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn select(&self, name: Option<&str>) -> Result<()> {
        self.change(|kept| {
            if let Some(name) = name.filter(|name| !kept.contexts.contains_key(*name)) {
                return Err(missing(name, kept));
            }
            kept.current = name.map(str::to_owned);
            Ok(())
        })
    }

    /// Forgets one.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.change(|kept| {
            if kept.contexts.remove(name).is_none() {
                return Err(missing(name, kept));
            }
            kept.current.take_if(|current| current == name);
            Ok(())
        })
    }

    /// The address that a name stands for, if it is a context's.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn find(&self, name: &str) -> Result<Option<String>> {
        Ok(self.read()?.contexts.remove(name).map(|place| place.url))
    }

    /// The address of the one in use.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn current(&self) -> Result<Option<String>> {
        let mut kept = self.read()?;
        Ok(kept.current.and_then(|name| kept.contexts.remove(&name)).map(|place| place.url))
    }

    /// What opens the server at an address, whichever of its contexts has it.
    pub(super) fn credentials(&self, address: &Address) -> Result<Credentials> {
        let known = agreed(&self.read()?.contexts, address)?;
        let from_environment = || std::env::var(KEY).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        Ok(Credentials { key: known.key.or_else(from_environment), ..known })
    }

    fn read(&self) -> Result<Kept> {
        let cannot = || format!("cannot read {}", self.file.display());
        let found = match fs::metadata(&self.file) {
            Err(error) if error.kind() == Io::NotFound => return Ok(Kept::default()),
            found => found.context(OPERATION, cannot)?,
        };
        if found.mode() & 0o077 != 0 {
            let message = "others may read the file of contexts, which holds keys";
            return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, message)
                .with("path", self.file.display())
                .with_hint("chmod 600 it, and have the servers' keys changed"));
        }
        let text = fs::read(&self.file).context(OPERATION, cannot)?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Corrupt, OPERATION, "the file of contexts cannot be understood")
                .with("path", self.file.display())
                .with_source(error)
        })
    }

    fn change(&self, change: impl FnOnce(&mut Kept) -> Result<()>) -> Result<()> {
        let cannot = || format!("cannot write {}", self.file.display());
        let begun = self.file.with_extension("new");
        // Who reads needs none: the file is replaced whole.
        let _turn = self.lock().context(OPERATION, || format!("cannot lock {}", self.file.display()))?;
        let mut kept = self.read()?;
        change(&mut kept)?;
        let text = serde_json::to_vec_pretty(&kept).map_err(std::io::Error::other).context(OPERATION, cannot)?;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&begun);
        let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        let renamed = written.and_then(|()| fs::rename(&begun, &self.file));
        if renamed.is_err() {
            let _ = fs::remove_file(&begun);
        }
        renamed.context(OPERATION, cannot)
    }

    /// Waits until nobody else changes them.
    fn lock(&self) -> std::io::Result<fs::File> {
        let path = self.file.with_extension("lock");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

/// What the contexts of the server at an address say together.
///
/// # Errors
/// `Conflict` where they do not say the same.
fn agreed(contexts: &BTreeMap<String, Place>, address: &Address) -> Result<Credentials> {
    let is_of_it = |place: &Place| place.url.parse::<Address>().is_ok_and(|known| known.origin() == address.origin());
    let same = || contexts.iter().filter(|(_, place)| is_of_it(place));
    let one = |what: &'static str, of: fn(&Place) -> Option<&String>| {
        let mut having = same().filter_map(|(name, place)| Some((name, of(place)?)));
        let Some((first, value)) = having.next() else { return Ok(None) };
        match having.find(|(_, other)| *other != value) {
            None => Ok(Some(value.clone())),
            Some((second, _)) => {
                let message = format!("the contexts {first} and {second} are of one server, and each has another {what}");
                Err(Error::new(ErrorKind::Conflict, OPERATION, message).with("server", address.origin()).with_hint(
                    "a sandbox is found again by its server's address, which has one key: remove one of them (sandbar context rm), or have another \
                     state folder for it (SANDBAR_HOME)",
                ))
            }
        }
    };
    Ok(Credentials { key: one("key", |place| place.key.as_ref())?, authority: one("authority", |place| place.authority.as_ref())? })
}

fn missing(name: &str, kept: &Kept) -> Error {
    let names: Vec<&str> = kept.contexts.keys().map(String::as_str).collect();
    let error = Error::new(ErrorKind::NotFound, OPERATION, "there is no such context").with("name", format!("{name:?}"));
    if names.is_empty() { error } else { error.with_hint(format!("there are {}", names.join(", "))) }
}

/// What is shown to a server, and what a server must show.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    pub(super) key: Option<String>,
    pub(super) authority: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn place(url: &str, key: Option<&str>) -> Place {
        Place { url: url.to_owned(), key: key.map(str::to_owned), authority: None }
    }

    #[test]
    fn a_context_is_added_used_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(home.path());
        assert!(contexts.current().unwrap().is_none());
        contexts.add("box", place("https://Box.example:443/", Some("secret"))).unwrap();
        assert_eq!(contexts.find("box").unwrap().as_deref(), Some("https://box.example"));
        contexts.select(Some("box")).unwrap();
        assert_eq!(contexts.current().unwrap().as_deref(), Some("https://box.example"));
        assert_eq!(contexts.select(Some("other")).unwrap_err().kind(), ErrorKind::NotFound);
        contexts.remove("box").unwrap();
        assert!(contexts.current().unwrap().is_none() && contexts.find("box").unwrap().is_none());
        assert_eq!(contexts.remove("box").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_key_is_for_its_own_server_alone() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(home.path());
        contexts.add("one", place("https://one.example", Some("secret"))).unwrap();
        let key = |url: &str| contexts.credentials(&url.parse().unwrap()).unwrap().key;
        assert_eq!(key("https://one.example/firecracker").as_deref(), Some("secret"));
        for other in ["https://one.example:8443", "https://two.example", "http://localhost", "ssh://one.example"] {
            assert_eq!(key(other), None, "{other}");
        }
    }

    #[test]
    fn contexts_of_one_server_have_one_key_and_one_authority() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(home.path());
        let key = |url: &str| contexts.credentials(&url.parse().unwrap()).map(|known| known.key);
        contexts.add("admin", place("https://farm", Some("secret-a"))).unwrap();
        let refused = contexts.add("ci", place("https://Farm:443/container", Some("secret-b"))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let said = format!("{refused} {}", refused.hint().unwrap());
        assert!(said.contains("admin and ci") && said.contains("another key") && !said.contains("secret"), "{said}");
        assert!(contexts.find("ci").unwrap().is_none(), "what is refused is not remembered");
        // The same key is no other one, none is the others', and another server's is its own.
        contexts.add("twin", place("https://farm/container", Some("secret-a"))).unwrap();
        contexts.add("bare", place("https://farm/firecracker", None)).unwrap();
        contexts.add("else", place("https://farm:8443", Some("secret-b"))).unwrap();
        assert_eq!(key("https://farm/firecracker").unwrap().as_deref(), Some("secret-a"));
        assert_eq!(key("https://farm:8443").unwrap().as_deref(), Some("secret-b"));
        // A key may be renewed once it is that of one.
        contexts.remove("twin").unwrap();
        contexts.add("admin", place("https://farm", Some("secret-c"))).unwrap();
        assert_eq!(key("https://farm/container").unwrap().as_deref(), Some("secret-c"));
        let of = |authority: &str| Place { authority: Some(authority.to_owned()), ..place("https://farm", None) };
        contexts.add("one", of("x")).unwrap();
        let refused = contexts.add("two", of("y")).unwrap_err();
        assert!(refused.kind() == ErrorKind::Conflict && refused.message().contains("one and two"), "{refused}");
    }

    #[test]
    fn keys_of_before_that_differ_are_not_chosen_from() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(home.path());
        contexts.add("admin", place("https://farm", Some("secret-a"))).unwrap();
        contexts.add("ci", place("https://form/container", Some("secret-b"))).unwrap();
        let file = home.path().join(FILE);
        fs::write(&file, fs::read_to_string(&file).unwrap().replace("form", "farm")).unwrap();
        for url in ["https://farm", "https://farm/container"] {
            assert_eq!(contexts.credentials(&url.parse().unwrap()).err().unwrap().kind(), ErrorKind::Conflict, "{url}");
        }
        contexts.remove("admin").unwrap();
        assert_eq!(contexts.credentials(&"https://farm".parse().unwrap()).unwrap().key.as_deref(), Some("secret-b"));
    }

    #[test]
    fn many_at_once_are_all_there() {
        let home = tempfile::tempdir().unwrap();
        let contexts = &Contexts::of(home.path());
        std::thread::scope(|scope| {
            for one in 0..16 {
                scope.spawn(move || contexts.add(&format!("box{one}"), place(&format!("https://box{one}"), None)).unwrap());
            }
        });
        assert_eq!(contexts.list().unwrap().0.len(), 16);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(home.path());
        contexts.add("box", place("https://box", Some("secret"))).unwrap();
        let file = home.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(!format!("{:?}", contexts.list().unwrap()).contains("secret"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(contexts.list().unwrap_err().kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_would_be_ambiguous_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(home.path());
        for (name, url, key) in [
            ("container", "https://box", None),
            ("auto", "https://box", None),
            ("a/b", "https://box", None),
            ("box", "box", None),
            ("box", "ssh://box", Some("k")),
        ] {
            assert_eq!(contexts.add(name, place(url, key)).unwrap_err().kind(), ErrorKind::InvalidInput, "{name} {url}");
        }
    }
}
