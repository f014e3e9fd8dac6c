use std::net::SocketAddr;

use rusqlite::{Row, params, types::Type};
use sandbar_core::{Error, ErrorKind, Result, SandboxId};

use super::{Ledger, sandbox_row::identity};
use crate::process_identity::ProcessIdentity;

/// A port that shall listen on the host.
#[derive(Debug, Clone)]
pub(crate) struct PortRow {
    pub(crate) port: u16,
    /// As asked for; its port may be 0.
    pub(crate) wanted: SocketAddr,
    /// Where it listens. Once there is one, a listener that comes back takes the same.
    pub(crate) actual: Option<SocketAddr>,
    /// Why it does not listen.
    pub(crate) failure: Option<String>,
    /// The process that keeps it, where that is not the sandbox's keeper.
    pub(crate) holder: Option<ProcessIdentity>,
}

impl PortRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let address = |text: String, index| {
            text.parse::<SocketAddr>().map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
        };
        Ok(Self {
            port: row.get(0)?,
            wanted: address(row.get(1)?, 1)?,
            actual: row.get::<_, Option<String>>(2)?.map(|text| address(text, 2)).transpose()?,
            failure: row.get(3)?,
            holder: identity(row, 4)?,
        })
    }
}

impl Ledger {
    /// Writes the wish. `holder` is the process that will listen, unless the keeper shall.
    ///
    /// # Errors
    /// `AlreadyExists` when the port is exposed already.
    pub(crate) fn insert_port(&self, id: &SandboxId, port: u16, wanted: SocketAddr, holder: Option<&ProcessIdentity>) -> Result<()> {
        self.write(|transaction| {
            let sql = "INSERT INTO ports (sandbox, port, wanted, holder_pid, holder_start, holder_boot)
                SELECT id, ?2, ?3, ?4, ?5, ?6 FROM sandboxes WHERE id = ?1 AND state <> 'destroying' ON CONFLICT DO NOTHING";
            let (pid, start, boot) = (holder.map(|it| it.pid), holder.map(|it| it.start_time), holder.map(|it| &it.boot));
            let values = params![id.as_str(), port, wanted.to_string(), pid, start, boot];
            if transaction.prepare_cached(sql)?.execute(values)? == 1 {
                return Ok(());
            }
            let exists: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM ports WHERE sandbox = ?1 AND port = ?2)",
                params![id.as_str(), port],
                |row| row.get(0),
            )?;
            Err(if exists {
                Error::new(ErrorKind::AlreadyExists, "expose", "the port is exposed already").with("port", port).into()
            } else {
                Error::new(ErrorKind::NotFound, "expose", "the sandbox is gone").with("id", id).into()
            })
        })
    }

    /// Writes where it listens, or why not.
    pub(crate) fn set_port(&self, id: &SandboxId, port: u16, result: Result<SocketAddr, &str>) -> Result<()> {
        self.write(|transaction| {
            let sql = "UPDATE ports SET actual = coalesce(?3, actual), failure = ?4 WHERE sandbox = ?1 AND port = ?2";
            let (actual, failure) = (result.ok().map(|actual| actual.to_string()), result.err());
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), port, actual, failure])?;
            Ok(())
        })
    }

    /// Removes the wish; tells whether there was one.
    pub(crate) fn delete_port(&self, id: &SandboxId, port: u16) -> Result<bool> {
        self.write(|transaction| {
            let sql = "DELETE FROM ports WHERE sandbox = ?1 AND port = ?2";
            Ok(transaction.prepare_cached(sql)?.execute(params![id.as_str(), port])? == 1)
        })
    }

    /// The ports of a sandbox, by number.
    pub(crate) fn ports(&self, id: &SandboxId) -> Result<Vec<PortRow>> {
        self.read(|connection| {
            let sql =
                "SELECT port, wanted, actual, failure, holder_pid, holder_start, holder_boot FROM ports WHERE sandbox = ?1 ORDER BY port";
            connection.prepare_cached(sql)?.query_map([id.as_str()], PortRow::read)?.collect()
        })
    }
}
