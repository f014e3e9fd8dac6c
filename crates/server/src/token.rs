use std::{
    fmt, fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sandbar_core::{Context, Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

const OPERATION: &str = "server token";
/// Beneath the state folder.
const FILE: &str = "server-token";
/// What tells a token of sandbar from other secrets, for people and for scanners of leaked secrets.
const PREFIX: &str = "sandbar_";
/// Random bytes.
const LENGTH: usize = 32;

/// The secret by which a client of a server on this state folder shows that it may use it: whoever can read the state folder may.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// That of a state folder, made on first use, in a file that only its owner reads.
    ///
    /// # Errors
    /// `PermissionDenied` for a file that others may read, or that is somebody else's; `Corrupt` for one that holds no token.
    pub fn of(home: &Path) -> Result<Self> {
        let path = Self::path(home);
        let cannot = || format!("cannot use {}", path.display());
        let mut file = match fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::make(&path),
            opened => opened.context(OPERATION, cannot)?,
        };
        let found = file.metadata().context(OPERATION, cannot)?;
        if found.mode() & 0o077 != 0 || found.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, "others may read or write the token's file")
                .with("path", path.display())
                .with_hint("remove it; the next start makes a new one"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).context(OPERATION, cannot)?;
        let token = text.trim();
        if token.len() < PREFIX.len() + LENGTH || !token.starts_with(PREFIX) {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "the token's file holds no token")
                .with("path", path.display())
                .with_hint("remove it; the next start makes a new one"));
        }
        Ok(Self(token.to_owned()))
    }

    /// Where the token of a state folder is.
    pub fn path(home: &Path) -> PathBuf {
        home.join(FILE)
    }

    fn make(path: &Path) -> Result<Self> {
        let mut random = [0; LENGTH];
        getrandom::fill(&mut random).map_err(std::io::Error::from).context(OPERATION, || "no random numbers".to_owned())?;
        let token = Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)));
        let cannot = || format!("cannot make {}", path.display());
        // Complete before it has its name: another server may look for it now. One that was killed here has left a file of another name.
        let mut unlike = [0; 6];
        getrandom::fill(&mut unlike).map_err(std::io::Error::from).context(OPERATION, || "no random numbers".to_owned())?;
        let begun = path.with_extension(URL_SAFE_NO_PAD.encode(unlike));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begun);
        let written = file.and_then(|mut file| file.write_all(format!("{}\n", token.0).as_bytes()).and_then(|()| file.sync_all()));
        let linked = written.and_then(|()| fs::hard_link(&begun, path));
        let removed = fs::remove_file(&begun);
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.exists() => path.parent().map_or(Ok(token), Self::of),
            linked => linked.and(removed).context(OPERATION, cannot).map(|()| token),
        }
    }

    /// The text that a client sends.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether this is it. Takes as long for a wrong one as for the right one, whatever they have in common.
    pub(crate) fn is(&self, presented: &str) -> bool {
        Sha256::digest(self.0.as_bytes()) == Sha256::digest(presented.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let token = Token::of(home.path()).unwrap();
        assert_eq!(Token::of(home.path()).unwrap().secret(), token.secret());
        assert_eq!(fs::metadata(Token::path(home.path())).unwrap().mode() & 0o777, 0o600);
        assert!(token.is(token.secret()) && !token.is("") && !token.is(&token.secret()[1..]));
        assert!(!format!("{token:?}").contains(token.secret()));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_start_that_was_killed_has_left_stops_no_other() {
        let home = tempfile::tempdir().unwrap();
        // By the process id that this one has, too.
        fs::write(Token::path(home.path()).with_extension(std::process::id().to_string()), "sandbar_half").unwrap();
        assert!(Token::of(home.path()).is_ok());
    }

    #[test]
    fn one_that_others_may_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        Token::of(home.path()).unwrap();
        fs::set_permissions(Token::path(home.path()), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Token::of(home.path()).unwrap_err().kind(), ErrorKind::PermissionDenied);
        fs::set_permissions(Token::path(home.path()), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(Token::path(home.path()), "x").unwrap();
        assert_eq!(Token::of(home.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
