use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, net::UnixStream},
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context, Error, ErrorKind, Journal, Result, SandboxSpec, Volume};
use sandbar_protocol::{
    FrameError, PREAMBLE, Preamble, Reply, Request, Settle, Share, VERSION, encode_message, read_frame, reply::Answer, request::Operation,
};

use serde::{Deserialize, Serialize};

use super::{blocking, start_share};
use crate::machine::{answer, process::HostProcess};

const VERB: &str = "volume";
/// What the ledger calls the processes.
const SHARE_ROLE: &str = "share";
/// The step between the start of such a process and its row: it ends with the machine in any case.
const SHARED: &str = "volume.shared";
/// How long an agent may take to mount a volume. A machine may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Refuses volumes that cannot be, before anything is made.
///
/// # Errors
/// `InvalidInput` for a target that is not below the root or has dots, and for a source that is not there.
pub(crate) fn check_volumes(volumes: &[Volume]) -> Result<()> {
    for volume in volumes {
        let names = volume.target.components().filter(|part| matches!(part, Component::Normal(_))).count();
        let plain = volume.target.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
        let invalid = |message: &str| Error::new(ErrorKind::InvalidInput, VERB, message.to_owned()).with("target", volume.target.display());
        if !volume.target.is_absolute() || !plain {
            return Err(invalid("the path of a volume inside must not have '.' or '..'"));
        }
        if names == 0 {
            return Err(invalid("a volume cannot take the place of the root"));
        }
        volume
            .source
            .metadata()
            .map_err(|error| Error::io(VERB, "cannot find the source of a volume", error).with("source", volume.source.display()))?;
    }
    Ok(())
}

/// Refuses to save memory of a sandbox with volumes: its kernel has mounts in there whose other end is a process of this host, which knows what is open.
///
/// # Errors
/// `Unsupported`.
pub(crate) fn refuse_memory(spec: &SandboxSpec) -> Result<()> {
    if spec.volumes.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "checkpoint", "the memory of a virtual machine with volumes cannot be saved")
        .with_hint("a checkpoint of the disk can be made; volumes stay where they are"))
}

/// The volumes of a machine, and who serves each of them first; another process may by now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Shares(Vec<(Volume, HostProcess)>);

/// How a machine's volumes come to it.
pub(crate) struct Sharing {
    /// Connects to the machine's agent.
    pub(crate) connect: Box<dyn Fn() -> io::Result<UnixStream> + Send>,
    /// The agent's file on this host, which serves.
    pub(crate) agent: Box<dyn Fn() -> Result<PathBuf> + Send>,
    /// The generation's folder.
    pub(crate) folder: PathBuf,
}

impl Sharing {
    fn connect(&self) -> Result<UnixStream> {
        (self.connect)()
            .map_err(|error| Error::new(ErrorKind::Unavailable, VERB, "the machine's agent does not take a connection").with_source(error))
    }

    /// Has a volume mounted, and starts who serves it.
    fn share(&self, index: usize, volume: &Volume) -> Result<HostProcess> {
        let target = volume.target.as_os_str().as_bytes().to_vec();
        let share = Share { target, read_only: volume.read_only, is_file: !volume.source.is_dir() };
        let mut guest = self.connect()?;
        ask(&mut guest, Operation::Share(share)).map_err(|error| error.with("target", volume.target.display()))?;
        start_share(&(self.agent)()?, &self.folder, &log(index), volume, guest.into())
    }

    fn settle(&self) -> Result<()> {
        ask(&mut self.connect()?, Operation::Settle(Settle {}))
    }
}

impl Shares {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a machine whose agent answers its volumes, one after another: one may lie in another. Each is served by a process, which ends with the
    /// machine. With what was shared, also when not all was.
    ///
    /// # Errors
    /// What the agent says; of the processes.
    pub(crate) async fn furnish(spec: &SandboxSpec, sharing: Sharing, journal: &Arc<dyn Journal>) -> (Self, Result<()>) {
        let mut shares = Self::default();
        if spec.volumes.is_empty() {
            return (shares, Ok(()));
        }
        let (volumes, journal) = (spec.volumes.clone(), Arc::clone(journal));
        let shared = blocking(move || {
            let done = shares.add(volumes, &sharing, &journal);
            Ok((shares, done))
        });
        shared.await.unwrap_or_else(|error| (Self::default(), Err(error)))
    }

    /// Has those served again that nobody serves any more. Whatever is wanted of the sandbox next may have nothing to do with them: a failure is only told.
    pub(crate) async fn serve_again(&self, sharing: Sharing) {
        let shares = self.clone();
        let revived = blocking(move || shares.revive(&sharing));
        let _ = revived.await.inspect_err(|error| tracing::warn!(error = %error.chain(), "a volume is not served any more"));
    }

    fn add(&mut self, volumes: Vec<Volume>, sharing: &Sharing, journal: &Arc<dyn Journal>) -> Result<()> {
        for volume in volumes {
            let process = sharing.share(self.0.len(), &volume)?;
            self.0.push((volume, process));
            journal.step(SHARED);
            journal.intend(&process.resource(SHARE_ROLE))?;
        }
        sharing.settle()
    }

    /// Whether somebody is gone who served a volume.
    pub(crate) fn has_lost_one(&self, folder: &Path) -> bool {
        (0..self.0.len()).any(|index| is_lost(folder, index))
    }

    /// Serves anew what nobody serves any more: what was open in there is lost. Blocks.
    fn revive(&self, sharing: &Sharing) -> Result<()> {
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(sharing.folder.join("share.lock"));
        let lock = lock.and_then(|lock| Ok(flock(&lock, FlockOperation::LockExclusive).map(|()| lock)?));
        let _lock = lock.context(VERB, || "cannot take the lock of the volumes".to_owned())?;
        for (index, (volume, _)) in self.0.iter().enumerate() {
            // Somebody else may have been first.
            if is_lost(&sharing.folder, index) {
                sharing.share(index, volume)?;
            }
        }
        sharing.settle()
    }

    /// Ends those that serve a machine that is gone: they see its end by themselves, a moment later. Blocks.
    ///
    /// # Errors
    /// When one does not end; of the journal.
    pub(crate) fn end(&self, journal: &Arc<dyn Journal>, end: impl Fn(&HostProcess) -> Result<()>) -> Result<()> {
        for (_, process) in &self.0 {
            end(process)?;
            journal.forget(&process.resource(SHARE_ROLE))?;
        }
        Ok(())
    }
}

/// What a process says that serves a volume, which it holds the lock of.
fn log(index: usize) -> String {
    format!("share-{index}.log")
}

fn is_lost(folder: &Path, index: usize) -> bool {
    let Ok(log) = File::open(folder.join(log(index))) else { return true };
    flock(&log, FlockOperation::NonBlockingLockShared).is_ok()
}

fn ask(stream: &mut UnixStream, operation: Operation) -> Result<()> {
    let asked = || -> std::result::Result<Reply, FrameError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = bytes::BytesMut::from(VERSION.encode().as_slice());
        encode_message(&mut request, &Request { operation: Some(operation) })?;
        stream.write_all(&request)?;
        let mut preamble = [0; PREAMBLE];
        stream.read_exact(&mut preamble)?;
        Preamble::decode(preamble)?;
        // What follows it is the guest's kernel's: nothing is read beyond the frame.
        read_frame(stream)?.ok_or(FrameError::Cut)?.message()
    };
    let lost = |error| Error::new(ErrorKind::Unavailable, VERB, "the agent does not mount a volume").with_source(error);
    match asked().map_err(lost)?.answer {
        Some(Answer::Done(_)) => Ok(()),
        Some(Answer::Failure(failure)) => Err(answer::failure(VERB, &failure)),
        _ => Err(answer::nonsense(VERB, "an answer to another question")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_that_cannot_be_are_refused() {
        let volume =
            |source: &str, target: &str| check_volumes(&[Volume { source: source.into(), target: target.into(), read_only: true }]);
        volume("/etc", "/mnt/volume").unwrap();
        for (source, target) in [("/etc", "/"), ("/etc", "/mnt/../etc"), ("/etc", "mnt"), ("/not/there", "/mnt")] {
            assert!(volume(source, target).is_err(), "{source} on {target}");
        }
    }
}
