use rusqlite::params;
use sandbar_core::{Resource, Result, SandboxId};

use super::{
    Ledger,
    sandbox_row::{json, to_json},
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
    /// Records a resource, before it is made.
    pub(super) fn intend(&self, id: &SandboxId, resource: &Resource) -> Result<()> {
        let resource = to_json(resource)?;
        self.write(|transaction| {
            let sql = "INSERT INTO resources VALUES (?1, ?2, 0, 1) ON CONFLICT DO UPDATE SET fresh = 1";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), resource])?;
            Ok(())
        })
    }

    /// Forgets a resource, after it is gone.
    pub(crate) fn forget(&self, id: &SandboxId, resource: &Resource) -> Result<()> {
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
        self.read(|connection| {
            let sql = format!("SELECT resource FROM resources WHERE sandbox = ?1 AND {condition}");
            connection.prepare_cached(&sql)?.query_map([id.as_str()], |row| json(row, 0))?.collect()
        })
    }
}
