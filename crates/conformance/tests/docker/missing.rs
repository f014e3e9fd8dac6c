use std::fs;

use sandbar_core::{ErrorKind, Isolation};
use sandbar_runtime::{CreateRequest, Runtime, RuntimeConfig};

use crate::world::request;

/// Where there is no engine, on purpose.
pub async fn what_is_missing_is_told() {
    let home = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(home.path());
    config.docker_host = Some(format!("unix://{}/nobody.sock", home.path().display()));
    let runtime = Runtime::open(config).await.unwrap();
    let error = runtime.create(CreateRequest { image: None, ..request() }).await.err().unwrap();
    assert!(error.kind() == ErrorKind::NotFound && error.hint().is_some_and(|hint| hint.contains("setup docker")), "{}", error.chain());
    fs::create_dir(home.path().join("tree")).unwrap();
    runtime.images().import(&home.path().join("tree"), Some("busybox")).await.unwrap();
    let error = runtime.create(request()).await.err().unwrap();
    assert!(error.kind() == ErrorKind::Unavailable && error.hint().is_some(), "{}", error.chain());
    let unknown = CreateRequest { image: Some("127.0.0.1:1/nobody/nothing".to_owned()), ..request() };
    let error = runtime.create(unknown).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    let floor = CreateRequest { isolation: Some(Isolation::UserKernel), ..request() };
    assert_eq!(runtime.create(floor).await.err().unwrap().kind(), ErrorKind::Unsupported);
}
