//! Checkpoints as files: `checkpoint export` and `checkpoint import`.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd},
    io::Errno,
};
use sandbar_core::{Context, Error, ErrorKind, Result, Signal};
use sandbar_runtime::{ExportOptions, Exported, Imported, Runtime};
use tokio::time::timeout;

use crate::{error::Outcome, output, session::End, signals::Signals, terminal};

/// How long the end of the work may take after a signal. What is left then is removed by `sandbar gc`.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often somebody who waits for a pipe looks whether it was called off.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Write a checkpoint as one file
///
/// The file is a tar of an OCI image layout: the image's layers and the checkpoint's own, with what the sandbox was asked to be, its variables
/// included. `sandbar checkpoint import` reads it elsewhere; so does every tool for OCI images. Prints the digest of its manifest, unless the file
/// itself goes to standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar checkpoint export clean clean.tar
  sandbar checkpoint export clean - | ssh box sandbar checkpoint import - --name clean")]
pub(super) struct Export {
    /// Make the image and the checkpoint one layer; the only way for a checkpoint on the image `host`
    #[arg(long)]
    flatten: bool,
    /// Leave out the image's layers: whoever imports the file has the image
    #[arg(long, conflicts_with = "flatten")]
    thin: bool,
    /// Of a checkpoint with memory, take its files alone
    #[arg(long)]
    without_memory: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The checkpoint
    checkpoint: String,
    /// The file to write, or - for standard output
    file: PathBuf,
}

/// Take in a checkpoint from a file that `sandbar checkpoint export` has written
///
/// Prints the checkpoint's id. What the file says is not trusted: digests are compared, and volumes and network are not taken from it.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// A name to call it by; the file's own, if that is free
    #[arg(long)]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The file to read, or - for standard input
    file: PathBuf,
}

impl Export {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        let to_stdout = self.file.as_os_str() == "-";
        if to_stdout && terminal::stdout_is_terminal() {
            return Err(crate::error::usage("standard output is a terminal: name a file, or redirect it"));
        }
        let options = ExportOptions { flatten: self.flatten, thin: self.thin, without_memory: self.without_memory };
        let mut signals = Signals::listen()?;
        let stop = Arc::new(AtomicBool::new(false));
        let target = if to_stdout { Target::Stream(duplicate(io::stdout())?) } else { Target::at(&self.file)? };
        let writing = || format!("cannot write {}", self.file.display());
        let (unnamed, writer): (_, Box<dyn Write + Send>) = match target {
            Target::Stream(stream) => (None, Box::new(Pipe { stream, ready: PollFlags::OUT, stop: Arc::clone(&stop) })),
            Target::File(unnamed, path) => {
                let file = unnamed.file.try_clone().context("export", writing)?;
                (Some((unnamed, path)), Box::new(file))
            }
        };
        let work = |told| runtime.export_checkpoint(&self.checkpoint, options, writer, told);
        let exported: Exported = match called_off(&mut signals, &stop, work).await? {
            Ok(exported) => exported,
            Err(signal) => return Ok(End::Signaled(signal).status()),
        };
        if let Some((unnamed, path)) = unnamed {
            unnamed.name(&path)?;
        }
        if exported.unreadable > 0 {
            let count = exported.unreadable;
            output::note(&format!("{count} files and folders of this machine were left out, which not everybody may read"));
        }
        if !exported.left_out.is_empty() {
            output::note(&format!("not in the file, since it belongs to this machine: {}", exported.left_out.join(", ")));
        }
        match (to_stdout, self.json) {
            (true, _) => Ok(()),
            (false, true) => output::json(&exported),
            (false, false) => output::line(&exported.digest.to_string()),
        }?;
        Ok(0)
    }
}

impl Import {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        let mut signals = Signals::listen()?;
        let stop = Arc::new(AtomicBool::new(false));
        let reader: Box<dyn Read + Send> = if self.file.as_os_str() == "-" {
            Box::new(Pipe { stream: duplicate(io::stdin())?, ready: PollFlags::IN, stop: Arc::clone(&stop) })
        } else {
            let file = File::open(&self.file).context("import", || format!("cannot open {}", self.file.display()))?;
            Box::new(Pipe { stream: file, ready: PollFlags::IN, stop: Arc::clone(&stop) })
        };
        let work = |told| runtime.import_checkpoint(reader, self.name, told);
        let imported: Imported = match called_off(&mut signals, &stop, work).await? {
            Ok(imported) => imported,
            Err(signal) => return Ok(End::Signaled(signal).status()),
        };
        if self.json { output::json(&imported) } else { output::line(imported.checkpoint.id.as_str()) }?;
        Ok(0)
    }
}

/// Does work that a signal calls off; gives its outcome, or the signal once it has cleared up.
async fn called_off<T, Work>(signals: &mut Signals, stop: &Arc<AtomicBool>, work: impl FnOnce(Told) -> Work) -> Result<Result<T, Signal>>
where
    Work: Future<Output = Result<T>>,
{
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut work = std::pin::pin!(work(Box::pin(async {
        // Nobody tells: then it is never called off.
        if told.await.is_err() {
            std::future::pending().await
        }
    })));
    match signals.or(&mut work).await {
        Ok(done) => done.map(Ok),
        Err(signal) => {
            stop.store(true, Ordering::SeqCst);
            let _ = tell.send(());
            // Its error is the signal's doing.
            let _ = timeout(LAST_WORDS, work).await;
            Ok(Err(signal))
        }
    }
}

type Told = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// A stream that may keep one waiting for ever, but not longer than until it is called off.
struct Pipe<S> {
    stream: S,
    ready: PollFlags,
    stop: Arc<AtomicBool>,
}

/// The stream without the standard library's buffer around it.
fn duplicate(stream: impl AsFd) -> Result<File> {
    Ok(stream.as_fd().try_clone_to_owned().context("start", || "cannot duplicate a standard stream".to_owned())?.into())
}

impl<S: AsFd> Pipe<S> {
    fn wait(&self) -> io::Result<()> {
        let fd: BorrowedFd<'_> = self.stream.as_fd();
        while !self.stop.load(Ordering::SeqCst) {
            match poll(&mut [PollFd::new(&fd, self.ready)], Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("it was called off"))
    }
}

impl<S: AsFd + Read> Read for Pipe<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.stream.read(buffer)
    }
}

impl<S: AsFd + Write> Write for Pipe<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.wait()?;
        // A pipe that takes something takes this much without waiting.
        self.stream.write(&buffer[..buffer.len().min(rustix::pipe::PIPE_BUF)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Where the bytes go.
enum Target {
    /// What is there and is no file: a pipe, a device. It stays what it is.
    Stream(File),
    /// A file that is to be, and its path.
    File(Unnamed, PathBuf),
}

impl Target {
    fn at(path: &Path) -> Result<Self> {
        let opening = || format!("cannot write {}", path.display());
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                Err(Error::new(ErrorKind::InvalidInput, "export", "the file to write is a folder").with("path", path.display()))
            }
            Ok(found) if found.is_file() => {
                // What a link leads to is written, and not the link replaced.
                let path = path.canonicalize().context("export", opening)?;
                Ok(Self::File(Unnamed::beside(&path)?, path))
            }
            Ok(_) => Ok(Self::Stream(File::options().write(true).open(path).context("export", opening)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::File(Unnamed::beside(path)?, path.to_owned())),
            Err(error) => Err(error).context("export", opening),
        }
    }
}

/// A file without a name until it is whole, so that nothing is left of it however this process ends.
struct Unnamed {
    file: File,
    /// Where the file system has no such files: its name until then.
    path: Option<PathBuf>,
}

impl Unnamed {
    fn beside(target: &Path) -> Result<Self> {
        let folder = folder_of(target);
        let cannot = |error: io::Error| Error::io("export", format!("cannot write into {}", folder.display()), error);
        match without_name(folder) {
            Ok(file) => Ok(Self { file, path: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let path = temporary(target);
                let file = File::create_new(&path).map_err(cannot)?;
                Ok(Self { file, path: Some(path) })
            }
            Err(error) => Err(cannot(error.into())),
        }
    }

    /// Gives it its name, in the place of what had it.
    fn name(mut self, target: &Path) -> Result<()> {
        use rustix::fs::{AtFlags, CWD, linkat};
        let naming = || format!("cannot write {}", target.display());
        self.file.sync_all().context("export", naming)?;
        if self.path.is_none() {
            use std::os::fd::AsRawFd;
            let path = temporary(target);
            let held = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, held, CWD, &path, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from).context("export", naming)?;
            self.path = Some(path);
        }
        if let Some(path) = &self.path {
            fs::rename(path, target).context("export", naming)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(target_os = "linux")]
fn without_name(folder: &Path) -> rustix::io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    openat(CWD, folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)).map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn without_name(_folder: &Path) -> rustix::io::Result<File> {
    Err(Errno::OPNOTSUPP)
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    folder_of(target).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        fs::write(&target, "old").unwrap();
        let mut unnamed = Unnamed::beside(&target).unwrap();
        unnamed.file.write_all(b"new").unwrap();
        drop(unnamed);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let mut unnamed = Unnamed::beside(&target).unwrap();
        unnamed.file.write_all(b"new").unwrap();
        unnamed.name(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_stays_what_it_is() {
        assert!(matches!(Target::at(Path::new("/dev/null")), Ok(Target::Stream(_))));
        assert!(Target::at(Path::new("/dev")).is_err());
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        fs::write(folder.path().join("real"), "").unwrap();
        let Target::File(_, path) = Target::at(&folder.path().join("link")).unwrap() else { panic!("a file is no stream") };
        assert!(path.ends_with("real"));
    }

    #[test]
    fn somebody_who_waits_for_a_pipe_can_be_called_off() {
        let (reader, _writer) = io::pipe().unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let mut pipe = Pipe { stream: reader, ready: PollFlags::IN, stop };
        assert!(pipe.read(&mut [0]).is_err());
    }
}
