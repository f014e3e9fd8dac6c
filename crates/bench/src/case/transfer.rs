use crate::{sample::Samples, table};

/// Bytes of the transfer.
pub(super) const TOTAL: u64 = 1 << 30;
/// Bytes of each read and write.
pub(super) const CHUNK: usize = 256 << 10;

/// What was measured of one way to a server.
pub(super) struct Transfer {
    /// Bytes a second.
    pub(super) rate: f64,
    /// How long connections took, each to its end.
    pub(super) connections: Samples,
}

/// Prints a table of them, with rates beside that of the first.
pub(super) fn rows(measured: &[(String, Transfer)]) {
    let base = measured.first().map_or(1.0, |(_, first)| first.rate);
    let cells = |(name, transfer): &(String, Transfer)| {
        let rates = [format!("{:.2}", transfer.rate / f64::from(1u32 << 30)), format!("{:.2}", transfer.rate / base)];
        let times = [table::milliseconds(transfer.connections.p50()), table::milliseconds(transfer.connections.p99())];
        [name.clone()].into_iter().chain(rates).chain(times).collect()
    };
    let rows: Vec<Vec<String>> = measured.iter().map(cells).collect();
    table::rows(&["", "GiB/s", "ratio", "connection p50 ms", "p99 ms"], &rows);
}
