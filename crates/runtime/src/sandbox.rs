use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use sandbar_core::{AttachRequest, Error, ErrorKind, ProvisionRequest, Result, SandboxHandle, SandboxId, State, Verb};

use crate::{
    Runtime,
    create::as_provided,
    ledger::{LedgerJournal, Operation, SandboxRow},
    runtime::{gone, to_the_end},
};

/// One sandbox of a [`Runtime`]. Cheap to clone; says nothing about whether the sandbox still exists.
///
/// Every verb of [`SandboxHandle`] is a method of the same name and arguments. Those that change the life cycle exclude one another, across
/// processes; the others run beside them and are refused with `Conflict` in a state that does not allow them.
#[derive(Clone)]
pub struct Sandbox {
    runtime: Runtime,
    shared: Arc<Shared>,
}

struct Shared {
    id: SandboxId,
    name: Option<String>,
    /// What is worth telling about the choice of its provider.
    remark: Option<String>,
    /// The provider's handle, as of a revision of the row: a later one was made by another process, whose changes this handle has not seen.
    handle: Mutex<Option<(i64, Arc<dyn SandboxHandle>)>>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("id", &self.shared.id).field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Sandbox {
    pub(crate) fn of(runtime: Runtime, row: &SandboxRow) -> Self {
        Self { runtime, shared: Arc::new(Shared { id: row.id.clone(), name: row.name.clone(), remark: None, handle: Mutex::default() }) }
    }

    pub(crate) fn with_handle(
        runtime: Runtime,
        id: SandboxId,
        name: Option<String>,
        remark: Option<String>,
        revision: i64,
        handle: Arc<dyn SandboxHandle>,
    ) -> Self {
        Self { runtime, shared: Arc::new(Shared { id, name, remark, handle: Mutex::new(Some((revision, handle))) }) }
    }

    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.shared.id
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.shared.name.as_deref()
    }

    /// The name of its provider; an address where that is on another host.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub fn provider(&self) -> Result<String> {
        Ok(self.runtime.row(self.id())?.provider)
    }

    /// Which provider was chosen and why, of a sandbox that was just made: where nobody named one, and the choice is not simply the usual one.
    /// `inspect` tells the reason of any.
    pub fn choice_remark(&self) -> Option<&str> {
        self.shared.remark.as_deref()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn keep_handle(&self, revision: i64, handle: &Arc<dyn SandboxHandle>) {
        *self.shared.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some((revision, Arc::clone(handle)));
    }

    fn kept_handle(&self, revision: i64) -> Option<Arc<dyn SandboxHandle>> {
        let kept = self.shared.handle.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(known, _)| *known == revision).map(|(_, handle)| Arc::clone(handle))
    }

    /// The provider's handle of the sandbox as the row has it. Asks nobody.
    pub(crate) async fn handle_of(&self, row: &SandboxRow) -> Result<Arc<dyn SandboxHandle>> {
        if let Some(handle) = self.kept_handle(row.revision) {
            return Ok(handle);
        }
        let provision = ProvisionRequest {
            id: row.id.clone(),
            spec: as_provided(&row.spec, row.name.as_deref()),
            secret_values: BTreeMap::new(),
            root: row.root.clone(),
            folder: self.runtime.home().sandbox(&row.id),
            ids: row.ids,
            lifetime: row.lifetime,
            journal: Arc::new(LedgerJournal::new(Arc::clone(self.runtime.ledger()), row.id.clone())),
        };
        let request = AttachRequest { provision, record: row.record.clone() };
        let handle: Arc<dyn SandboxHandle> = self.runtime.provider(&row.provider)?.attach(request).await?.into();
        self.keep_handle(row.revision, &handle);
        Ok(handle)
    }

    /// The handle for a verb that does not change the life cycle, if the state is one of `allowed`.
    pub(crate) async fn usable(&self, allowed: &[State]) -> Result<Arc<dyn SandboxHandle>> {
        let (state, operation, revision) = self.runtime.ledger().standing(self.id())?.ok_or_else(|| gone(self.id()))?;
        if !allowed.contains(&state) {
            let error = match Verb::Use.check(state) {
                Err(error) => error,
                Ok(_) => Error::new(ErrorKind::Conflict, "use", format!("the sandbox is {state}")),
            };
            let error = error.with("id", self.id());
            let error = match self.runtime.row(self.id())?.reason {
                Some(reason) => error.with("because", reason),
                None => error,
            };
            return Err(match operation {
                Some(operation) => error.with("under way", operation),
                None => error,
            });
        }
        match self.kept_handle(revision) {
            Some(handle) => Ok(handle),
            None => self.handle_of(&self.runtime.row(self.id())?).await,
        }
    }

    async fn simply(&self, operation: Operation) -> Result<()> {
        let sandbox = self.clone();
        to_the_end(async move { sandbox.deed(operation.name()).done(sandbox.simply_now(operation)).await }).await
    }

    async fn simply_now(&self, operation: Operation) -> Result<()> {
        let turn = self.begin(operation).await?;
        let outcome = match operation {
            Operation::Pause => turn.handle.pause().await,
            Operation::Resume => turn.handle.resume().await,
            Operation::Stop => turn.handle.stop().await,
            Operation::Start => turn.handle.start().await,
            _ => Err(Error::new(ErrorKind::Internal, "runtime", "not a simple verb").with("operation", operation)),
        };
        turn.end(outcome).await?;
        if operation == Operation::Start {
            self.establish_trust().await?;
        }
        if operation == Operation::Start && self.runtime().row(self.id())?.gated {
            self.runtime().hasten_egress(self.id()).await;
        }
        Ok(())
    }

    /// Freezes everything inside.
    ///
    /// # Errors
    /// `Conflict` unless it is running.
    pub async fn pause(&self) -> Result<()> {
        self.simply(Operation::Pause).await
    }

    /// Thaws.
    ///
    /// # Errors
    /// `Conflict` unless it is paused.
    pub async fn resume(&self) -> Result<()> {
        self.simply(Operation::Resume).await
    }

    /// Ends the processes and keeps the writable layer.
    ///
    /// # Errors
    /// `Conflict` when it is stopped already.
    pub async fn stop(&self) -> Result<()> {
        self.simply(Operation::Stop).await
    }

    /// Runs again on the kept layer.
    ///
    /// # Errors
    /// `Conflict` when it is running.
    pub async fn start(&self) -> Result<()> {
        self.simply(Operation::Start).await
    }

    /// Ends everything and releases every resource. A sandbox that is gone already is no error.
    ///
    /// # Errors
    /// The first thing that could not be removed; the row stays, and `gc` tries again.
    pub async fn destroy(&self) -> Result<()> {
        let sandbox = self.clone();
        to_the_end(async move { sandbox.deed("destroy").done(sandbox.destroy_now()).await }).await
    }
}
