use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::params;
use sandbar_core::{Error, ErrorKind, Journal, Resource, Result, SandboxId, State};
use serde_json::Value;

use super::{Ledger, resource_row::insert, sandbox_row::to_json};
use crate::fault;

/// The ledger's face to the provider of one sandbox.
pub(crate) struct LedgerJournal {
    ledger: Arc<Ledger>,
    id: SandboxId,
    /// While the sandbox is being made.
    new: Mutex<Option<New>>,
}

/// A sandbox whose row says that it is being made: undoing that removes its folder with everything in it. So a folder in there needs no
/// row before it exists, and is written with what needs one.
struct New {
    folder: PathBuf,
    unwritten: Vec<Resource>,
}

impl LedgerJournal {
    pub(crate) fn new(ledger: Arc<Ledger>, id: SandboxId) -> Self {
        Self { ledger, id, new: Mutex::new(None) }
    }

    /// For a sandbox that is being made, in `folder`.
    pub(crate) fn of_new(ledger: Arc<Ledger>, id: SandboxId, folder: PathBuf) -> Self {
        Self { ledger, id, new: Mutex::new(Some(New { folder, unwritten: Vec::new() })) }
    }

    fn new_one(&self) -> MutexGuard<'_, Option<New>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for LedgerJournal {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.intend_all(std::slice::from_ref(resource))
    }

    fn intend_all(&self, resources: &[Resource]) -> Result<()> {
        let mut new = self.new_one();
        let Some(new) = &mut *new else { return self.ledger.intend(&self.id, resources) };
        let inside = |resource: &Resource| matches!(resource, Resource::Folder { path } if path.starts_with(&new.folder));
        if resources.iter().all(inside) {
            new.unwritten.extend_from_slice(resources);
            return Ok(());
        }
        let together: Vec<Resource> = new.unwritten.iter().chain(resources).cloned().collect();
        self.ledger.intend(&self.id, &together)?;
        new.unwritten.clear();
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        if let Some(new) = &mut *self.new_one()
            && let Some(index) = new.unwritten.iter().position(|unwritten| unwritten == resource)
        {
            new.unwritten.swap_remove(index);
            return Ok(());
        }
        self.ledger.forget(&self.id, resource)
    }

    /// A restore's new root takes the old one's place in the same step: after it, the sandbox is the new one. And one that was being made
    /// is made.
    fn commit(&self, record: &Value, state: State) -> Result<()> {
        let record = to_json(record)?;
        let mut new = self.new_one();
        let unwritten = new.as_ref().map_or(&[][..], |new| &new.unwritten);
        self.ledger.write(|transaction| {
            insert(transaction, &self.id, unwritten)?;
            // A sandbox that is being destroyed stays so, whatever its provider says on the way.
            let sql = "
                UPDATE sandboxes SET record = ?2, state = CASE state WHEN 'destroying' THEN state ELSE ?3 END, reason = NULL,
                    revision = revision + 1, committed = operation IS NOT NULL AND operation <> 'provision', boot = ?4,
                    base = coalesce(pending_base, base), root = coalesce(pending_root, root), pending_base = NULL, pending_root = NULL,
                    operator_pid = CASE operation WHEN 'provision' THEN NULL ELSE operator_pid END,
                    operator_start = CASE operation WHEN 'provision' THEN NULL ELSE operator_start END,
                    operator_boot = CASE operation WHEN 'provision' THEN NULL ELSE operator_boot END,
                    operation = nullif(operation, 'provision') WHERE id = ?1";
            let changed = transaction.prepare_cached(sql)?.execute(params![self.id.as_str(), record, state.name(), self.ledger.boot()])?;
            if changed == 0 {
                let error = Error::new(ErrorKind::NotFound, "ledger", "the sandbox has no row any more");
                return Err(error.with("id", &self.id).into());
            }
            Ok(())
        })?;
        *new = None;
        Ok(())
    }

    fn step(&self, name: &'static str) {
        fault::point(name);
    }
}

#[cfg(test)]
mod tests {
    use sandbar_core::{Lifetime, RootSource, SandboxSpec};

    use super::{
        super::{Age, NewSandbox, Operation},
        *,
    };
    use crate::process_identity::ProcessIdentity;

    fn made(home: &std::path::Path) -> (Arc<Ledger>, SandboxId, ProcessIdentity) {
        let ledger = Arc::new(Ledger::open(&home.join("ledger.db"), "boot").unwrap());
        let (id, me) = (SandboxId::from_random([7; 8]), ProcessIdentity::current("boot").unwrap());
        let new = NewSandbox {
            id: &id,
            name: None,
            provider: "p",
            image: "i",
            choice: "c",
            lifetime: Lifetime::Detached,
            expires_ms: None,
            gated: false,
            base: None,
            spec: &SandboxSpec::default(),
            root: &RootSource::empty(),
            key: None,
            first_id: None,
            operator: &me,
        };
        ledger.insert_sandbox(&new).unwrap();
        (ledger, id, me)
    }

    fn folder(path: &str) -> Resource {
        Resource::Folder { path: path.into() }
    }

    fn group(path: &str) -> Resource {
        Resource::Cgroup { path: path.into() }
    }

    #[test]
    fn a_folder_of_a_new_sandbox_is_written_with_what_comes_next() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, id, _) = made(home.path());
        let journal = LedgerJournal::of_new(Arc::clone(&ledger), id.clone(), "/s/id".into());
        let rows = || ledger.resources(&id, Age::Any).unwrap();
        journal.intend(&folder("/s/id/g1")).unwrap();
        assert_eq!(rows(), []);
        // One that is somewhere else is not spoken for by the row.
        journal.intend(&folder("/s/other")).unwrap();
        assert_eq!(rows().len(), 2);
        journal.intend(&folder("/s/id/g1/x")).unwrap();
        journal.forget(&folder("/s/id/g1/x")).unwrap();
        journal.intend_all(&[group("/a"), group("/b")]).unwrap();
        assert_eq!(rows().len(), 4);
        journal.intend(&folder("/s/id/g1/y")).unwrap();
        journal.commit(&Value::Null, State::Running).unwrap();
        assert_eq!(rows().len(), 5);
        // From then on a folder is told at once: the row does not say any more that it goes.
        journal.intend(&folder("/s/id/g2")).unwrap();
        assert_eq!(rows().len(), 6);
    }

    #[test]
    fn the_commit_ends_the_making_and_no_other_operation() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, id, me) = made(home.path());
        let journal = LedgerJournal::new(Arc::clone(&ledger), id.clone());
        let row = || ledger.sandbox(&id).unwrap().unwrap();
        journal.commit(&Value::Null, State::Running).unwrap();
        assert_eq!((row().state, row().operation, row().operator, row().committed), (State::Running, None, None, false));
        ledger.begin(&id, Operation::Restore, &me).unwrap();
        journal.commit(&Value::Null, State::Running).unwrap();
        assert_eq!((row().operation, row().operator, row().committed), (Some(Operation::Restore), Some(me), true));
    }

    #[test]
    fn what_a_destroy_has_removed_is_forgotten_with_the_row_and_found_again_after_a_crash() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, id, me) = made(home.path());
        let journal = LedgerJournal::new(Arc::clone(&ledger), id.clone());
        journal.intend_all(&[group("/a"), group("/b")]).unwrap();
        ledger.begin(&id, Operation::Destroy, &me).unwrap();
        journal.forget(&group("/a")).unwrap();
        assert_eq!(ledger.resources(&id, Age::Any).unwrap(), [group("/b")]);
        // As another process sees it.
        let other = Ledger::open(&home.path().join("ledger.db"), "boot").unwrap();
        assert_eq!(other.resources(&id, Age::Any).unwrap().len(), 2);
        ledger.delete_sandbox(&id).unwrap();
        assert_eq!(other.resources(&id, Age::Any).unwrap(), []);
    }
}
