use std::sync::Arc;

use sandbar_core::{Error, ErrorKind, Result, SandboxHandle};
use serde::Deserialize;

use super::{NetworkLog, NetworkRecord};
use crate::image::blocking;

/// Reads what was decided about a sandbox's names and connections, wherever that was.
pub struct NetworkReader(Place);

enum Place {
    /// A log of this host; `None` while it is read.
    Here(Option<NetworkLog>),
    There {
        handle: Arc<dyn SandboxHandle>,
        last: Last,
    },
}

/// How far one has read that another host has: its lines have no numbers, so it is a moment, and how many lines of that moment were told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Last {
    moment: u64,
    told: usize,
}

impl NetworkReader {
    pub(super) const fn here(log: NetworkLog) -> Self {
        Self(Place::Here(Some(log)))
    }

    pub(super) fn there(handle: Arc<dyn SandboxHandle>) -> Self {
        Self(Place::There { handle, last: Last::default() })
    }

    /// Whether to read costs an operation on another host.
    pub const fn is_elsewhere(&self) -> bool {
        matches!(self.0, Place::There { .. })
    }

    /// What has been decided since the last call; at the first, all that is kept.
    ///
    /// # Errors
    /// When it cannot be read; `NotFound` when the other host has no such sandbox any more.
    pub async fn read(&mut self) -> Result<Vec<NetworkRecord>> {
        match &mut self.0 {
            Place::Here(log) => {
                let abandoned = || Error::new(ErrorKind::Internal, "network log", "a read of it was abandoned");
                let mut reading = log.take().ok_or_else(abandoned)?;
                let (reading, records) = blocking(move || {
                    let records = reading.read();
                    Ok((reading, records))
                })
                .await?;
                *log = Some(reading);
                records
            }
            Place::There { handle, last } => {
                let lines = handle.network_log(last.moment).await?;
                let records = lines.into_iter().map(NetworkRecord::deserialize).collect::<Result<Vec<_>, _>>();
                let records = records.map_err(|error| {
                    Error::new(ErrorKind::Unavailable, "network log", "the other host writes it in a way that is not known")
                        .with_source(error)
                })?;
                Ok(last.after(records))
            }
        }
    }
}

impl Last {
    /// Those that were not told yet, of all since the moment of the last one.
    fn after(&mut self, records: Vec<NetworkRecord>) -> Vec<NetworkRecord> {
        let mut passed = 0;
        let is_new = |record: &NetworkRecord| {
            let is_told = record.time_ms == self.moment && passed < self.told;
            passed += usize::from(is_told);
            record.time_ms >= self.moment && !is_told
        };
        let records: Vec<_> = records.into_iter().filter(is_new).collect();
        if let Some(newest) = records.last().map(|record| record.time_ms) {
            let of_it = records.iter().filter(|record| record.time_ms == newest).count();
            self.told = if newest == self.moment { self.told + of_it } else { of_it };
            self.moment = newest;
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn records(moments: &[u64]) -> Vec<NetworkRecord> {
        let record = |moment: &u64| {
            let value = json!({ "time_ms": moment, "event": "refused", "protocol": "tcp", "reason": "no rule" });
            NetworkRecord::deserialize(value).unwrap()
        };
        moments.iter().map(record).collect()
    }

    #[test]
    fn each_line_of_another_host_is_told_once_though_many_are_of_one_moment() {
        let all = [1, 1, 2, 2, 2, 3, 7];
        for first in 0..=all.len() {
            for second in first..=all.len() {
                let mut last = Last::default();
                let mut told = Vec::new();
                // As the other host answers: what it has then, of the moment that is asked for and later.
                for so_far in [&all[..first], &all[..second], &all[..second], &all[..]] {
                    let since: Vec<u64> = so_far.iter().copied().filter(|moment| *moment >= last.moment).collect();
                    told.extend(last.after(records(&since)).iter().map(|record| record.time_ms));
                }
                assert_eq!(told, all, "{first}, {second}");
            }
        }
    }
}
