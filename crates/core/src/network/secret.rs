use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{DomainName, Policy};
use crate::{Error, ErrorKind, Result};

/// What every placeholder begins with.
pub const PLACEHOLDER_PREFIX: &str = "sandbar-secret-";
/// Most secrets of one sandbox, and most hosts of one secret.
const MOST: usize = 64;

/// Secrets that a sandbox may use and never sees: its commands have a placeholder in the environment, which the host replaces in requests to the
/// secret's own hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secrets {
    /// Where this host keeps what belongs to them, in the state folder. Set when the sandbox is made; its forks have the same. `None` where another host has
    /// the sandbox, and keeps it.
    pub vault: Option<String>,
    /// Each one.
    pub list: Vec<Secret>,
}

/// One secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The variable inside that has the placeholder.
    pub name: String,
    /// Where the value comes from.
    pub source: SecretSource,
    /// The hosts that get the value; exactly these names.
    pub hosts: Vec<DomainName>,
    /// What is inside in the place of the value. Set when the sandbox is made, by the host that has it: empty on any other.
    #[serde(default)]
    pub placeholder: String,
}

/// Where a secret's value comes from. Written `env:VARIABLE`, `file:PATH` or `given`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of whoever makes the sandbox, read once.
    Variable(String),
    /// A file of whoever makes the sandbox, read at each use; once, where another host has the sandbox.
    File(PathBuf),
    /// Whoever asks for the sandbox, together with it: a [`SecretValue`].
    Given,
}

/// A secret's value, on its way to where it is kept. It is not shown, and what is written of it is empty.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

impl SecretValue {
    /// Of a text.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The deserializer's own words would repeat what it has read.
        String::deserialize(deserializer).map(Self).map_err(|_| serde::de::Error::custom("a secret's value is a text"))
    }
}

impl Secrets {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Refuses what cannot work: names that are none or taken, hosts that the network does not allow.
    ///
    /// # Errors
    /// `InvalidInput`, with what is to be changed.
    pub fn check(&self, taken: impl Fn(&str) -> bool, policy: Option<&Policy>) -> Result<()> {
        let refused = |secret: &Secret, why: &str| Err(bad(why).with("secret", &secret.name));
        if self.list.len() > MOST {
            return Err(bad("a sandbox may not have so many").with("most", MOST));
        }
        let mut names = BTreeSet::new();
        for secret in &self.list {
            if !is_variable(&secret.name) {
                return refused(secret, "its name must be that of a variable: letters, digits and `_`");
            }
            if !names.insert(&secret.name) {
                return refused(secret, "there are two of this name");
            }
            if taken(&secret.name) {
                return refused(secret, "a variable of this name is set as well (-e)");
            }
            if secret.hosts.is_empty() || secret.hosts.len() > MOST {
                return refused(secret, "it must have 1 to 64 hosts");
            }
            if matches!(&secret.source, SecretSource::File(path) if !path.is_absolute()) {
                return refused(secret, "the path of its file must be absolute");
            }
            for host in &secret.hosts {
                if !policy.is_some_and(|policy| policy.decide_name(host).allowed) {
                    let error = bad("the network does not allow its host, so it would be of no use");
                    return Err(error.with("secret", &secret.name).with("host", host).with_hint(format!("add a rule: --net allow={host}")));
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Secret {
    type Err = Error;

    /// `NAME=env:VARIABLE@HOST,…` or `NAME=file:PATH@HOST,…`. The hosts begin after the last `@`.
    fn from_str(text: &str) -> Result<Self> {
        // The text is not repeated: somebody may have written the secret itself.
        let form = || bad("expected NAME=env:VARIABLE@HOST,… or NAME=file:PATH@HOST,…");
        let (name, rest) = text.split_once('=').ok_or_else(form)?;
        let (source, hosts) = rest.rsplit_once('@').ok_or_else(form)?;
        let source = source.parse().map_err(|_| form())?;
        let hosts = hosts.split(',').map(DomainName::from_str).collect::<Result<BTreeSet<_>>>()?;
        if !is_variable(name) {
            return Err(bad("its name must be that of a variable: letters, digits and `_`"));
        }
        Ok(Self { name: name.to_owned(), source, hosts: hosts.into_iter().collect(), placeholder: String::new() })
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Given => f.write_str("given"),
        }
    }
}

impl FromStr for SecretSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "given" => Ok(Self::Given),
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(Self::Variable(name.to_owned())),
            Some(("file", path)) if !path.is_empty() && !path.contains('\0') => Ok(Self::File(path.into())),
            _ => Err(bad("expected env:VARIABLE or file:PATH")),
        }
    }
}

impl Serialize for SecretSource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "secret", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_read_as_it_is_written_on_the_command_line() {
        let read = secret("TOKEN=env:MY_TOKEN@api.test,B.example,b.example.");
        assert_eq!((read.name.as_str(), read.source), ("TOKEN", SecretSource::Variable("MY_TOKEN".to_owned())));
        assert_eq!(read.hosts.iter().map(DomainName::as_str).collect::<Vec<_>>(), ["api.test", "b.example"]);
        assert_eq!(secret("T=file:/run/a@b:c@api.test").source, SecretSource::File("/run/a@b:c".into()));
        for text in ["", "T", "T=env:X", "T=X@a.test", "T=env:@a.test", "T=file:@a.test", "T=env:X@", "T=env:X@a b", "1T=env:X@a.test"] {
            assert!(text.parse::<Secret>().is_err(), "{text:?} was taken");
        }
        // Somebody who gives the value itself by mistake does not find it in a log.
        assert!(!"T=hunter2".parse::<Secret>().unwrap_err().chain().contains("hunter2"));
    }

    #[test]
    fn a_value_is_neither_shown_nor_written() {
        let value: SecretValue = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(value.reveal(), "hunter2");
        assert_eq!(value, SecretValue::new("hunter2"));
        assert!(!format!("{value:?}").contains("hunter2"));
        assert_eq!(serde_json::to_string(&value).unwrap(), "\"\"");
        let error = serde_json::from_str::<SecretValue>("1234567").unwrap_err();
        assert!(!error.to_string().contains("1234567"), "{error}");
        let source: SecretSource = serde_json::from_str("\"given\"").unwrap();
        assert_eq!((&source, source.to_string().as_str()), (&SecretSource::Given, "given"));
    }

    #[test]
    fn what_could_not_be_used_is_refused() {
        let policy: Policy = "allow=api.test:443".parse().unwrap();
        let check = |list: &[&str]| {
            Secrets { vault: None, list: list.iter().map(|text| secret(text)).collect() }.check(|name| name == "SET", Some(&policy))
        };
        check(&["A=env:X@api.test", "B=file:/x@api.test"]).unwrap();
        for list in [&["A=env:X@api.test", "A=env:Y@api.test"][..], &["SET=env:X@api.test"], &["A=file:x@api.test"]] {
            assert!(check(list).is_err(), "{list:?} was taken");
        }
        let error = check(&["A=env:X@other.test"]).unwrap_err();
        assert!(error.hint().unwrap().contains("allow=other.test"), "{error}");
        let without = Secrets { vault: None, list: vec![secret("A=env:X@api.test")] }.check(|_| false, None);
        assert_eq!(without.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
