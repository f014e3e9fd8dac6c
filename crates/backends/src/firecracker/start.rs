//! Starting Firecracker, in a jail or without one.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sandbar_core::{Context, Error, ErrorKind, IdRange, Journal, Lifetime, Resource, Result};

use super::{api, console, info, jail::Jail, vsock, wall::Place};
use crate::machine::{
    agent::AgentFile,
    launched::{self, Launch},
};

const OPERATION: &str = "firecracker start";
/// What the ledger calls the process.
pub(super) const ROLE: &str = "machine";
/// How long a killed machine may take to be gone: the kernel frees its memory first.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The names of the steps at which a boot calls [`Journal::step`], in their order.
pub const STEPS: [&str; 2] = ["firecracker.prepared", "firecracker.launched"];

/// A machine's folder, before Firecracker runs in it.
pub(super) struct Site {
    program: PathBuf,
    jail: Option<Jail>,
    /// The generation's folder, where what outlives a stop is.
    pub(super) generation: PathBuf,
    /// Firecracker's working directory or root: what it is told is relative to it.
    pub(super) folder: PathBuf,
}

impl Site {
    /// Makes the folder; in a jail where that is possible.
    ///
    /// # Errors
    /// `Unavailable` without Firecracker.
    pub(super) fn make(id: &str, number: u32, generation: &Path, ids: Option<IdRange>) -> Result<Self> {
        let program =
            info::program("firecracker").ok_or_else(|| Error::new(ErrorKind::Unavailable, OPERATION, "firecracker is missing"))?;
        let program = fs::canonicalize(&program).context(OPERATION, || format!("cannot find {}", program.display()))?;
        let jail = ids.filter(|_| info::is_jailed()).map(|ids| Jail::new(id, number, generation, ids));
        let folder = jail.as_ref().map_or_else(|| Ok(generation.to_owned()), |jail| jail.make(&program))?;
        Ok(Self { program, jail, generation: generation.to_owned(), folder })
    }

    /// Puts a file into the folder that nobody changes, under a name of its own.
    pub(super) fn place(&self, file: &Path, name: &str) -> Result<()> {
        let to = self.folder.join(name);
        if file == to {
            return Ok(());
        }
        let _ = fs::remove_file(&to);
        let linked = match fs::hard_link(file, &to) {
            // On another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::copy(file, &to).map(drop),
            linked => linked,
        };
        linked.context(OPERATION, || format!("cannot put {} into the machine's folder", file.display()))
    }

    /// The same with a file of this machine alone, which it changes.
    pub(super) fn place_own(&self, file: &Path, name: &str) -> Result<()> {
        self.place(file, name)?;
        self.jail.as_ref().map_or(Ok(()), |jail| jail.own(&self.folder.join(name)))
    }

    /// Starts Firecracker with these arguments. Blocks.
    ///
    /// # Errors
    /// Of the kernel or the journal.
    pub(super) fn start(self, arguments: &[&str], agent: &AgentFile, lifetime: Lifetime, journal: &Arc<dyn Journal>) -> Result<Place> {
        for socket in [api::SOCKET, vsock::SOCKET] {
            let _ = fs::remove_file(self.folder.join(socket));
        }
        let own: Vec<OsString> = ["--api-sock", api::SOCKET].iter().chain(arguments).map(OsString::from).collect();
        let (program, arguments) = match &self.jail {
            Some(jail) => {
                for path in &jail.groups {
                    journal.intend(&Resource::Cgroup { path: path.clone() })?;
                }
                let jailer = info::program("jailer").ok_or_else(|| Error::new(ErrorKind::Unavailable, OPERATION, "jailer is missing"))?;
                (jailer, [jail.arguments(&self.program), own].concat())
            }
            None => (self.program.clone(), own),
        };
        let output = console::make(&self.generation).context(OPERATION, || "cannot make the console's pipe".to_owned())?;
        let launch = Launch {
            agent: agent.path()?,
            program: &program,
            arguments,
            folder: &self.generation,
            log: console::LOG,
            output: Some(output),
            lifetime,
            role: ROLE,
            journal,
        };
        let started = launch.start();
        let place = |machine| Place {
            machine,
            jail: self.jail.clone(),
            generation: self.generation.clone(),
            folder: self.folder.clone(),
            limits: Vec::new(),
        };
        match started {
            Ok(machine) => {
                journal.step(STEPS[1]);
                Ok(place(machine))
            }
            Err(error) => {
                console::forget(&self.generation);
                if let Some(jail) = &self.jail {
                    jail.remove()?;
                    for path in &jail.groups {
                        journal.forget(&Resource::Cgroup { path: path.clone() })?;
                    }
                }
                Err(error)
            }
        }
    }
}

impl Place {
    /// Ends the machine and releases what is not the generation's folder. Blocks.
    pub(super) fn halt(&self, journal: &Arc<dyn Journal>) -> Result<()> {
        launched::end(&self.machine, PATIENCE)
            .map_err(|error| Error::io("halt", "cannot end the machine's process", error).with("pid", self.machine.pid))?;
        journal.forget(&self.machine.resource(ROLE))?;
        if let Some(jail) = &self.jail {
            jail.remove()?;
            for path in &jail.groups {
                journal.forget(&Resource::Cgroup { path: path.clone() })?;
            }
        }
        console::forget(&self.generation);
        for name in [api::SOCKET, vsock::SOCKET, super::wall::PAUSED] {
            let _ = fs::remove_file(self.generation.join(name));
        }
        Ok(())
    }
}
