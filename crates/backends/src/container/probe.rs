//! Whether containers work here: by making one.

use std::{collections::BTreeMap, fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

use sandbar_core::{Context, Error, IdRange, ImageKind, Lifetime, NoJournal, Probe, Result, RootSource, SandboxId, SandboxSpec};

use super::{boot::OwnedBoot, folder, ids::is_root, info};

/// A rehearsal takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Any ids do: nothing runs with them.
const IDS: IdRange = IdRange { first: 1_879_048_192, count: 65_536 };

/// Makes a container up to the agent's execution, and says how that went.
pub(super) fn probe(home: &Path) -> Probe {
    match rehearse(home) {
        Ok(()) => Probe { usable: true, verdict: info::info().notes.join("; "), hint: None },
        Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
    }
}

fn rehearse(home: &Path) -> Result<()> {
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
        let root = RootSource {
            kind: ImageKind::Empty,
            layers: vec![lower],
            saved_layers: Vec::new(),
            host: None,
            env: BTreeMap::new(),
            workdir: None,
            user: None,
        };
        let boot = OwnedBoot {
            id,
            spec: SandboxSpec::default(),
            root,
            folder: own,
            generation: 0,
            ids: is_root().then_some(IDS),
            lifetime: Lifetime::Owned,
            journal: Arc::new(NoJournal),
            agent: None,
        };
        boot.rehearse(PATIENCE)
    });
    let _ = folder::remove(&stage);
    result
}
