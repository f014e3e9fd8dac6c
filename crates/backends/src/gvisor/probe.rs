//! Whether gVisor works here: by running a tiny sandbox, with a deadline.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

use sandbar_core::{Context, Error, IdRange, ImageKind, Lifetime, NoJournal, Probe, Result, RootSource, SandboxId, SandboxSpec};

use super::{GvisorOptions, boot::OwnedBoot, engine::Engine, info};
use crate::{
    host::{folder, ids::is_root, kernel},
    machine::agent::AgentFile,
};

/// It takes a quarter of a second. A platform that hangs (a `/dev/kvm` that cannot run a stock guest) is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Any ids do: nothing of anybody's runs with them.
const IDS: IdRange = IdRange { first: 1_879_048_192, count: 65_536 };

/// Runs a sandbox with nothing in it but the agent until that listens, and says how it went.
pub(super) fn probe(home: &Path, options: &GvisorOptions) -> Probe {
    let tried = Engine::find(options).and_then(|engine| {
        let version = engine.version()?;
        rehearse(home, &engine)?;
        Ok((engine, version))
    });
    match tried {
        Ok((engine, version)) => {
            Probe { usable: true, verdict: format!("runsc {version}; {}", info::info(Some(&engine)).notes.join("; ")), hint: None }
        }
        Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
    }
}

fn rehearse(home: &Path, engine: &Engine) -> Result<()> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(std::io::Error::from)
        .context("probe", || "no random numbers".to_owned())?;
    let id = SandboxId::from_random(random);
    let stage = home.join(format!("probe-{id}"));
    let make = |path: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| Error::io("probe", "cannot write into the state folder", error).with("path", path.display()))
    };
    let (lower, own) = (stage.join("lower"), stage.join("own"));
    let result = make(&lower).and_then(|()| make(&own)).and_then(|()| {
        let root = RootSource { kind: ImageKind::Empty, layers: vec![lower], ..RootSource::empty() };
        let boot = OwnedBoot {
            engine: engine.clone(),
            id,
            spec: SandboxSpec::default(),
            root,
            folder: own,
            generation: 0,
            ids: is_root().then_some(IDS),
            lifetime: Lifetime::Owned,
            journal: Arc::new(NoJournal),
            by_descriptor: kernel::takes_detached_layers(),
            agent: AgentFile::new(home).path()?.to_owned(),
            image: None,
            patience: PATIENCE,
        };
        boot.run(&mut Vec::new())?.halt(&(Arc::new(NoJournal) as Arc<dyn sandbar_core::Journal>))
    });
    let _ = folder::remove(&stage);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_none_is_told_with_its_path() {
        let home = tempfile::tempdir().unwrap();
        let options = GvisorOptions { runsc: Some("/nonexistent/runsc".into()), ..GvisorOptions::default() };
        let probe = probe(home.path(), &options);
        assert!(!probe.usable && probe.verdict.contains("/nonexistent/runsc"), "{probe:?}");
        assert!(probe.hint.is_some_and(|hint| hint.contains("RUNSC_PATH")));
    }

    #[test]
    fn a_program_that_is_no_runsc_is_told() {
        let home = tempfile::tempdir().unwrap();
        let options = GvisorOptions { runsc: Some("/bin/true".into()), ..GvisorOptions::default() };
        let probe = probe(home.path(), &options);
        assert!(!probe.usable && probe.verdict.contains("version"), "{probe:?}");
    }
}
