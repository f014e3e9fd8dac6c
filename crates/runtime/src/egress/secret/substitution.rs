use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, HeaderName},
};
use memchr::memmem;
use sandbar_core::{DomainName, Error, ErrorKind, Result};

use super::keyring::Keyring;

/// Bytes of a secret that is looked for in answers: passwords and tokens have them, and numbers and dates are shorter.
const SHORTEST: usize = 8;

/// What was found in the head of a request, by the names of the secrets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Put in.
    pub(super) used: BTreeSet<String>,
    /// Left as it was: for other hosts.
    pub(super) foreign: BTreeSet<String>,
}

/// Puts the secrets of a host into the headers of a request to it; also where the placeholder is a part of what is encoded for HTTP's basic authentication.
///
/// # Errors
/// When a secret's source is gone: then nothing may go out.
pub(super) fn substitute(headers: &mut HeaderMap, keyring: &Keyring, host: &DomainName) -> Result<Found> {
    let mut found = Found::default();
    for (name, header) in headers.iter_mut() {
        let new = match basic(name, header) {
            Some((scheme, credentials)) => {
                let replaced = replace(&credentials, keyring, host, &mut found)?;
                replaced.map(|credentials| [scheme, STANDARD.encode(credentials).as_bytes()].concat())
            }
            None => replace(header.as_bytes(), keyring, host, &mut found)?,
        };
        if let Some(new) = new {
            let mut value = HeaderValue::from_bytes(&new)
                .map_err(|_| Error::new(ErrorKind::InvalidInput, "secret", "its value cannot stand in a header").with("header", name))?;
            // It is kept out of what is printed, and out of the tables of compressed headers.
            value.set_sensitive(true);
            *header = value;
        }
    }
    Ok(found)
}

/// Puts placeholders in the place of a host's secrets in the headers of its answer; the names of those that were there. Nobody who gave a server a secret
/// wants it back from there.
pub(super) fn restore(headers: &mut HeaderMap, keyring: &Keyring, host: &DomainName) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for header in headers.values_mut() {
        if let Some(new) = restored(header.as_bytes(), keyring, host, &mut found) {
            // Of characters that may stand in a header, and those of a header, it is one.
            *header = HeaderValue::from_bytes(&new).unwrap_or_else(|_| HeaderValue::from_static(""));
        }
    }
    found
}

/// The same with placeholders in the place of a host's secrets, where there are some. What is shorter than [`SHORTEST`] would be found where it is not meant.
pub(super) fn restored(bytes: &[u8], keyring: &Keyring, host: &DomainName, found: &mut BTreeSet<String>) -> Option<Vec<u8>> {
    let mut new: Option<Vec<u8>> = None;
    for secret in keyring.of(host) {
        // One that is gone was put into nothing since.
        let Ok(value) = keyring.value(secret) else { continue };
        let now = new.as_deref().unwrap_or(bytes);
        if value.len() < SHORTEST || memmem::find(now, value.as_bytes()).is_none() {
            continue;
        }
        let (mut replaced, mut from) = (Vec::new(), 0);
        for at in memmem::find_iter(now, value.as_bytes()) {
            replaced.extend_from_slice(&now[from..at]);
            replaced.extend_from_slice(secret.placeholder.as_bytes());
            from = at + value.len();
        }
        replaced.extend_from_slice(&now[from..]);
        new = Some(replaced);
        found.insert(secret.name.clone());
    }
    new
}

/// What HTTP's basic authentication has encoded, with what stands before it.
fn basic<'a>(name: &HeaderName, header: &'a HeaderValue) -> Option<(&'a [u8], Vec<u8>)> {
    const SCHEME: usize = "Basic ".len();
    let (scheme, encoded) = header.as_bytes().split_at_checked(SCHEME).filter(|_| *name == AUTHORIZATION)?;
    let credentials = STANDARD.decode(encoded.trim_ascii()).ok().filter(|_| scheme.eq_ignore_ascii_case(b"Basic "))?;
    Some((scheme, credentials))
}

fn replace(bytes: &[u8], keyring: &Keyring, host: &DomainName, found: &mut Found) -> Result<Option<Vec<u8>>> {
    let (mut new, mut from) = (Vec::new(), 0);
    for place in keyring.places(bytes) {
        let name = place.secret.name.clone();
        if !place.secret.hosts.contains(host) {
            found.foreign.insert(name);
            continue;
        }
        new.extend_from_slice(&bytes[from..place.begin]);
        new.extend_from_slice(keyring.value(place.secret)?.as_bytes());
        from = place.begin + place.secret.placeholder.len();
        found.used.insert(name);
    }
    if from == 0 {
        return Ok(None);
    }
    new.extend_from_slice(&bytes[from..]);
    Ok(Some(new))
}

#[cfg(test)]
mod tests {
    use super::{super::keyring, *};

    #[test]
    fn what_is_for_the_host_is_put_in_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = keyring::example(folder.path(), &[("A", "a.test", "one"), ("B", "a.test", "two"), ("C", "c.test", "three")]);
        let host = "a.test".parse().unwrap();
        let mut headers = HeaderMap::new();
        let encoded = STANDARD.encode("me:sandbar-secret-A");
        for (name, value) in [
            ("x-both", "<sandbar-secret-A sandbar-secret-B>sandbar-secret-"),
            ("x-other", "sandbar-secret-C"),
            ("authorization", &format!("basic {encoded}")),
            ("x-encoded", &format!("Basic {encoded}")),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let found = substitute(&mut headers, &keyring, &host).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found, Found { used: names(&["A", "B"]), foreign: names(&["C"]) });
        assert_eq!(headers["x-both"], "<one two>sandbar-secret-");
        assert!(headers["x-both"].is_sensitive() && !format!("{headers:?}").contains("one two"));
        assert_eq!(headers["x-other"], "sandbar-secret-C");
        assert_eq!(headers["authorization"], format!("basic {}", STANDARD.encode("me:one")));
        assert_eq!(headers["x-encoded"], format!("Basic {encoded}"));
        // A file is read at each use.
        std::fs::write(folder.path().join("A"), "1\n").unwrap();
        headers.insert("x-both", "sandbar-secret-A".parse().unwrap());
        substitute(&mut headers, &keyring, &host).unwrap();
        assert_eq!(headers["x-both"], "1");
        std::fs::remove_file(folder.path().join("A")).unwrap();
        headers.insert("x-both", "sandbar-secret-A".parse().unwrap());
        assert!(substitute(&mut headers, &keyring, &host).is_err() && keyring.check(&host).is_err());
        keyring.check(&"c.test".parse().unwrap()).unwrap();
    }
}
