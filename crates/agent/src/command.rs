use std::ffi::CString;

use sandbar_protocol::Exec;

use crate::{
    agent::Agent,
    environment::Environment,
    failure::{Kind, Result, failure},
    users::{self, User},
};

/// An exec request with everything looked up that can be looked up before fork. Files are looked at by the child alone: with its
/// rights, and without holding the agent up.
#[derive(Debug)]
pub(crate) struct Command {
    /// The paths to try, in this order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) workdir: CString,
    /// Whether a missing working directory is replaced by `/`: nobody asked for it by name.
    pub(crate) workdir_optional: bool,
    pub(crate) user: User,
    /// For reading.
    pub(crate) line: String,
}

impl Command {
    pub(crate) fn new(agent: &Agent, request: &Exec) -> Result<Self> {
        let settings = agent.settings();
        let config = &settings.config;
        let user = match request.user.as_ref().or(config.user.as_ref()) {
            Some(user) => users::resolve(user)?,
            None => users::own(),
        };
        let environment = Environment::new(&user, request.pty.is_some(), &config.env, &request.env)?;
        let name = request.argv.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| failure(Kind::InvalidInput, "the command is empty"))?;
        let home = user.entry.as_ref().map(|entry| entry.home.as_slice()).filter(|home| !home.is_empty());
        let own = config.workdir.as_deref().or(home).unwrap_or(b"/");
        Ok(Self {
            candidates: candidates(name, environment.get(b"PATH").unwrap_or_default())?,
            arguments: request.argv.iter().map(|argument| string("an argument", argument)).collect::<Result<_>>()?,
            environment: environment.strings()?,
            workdir: string("the working directory", &request.workdir.as_ref().map_or(own.to_vec(), |named| beneath(own, named)))?,
            workdir_optional: request.workdir.is_none() && config.workdir.is_none(),
            line: line(&request.argv),
            user,
        })
    }
}

/// A path that is taken from a directory unless it is absolute.
fn beneath(directory: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_vec() } else { [directory, b"/", path].concat() }
}

/// Where a program may be: `execvp`'s rules.
fn candidates(name: &[u8], path: &[u8]) -> Result<Vec<CString>> {
    if name.contains(&b'/') {
        return Ok(vec![string("the command", name)?]);
    }
    let candidate = |directory: &[u8]| match directory {
        b"" => string("the command", &[b"./", name].concat()),
        directory => string("PATH", &[directory, b"/", name].concat()),
    };
    path.split(|byte| *byte == b':').map(candidate).collect()
}

fn string(what: &str, bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| failure(Kind::InvalidInput, format!("{what} contains a NUL byte")))
}

/// Arguments joined for reading, bounded so that a list of all processes fits a message.
fn line(argv: &[Vec<u8>]) -> String {
    const LIMIT: usize = 400;
    let mut bytes = Vec::new();
    for argument in argv {
        if !bytes.is_empty() {
            bytes.push(b' ');
        }
        bytes.extend_from_slice(&argument[..argument.len().min(LIMIT)]);
        if bytes.len() > LIMIT {
            bytes.truncate(LIMIT);
            return format!("{}…", String::from_utf8_lossy(&bytes).trim_end_matches('\u{fffd}'));
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_every_directory_and_a_path_in_none() {
        let found = candidates(b"ls", b"/bin::/usr/bin").unwrap();
        assert_eq!(found, [c"/bin/ls".into(), CString::from(c"./ls"), c"/usr/bin/ls".into()]);
        assert_eq!(candidates(b"./ls", b"/bin").unwrap(), [CString::from(c"./ls")]);
    }

    #[test]
    fn long_command_lines_are_cut_for_reading() {
        assert_eq!(line(&[b"echo".to_vec(), b"a b".to_vec(), vec![0xff]]), "echo a b \u{fffd}");
        assert!(line(&[vec![b'x'; 1 << 20], vec![b'y'; 1 << 20]]).len() < 420);
    }
}
