//! Output and statuses that a stop hands over, and their answers afterwards.
//!
//! `<sandbox's folder>/output/` holds `processes.json` and, for each process with output, `PID.frames`: the agent's `Chunk`, Stdout and
//! Stderr frames as they came. It is written as `output.new` and renamed when whole.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, BufReader, BufWriter, ErrorKind as Io, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use sandbar_core::{
    Context, Error, ErrorKind, ExecEvent, ExecInput, ExecOutput, ExecStream, ExitStatus, OutputKind, ProcessInfo, PtySize, Result, Signal,
};
use sandbar_protocol::{Chunk, Frame, FrameKind, read_frame, write_frame};
use serde::{Deserialize, Serialize};

/// Most bytes of output that a stop keeps of all processes together: what the agent is asked for.
pub(super) const LIMIT: u64 = 64 << 20;
/// Most bytes of the files, frame headers included, whatever the agent sends.
const FILES: u64 = LIMIT + LIMIT / 4;
/// Most processes that a stop keeps.
const MAX_PROCESSES: usize = 10_000;

const FOLDER: &str = "output";
const UNFINISHED: &str = "output.new";
const LIST: &str = "processes.json";

/// Whether a stop has begun or ended since the last start, by whichever process.
pub(super) fn begun_or_kept(sandbox: &Path) -> bool {
    [FOLDER, UNFINISHED].iter().any(|name| sandbox.join(name).exists())
}

/// Forgets what an earlier stop kept. Blocks.
pub(super) fn forget(sandbox: &Path) -> Result<()> {
    for name in [FOLDER, UNFINISHED] {
        match fs::remove_dir_all(sandbox.join(name)) {
            Err(error) if error.kind() != Io::NotFound => {
                return Err(Error::io("output", "cannot remove kept output", error).with("path", sandbox.join(name).display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What `processes.json` says.
#[derive(Default, Serialize, Deserialize)]
struct List {
    processes: Vec<ProcessInfo>,
    /// Why something is missing, if so.
    incomplete: Option<String>,
}

/// Takes over what a stop hands over. Its methods block.
pub(super) struct Keeping {
    sandbox: PathBuf,
    list: List,
    current: Option<BufWriter<File>>,
    left: u64,
}

impl Keeping {
    /// Begins, and forgets what an earlier stop kept.
    pub(super) fn begin(sandbox: &Path) -> Result<Self> {
        forget(sandbox)?;
        let folder = sandbox.join(UNFINISHED);
        fs::create_dir(&folder).context("output", || format!("cannot make {}", folder.display()))?;
        Ok(Self { sandbox: sandbox.to_owned(), list: List::default(), current: None, left: FILES })
    }

    /// The processes come before any output.
    pub(super) fn processes(&mut self, mut processes: Vec<ProcessInfo>) {
        processes.truncate(MAX_PROCESSES);
        self.list.processes = processes;
    }

    /// The frames that follow are this process's. Those of an unknown process are dropped.
    pub(super) fn chunk(&mut self, chunk: Chunk) -> io::Result<()> {
        self.finish_file()?;
        if self.list.processes.iter().any(|process| process.pid == chunk.pid) {
            let path = self.sandbox.join(UNFINISHED).join(format!("{}.frames", chunk.pid));
            let mut file = BufWriter::new(File::options().append(true).create(true).open(path)?);
            write_frame(&mut file, FrameKind::Message, &prost::Message::encode_to_vec(&chunk)).map_err(io::Error::from)?;
            self.current = Some(file);
        }
        Ok(())
    }

    /// Keeps a frame of output; `false` when the limit is reached.
    pub(super) fn output(&mut self, frame: &Frame) -> io::Result<bool> {
        let size = (frame.payload.len() + sandbar_protocol::HEADER) as u64;
        if size > self.left {
            return Ok(false);
        }
        self.left -= size;
        if let Some(file) = &mut self.current {
            write_frame(file, frame.kind, &frame.payload).map_err(io::Error::from)?;
        }
        Ok(true)
    }

    /// Ends: from now on [`Kept::open`] finds it.
    pub(super) fn finish(mut self, incomplete: Option<String>) -> Result<()> {
        self.list.incomplete = incomplete;
        let folder = self.sandbox.join(UNFINISHED);
        let written = self.finish_file().and_then(|()| {
            fs::write(folder.join(LIST), serde_json::to_vec(&self.list)?)?;
            fs::rename(&folder, self.sandbox.join(FOLDER))
        });
        written.context("output", || format!("cannot keep the output in {}", folder.display()))
    }

    fn finish_file(&mut self) -> io::Result<()> {
        self.current.take().map_or(Ok(()), |mut file| file.flush())
    }
}

/// What the last stop kept.
pub(super) struct Kept {
    folder: PathBuf,
    list: List,
}

impl Kept {
    /// Opens it; nothing was kept when there is nothing. Blocks.
    pub(super) fn open(sandbox: &Path) -> Result<Self> {
        let folder = sandbox.join(FOLDER);
        let list = match fs::read(folder.join(LIST)) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "output", "the kept list of processes cannot be read").with_source(error)
            })?,
            Err(error) if error.kind() == Io::NotFound => List::default(),
            Err(error) => return Err(Error::io("output", "cannot read the kept list of processes", error)),
        };
        Ok(Self { folder, list })
    }

    pub(super) fn processes(self) -> Vec<ProcessInfo> {
        self.list.processes
    }

    /// The output of one process, as an attach would tell it. Blocks.
    ///
    /// # Errors
    /// `NotFound` for a process that is not among them.
    pub(super) fn reattach(self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        let Some(process) = self.list.processes.into_iter().find(|process| process.pid == pid) else {
            return Err(Error::new(ErrorKind::NotFound, "attach", "exec started no such process").with("pid", pid));
        };
        let path = self.folder.join(format!("{pid}.frames"));
        let mut events = match File::open(&path) {
            Ok(file) => read_events(BufReader::new(file), &process, from),
            Err(error) if error.kind() == Io::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
        .context("attach", || format!("cannot read {}", path.display()))?;
        let mut told = VecDeque::new();
        // `None` is the oldest byte that is kept: nothing is missing before it.
        let mut offset = from.unwrap_or_else(|| events.keys().next().copied().unwrap_or(process.output_end));
        while let Some((begin, (kind, data))) = events.pop_first() {
            if begin > offset {
                told.push_back(ExecEvent::Lost { bytes: begin - offset });
            }
            offset = begin + data.len() as u64;
            told.push_back(ExecEvent::Output { kind, offset: begin, data });
        }
        if process.output_end > offset {
            told.push_back(ExecEvent::Lost { bytes: process.output_end - offset });
        }
        // A process that was still running when the agent was cut off was ended by the stop.
        told.push_back(ExecEvent::Exited(process.status.unwrap_or(ExitStatus::signaled(Signal::KILL.0))));
        Ok(ExecStream { pid, input: Box::new(NoInput), output: Box::new(KeptOutput(told)) })
    }
}

/// The pieces of output from an offset on, by their offset. The file was written from what a hostile agent said: pieces may overlap or lie
/// anywhere; the last one at an offset wins.
fn read_events(mut file: impl io::Read, process: &ProcessInfo, from: Option<u64>) -> io::Result<BTreeMap<u64, (OutputKind, Bytes)>> {
    let from = from.unwrap_or(0);
    let mut events = BTreeMap::new();
    let mut offset = process.output_start;
    let mut end = 0;
    while let Some(frame) = read_frame(&mut file)? {
        let kind = match frame.kind {
            FrameKind::Message => {
                offset = frame.message::<Chunk>()?.offset;
                continue;
            }
            FrameKind::Stderr => OutputKind::Stderr,
            _ => OutputKind::Stdout,
        };
        let begin = offset;
        offset = begin.saturating_add(frame.payload.len() as u64);
        // Only forward, and nothing that is not wanted or outside of what the process is said to have written.
        if begin < end || offset <= from || offset > process.output_end {
            continue;
        }
        end = offset;
        let skipped = from.saturating_sub(begin);
        let data = frame.payload.slice(usize::try_from(skipped).unwrap_or(usize::MAX).min(frame.payload.len())..);
        events.insert(begin + skipped, (kind, data));
    }
    Ok(events)
}

struct KeptOutput(VecDeque<ExecEvent>);

#[async_trait]
impl ExecOutput for KeptOutput {
    async fn next(&mut self) -> Result<Option<ExecEvent>> {
        Ok(self.0.pop_front())
    }
}

/// The input of a process that is not there any more.
struct NoInput;

impl NoInput {
    fn refuse<T>() -> Result<T> {
        Err(Error::new(ErrorKind::Unavailable, "attach", "the process has ended, and the sandbox is stopped"))
    }
}

#[async_trait]
impl ExecInput for NoInput {
    async fn write(&mut self, _: Bytes) -> Result<()> {
        Self::refuse()
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }

    async fn signal(&mut self, _: Signal) -> Result<()> {
        Self::refuse()
    }

    async fn resize(&mut self, _: PtySize) -> Result<()> {
        Self::refuse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Piece = (FrameKind, &'static [u8]);

    fn process(pid: u32, output_start: u64, output_end: u64) -> ProcessInfo {
        ProcessInfo {
            pid,
            command: "x".to_owned(),
            started_ms: 1,
            ended_ms: Some(2),
            status: Some(ExitStatus::exited(3)),
            pty: false,
            attached: 0,
            output_start,
            output_end,
            epoch: 0,
        }
    }

    fn keep(sandbox: &Path, process: ProcessInfo, chunks: &[(u64, &[Piece])]) {
        let mut keeping = Keeping::begin(sandbox).unwrap();
        let pid = process.pid;
        keeping.processes(vec![process]);
        for (offset, frames) in chunks {
            keeping.chunk(Chunk { pid, offset: *offset }).unwrap();
            for (kind, payload) in *frames {
                assert!(keeping.output(&Frame { kind: *kind, payload: Bytes::from_static(payload) }).unwrap());
            }
        }
        assert!(begun_or_kept(sandbox));
        keeping.finish(None).unwrap();
    }

    async fn told(sandbox: &Path, pid: u32, from: Option<u64>) -> Vec<ExecEvent> {
        let mut stream = Kept::open(sandbox).unwrap().reattach(pid, from).unwrap();
        let mut events = Vec::new();
        while let Some(event) = stream.output.next().await.unwrap() {
            events.push(event);
        }
        events
    }

    fn output(kind: OutputKind, offset: u64, data: &'static [u8]) -> ExecEvent {
        ExecEvent::Output { kind, offset, data: Bytes::from_static(data) }
    }

    #[tokio::test]
    async fn kept_output_is_told_from_any_offset() {
        let home = tempfile::tempdir().unwrap();
        keep(home.path(), process(7, 10, 16), &[(10, &[(FrameKind::Stdout, b"abc"), (FrameKind::Stderr, b"def")])]);
        let (out, err, end) = (OutputKind::Stdout, OutputKind::Stderr, ExecEvent::Exited(ExitStatus::exited(3)));
        assert_eq!(told(home.path(), 7, None).await, [output(out, 10, b"abc"), output(err, 13, b"def"), end.clone()]);
        assert_eq!(told(home.path(), 7, Some(11)).await, [output(out, 11, b"bc"), output(err, 13, b"def"), end.clone()]);
        let lost = ExecEvent::Lost { bytes: 8 };
        assert_eq!(told(home.path(), 7, Some(2)).await, [lost, output(out, 10, b"abc"), output(err, 13, b"def"), end.clone()]);
        assert_eq!(told(home.path(), 7, Some(16)).await, [end]);
        assert_eq!(Kept::open(home.path()).unwrap().reattach(8, None).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn pieces_that_go_back_or_beyond_are_dropped_and_the_gap_is_told() {
        let home = tempfile::tempdir().unwrap();
        let chunks: [(u64, &[Piece]); 4] = [
            (4, &[(FrameKind::Stdout, b"ab")]),
            (2, &[(FrameKind::Stdout, b"xx")]),
            (8, &[(FrameKind::Stdout, b"cd")]),
            (u64::MAX - 1, &[(FrameKind::Stdout, b"zzzz")]),
        ];
        keep(home.path(), process(7, 0, 12), &chunks);
        let events = told(home.path(), 7, None).await;
        let lost = |bytes| ExecEvent::Lost { bytes };
        let out = OutputKind::Stdout;
        let expected = [output(out, 4, b"ab"), lost(2), output(out, 8, b"cd"), lost(2), ExecEvent::Exited(ExitStatus::exited(3))];
        assert_eq!(events, expected);
    }

    #[test]
    fn the_limit_holds_whatever_the_size_of_the_frames() {
        let home = tempfile::tempdir().unwrap();
        let mut keeping = Keeping::begin(home.path()).unwrap();
        keeping.left = 100;
        keeping.processes(vec![process(7, 0, 1000)]);
        keeping.chunk(Chunk { pid: 7, offset: 0 }).unwrap();
        let tiny = Frame { kind: FrameKind::Stdout, payload: Bytes::from_static(b"x") };
        let kept = (0..1000).take_while(|_| keeping.output(&tiny).unwrap()).count();
        assert_eq!(kept, 100 / 6);
    }

    #[test]
    fn nothing_kept_is_an_empty_list() {
        let home = tempfile::tempdir().unwrap();
        assert!(!begun_or_kept(home.path()));
        assert!(Kept::open(home.path()).unwrap().processes().is_empty());
        forget(home.path()).unwrap();
    }
}
