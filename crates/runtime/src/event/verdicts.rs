use std::collections::{HashMap, HashSet};

use sandbar_core::{Result, SandboxId};
use serde::Serialize;

use crate::{NetworkRecord, Runtime, Sandbox, egress::NetworkLog, ledger::Known};

/// What was decided about a name or a connection of a sandbox. The names of the fields are those of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The sandbox's name.
    pub name: Option<String>,
    /// The decision, as in the sandbox's own log.
    pub verdict: NetworkRecord,
    /// The key that the sandbox was made with.
    #[serde(skip)]
    key: Option<i64>,
}

/// What is decided about all sandboxes of a state folder from now on, whichever processes decide.
pub struct Verdicts {
    runtime: Runtime,
    logs: HashMap<SandboxId, Followed>,
    /// Whether it has been read: sandboxes that were not there before are followed from their beginning.
    begun: bool,
}

struct Followed {
    name: Option<String>,
    key: Option<i64>,
    log: NetworkLog,
}

impl Runtime {
    /// Follows what is decided about sandboxes: those that are seen here.
    ///
    /// # Errors
    /// As [`Verdicts::read`].
    pub fn verdicts(&self) -> Result<Verdicts> {
        let mut verdicts = Verdicts { runtime: self.clone(), logs: HashMap::new(), begun: false };
        verdicts.notice()?;
        verdicts.begun = true;
        Ok(verdicts)
    }

    /// Whether a verdict is about a sandbox that is seen here.
    pub fn sees(&self, verdict: &Verdict) -> bool {
        self.own().is_none_or(|own| verdict.key == Some(own))
    }
}

impl Verdicts {
    /// What has been decided since the last call.
    ///
    /// # Errors
    /// When the ledger or a log cannot be read.
    pub fn read(&mut self) -> Result<Vec<Verdict>> {
        let there = self.notice()?;
        let mut read = Vec::new();
        for (id, Followed { name, key, log }) in &mut self.logs {
            let told = |verdict| Verdict { sandbox: id.clone(), name: name.clone(), verdict, key: *key };
            read.extend(log.read()?.into_iter().map(told));
        }
        // The last words of one that is gone have been read now.
        self.logs.retain(|id, _| there.contains(id));
        // Of one sandbox they are in order already.
        read.sort_by_key(|verdict| verdict.verdict.time_ms);
        Ok(read)
    }

    fn notice(&mut self) -> Result<HashSet<SandboxId>> {
        let mut there = HashSet::new();
        for Known { id, name, key } in self.runtime.ledger().gated(self.runtime.own())? {
            if !self.logs.contains_key(&id) {
                let mut log = Sandbox::network_log_in(&self.runtime, &id);
                if !self.begun {
                    log.skip()?;
                }
                self.logs.insert(id.clone(), Followed { name, key, log });
            }
            there.insert(id);
        }
        Ok(there)
    }
}
