//! What the tests of the runtime share.

mod fake;
mod fake_handle;

use std::path::Path;

pub use fake::Fake;
use sandbar_core::{Claim, ExecRequest, Isolation, SandboxSpec};
use sandbar_runtime::{CreateRequest, ProviderOptions, Registry, Runtime, RuntimeConfig};

/// A runtime on a state folder, with the fake beside the real providers.
pub async fn open_as(config: RuntimeConfig, fake: &Fake) -> Runtime {
    let registry = registry(&config.home, fake);
    Runtime::open_with(config, registry).await.unwrap()
}

/// The providers of the tests.
pub fn registry(home: &Path, fake: &Fake) -> Registry {
    let claim = Claim { provider: "fake", features: Fake::features() };
    Registry::new(&ProviderOptions::new(home)).with(claim, Isolation::Namespaces, fake.clone())
}

/// A request for a fake sandbox.
pub fn fake_sandbox() -> CreateRequest {
    CreateRequest { provider: Some("fake".into()), spec: SandboxSpec::default(), ..CreateRequest::default() }
}

/// A command for a fake sandbox: `write NAME TEXT`, `read NAME`, or anything else, which is echoed.
pub fn command(words: &[&str]) -> ExecRequest {
    ExecRequest::argv(words.iter().map(|word| word.as_bytes()))
}

/// Everything in a state folder that belongs to sandboxes or checkpoints.
pub fn leavings(home: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["locks", "sandboxes", "checkpoints", "keepers"] {
        for entry in std::fs::read_dir(home.join(folder)).unwrap() {
            found.push(format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    found.sort();
    found
}
