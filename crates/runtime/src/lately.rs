//! What trying has shown a moment ago, for those who may ask as often as they like.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sandbar_core::{Probe, Result, SandboxProvider};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use crate::{Diagnosis, Runtime, doctor::tried, runtime::to_the_end};

/// How long what was found holds for whoever asks next: trials have the host work, and who may read may ask.
const HOLDS: Duration = Duration::from_secs(5);

/// The last trials. Who has it tries; the others wait for what comes of that.
#[derive(Default)]
pub(crate) struct Trials(Arc<Mutex<Last>>);

#[derive(Default)]
pub(crate) struct Last {
    diagnosis: Option<(Instant, Diagnosis)>,
    /// Of providers, by their names.
    probes: HashMap<String, (Instant, Probe)>,
}

impl Trials {
    async fn turn(&self) -> OwnedMutexGuard<Last> {
        Arc::clone(&self.0).lock_owned().await
    }
}

/// What was found, if it holds still.
fn lately<T: Clone>(found: Option<&(Instant, T)>) -> Option<T> {
    found.filter(|(when, _)| when.elapsed() < HOLDS).map(|(_, found)| found.clone())
}

impl Runtime {
    /// As [`diagnose`](Self::diagnose) without a self-test, but what was found in the last five seconds holds, and everything that is tried for those who ask is tried one after the other.
    /// A trial goes on to its end when its caller stops waiting, and holds for the next one.
    ///
    /// # Errors
    /// `Internal` where it is cut off.
    pub async fn diagnosed_lately(&self) -> Result<Diagnosis> {
        let mut last = self.trials().turn().await;
        if let Some(diagnosis) = lately(last.diagnosis.as_ref()) {
            return Ok(diagnosis);
        }
        let runtime = self.clone();
        to_the_end(async move {
            let diagnosis = runtime.diagnose(false).await;
            let now = Instant::now();
            for provider in &diagnosis.providers {
                last.probes.insert(provider.name.clone(), (now, provider.to_probe()));
            }
            last.diagnosis = Some((now, diagnosis.clone()));
            Ok(diagnosis)
        })
        .await
    }

    /// What the probe of a provider of this host says, or said lately: in the same way.
    ///
    /// # Errors
    /// `Internal` where it is cut off.
    pub async fn probed_lately(&self, name: &str, provider: &Arc<dyn SandboxProvider>) -> Result<Probe> {
        let mut last = self.trials().turn().await;
        if let Some(probe) = lately(last.probes.get(name)) {
            return Ok(probe);
        }
        let (name, provider) = (name.to_owned(), Arc::clone(provider));
        to_the_end(async move {
            let probe = tried(provider.as_ref()).await;
            last.probes.insert(name, (Instant::now(), probe.clone()));
            Ok(probe)
        })
        .await
    }
}
