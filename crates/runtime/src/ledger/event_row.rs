use rusqlite::{Row, params};
use sandbar_core::{Result, SandboxId};

use super::{Ledger, sandbox_row::text};
use crate::event::Event;

/// Which sandbox something is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: SandboxId,
    pub(crate) name: Option<String>,
    /// The key that it was made with.
    pub(crate) key: Option<i64>,
}

impl Ledger {
    /// At most `limit` events after the one of this number, of the sandboxes of a key or of all, the oldest first; and the number up to which there is no other.
    pub(crate) fn events_after(&self, after: u64, limit: usize, key: Option<i64>) -> Result<(Vec<Event>, u64)> {
        self.read(|connection| {
            // Before the events: what is added meanwhile may be among them, or is looked for the next time.
            let newest: Option<u64> = connection.prepare_cached("SELECT max(id) FROM events")?.query_row([], |row| row.get(0))?;
            let sql = "
                SELECT id, time_ms, kind, sandbox, name, detail FROM events
                    WHERE id > ?1 AND (?3 IS NULL OR key = ?3) ORDER BY id LIMIT ?2";
            let read = |row: &Row<'_>| {
                Ok(Event {
                    id: row.get(0)?,
                    time_ms: row.get(1)?,
                    kind: text(row, 2)?,
                    sandbox: text(row, 3)?,
                    name: row.get(4)?,
                    detail: row.get(5)?,
                })
            };
            let events =
                connection.prepare_cached(sql)?.query_map(params![after, limit, key], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
            let last = events.last().map_or(after, |event| event.id);
            let seen = if events.len() < limit { last.max(newest.unwrap_or(0)) } else { last };
            Ok((events, seen))
        })
    }

    /// The numbers of the oldest event that is kept and of the newest; `None` before the first one.
    pub(crate) fn kept_events(&self) -> Result<Option<(u64, u64)>> {
        self.read(|connection| {
            let sql = "SELECT min(id), max(id) FROM events";
            let read = |row: &Row<'_>| Ok(row.get::<_, Option<u64>>(0)?.zip(row.get(1)?));
            connection.prepare_cached(sql)?.query_row([], read)
        })
    }

    /// The sandboxes about whose connections the host decides: those of a key, or all.
    pub(crate) fn gated(&self, key: Option<i64>) -> Result<Vec<Known>> {
        self.read(|connection| {
            let sql = "SELECT id, name, key FROM sandboxes WHERE gated = 1 AND (?1 IS NULL OR key = ?1)";
            let read = |row: &Row<'_>| Ok(Known { id: text(row, 0)?, name: row.get(1)?, key: row.get(2)? });
            connection.prepare_cached(sql)?.query_map([key], read)?.collect()
        })
    }

    /// The sandboxes that run or are paused: those of a key, or all.
    pub(crate) fn alive(&self, key: Option<i64>) -> Result<Vec<Known>> {
        self.read(|connection| {
            let sql = "SELECT id, name, key FROM sandboxes WHERE state IN ('running', 'paused') AND (?1 IS NULL OR key = ?1)";
            let read = |row: &Row<'_>| Ok(Known { id: text(row, 0)?, name: row.get(1)?, key: row.get(2)? });
            connection.prepare_cached(sql)?.query_map([key], read)?.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use sandbar_core::{CheckpointId, CheckpointKind, Journal, Lifetime, RootSource, SandboxSpec, SavedCheckpoint, State};
    use serde_json::Value;

    use super::{
        super::{CheckpointRow, CheckpointState, LedgerJournal, NewSandbox, Operation},
        *,
    };
    use crate::process_identity::ProcessIdentity;

    fn kinds(ledger: &Ledger, after: u64) -> Vec<String> {
        let told = ledger.events_after(after, 1000, None).unwrap().0.into_iter();
        told.map(|event| event.detail.map_or(event.kind.to_string(), |detail| format!("{} {detail}", event.kind))).collect()
    }

    fn insert(ledger: &Ledger, number: u8) -> SandboxId {
        let id = SandboxId::from_random([number; 8]);
        let me = ProcessIdentity::current("boot").unwrap();
        let (spec, root) = (SandboxSpec::default(), RootSource::empty());
        let new = NewSandbox {
            id: &id,
            name: None,
            provider: "fake",
            image: "host",
            choice: "asked for",
            lifetime: Lifetime::Detached,
            expires_ms: None,
            gated: number == 7,
            base: None,
            spec: &spec,
            root: &root,
            key: None,
            first_id: None,
            operator: &me,
        };
        ledger.insert_sandbox(&new).unwrap();
        id
    }

    #[test]
    fn what_happens_to_a_sandbox_is_told_in_order_whoever_does_it() {
        let home = tempfile::tempdir().unwrap();
        let (ledger, other) =
            (Ledger::open(&home.path().join("ledger.db"), "boot").unwrap(), Ledger::open(&home.path().join("ledger.db"), "boot").unwrap());
        let ledger = std::sync::Arc::new(ledger);
        let me = ProcessIdentity::current("boot").unwrap();
        assert_eq!(other.kept_events().unwrap(), None);
        let id = insert(&ledger, 1);
        let journal = LedgerJournal::new(std::sync::Arc::clone(&ledger), id.clone());
        assert_eq!(kinds(&other, 0), [""; 0], "it is being made");
        journal.commit(&Value::Null, State::Running).unwrap();
        ledger.finish(&id, State::Running, None).unwrap();
        for (operation, state) in [
            (Operation::Pause, State::Paused),
            (Operation::Resume, State::Running),
            (Operation::Stop, State::Stopped),
            (Operation::Start, State::Running),
        ] {
            ledger.begin(&id, operation, &me).unwrap();
            journal.commit(&Value::Null, state).unwrap();
            ledger.finish(&id, state, None).unwrap();
        }
        let saved = CheckpointId::from_random([1; 8]);
        let row = CheckpointRow {
            id: saved.clone(),
            name: None,
            sandbox: id.clone(),
            provider: "fake".to_owned(),
            kind: CheckpointKind::Disk,
            image: "host".to_owned(),
            root: RootSource::empty(),
            spec: SandboxSpec::default(),
            parent: None,
            bytes: 0,
            files: 0,
            record: Value::Null,
            state: CheckpointState::Saving,
            implicit: false,
            created_ms: 0,
            key: None,
        };
        ledger.insert_checkpoint(&row).unwrap();
        ledger.finish_checkpoint(&saved, &SavedCheckpoint { kind: CheckpointKind::Disk, bytes: 0, files: 0, record: Value::Null }).unwrap();
        ledger.begin(&id, Operation::Restore, &me).unwrap();
        ledger.set_pending(&id, &saved, &RootSource::empty()).unwrap();
        journal.commit(&Value::Null, State::Running).unwrap();
        journal.commit(&Value::Null, State::Running).unwrap();
        ledger.finish(&id, State::Running, None).unwrap();
        ledger.correct(&id, State::Crashed, Some("its agent is gone")).unwrap();
        ledger.correct(&id, State::Crashed, Some("its agent is gone")).unwrap();
        ledger.begin(&id, Operation::Destroy, &me).unwrap();
        ledger.delete_sandbox(&id).unwrap();
        let (checkpointed, restored) = (format!("checkpointed {saved}"), format!("restored {saved}"));
        let expected =
            ["created fake", "paused", "resumed", "stopped", "started", &checkpointed, &restored, "crashed its agent is gone", "destroyed"];
        assert_eq!(kinds(&other, 0), expected);
        let (events, seen) = other.events_after(0, 2, None).unwrap();
        assert_eq!(seen, events[1].id);
        assert_eq!(kinds(&other, events[1].id), expected[2..]);
        assert!(events[0].time_ms > 1_700_000_000_000 && events[0].sandbox == id);
        // Whose sandboxes nothing happens to has seen all the same.
        assert_eq!(other.events_after(0, 1000, Some(1)).unwrap(), (vec![], other.kept_events().unwrap().unwrap().1));
        // One that never was is not told as gone.
        let begun = insert(&ledger, 2);
        ledger.delete_sandbox(&begun).unwrap();
        assert_eq!(kinds(&other, 0), expected);
        assert_eq!(other.gated(None).unwrap(), []);
        let gated = insert(&ledger, 7);
        assert_eq!(other.gated(None).unwrap(), [Known { id: gated, name: None, key: None }]);
    }

    #[test]
    fn the_newest_are_kept_and_numbers_are_given_once() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&home.path().join("ledger.db"), "boot").unwrap();
        let id = insert(&ledger, 1);
        let turn = |times: usize| {
            ledger
                .write(|transaction| {
                    for index in 0..times {
                        let state = if index % 2 == 0 { "running" } else { "paused" };
                        transaction.execute("UPDATE sandboxes SET state = ?2 WHERE id = ?1", params![id.as_str(), state])?;
                    }
                    Ok(())
                })
                .unwrap();
        };
        turn(10_010);
        assert_eq!(ledger.kept_events().unwrap(), Some((11, 10_010)));
        turn(1);
        assert_eq!(ledger.kept_events().unwrap(), Some((12, 10_011)));
        assert_eq!(ledger.events_after(0, 1, None).unwrap().0[0].id, 12);
    }
}
