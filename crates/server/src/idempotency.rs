use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, StatusCode};
use sandbar_core::SandboxId;
use sandbar_runtime::{CreateRequest, Runtime};
use sha2::{Digest, Sha256};

use crate::problem::{Answer, Problem};

/// The header, <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.
const HEADER: &str = "idempotency-key";
/// Longer keys are refused.
const LONGEST: usize = 255;

/// Creations with a key that are under way, of which the same one waits for the first. What has been made, the ledger knows.
#[derive(Default)]
pub(crate) struct Creations(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

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
    /// Of the creation; when the key was used for another request.
    pub(crate) async fn once(&self, runtime: &Runtime, key: &str, text: &[u8], request: CreateRequest) -> Answer<SandboxId> {
        // Keys of different callers have nothing to do with each other.
        let name = format!("{}\0{key}", runtime.holder().map_or("", |holder| &holder.name));
        let turn = Arc::clone(self.under_way().entry(name.clone()).or_default());
        let made = {
            let _turn = turn.lock().await;
            runtime.create_once(key, Sha256::digest(text).into(), request).await
        };
        drop(turn);
        let mut under_way = self.under_way();
        // Nobody else waits for it.
        if under_way.get(&name).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            under_way.remove(&name);
        }
        drop(under_way);
        let other =
            || Problem::with_status(StatusCode::UNPROCESSABLE_ENTITY, "conflict", "this idempotency key was used for another request");
        made?.ok_or_else(other)
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
