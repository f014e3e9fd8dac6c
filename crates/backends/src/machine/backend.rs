use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointOptions, Connection, Error, ErrorKind, IdRange, Isolation, Journal, Lifetime, LimitReport, Needs, Probe, ProviderInfo,
    Resource, Result, RootSource, SandboxId, SandboxSpec, SandboxStats, SavedCheckpoint,
};
use sandbar_protocol::AgentConfig;
use serde::{Serialize, de::DeserializeOwned};

use super::TemplateKey;

/// Everything a wall needs to bring up a place with the agent in it.
pub struct Boot<'a> {
    /// The sandbox's id.
    pub id: &'a SandboxId,
    /// What it shall be.
    pub spec: &'a SandboxSpec,
    /// Its root file system.
    pub root: &'a RootSource,
    /// The folder of this generation (`<sandbox's folder>/g1`): exists, mode 0700. On the first boot it is empty; on a start after a
    /// stop it holds what the earlier boot left in it (the writable layer).
    ///
    /// During a restore in place two generations of one sandbox exist side by side, so whatever is named after the sandbox must be
    /// named after the generation as well: see [`generation`](Self::generation).
    pub folder: &'a Path,
    /// Which generation this is: 1 at first, one more after each restore in place; 0 for what becomes a template.
    pub generation: u32,
    /// Host ids, when the runtime runs as root.
    pub ids: Option<IdRange>,
    /// Whether the place ends with this process.
    pub lifetime: Lifetime,
    /// Where to say what is about to be made.
    pub journal: &'a Arc<dyn Journal>,
}

/// The memory part of a checkpoint, for [`Backend::load`].
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// The checkpoint's folder, as [`Backend::save`] has filled it. Shared by all that begin from it: nothing in it may be changed.
    pub folder: &'a Path,
    /// The record that [`Backend::save`] gave.
    pub record: &'a serde_json::Value,
}

/// What the host itself knows of a place, without asking the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    /// The agent's process (or the machine) exists and is not frozen.
    Alive,
    /// It exists and is frozen.
    Frozen,
    /// It is gone, with the reason in one sentence (`the agent was ended by signal 9`).
    Gone(String),
}

/// A wall: what the machine adapter cannot do by itself. Everything else (exec, streams, files, ports, stop with kept output, restore in
/// place) is written once, over [`dial`](Self::dial).
///
/// # Behavior
/// - no method may block the thread for longer than a few system calls; work on files goes to `spawn_blocking`.
/// - the machine calls `boot`, `freeze`, `thaw`, `save`, `halt` and `remove` of one sandbox one after another, from a task of their own:
///   a caller that goes away does not cancel them half way.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What the backend must remember of a place to find it again from another process. Kept in the ledger as JSON.
    type Place: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// How long the agent may take, when a stop has ended the last process, until it says so. A stop does not wait longer, and ends what there is: a kernel of
    /// its own has to write its disks before that, or what was written last is lost.
    const SETTLING: Duration = Duration::from_secs(5);

    /// See [`SandboxProvider::info`](sandbar_core::SandboxProvider::info).
    fn info(&self) -> ProviderInfo;

    /// See [`SandboxProvider::isolation`](sandbar_core::SandboxProvider::isolation).
    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        let _ = spec;
        self.info().isolation
    }

    /// See [`SandboxProvider::probe`](sandbar_core::SandboxProvider::probe).
    async fn probe(&self) -> Probe;

    /// Brings up a place with the agent in it, listening (it may not have answered yet). Undoes what it did when it fails, but for the
    /// content of the folder; tells the journal every resource before it is made. The folder itself is told by the machine.
    async fn boot(&self, boot: Boot<'_>) -> Result<Self::Place>;

    /// Brings up a place whose processes go on from saved memory, with the layers of the checkpoint (they are in `boot.root.saved_layers`) as they
    /// were when it was saved. As [`boot`](Self::boot) in everything else. The agent in it is quiet: this wakes it (see
    /// `AgentConfig::listen_folder`).
    ///
    /// # Errors
    /// `Conflict`, naming both, when the memory was saved by another version of the engine, or on another CPU, than are here.
    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Self::Place> {
        let _ = (boot, memory);
        Err(Error::new(ErrorKind::Unsupported, "restore", "this provider does not restore memory"))
    }

    /// The template that this place could begin from instead of being booted; `None` boots it. A template is a place that was booted with generation 0
    /// and what [`TemplateKey::spec`] says, and saved with its memory; after that it is only halted.
    ///
    /// # Errors
    /// As [`boot`](Self::boot) would have.
    async fn template(&self, boot: &Boot<'_>) -> Result<Option<TemplateKey>> {
        let _ = boot;
        Ok(None)
    }

    /// What the agent of a place that begins from a template is told: what a boot would have told it.
    fn template_config(&self, boot: &Boot<'_>) -> Option<AgentConfig> {
        let _ = boot;
        None
    }

    /// How long the agent of a new place may take until it answers.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// A new byte stream to the agent's listener.
    ///
    /// # Errors
    /// `Unavailable` when nothing listens there any more. Must not hang on a frozen place for longer than two seconds.
    async fn dial(&self, place: &Self::Place) -> Result<Connection>;

    /// Whether such a stream can end in one direction and go on in the other. Where it cannot, streams to ports and of what leaves are in frames, which the agent of a
    /// guest on vsock expects.
    fn ends_one_way(&self) -> bool {
        true
    }

    /// What the host knows, at once.
    fn facts(&self, place: &Self::Place) -> Facts;

    /// Freezes everything inside; returns when it is frozen.
    async fn freeze(&self, place: &Self::Place) -> Result<()>;

    /// Thaws.
    async fn thaw(&self, place: &Self::Place) -> Result<()>;

    /// The folder in which saves with memory are noted, for clients to wait until they are over. Where the place's agent listens until everything stands still, a
    /// client that comes meanwhile would be in what is saved, and what ends with its client would end when that is loaded. Where the agent closes its listener, that
    /// may still take connections for a moment (as seen with gVisor as a plain user), and a client that comes in between is heard by nobody.
    ///
    /// The next command finds there that a saver was killed, and the wall wakes the agent; without a note it listens again by itself, after a minute.
    fn notes_saves_in<'place>(&self, place: &'place Self::Place) -> Option<&'place Path> {
        let _ = place;
        None
    }

    /// Most connections that may leave at a time, where the wire has not as many as whoever decides would allow.
    fn most_connections(&self) -> Option<u32> {
        None
    }

    /// Refuses a save with memory of what was made like this, where the wall knows that it could not be loaded: before anything is disturbed.
    fn check_memory(&self, spec: &SandboxSpec) -> Result<()> {
        let _ = spec;
        Ok(())
    }

    /// Gives a place whose agent answers what only then can be given: for a wall that has no volumes before.
    ///
    /// # Errors
    /// Of the wall; then the place, as it is by then, is halted.
    async fn furnish(&self, place: &mut Self::Place, spec: &SandboxSpec, journal: &Arc<dyn Journal>) -> Result<()> {
        let _ = (place, spec, journal);
        Ok(())
    }

    /// Saves into `options.into`; `folder` is the generation's.
    ///
    /// For `Disk` the place is frozen, or (`place` is `None`) stopped. For `Memory` it runs and its agent is quiet: it has no connection to the
    /// host, and no listener if it makes its own. The wall saves layer and memory as of one moment, lets everything go on and wakes the agent, also
    /// when saving failed.
    async fn save(&self, place: Option<&Self::Place>, folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint>;

    /// Ends every process at once (frozen ones too) and releases every resource but `folder` and what must be kept in it for a later
    /// boot. A place that is gone already is no error. Forgets in the journal what it released.
    async fn halt(&self, place: &Self::Place, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()>;

    /// Removes the generation's folder with what only it needs (layer, disk images, devices). The place is halted. The journal forgets
    /// them, and the folder (`Resource::Folder`) as the last. A folder that is gone already is no error.
    async fn remove(&self, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()>;

    /// [`halt`](Self::halt) and [`remove`](Self::remove) of a place that is destroyed, with the journal's step `halted` between them. The
    /// second is tried whatever becomes of the first. A backend whose work blocks can do both on one thread.
    async fn end(&self, place: &Self::Place, folder: &Path, journal: &Arc<dyn Journal>, halted: &'static str) -> Result<()> {
        let ended = self.halt(place, folder, journal).await;
        journal.step(halted);
        ended.and(self.remove(folder, journal).await)
    }

    /// Usage, by the host's facts; the machine adds the agent's claims for what is `None`.
    async fn usage(&self, place: &Self::Place, folder: &Path) -> Result<SandboxStats>;

    /// Which limits hold, and by what.
    fn limits(&self, place: Option<&Self::Place>, spec: &SandboxSpec) -> Vec<LimitReport>;

    /// See [`SandboxProvider::reclaim`](sandbar_core::SandboxProvider::reclaim).
    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()>;

    /// See [`SandboxProvider::collect`](sandbar_core::SandboxProvider::collect).
    async fn collect(&self, needs: &(dyn Fn() -> Result<Needs> + Send + Sync)) -> Result<Vec<String>> {
        let _ = needs;
        Ok(Vec::new())
    }

    /// See [`SandboxProvider::fetch_image`](sandbar_core::SandboxProvider::fetch_image).
    async fn fetch_image(&self, reference: &str, into: &Path, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<bool> {
        let _ = (reference, into, said);
        Ok(false)
    }
}
