//! No agent outlives a sandbar that dies, whenever that is.

use std::{path::Path, sync::Arc, time::Duration};

use sandbar_backends::{dangerous_host::DangerousHost, machine::process::HostProcess};
use sandbar_core::{Journal, Lifetime, Resource, Result, SandboxId, SandboxProvider, State};
use serde_json::Value;

use crate::Home;

/// The variable by which a test tells a copy of this program to be the sandbar that dies, and where its state is.
const DIES: &str = "SANDBAR_TEST_DIES";

/// Ends this process when an agent's row is about to be written, after saying which one.
struct DyingBook;

impl Journal for DyingBook {
    fn intend(&self, resource: &Resource) -> Result<()> {
        println!("{}", serde_json::to_string(resource).unwrap());
        if matches!(resource, Resource::Process { .. }) && std::env::var(DIES).is_ok_and(|how| how == "before the row") {
            std::process::abort();
        }
        Ok(())
    }

    fn forget(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn commit(&self, _: &Value, _: State) -> Result<()> {
        if std::env::var(DIES).is_ok_and(|how| how == "as the owner") {
            std::process::abort();
        }
        Ok(())
    }
}

/// No test by itself: the sandbar that dies in the tests below.
#[tokio::test]
async fn sandbar_that_dies() {
    if std::env::var(DIES).is_err() {
        return;
    }
    let home = Home::new();
    let (mut request, _) = home.request(1);
    request.lifetime = Lifetime::Owned;
    request.journal = Arc::new(DyingBook);
    let _ = home.provider.provision(request).await;
    unreachable!("the journal has ended this process");
}

/// Lets a copy of this program die, and gives what it had told its journal.
fn let_one_die(how: &str) -> Vec<Resource> {
    let temporary = tempfile::tempdir().unwrap();
    let died = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["deaths::sandbar_that_dies", "--exact", "--nocapture"])
        .env(DIES, how)
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    assert!(!died.status.success());
    let text = String::from_utf8(died.stdout).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line.get(line.find('{')?..)?).ok()).collect()
}

#[tokio::test]
async fn no_agent_outlives_a_sandbar_that_dies_before_its_row_or_as_its_owner() {
    for how in ["before the row", "as the owner"] {
        let told = tokio::task::spawn_blocking(move || let_one_die(how)).await.unwrap();
        let agents: Vec<_> = told
            .iter()
            .filter_map(|resource| match resource {
                Resource::Process { pid, start_time, .. } => Some(HostProcess { pid: *pid, start_time: *start_time }),
                _ => None,
            })
            .collect();
        assert_eq!(agents.len(), 1, "{told:?}");
        if let Some(held) = agents[0].open().unwrap() {
            let ended = sandbar_backends::machine::process::wait_for_exit(&held, Duration::from_secs(10)).unwrap();
            assert!(ended, "the agent lives on: {how}");
        }
        let provider = DangerousHost::provider(Path::new("/nonexistent"));
        provider.reclaim(&SandboxId::from_random([0; 8]), &told).await.unwrap();
    }
}
