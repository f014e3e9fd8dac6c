use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use sandbar_core::ErrorKind;
use serde_json::json;
use tokio::time::sleep;

use super::client::{Ask, Client};

/// How long a sandbox that belongs to its client lives on without a word from it: longer than a connection is cut as a rule.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Between two words.
const RENEWAL: Duration = Duration::from_secs(8);

/// Keeps a sandbox alive that shall end with this process, as long as this process lives and somebody holds it.
pub(super) struct Lease(());

impl Lease {
    /// Begins for a sandbox that was made with a time to live of [`LEASE`].
    pub(super) fn begin(client: Arc<Client>, sandbox: String) -> Arc<Self> {
        let lease = Arc::new(Self(()));
        tokio::spawn(renew(Arc::downgrade(&lease), client, sandbox));
        lease
    }
}

async fn renew(lease: Weak<Lease>, client: Arc<Client>, sandbox: String) {
    loop {
        sleep(RENEWAL).await;
        if lease.strong_count() == 0 {
            return;
        }
        let ask = Ask::post(format!("{sandbox}/expiry"), &json!({ "ttl_ms": LEASE.as_millis() as u64 }));
        match client.tell(ask).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => tracing::debug!(error = error.chain(), "a lease could not be renewed"),
        }
    }
}
