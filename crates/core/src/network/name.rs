use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind};

/// A domain name: lower case, without the last dot, at most 253 bytes, labels of 1 to 63 letters, digits, `-` and `_` (RFC 1035, and the underscore
/// that services use). Other scripts are written in their ASCII form (`xn--…`, RFC 5890), which is what a connection shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(String);

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DomainName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |why: &'static str| Error::new(ErrorKind::InvalidInput, "domain name", why).with("name", format!("{text:?}"));
        if !text.is_ascii() {
            return Err(refused("it has other letters than ASCII's").with_hint("write it in its ASCII form (xn--…)"));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() || name.len() > 253 {
            return Err(refused("it must have 1 to 253 bytes"));
        }
        if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(refused("its labels must have 1 to 63 bytes"));
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(refused("it must consist of letters, digits, `-`, `_` and dots"));
        }
        // No name in use has a last label of digits only, and everything that parses addresses takes such a name for one.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(refused("it looks like an address, and is none"));
        }
        Ok(Self(name))
    }
}

impl Serialize for DomainName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DomainName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which names: `example.com` is that one, `*.example.com` all under it (at any depth, and not itself).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name.
    Exactly(DomainName),
    /// All names under it.
    Under(DomainName),
}

impl NamePattern {
    /// Whether `name` is one of them.
    pub fn matches(&self, name: &DomainName) -> bool {
        match self {
            Self::Exactly(own) => own == name,
            Self::Under(own) => name.0.strip_suffix(own.as_str()).is_some_and(|rest| rest.ends_with('.')),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => name.fmt(f),
            Self::Under(name) => write!(f, "*.{name}"),
        }
    }
}

impl FromStr for NamePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.strip_prefix("*.") {
            Some(rest) => Ok(Self::Under(rest.parse()?)),
            None => Ok(Self::Exactly(text.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    #[test]
    fn case_and_the_last_dot_do_not_matter() {
        assert_eq!(name("Example.COM."), name("example.com"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        for text in ["", ".", "a..b", ".a", "a b", "exämple.com", "10.0.0.1", "1", "a/b", "a:1", &long, &"a.".repeat(130)] {
            assert!(text.parse::<DomainName>().is_err(), "{text:?}");
        }
        for text in ["localhost", "_dns.example.com", "xn--exmple-cua.com", "1.a"] {
            assert!(text.parse::<DomainName>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_star_means_all_below_and_not_the_name_itself() {
        let pattern: NamePattern = "*.example.com".parse().unwrap();
        assert!(pattern.matches(&name("a.example.com")) && pattern.matches(&name("a.b.example.com")));
        assert!(!pattern.matches(&name("example.com")) && !pattern.matches(&name("badexample.com")));
        let exact: NamePattern = "example.com".parse().unwrap();
        assert!(exact.matches(&name("EXAMPLE.com.")) && !exact.matches(&name("a.example.com")));
        for text in ["*", "*.", "a.*", "*a.com", "*.*.com"] {
            assert!(text.parse::<NamePattern>().is_err(), "{text:?}");
        }
    }
}
