use std::{fmt::Display, time::Instant};

use sandbar_core::{ErrorKind, ExecStream, Program, Result, SandboxId};

use super::{Actor, AuditLog, AuditRecord};
use crate::{Runtime, Sandbox, clock};

/// Characters of a target that are kept.
const LONGEST: usize = 256;
/// What is not there, for who was looking.
const UNKNOWN: &str = "find";

/// A verb under way. What becomes of it is written at its end, also when its end is that nobody waits for it any more.
pub(crate) struct Deed {
    runtime: Runtime,
    record: AuditRecord,
    begun: Instant,
    told: bool,
}

impl Runtime {
    /// Who uses this runtime.
    fn actor(&self) -> Actor {
        match (self.holder(), self.by_token) {
            (Some(holder), _) => Actor::Key { name: holder.name.clone() },
            (None, true) => Actor::Token,
            (None, false) => Actor::User { uid: rustix::process::getuid().as_raw() },
        }
    }

    /// This runtime as who has shown the token of the state folder has it.
    #[must_use]
    pub fn by_token(&self) -> Self {
        Self { by_token: true, ..self.clone() }
    }

    /// What was done to the sandboxes of this state folder, and by whom.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::of(self.home().audit())
    }

    /// Writes that something was refused before anything was tried.
    pub fn audit_refusal(&self, target: impl Display, kind: ErrorKind) {
        self.deed("request").at(target).conclude(kind.name());
    }

    /// Writes that there is no such sandbox for a key's holder, who may have been looking for another one's. Of the owner, it is a slip.
    pub(crate) fn audit_unknown(&self, reference: &str) {
        if self.holder().is_some() {
            self.deed(UNKNOWN).at(reference).conclude(ErrorKind::NotFound.name());
        }
    }

    /// A verb begins.
    pub(crate) fn deed(&self, verb: &'static str) -> Deed {
        let record = AuditRecord {
            time_ms: clock::now_ms(),
            duration_micros: 0,
            actor: self.actor(),
            verb: verb.to_owned(),
            sandbox: None,
            name: None,
            target: None,
            pid: None,
            exit_code: None,
            outcome: "abandoned".to_owned(),
        };
        Deed { runtime: self.clone(), record, begun: Instant::now(), told: false }
    }
}

impl Sandbox {
    /// A verb on this sandbox begins.
    pub(crate) fn deed(&self, verb: &'static str) -> Deed {
        self.runtime().deed(verb).on(self.id(), self.name())
    }
}

impl Deed {
    pub(crate) fn on(mut self, id: &SandboxId, name: Option<&str>) -> Self {
        self.record.sandbox = Some(id.clone());
        self.record.name = name.map(str::to_owned);
        self
    }

    pub(crate) fn at(mut self, target: impl Display) -> Self {
        let target = target.to_string();
        self.record.target = Some(match target.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &target[..end]),
            None => target,
        });
        self
    }

    /// Of a command, the program's name is told and nothing else: arguments and lines of a shell may hold secrets.
    pub(crate) fn running(self, program: &Program) -> Self {
        match program {
            Program::Argv(argv) => {
                let name = argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
                self.at(name.unwrap_or_default())
            }
            Program::Shell(_) => self.at("/bin/sh"),
        }
    }

    /// Of this process inside.
    pub(crate) fn of(mut self, pid: u32) -> Self {
        self.record.pid = Some(pid);
        self
    }

    /// Writes the outcome of a command's start.
    pub(crate) fn started(self, outcome: Result<ExecStream>) -> Result<ExecStream> {
        match outcome {
            Ok(stream) => self.of(stream.pid).end(Ok(stream)),
            failed => self.end(failed),
        }
    }

    /// Writes that a command has ended, for which somebody had waited since then.
    pub(crate) fn exited(mut self, code: u8, begun: Instant) {
        self.record.exit_code = Some(code);
        self.begun = begun;
        self.conclude("ok");
    }

    /// Waits for the outcome, and writes it.
    pub(crate) async fn done<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = work.await;
        self.end(outcome)
    }

    /// Writes the outcome.
    pub(crate) fn end<T>(self, outcome: Result<T>) -> Result<T> {
        self.conclude(outcome.as_ref().map_or_else(|error| error.kind().name(), |_| "ok"));
        outcome
    }

    /// Writes that it has made these sandboxes.
    pub(crate) fn made(mut self, sandboxes: &[Sandbox]) {
        self.told = true;
        for sandbox in sandboxes {
            let one = Self { runtime: self.runtime.clone(), record: self.record.clone(), begun: self.begun, told: false };
            one.on(sandbox.id(), sandbox.name()).conclude("ok");
        }
    }

    fn conclude(mut self, outcome: &str) {
        outcome.clone_into(&mut self.record.outcome);
        self.tell();
    }

    fn tell(&mut self) {
        self.told = true;
        self.record.duration_micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.runtime.audit_writer().add(&self.record);
    }
}

impl Drop for Deed {
    fn drop(&mut self) {
        if !self.told {
            self.tell();
        }
    }
}
