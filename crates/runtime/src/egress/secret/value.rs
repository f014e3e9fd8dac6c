use std::{collections::BTreeMap, env, fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use http::HeaderValue;
use rustix::fs::OFlags;
use sandbar_core::{Error, ErrorKind, Result, Secret, SecretSource, SecretValue, Secrets};

/// Bytes of a secret at most: servers take heads of 8 to 32 KiB.
const MOST: u64 = 8 << 10;

/// What the secrets of a new sandbox are, by their names, as whoever asks for it has them now: what another host is told, which keeps it. `given` has the
/// values that came with the request.
///
/// # Errors
/// `InvalidInput` for a value that is missing, or of no secret; when a source cannot be read.
pub(crate) fn values(secrets: &Secrets, given: &BTreeMap<String, SecretValue>) -> Result<BTreeMap<String, SecretValue>> {
    require_awaited(secrets, given)?;
    let value = |secret: &Secret| Ok((secret.name.clone(), SecretValue::new(at_first(secret, given)?)));
    secrets.list.iter().map(value).collect()
}

/// Refuses a value that no secret waits for.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn require_awaited(secrets: &Secrets, given: &BTreeMap<String, SecretValue>) -> Result<()> {
    let is_awaited = |name: &String| secrets.list.iter().any(|secret| secret.source == SecretSource::Given && secret.name == *name);
    match given.keys().find(|name| !is_awaited(name)) {
        Some(name) => Err(bad("a value is given of what is no such secret").with("secret", name)),
        None => Ok(()),
    }
}

/// What a secret of a new sandbox is.
///
/// # Errors
/// When its source cannot be read.
pub(super) fn at_first(secret: &Secret, given: &BTreeMap<String, SecretValue>) -> Result<String> {
    match &secret.source {
        SecretSource::Variable(variable) => of_variable(secret, variable),
        SecretSource::File(path) => of_file(secret, path),
        SecretSource::Given => of_request(secret, given.get(&secret.name)),
    }
}

/// What a variable of this process has.
///
/// # Errors
/// `InvalidInput` when it is not set, or cannot stand in a request. The value is never part of an error.
fn of_variable(secret: &Secret, variable: &str) -> Result<String> {
    let told = |error: Error| error.with("secret", &secret.name).with("variable", variable);
    let value = env::var_os(variable).ok_or_else(|| told(bad("the variable is not set")))?;
    checked(value.into_string().map_err(|_| told(bad("the variable's value is not UTF-8")))?).map_err(told)
}

/// What came with the request for the sandbox.
///
/// # Errors
/// `InvalidInput` when nothing did, or what did cannot stand in a request.
fn of_request(secret: &Secret, value: Option<&SecretValue>) -> Result<String> {
    let told = |error: Error| error.with("secret", &secret.name);
    let value = value.ok_or_else(|| told(bad("no value is given with it")))?;
    checked(value.reveal().to_owned()).map_err(told)
}

/// What a file has now, without the end of its line.
///
/// # Errors
/// When it cannot be read, or what it has cannot stand in a request.
fn of_file(secret: &Secret, path: &Path) -> Result<String> {
    let told = |error: Error| error.with("secret", &secret.name).with("file", path.display());
    let read = || {
        // A pipe that nobody writes to must not be waited for.
        let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let mut bytes = Vec::new();
        file.take(MOST + 2).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| told(Error::io("secret", "its file cannot be read", error)))?;
    let mut text = String::from_utf8(bytes).map_err(|_| told(bad("the file is not UTF-8")))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    checked(text).map_err(told)
}

/// Where the value is not kept: reads it.
///
/// # Errors
/// As those two; `NotFound` for one that is kept, and is not there.
pub(super) fn of_source(secret: &Secret) -> Result<String> {
    match &secret.source {
        SecretSource::File(path) => of_file(secret, path),
        SecretSource::Variable(_) | SecretSource::Given => {
            Err(Error::new(ErrorKind::NotFound, "secret", "its value is gone").with("secret", &secret.name))
        }
    }
}

fn checked(value: String) -> Result<String> {
    if value.is_empty() {
        return Err(bad("it is empty"));
    }
    if value.len() as u64 > MOST {
        return Err(bad("it is longer than a request's head may be").with("most", MOST));
    }
    if value.trim() != value || HeaderValue::from_str(&value).is_err() {
        return Err(bad("it has characters that cannot stand in a header"));
    }
    Ok(value)
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "secret", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_host_is_told_is_read_here_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "hunter2\n").unwrap();
        let list = ["P=env:PATH@a.test".to_owned(), format!("F=file:{}@a.test", path.display()), "G=given@a.test".to_owned()];
        let secrets = Secrets { vault: None, list: list.iter().map(|text| text.parse().unwrap()).collect() };
        let given = |name: &str| BTreeMap::from([(name.to_owned(), SecretValue::new("hunter3"))]);
        let read = values(&secrets, &given("G")).unwrap();
        assert_eq!(read["P"].reveal(), env::var("PATH").unwrap());
        assert_eq!((read["F"].reveal(), read["G"].reveal(), read.len()), ("hunter2", "hunter3", 3));
        // One that is missing, and one that no secret waits for.
        for given in [BTreeMap::new(), given("P")] {
            let error = values(&secrets, &given).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidInput && !error.chain().contains("hunter"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(values(&secrets, &given("G")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let secret: Secret = format!("T=file:{}@a.test", path.display()).parse().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            of_source(&secret)
        };
        assert_eq!(read(b"one two\r\n").unwrap(), "one two");
        for bytes in [&b""[..], b"\n", b"a\nb", b"a\0b", b" a", b"\xff", &vec![b'x'; 9000]] {
            let error = read(bytes).unwrap_err();
            assert!(!error.chain().contains("xxx"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = of_source(&secret).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("token"), "{error}");
        assert!(of_file(&secret, folder.path()).is_err());
    }
}
