//! What is found out by trying, for those who may ask as often as they like.

use std::{
    pin::pin,
    sync::atomic::Ordering::SeqCst,
    task::{Context, Waker},
    time::Duration,
};

use sandbar_core::{Claim, ErrorKind, Isolation};
use sandbar_runtime::{CreateRequest, Registry, Runtime, RuntimeConfig};
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

#[tokio::test(start_paused = true)]
async fn a_provider_is_tried_once_in_a_while_for_all_who_ask_and_for_each_who_makes_something() {
    let (_home, fake, runtime) = setup().await;
    let tried = || fake.probes.load(SeqCst);
    let ask = || runtime.provider_with(Some(Isolation::Namespaces), None, Vec::new(), None);
    let provider = runtime.providers().get("fake").unwrap();
    fake.failing().insert("probe");
    begin(ask());
    for _ in 0..3 {
        let error = ask().await.err().unwrap();
        assert!(error.kind() == ErrorKind::Unavailable && error.message().contains("no folders here"), "{error}");
        assert!(!runtime.probed_lately("fake", &provider).await.unwrap().usable);
    }
    assert_eq!(tried(), 1);
    fake.failing().remove("probe");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(runtime.probed_lately("fake", &provider).await.unwrap().usable);
    assert_eq!(tried(), 2);

    fake.failing().insert("probe");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(ask().await.is_err());
    assert!(runtime.create(CreateRequest::default()).await.is_err());
    assert_eq!(tried(), 4);
    // Mended: whoever makes something need not wait until that is known to all.
    fake.failing().remove("probe");
    runtime.create(CreateRequest::default()).await.unwrap().destroy().await.unwrap();
    assert_eq!(tried(), 5);
}

#[tokio::test]
async fn gc_removes_what_probes_left_that_were_killed_and_not_what_one_may_be_using() {
    let (home, _fake, runtime) = setup().await;
    let folder = |name: &str| home.path().join(name);
    for name in ["probe-0123456789abcdef", "probe-sb-bbbbbbbbbbbb", "probe-of-now"] {
        std::fs::create_dir_all(folder(name).join("lower")).unwrap();
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for name in ["probe-0123456789abcdef", "probe-sb-bbbbbbbbbbbb"] {
        std::fs::File::open(folder(name)).unwrap().set_modified(long_ago).unwrap();
    }
    let report = runtime.gc().await.unwrap();
    assert_eq!((report.removed.len(), report.failed.len()), (2, 0), "{report:?}");
    assert!(report.removed.iter().all(|item| item.kind == "folder" && item.name.contains("probe-")), "{report:?}");
    let left = |name: &str| folder(name).exists();
    assert_eq!([left("probe-0123456789abcdef"), left("probe-sb-bbbbbbbbbbbb"), left("probe-of-now")], [false, false, true]);
    assert!(runtime.gc().await.unwrap().is_empty());
}
