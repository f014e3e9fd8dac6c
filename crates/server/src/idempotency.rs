use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode};
use sandbar_core::SandboxId;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::problem::{Answer, Problem};

/// The header, <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.
const HEADER: &str = "idempotency-key";
/// Longer keys are refused.
const LONGEST: usize = 255;
/// How long a key is remembered.
const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many keys are remembered; the oldest go first.
const MOST: usize = 10_000;

/// Creations with a key: the same key is the same sandbox, as long as this server runs.
#[derive(Default)]
pub(crate) struct Creations {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_key: HashMap<String, Creation>,
    order: VecDeque<(Instant, String)>,
}

#[derive(Clone)]
struct Creation {
    request: [u8; 32],
    made: Arc<OnceCell<SandboxId>>,
}

/// The key of a request, if it has one.
///
/// # Errors
/// For a key that is none.
pub(crate) fn key(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST);
    let bad = || Problem::with_status(StatusCode::BAD_REQUEST, "invalid_input", "an idempotency key has 1 to 255 printable characters");
    key.map(|key| Some(key.to_owned())).ok_or_else(bad)
}

impl Creations {
    /// Makes what is asked for, unless it was made, or is being made, for the same key. A failure is not remembered: then it may be tried again.
    ///
    /// # Errors
    /// Of `make`; when the key was used for another request.
    pub(crate) async fn once(&self, key: String, request: &[u8], make: impl Future<Output = Answer<SandboxId>>) -> Answer<SandboxId> {
        let digest: [u8; 32] = Sha256::digest(request).into();
        let creation = self.remembered(key, digest);
        if creation.request != digest {
            let message = "this idempotency key was used for another request";
            return Err(Problem::with_status(StatusCode::UNPROCESSABLE_ENTITY, "conflict", message));
        }
        creation.made.get_or_try_init(|| make).await.cloned()
    }

    fn remembered(&self, key: String, request: [u8; 32]) -> Creation {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        while known.order.front().is_some_and(|(since, _)| known.order.len() > MOST || now.duration_since(*since) > MEMORY) {
            if let Some((_, forgotten)) = known.order.pop_front() {
                known.by_key.remove(&forgotten);
            }
        }
        if let Some(creation) = known.by_key.get(&key) {
            return creation.clone();
        }
        let creation = Creation { request, made: Arc::default() };
        known.by_key.insert(key.clone(), creation.clone());
        known.order.push_back((now, key));
        creation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> SandboxId {
        SandboxId::from_random([number; 8])
    }

    #[tokio::test]
    async fn the_same_key_is_the_same_sandbox_and_a_failure_is_forgotten() {
        let creations = Creations::default();
        let fail = async { Err(Problem::with_status(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "no")) };
        assert!(creations.once("k".into(), b"a", fail).await.is_err());
        assert_eq!(creations.once("k".into(), b"a", async { Ok(id(1)) }).await.unwrap(), id(1));
        assert_eq!(creations.once("k".into(), b"a", async { Ok(id(2)) }).await.unwrap(), id(1));
        assert_eq!(creations.once("l".into(), b"a", async { Ok(id(2)) }).await.unwrap(), id(2));
        assert!(creations.once("k".into(), b"b", async { Ok(id(3)) }).await.is_err());
    }

    #[tokio::test]
    async fn keys_are_forgotten_in_the_end() {
        let creations = Creations::default();
        for number in 0..MOST + 50 {
            creations.once(number.to_string(), b"", async { Ok(id(1)) }).await.unwrap();
        }
        assert!(creations.known.lock().unwrap().by_key.len() <= MOST + 1);
    }
}
