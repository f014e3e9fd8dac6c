use rusqlite::{Transaction, params};
use sandbar_core::{Resource, Result, SandboxId};

use super::{
    Ledger,
    sandbox_row::{json, to_json},
    store::Refusal,
};

/// Which of a sandbox's resources: an operation that is interrupted is undone by giving back what it took, or finished by giving back
/// what it would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// All.
    Any,
    /// Only what the present operation took and the sandbox did not hold before.
    Fresh,
    /// Only what the sandbox held before, and the present operation did not name again.
    Old,
}

impl Ledger {
    /// Records resources, before they are made.
    pub(super) fn intend(&self, id: &SandboxId, resources: &[Resource]) -> Result<()> {
        self.write(|transaction| insert(transaction, id, resources))
    }

    /// Forgets a resource, after it is gone. Of a sandbox that this process destroys, that is remembered until its row goes: until then
    /// whoever comes after a crash finds what is gone already, which is no error.
    pub(crate) fn forget(&self, id: &SandboxId, resource: &Resource) -> Result<()> {
        if let Some(gone) = self.ending().get_mut(id) {
            gone.insert(resource.clone());
            return Ok(());
        }
        let resource = to_json(resource)?;
        self.write(|transaction| {
            let sql = "DELETE FROM resources WHERE sandbox = ?1 AND resource = ?2";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), resource])?;
            Ok(())
        })
    }

    /// The resources of a sandbox.
    pub(crate) fn resources(&self, id: &SandboxId, age: Age) -> Result<Vec<Resource>> {
        let condition = match age {
            Age::Any => "1",
            Age::Fresh => "fresh AND NOT kept",
            Age::Old => "kept AND NOT fresh",
        };
        let rows = self.read(|connection| {
            let sql = format!("SELECT resource FROM resources WHERE sandbox = ?1 AND {condition}");
            connection.prepare_cached(&sql)?.query_map([id.as_str()], |row| json(row, 0))?.collect::<rusqlite::Result<Vec<_>>>()
        });
        let ending = self.ending();
        let gone = ending.get(id);
        Ok(rows?.into_iter().filter(|resource| gone.is_none_or(|gone| !gone.contains(resource))).collect())
    }
}

/// Writes rows of resources, within a transaction.
pub(super) fn insert(transaction: &Transaction<'_>, id: &SandboxId, resources: &[Resource]) -> Result<(), Refusal> {
    let sql = "INSERT INTO resources VALUES (?1, ?2, 0, 1) ON CONFLICT DO UPDATE SET fresh = 1";
    for resource in resources {
        transaction.prepare_cached(sql)?.execute(params![id.as_str(), to_json(resource)?])?;
    }
    Ok(())
}
