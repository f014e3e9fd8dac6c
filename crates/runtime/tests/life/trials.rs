//! What is found out by trying, for those who may ask as often as they like.

use std::{
    pin::pin,
    sync::atomic::Ordering::SeqCst,
    task::{Context, Waker},
};

use sandbar_core::{Claim, Isolation};
use sandbar_runtime::{Registry, Runtime, RuntimeConfig};
use tempfile::TempDir;

use crate::support::Fake;

/// With no other provider.
async fn setup() -> (TempDir, Fake, Runtime) {
    let (home, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let claim = Claim { provider: "fake", features: Fake::features() };
    let registry = Registry::default().with(claim, Isolation::Namespaces, fake.clone());
    let runtime = Runtime::open_with(RuntimeConfig::new(home.path()), registry).await.unwrap();
    (home, fake, runtime)
}

/// Begins, and waits for nothing.
fn begin(asking: impl Future) {
    assert!(pin!(asking).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[tokio::test]
async fn a_self_test_comes_to_its_end_without_whoever_asked_and_what_it_makes_has_one() {
    let (_home, fake, runtime) = setup().await;
    begin(runtime.self_test());
    // One after the other: the first has ended.
    runtime.self_test().await.unwrap();
    assert_eq!(fake.probes.load(SeqCst), 2);
    assert_eq!(runtime.list().await.unwrap(), []);
    // What cannot be removed now is removed in time.
    fake.failing().extend(["destroy", "reclaim"]);
    let found = runtime.self_test().await.unwrap();
    assert_eq!(found.providers[0].said_hello, Some(false), "{found:?}");
    let left = runtime.list().await.unwrap();
    assert!(left.len() == 1 && left[0].expires_ms.is_some(), "{left:?}");
}
