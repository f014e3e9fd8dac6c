use std::{collections::BTreeMap, ffi::CString};

use sandbar_protocol::EnvVar;

use crate::{
    failure::{Kind, Result, failure, shown},
    users::User,
};

/// Debian's and Docker's.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of one command.
#[derive(Debug)]
pub(crate) struct Environment(BTreeMap<Vec<u8>, Vec<u8>>);

impl Environment {
    /// Defaults of the user and the terminal, then the sandbox's variables, then the request's changes.
    pub(crate) fn new(user: &User, terminal: bool, sandbox: &[EnvVar], changes: &[EnvVar]) -> Result<Self> {
        let mut variables = BTreeMap::new();
        let mut set = |name: &[u8], value: &[u8]| {
            if !value.is_empty() {
                variables.insert(name.to_vec(), value.to_vec());
            }
        };
        set(b"PATH", PATH);
        if terminal {
            set(b"TERM", b"xterm-256color");
        }
        match &user.entry {
            Some(entry) => {
                set(b"HOME", &entry.home);
                set(b"USER", &entry.name);
                set(b"LOGNAME", &entry.name);
                set(b"SHELL", if entry.shell.is_empty() { b"/bin/sh" } else { &entry.shell });
            }
            None => set(b"HOME", b"/"),
        }
        for change in sandbox.iter().chain(changes) {
            if change.name.is_empty() || change.name.contains(&b'=') || change.name.contains(&0) {
                return Err(failure(Kind::InvalidInput, format!("{} cannot be a variable's name", shown(&change.name))));
            }
            match &change.value {
                Some(value) => variables.insert(change.name.clone(), value.clone()),
                None => variables.remove(&change.name),
            };
        }
        Ok(Self(variables))
    }

    /// A variable's value.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// As `NAME=VALUE` for exec.
    pub(crate) fn strings(&self) -> Result<Vec<CString>> {
        let join = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            CString::new([name.as_slice(), b"=", value].concat())
                .map_err(|_| failure(Kind::InvalidInput, format!("the value of variable {} contains a NUL byte", shown(name))))
        };
        self.0.iter().map(join).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Entry;

    fn var(name: &str, value: Option<&str>) -> EnvVar {
        EnvVar { name: name.into(), value: value.map(Into::into) }
    }

    #[test]
    fn the_request_wins_over_the_sandbox_and_the_sandbox_over_defaults() {
        let entry = Entry { name: b"me".to_vec(), home: b"/home/me".to_vec(), shell: vec![] };
        let user = User { uid: 1, gid: 1, groups: vec![], entry: Some(entry) };
        let sandbox = [var("HOME", Some("/work")), var("A", Some("1")), var("B", Some("2"))];
        let changes = [var("A", Some("")), var("B", None), var("TERM", None)];
        let environment = Environment::new(&user, true, &sandbox, &changes).unwrap();
        let strings: Vec<_> = environment.strings().unwrap().into_iter().map(|string| string.into_string().unwrap()).collect();
        let path = format!("PATH={}", str::from_utf8(PATH).unwrap());
        assert_eq!(strings, ["A=", "HOME=/work", "LOGNAME=me", &path, "SHELL=/bin/sh", "USER=me"]);
    }

    #[test]
    fn names_and_values_that_exec_cannot_carry_are_refused() {
        let user = User { uid: 1, gid: 1, groups: vec![], entry: None };
        for name in ["", "a=b", "a\0"] {
            assert!(Environment::new(&user, false, &[], &[var(name, Some("x"))]).is_err(), "{name:?}");
        }
        assert!(Environment::new(&user, false, &[], &[var("A", Some("x\0"))]).unwrap().strings().is_err());
    }
}
