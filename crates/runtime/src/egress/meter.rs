use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbar_core::NetworkLimits;
use tokio::time::{Instant, sleep_until};

/// Connections of one sandbox at the same time, with those that are being made, where no limit says otherwise. Those that wait for
/// bytes have no buffers; what is on its way takes 256 MiB at most, by far the most of it in the kernel, or as much in this process where all speak plain HTTP.
pub(super) const MOST_CONNECTIONS: u32 = 2048;
/// Bytes that one direction of a connection holds at most where they are copied, and that pass at once under a limit.
pub(super) const BUFFER: usize = 32 << 10;
/// Connections that may each fill a pipe of 256 KiB both ways. Of more, each has no more on its way than if it were copied.
const FEW: u32 = 256;
/// Under a rate this much may pass at once that was not used before, as a part of a second.
const BURST: Duration = Duration::from_millis(100);
/// Pieces in which a second's bytes pass at least, so that connections take turns.
const PIECES: u64 = 20;
/// The file in the sandbox's folder with the bytes that passed.
const FILE: &str = "network.bytes";
/// Bytes that are written down ahead under a limit: so many a sandbox may lose of it when whoever decides is killed.
const AHEAD: u64 = 4 << 20;
/// Parts of a limit that are written down ahead at most; without one, of what has passed, if that is more than [`AHEAD`].
const PARTS: u64 = 64;

/// How much passes, of all connections of one sandbox.
pub(super) struct Meter {
    file: PathBuf,
    connections: Arc<AtomicU32>,
    passed: Mutex<Passed>,
    /// When the next bytes may pass.
    next: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Passed {
    bytes: u64,
    /// What the file says: never less, so that nothing passes uncounted whoever is killed.
    written: u64,
}

/// A place among the connections.
pub(super) struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which limit is reached, as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) rule: String,
    pub(super) reason: String,
}

impl Reached {
    fn bytes(most: u64) -> Self {
        Self { rule: format!("max-bytes={most}"), reason: format!("the sandbox's limit of {most} bytes is reached") }
    }

    fn connections(most: u32) -> Self {
        Self { rule: format!("max-connections={most}"), reason: format!("{most} connections are open") }
    }
}

impl Meter {
    /// Goes on counting from what the sandbox's folder says. What cannot be read is told in this process's own log.
    pub(super) fn new(folder: &std::path::Path) -> Self {
        let file = folder.join(FILE);
        let bytes = match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "cannot read how many bytes have passed");
                u64::MAX
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read how many bytes have passed");
                u64::MAX
            }
        };
        Self { file, connections: Arc::default(), passed: Mutex::new(Passed { bytes, written: bytes }), next: Mutex::default() }
    }

    /// A place for one connection more; `most` where the wall has room for fewer than [`MOST_CONNECTIONS`].
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn enter(&self, limits: NetworkLimits, most: Option<u32>) -> Result<Place, Reached> {
        self.check(limits)?;
        let most = [limits.connections, most].into_iter().flatten().fold(MOST_CONNECTIONS, u32::min);
        let place = Place(Arc::clone(&self.connections));
        // One too many leaves again.
        if self.connections.fetch_add(1, Ordering::Relaxed) < most { Ok(place) } else { Err(Reached::connections(most)) }
    }

    /// Whether anything may pass still.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn check(&self, limits: NetworkLimits) -> Result<(), Reached> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        limits.bytes.filter(|most| passed >= *most).map_or(Ok(()), |most| Err(Reached::bytes(most)))
    }

    /// Most bytes that are to be moved by page at once, where there is a limit or connections are many.
    pub(super) fn bound(&self, limits: NetworkLimits) -> Option<usize> {
        let is_bounded = limits.rate.is_some() || limits.bytes.is_some() || self.connections.load(Ordering::Relaxed) > FEW;
        is_bounded.then(|| Self::piece(limits))
    }

    /// Most bytes that are to be copied at once.
    pub(super) fn piece(limits: NetworkLimits) -> usize {
        let rated = limits.rate.map(|rate| usize::try_from(rate / PIECES).unwrap_or(BUFFER).max(1));
        rated.unwrap_or(BUFFER).min(BUFFER)
    }

    /// Waits until so many bytes may pass.
    ///
    /// # Errors
    /// The limit that is reached: then they do not pass, and nothing does any more.
    pub(super) async fn spend(&self, bytes: usize, limits: NetworkLimits) -> Result<(), Reached> {
        let bytes = bytes as u64;
        self.count(bytes, limits)?;
        let Some(rate) = limits.rate else { return Ok(()) };
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(BURST).unwrap_or_else(Instant::now);
            let turn = next.map_or(earliest, |next| next.max(earliest));
            // At most some seconds: pieces are a fraction of the rate, and connections are few.
            let micros = bytes.saturating_mul(1_000_000) / rate.max(1);
            *next = turn.checked_add(Duration::from_micros(micros));
            turn
        };
        sleep_until(turn).await;
        Ok(())
    }

    fn count(&self, bytes: u64, limits: NetworkLimits) -> Result<(), Reached> {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let after = passed.bytes.saturating_add(bytes);
        if let Some(most) = limits.bytes.filter(|most| after > *most) {
            passed.bytes = passed.bytes.max(most);
            return Err(Reached::bytes(most));
        }
        if after > passed.written {
            let ahead = limits.bytes.map_or_else(|| (after / PARTS).max(AHEAD), |most| (most / PARTS).min(AHEAD));
            passed.written = after.saturating_add(ahead);
            self.write(passed.written);
        }
        passed.bytes = after;
        Ok(())
    }

    fn write(&self, bytes: u64) {
        let new = self.file.with_extension("bytes.new");
        if let Err(error) = fs::write(&new, format!("{bytes}\n")).and_then(|()| fs::rename(&new, &self.file)) {
            tracing::warn!(file = %self.file.display(), %error, "cannot write how many bytes have passed");
        }
    }
}

impl Drop for Meter {
    /// Writes down what really passed.
    fn drop(&mut self) {
        let passed = self.passed.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A folder that is gone is not made anew: the sandbox was removed.
        if passed.bytes != passed.written && self.file.exists() {
            let bytes = passed.bytes;
            self.write(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNLIMITED: NetworkLimits = NetworkLimits { connections: None, bytes: None, rate: None };

    #[test]
    fn connections_are_counted_while_they_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Meter::new(folder.path());
        let two = NetworkLimits { connections: Some(2), ..UNLIMITED };
        let (one, _other) = (meter.enter(two, None).unwrap(), meter.enter(two, None).unwrap());
        assert_eq!(meter.enter(two, None).err().unwrap().rule, "max-connections=2");
        drop(one);
        assert!(meter.enter(two, None).is_ok());
        let reached = meter.enter(UNLIMITED, Some(1)).err().unwrap();
        assert_eq!((reached.rule.as_str(), reached.reason.as_str()), ("max-connections=1", "1 connections are open"));
        let all: Vec<_> = (0..MOST_CONNECTIONS - 1).map(|_| meter.enter(UNLIMITED, None).unwrap()).collect();
        assert!(meter.enter(UNLIMITED, None).is_err());
        assert_eq!(all.len(), 2047);
        assert_eq!(meter.bound(UNLIMITED), Some(BUFFER));
        drop(all);
        assert_eq!((meter.bound(UNLIMITED), meter.bound(NetworkLimits { bytes: Some(1 << 30), ..UNLIMITED })), (None, Some(BUFFER)));
    }

    #[tokio::test]
    async fn bytes_are_counted_across_lives_and_never_too_few() {
        let folder = tempfile::tempdir().unwrap();
        let limits = NetworkLimits { bytes: Some(64_000), ..UNLIMITED };
        let meter = Meter::new(folder.path());
        meter.spend(10_000, limits).await.unwrap();
        // As one that was killed: what it had written down ahead is lost.
        std::mem::forget(meter);
        let meter = Meter::new(folder.path());
        assert_eq!(meter.passed.lock().unwrap().bytes, 11_000);
        meter.spend(39_000, limits).await.unwrap();
        drop(meter);
        let meter = Meter::new(folder.path());
        assert_eq!(meter.passed.lock().unwrap().bytes, 50_000);
        meter.check(limits).unwrap();
        assert_eq!(meter.spend(14_001, limits).await.unwrap_err().rule, "max-bytes=64000");
        // What is left of it is not for smaller pieces.
        assert!(meter.check(limits).is_err() && meter.spend(1, limits).await.is_err() && meter.enter(limits, None).is_err());
        meter.spend(1, UNLIMITED).await.unwrap();
    }

    #[test]
    fn a_count_that_cannot_be_read_is_above_every_limit() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "many").unwrap();
        let meter = Meter::new(folder.path());
        assert!(meter.check(NetworkLimits { bytes: Some(1 << 60), ..UNLIMITED }).is_err());
        assert!(meter.check(UNLIMITED).is_ok());
    }

    #[tokio::test]
    async fn a_rate_holds_for_all_together() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Arc::new(Meter::new(folder.path()));
        let limits = NetworkLimits { rate: Some(100_000), ..UNLIMITED };
        let piece = Meter::piece(limits);
        assert_eq!(piece, 5_000);
        let begun = Instant::now();
        let both = [0, 1].map(|_| {
            let meter = Arc::clone(&meter);
            tokio::spawn(async move {
                for _ in 0..5 {
                    meter.spend(piece, limits).await.unwrap();
                }
            })
        });
        for one in both {
            one.await.unwrap();
        }
        // Half a second's worth; the last piece need not wait for its own time, and a tenth is for nothing.
        assert!(begun.elapsed() >= Duration::from_millis(349), "{:?}", begun.elapsed());
    }
}
