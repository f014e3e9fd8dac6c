use std::{env, fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use http::HeaderValue;
use rustix::fs::OFlags;
use sandbar_core::{Error, ErrorKind, Result, Secret, SecretSource, SecretValue};

/// Bytes of a secret at most: servers take heads of 8 to 32 KiB.
const MOST: u64 = 8 << 10;

/// What a variable of this process has.
///
/// # Errors
/// `InvalidInput` when it is not set, or cannot stand in a request. The value is never part of an error.
pub(super) fn of_variable(secret: &Secret, variable: &str) -> Result<String> {
    let told = |error: Error| error.with("secret", &secret.name).with("variable", variable);
    let value = env::var_os(variable).ok_or_else(|| told(bad("the variable is not set")))?;
    checked(value.into_string().map_err(|_| told(bad("the variable's value is not UTF-8")))?).map_err(told)
}

/// What came with the request for the sandbox.
///
/// # Errors
/// `InvalidInput` when nothing did, or what did cannot stand in a request.
pub(super) fn of_request(secret: &Secret, value: Option<&SecretValue>) -> Result<String> {
    let told = |error: Error| error.with("secret", &secret.name);
    let value = value.ok_or_else(|| told(bad("no value is given with it")))?;
    checked(value.reveal().to_owned()).map_err(told)
}

/// What a file has now, without the end of its line.
///
/// # Errors
/// When it cannot be read, or what it has cannot stand in a request.
pub(super) fn of_file(secret: &Secret, path: &Path) -> Result<String> {
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
