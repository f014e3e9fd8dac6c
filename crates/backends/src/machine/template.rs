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
    /// The files outside of it that it needs, with what tells others of the same name apart. One that was made with others is made anew.
    pub files: Vec<String>,
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
    /// The files outside of it that it needs.
    #[serde(default)]
    pub files: Vec<String>,
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
    let find = || {
        let known = read(&path).ok().filter(|known| known.files == key.files)?;
        Some(Template { folder: path.clone(), record: known.record })
    };
    if let Some(known) = find() {
        return Ok(known);
    }
    let folder = key.folder.clone();
    let name = key.name.clone();
    // Whoever wants the same waits, and finds it made.
    let _lock = blocking(move || lock(&folder, &name)).await?;
    if let Some(known) = find() {
        return Ok(known);
    }
    // It is damaged, or what it needs is gone. Machines that run keep what they have of it.
    remove(&path)?;
    let stage = key.folder.join(format!("{PREFIX}{}-{}", request.id, key.name));
    let journal: Arc<dyn Journal> = Arc::clone(holdings) as _;
    let resource = Resource::Folder { path: stage.clone() };
    journal.intend(&resource)?;
    let built = build(backend, request, root, &key, &stage, holdings).await.map_err(|error| room::told(error, &stage));
    complain("what a template was made in", remove(&stage).and_then(|()| journal.forget(&resource)));
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
        files: key.files.clone(),
        bytes: saved.bytes,
        record: saved.record,
    };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the record cannot be written as JSON").with_source(error))?;
    let target = key.folder.join(&key.name);
    blocking(move || keep(&image, &text, &target).context(OPERATION, || format!("cannot keep the template {}", target.display()))).await?;
    journal.step("template.kept");
    Ok(record.record)
}

/// Gives a template its name, which a crash of the host must not leave on half of it.
fn keep(image: &Path, record: &[u8], target: &Path) -> io::Result<()> {
    fs::write(image.join(RECORD), record)?;
    for entry in fs::read_dir(image)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(image)?.sync_all()?;
    fs::rename(image, target)
}

/// Removes a folder with everything in it. One that is gone is no error.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(OPERATION, || format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use sandbar_protocol::{Ack, reply::Answer};

    use super::{
        super::fake::{Bench, FakeWall, reply},
        *,
    };

    /// The template of a key that needs such a file, and whether it was made for that.
    async fn made(bench: &Bench, backend: &Arc<FakeWall>, needs: &str) -> bool {
        let key = TemplateKey {
            folder: bench.folder.join("templates"),
            parts: vec![("kernel", "one".to_owned())],
            name: "fake-one".to_owned(),
            files: vec![needs.to_owned()],
            spec: SandboxSpec::default(),
        };
        let holdings = Arc::new(Holdings::new(Arc::clone(&bench.request.journal), Vec::new()));
        let steps = || bench.book.steps.lock().unwrap().iter().filter(|step| **step == "template.kept").count();
        let before = steps();
        let template = ensure(backend, &bench.request, &RootSource::empty(), key, &holdings).await.unwrap();
        assert_eq!(read(&template.folder).unwrap().files, [needs]);
        steps() > before
    }

    #[tokio::test]
    async fn one_that_is_damaged_or_needs_what_is_gone_is_made_anew() {
        let bench = Bench::new();
        bench.fake.answer(|_, _, mut writer| async move {
            writer.message(&reply(Answer::Done(Ack {}))).await.unwrap();
        });
        let backend = Arc::new(FakeWall(Arc::clone(&bench.fake)));
        assert!(made(&bench, &backend, "an image").await);
        assert!(!made(&bench, &backend, "an image").await);
        assert!(made(&bench, &backend, "the image as it came again").await);
        let record = bench.folder.join("templates/fake-one").join(RECORD);
        let whole = fs::read(&record).unwrap();
        for cut in [&whole[..0], &whole[..whole.len() / 2]] {
            fs::write(&record, cut).unwrap();
            assert!(made(&bench, &backend, "the image as it came again").await);
        }
        assert!(!made(&bench, &backend, "the image as it came again").await);
        assert!(bench.fake.alive.lock().unwrap().is_empty());
    }
}
