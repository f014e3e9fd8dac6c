//! Everything that should not be there any more.

use std::{fs, path::Path, time::Duration};

use sandbar_core::{CheckpointId, Error, ErrorKind, ImageKind, Needs, Result, SandboxId};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{Runtime, egress::Vault, lock::SandboxLock, recover::Recovered};

/// What the folders begin with in which providers try what they can do.
const PROBE: &str = "probe-";
/// A folder of a probe that has not changed for so long is nobody's any more: far more than the deadlines of all that is tried.
const PROBED: Duration = Duration::from_secs(600);

/// What [`Runtime::gc`] did. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// What was brought to an end, and goes on to be: a verb whose process died, and what was left of a sandbox that crashed.
    pub recovered: Vec<GcItem>,
    /// What was removed.
    pub removed: Vec<GcItem>,
    /// What should be removed and could not be, with the reason.
    pub failed: Vec<GcItem>,
}

/// One thing that was found.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcItem {
    /// `sandbox`, `checkpoint`, `folder`, `secrets`, `lock`, `keeper`, `image layers`, `root images`, `template`.
    pub kind: String,
    /// Its id or path.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl GcReport {
    fn note(list: &mut Vec<GcItem>, kind: &str, name: impl ToString, reason: impl ToString) {
        list.push(GcItem { kind: kind.to_owned(), name: name.to_string(), reason: reason.to_string() });
    }

    fn removal(&mut self, kind: &str, name: impl ToString, reason: &str, done: Result<()>) {
        match done {
            Ok(()) => Self::note(&mut self.removed, kind, name, reason),
            Err(error) => Self::note(&mut self.failed, kind, name, error.chain()),
        }
    }

    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.recovered.is_empty() && self.removed.is_empty() && self.failed.is_empty()
    }
}

impl Runtime {
    /// Finishes or undoes what dead processes left, ends what is left of sandboxes that crashed (they are stopped then, with their layers), and
    /// removes what no row of the ledger speaks for. What somebody works on is left alone;
    /// any number may run at once.
    ///
    /// # Errors
    /// When the ledger or the state folder cannot be read. What cannot be removed is told in the report.
    pub async fn gc(&self) -> Result<GcReport> {
        self.deed("gc").done(self.gc_now()).await
    }

    async fn gc_now(&self) -> Result<GcReport> {
        let mut report = GcReport::default();
        for row in self.ledger().attention()? {
            match self.recover(&row.id).await {
                Ok(Recovered::Untouched) => {}
                Ok(Recovered::Settled) => GcReport::note(&mut report.recovered, "sandbox", &row.id, "left by a process that died"),
                Ok(Recovered::Removed) => {
                    GcReport::note(&mut report.removed, "sandbox", &row.id, "its owner died, its time passed, or it was left half made")
                }
                Err(error) => GcReport::note(&mut report.failed, "sandbox", &row.id, error.chain()),
            }
        }
        self.collect_crashed(&mut report).await?;
        self.collect_checkpoints(&mut report).await?;
        self.collect_folders(&mut report).await?;
        self.collect_probes(&mut report).await;
        self.collect_secrets(&mut report)?;
        self.collect_keepers(&mut report)?;
        self.collect_locks(&mut report)?;
        match self.collect_images().await {
            Ok(collected) if collected.layers + collected.skeletons + collected.leavings > 0 => {
                let name = format!("{} layers, {} skeletons, {} leavings", collected.layers, collected.skeletons, collected.leavings);
                GcReport::note(&mut report.removed, "image layers", name, "nothing needs them");
            }
            Ok(_) => {}
            Err(error) => GcReport::note(&mut report.failed, "image layers", "images", error.chain()),
        }
        self.collect_elsewhere(&mut report).await;
        match self.collect_templates().await {
            Ok(removed) => {
                for id in removed {
                    GcReport::note(&mut report.removed, "template", id, "its kernel or its image is gone, or it is damaged");
                }
            }
            Err(error) => GcReport::note(&mut report.failed, "template", "templates", error.chain()),
        }
        match self.collect_root_images().await {
            Ok(0) => {}
            Ok(bytes) => GcReport::note(&mut report.removed, "root images", format!("{bytes} bytes"), "their images are gone"),
            Err(error) => GcReport::note(&mut report.failed, "root images", "root images", error.chain()),
        }
        self.restart_keepers().await?;
        Ok(report)
    }

    async fn collect_crashed(&self, report: &mut GcReport) -> Result<()> {
        /// Asking is a connection each.
        const AT_ONCE: usize = 64;
        let mut ids = self.ledger().sandboxes(None)?.into_iter().map(|row| row.id);
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < AT_ONCE
                && let Some(id) = ids.next()
            {
                let runtime = self.clone();
                tasks.spawn(async move { (runtime.clear_crashed(&id).await, id) });
            }
            let Some(done) = tasks.join_next().await else { return Ok(()) };
            match done.map_err(|error| Error::new(ErrorKind::Internal, "gc", "a task failed").with_source(error))? {
                (Ok(None), _) => {}
                (Ok(Some(found)), id) => GcReport::note(&mut report.recovered, "sandbox", id, found),
                (Err(error), id) => GcReport::note(&mut report.failed, "sandbox", id, error.chain()),
            }
        }
    }

    /// What providers keep in engines.
    async fn collect_elsewhere(&self, report: &mut GcReport) {
        let runtime = self.clone();
        // What an engine has of an image of the store is what the next sandbox begins from.
        let mut images = Vec::new();
        for image in self.images().list().await.unwrap_or_default() {
            images.extend(self.images().root_of(&ImageKind::Layers { digest: image.id.to_string() }).await);
        }
        let needs = move || {
            let sandboxes = runtime.ledger().sandboxes(None)?.into_iter().map(|row| row.id).collect();
            Ok(Needs { sandboxes, roots: runtime.ledger().roots()?.into_iter().chain(images.iter().cloned()).collect() })
        };
        for known in self.providers().iter() {
            match known.provider.collect(&needs).await {
                Ok(removed) => {
                    for name in removed {
                        GcReport::note(&mut report.removed, known.name, name, "nothing needs it");
                    }
                }
                Err(error) => GcReport::note(&mut report.failed, known.name, "its engine", error.chain()),
            }
        }
    }

    async fn collect_checkpoints(&self, report: &mut GcReport) -> Result<()> {
        for row in self.ledger().unfinished_checkpoints()? {
            // While it is being saved, its maker holds the sandbox's lock. A removal can be finished by anybody.
            let saving = row.state == crate::ledger::CheckpointState::Saving;
            let lock = SandboxLock::try_take(self.home(), &row.sandbox, "gc")?;
            if saving && lock.is_none() {
                continue;
            }
            let still = self.ledger().checkpoint(&row.id)?.filter(|now| now.state == row.state);
            let gone = self.ledger().sandbox(&row.sandbox)?.is_none();
            if let Some(row) = still {
                report.removal("checkpoint", &row.id, "left half made or half removed", self.finish_removal(&row).await);
            }
            if let Some(lock) = lock.filter(|_| gone) {
                lock.remove();
            }
        }
        for id in self.remove_idle_checkpoints().await? {
            GcReport::note(&mut report.removed, "checkpoint", id, "made for forks that are gone");
        }
        Ok(())
    }

    /// Folders whose row is gone. A row is there before its folder, and the folder goes first.
    async fn collect_folders(&self, report: &mut GcReport) -> Result<()> {
        for name in names(&self.home().sandboxes()) {
            let path = self.home().sandboxes().join(&name);
            let Ok(id) = name.parse::<SandboxId>() else { continue };
            if self.ledger().sandbox(&id)?.is_none() && path.exists() {
                report.removal("folder", path.display(), "no sandbox has it", self.remove_orphan(&id, &path).await);
            }
        }
        for name in names(&self.home().checkpoints()) {
            let path = self.home().checkpoints().join(&name);
            let Ok(id) = name.strip_prefix(".tmp-").unwrap_or(&name).parse::<CheckpointId>() else { continue };
            if self.ledger().checkpoint(&id)?.is_none() && path.exists() {
                // Any id will do: the folder is what counts.
                let nobody = SandboxId::from_random([0; 8]);
                report.removal("folder", path.display(), "no checkpoint has it", self.remove_orphan(&nobody, &path).await);
            }
        }
        Ok(())
    }

    /// Folders in which somebody tried what works here who was killed meanwhile.
    async fn collect_probes(&self, report: &mut GcReport) {
        for name in names(self.home().path()).into_iter().filter(|name| name.starts_with(PROBE)) {
            let path = self.home().path().join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let is_old = metadata.modified().is_ok_and(|changed| changed.elapsed().is_ok_and(|passed| passed > PROBED));
            if metadata.is_dir() && is_old {
                // Any id will do: the folder is what counts.
                let nobody = SandboxId::from_random([0; 8]);
                report.removal("folder", path.display(), "a probe left it", self.remove_orphan(&nobody, &path).await);
            }
        }
    }

    /// What is kept of secrets that no row names. A row is there before it, and goes before it.
    fn collect_secrets(&self, report: &mut GcReport) -> Result<()> {
        for name in Vault::all(self.home()) {
            let id = name.strip_suffix(".new").unwrap_or(&name);
            if !self.ledger().needs_secrets(id)? {
                report.removal("secrets", id, "no sandbox and no checkpoint has them", Vault::remove(self.home(), id));
            }
        }
        Ok(())
    }

    /// Without a row nobody knows whose it was; each provider may try.
    async fn remove_orphan(&self, id: &SandboxId, path: &Path) -> Result<()> {
        let mut outcome = self.remove_folder("", id, path.to_owned()).await;
        for known in self.providers().iter() {
            if outcome.is_ok() {
                break;
            }
            outcome = self.remove_folder(known.name, id, path.to_owned()).await;
        }
        outcome
    }

    /// Locks of sandboxes that are gone: a process died between taking a new one and writing its row, or after the row was removed.
    fn collect_locks(&self, report: &mut GcReport) -> Result<()> {
        for name in names(&self.home().locks()) {
            let Ok(id) = name.parse::<SandboxId>() else { continue };
            if self.ledger().sandbox(&id)?.is_some() {
                continue;
            }
            let Some(lock) = SandboxLock::try_take(self.home(), &id, "gc")? else { continue };
            if self.ledger().sandbox(&id)?.is_none() {
                lock.remove();
                GcReport::note(&mut report.removed, "lock", name, "no sandbox has it");
            }
        }
        Ok(())
    }

    fn collect_keepers(&self, report: &mut GcReport) -> Result<()> {
        for name in names(&self.home().keepers()) {
            let Some(id) = name.rsplit_once('.').and_then(|(id, _)| id.parse::<SandboxId>().ok()) else { continue };
            if self.ledger().sandbox(&id)?.is_some() {
                continue;
            }
            // Its keeper holds the lock as long as it lives, and ends by itself when it sees that the sandbox is gone.
            let path = self.home().keeper_lock(&id);
            let Some(lock) = SandboxLock::try_path(path, "gc")? else { continue };
            let removed = crate::keeper::remove_files(self.home(), &id);
            lock.remove();
            report.removal("keeper", name, "no sandbox has it", removed);
        }
        Ok(())
    }
}

/// The names in a folder; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
