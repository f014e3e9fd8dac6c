//! Templates: a place that was booted once, saved when its agent answered, and from which every later place of its kind begins.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{
    CheckpointKind, CheckpointOptions, Context, Error, ErrorKind, Journal, Lifetime, ProvisionRequest, Resource, Result, RootSource,
    SandboxSpec,
};
use sandbar_protocol::{Quiesce, request::Operation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Backend, Boot,
    client::{Call, Patience},
    live::{COMING_UP, Current, Running, Shared},
    provision::{complain, greet},
    record::{Holdings, Record},
    room,
};

const OPERATION: &str = "template";
/// Before the names of what is not finished.
const PREFIX: &str = ".new-";
/// In a template's folder, beside what the wall has saved.
const RECORD: &str = "template.json";
/// How long a new place may stay quiet: it is ended right after it was saved.
const QUIET_MS: u64 = 600_000;

/// What a wall says of the template that a place could begin from.
pub struct TemplateKey {
    /// The folder of all templates of the state folder.
    pub folder: PathBuf,
    /// Everything that makes two templates different, for people and as the name: kernel, image, agent, engine, shape.
    pub parts: Vec<(&'static str, String)>,
    /// The name that follows from the parts.
    pub name: String,
    /// What the place is booted as: nothing that is one sandbox's alone.
    pub spec: SandboxSpec,
}

/// A template as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// The provider.
    pub provider: String,
    /// What it was made of.
    pub parts: Vec<(String, String)>,
    /// Bytes on disk.
    pub bytes: u64,
    /// The wall's own record.
    pub record: Value,
}

/// A template, ready to be loaded.
pub(super) struct Template {
    pub(super) folder: PathBuf,
    pub(super) record: Value,
}

/// Reads the record of a template.
///
/// # Errors
/// `NotFound`, or `Corrupt`.
pub fn read(folder: &Path) -> Result<TemplateRecord> {
    let text = fs::read(folder.join(RECORD)).context(OPERATION, || format!("cannot read {}", folder.join(RECORD).display()))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Corrupt, OPERATION, "the record of a template cannot be read").with_source(error))
}

/// The template of this key; made now if there is none. What is made meanwhile belongs to the sandbox that wants it, so that nothing is left when
/// sandbar is killed.
pub(super) async fn ensure<B: Backend>(
    backend: &Arc<B>,
    request: &ProvisionRequest,
    root: &RootSource,
    key: TemplateKey,
    holdings: &Arc<Holdings>,
) -> Result<Template> {
    let path = key.folder.join(&key.name);
    if let Ok(known) = read(&path) {
        return Ok(Template { folder: path, record: known.record });
    }
    let folder = key.folder.clone();
    let name = key.name.clone();
    // Whoever wants the same waits, and finds it made.
    let _lock = blocking(move || lock(&folder, &name)).await?;
    if let Ok(known) = read(&path) {
        return Ok(Template { folder: path, record: known.record });
    }
    let stage = key.folder.join(format!("{PREFIX}{}-{}", request.id, key.name));
    let journal: Arc<dyn Journal> = Arc::clone(holdings) as _;
    let resource = Resource::Folder { path: stage.clone() };
    journal.intend(&resource)?;
    let built = build(backend, request, root, &key, &stage, holdings).await.map_err(|error| room::told(error, &stage));
    let removed = match fs::remove_dir_all(&stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(OPERATION, || format!("cannot remove {}", stage.display()))
        }
        _ => journal.forget(&resource),
    };
    complain("what a template was made in", removed);
    let record = built?;
    Ok(Template { folder: path, record })
}

async fn build<B: Backend>(
    backend: &Arc<B>,
    request: &ProvisionRequest,
    root: &RootSource,
    key: &TemplateKey,
    stage: &Path,
    holdings: &Arc<Holdings>,
) -> Result<Value> {
    let (generation, image) = (stage.join("g1"), stage.join("image"));
    for folder in [stage, &generation, &image] {
        DirBuilder::new().mode(0o700).create(folder).context(OPERATION, || format!("cannot make {}", folder.display()))?;
    }
    let journal: Arc<dyn Journal> = Arc::clone(holdings) as _;
    journal.step("template.begun");
    // The place ends with this process: a template that nobody finishes is nobody's.
    let own = ProvisionRequest { spec: key.spec.clone(), lifetime: Lifetime::Owned, ..request.clone() };
    let boot = Boot {
        id: &own.id,
        spec: &own.spec,
        root,
        folder: &generation,
        generation: COMING_UP,
        ids: own.ids,
        lifetime: own.lifetime,
        journal: &journal,
    };
    let place = backend.boot(boot).await?;
    journal.step("template.booted");
    let saved = save(backend, &own, &place, &generation, &image, holdings).await;
    let halted = backend.halt(&place, &generation, &journal).await;
    let saved = saved.and_then(|saved| halted.map(|()| saved))?;
    journal.step("template.saved");
    let record = TemplateRecord {
        provider: backend.info().name,
        parts: key.parts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        bytes: saved.bytes,
        record: saved.record,
    };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the record cannot be written as JSON").with_source(error))?;
    let target = key.folder.join(&key.name);
    fs::write(image.join(RECORD), text)
        .and_then(|()| fs::rename(&image, &target))
        .context(OPERATION, || format!("cannot keep the template {}", target.display()))?;
    journal.step("template.kept");
    Ok(record.record)
}

async fn save<B: Backend>(
    backend: &Arc<B>,
    own: &ProvisionRequest,
    place: &B::Place,
    generation: &Path,
    image: &Path,
    holdings: &Arc<Holdings>,
) -> Result<sandbar_core::SavedCheckpoint> {
    greet(backend, own, place, Arc::clone(holdings), None).await?;
    let record = Record::new(COMING_UP, RootSource::empty(), Some(place.clone()), Vec::new());
    let shared = Arc::new(Shared::new(Arc::clone(backend), own.clone(), Current::new(record, Arc::clone(holdings))));
    let running = Running::of(shared.current()).ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "the place is none"))?;
    let call = Call { shared, running, verb: OPERATION };
    call.order(Operation::Quiesce(Quiesce { resume_after_ms: QUIET_MS }), Patience::Quick).await.map(drop)?;
    let options = CheckpointOptions { kind: CheckpointKind::Memory, into: image.to_owned() };
    backend.save(Some(place), generation, &options).await
}

fn lock(folder: &Path, name: &str) -> Result<File> {
    let open = || -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let file = File::options().create(true).truncate(false).write(true).open(folder.join(format!(".lock-{name}")))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    open().context(OPERATION, || format!("cannot take the lock of the template {name}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, OPERATION, "a blocking task ended early").with_source(error)),
    }
}
