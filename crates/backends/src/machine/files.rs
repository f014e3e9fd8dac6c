use sandbar_core::{DirEntry, Error, ErrorKind, FileKind, FileStat, PutOptions, RemoveOptions, Result};
use sandbar_protocol::{MakeDir, Owner, Put, ReadDir, Remove, Rename, Stat, Symlink, Target, reply::Answer, request::Operation};
use tokio::io::AsyncRead;

use super::{
    Backend, answer,
    bulk::Download,
    client::{Call, Patience, next_answer},
};

/// More entries than one directory is listed with: at some hundred bytes each they still fit in memory.
const MAX_ENTRIES: usize = 2_000_000;

impl<B: Backend> Call<B> {
    pub(super) async fn put_file(self, path: &str, options: PutOptions, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.upload(Operation::PutFile(put(path, &options)), content).await.map_err(at(path))
    }

    pub(super) async fn put_dir(self, path: &str, options: PutOptions, tar: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.upload(Operation::PutTree(put(path, &options)), tar).await.map_err(at(path))
    }

    pub(super) async fn get_file(self, path: &str, offset: u64) -> Result<(FileStat, Download)> {
        let operation = Operation::GetFile(Target { path: path.into(), offset });
        let (link, answer) = self.ask(operation, Patience::Quick).await.map_err(at(path))?;
        let Answer::Entry(entry) = answer else { return Err(self.unexpected()) };
        let stat = answer::stat(self.verb, entry)?;
        if stat.kind != FileKind::File {
            return Err(answer::nonsense(self.verb, "content of something that is no file"));
        }
        Ok((stat, self.download(link)))
    }

    pub(super) async fn get_dir(self, path: &str) -> Result<Download> {
        let operation = Operation::GetTree(Target { path: path.into(), offset: 0 });
        let link = self.order(operation, Patience::Quick).await.map_err(at(path))?;
        Ok(self.download(link))
    }

    pub(super) async fn read_dir(self, path: &str) -> Result<Vec<DirEntry>> {
        let operation = Operation::ReadDir(ReadDir { path: path.into() });
        let (mut link, mut answer) = self.ask(operation, Patience::Long).await.map_err(at(path))?;
        let mut entries = Vec::new();
        loop {
            let Answer::Entries(batch) = self.accept(answer).map_err(at(path))? else { return Err(self.unexpected()) };
            if entries.len() + batch.entries.len() > MAX_ENTRIES {
                let message = format!("the directory has more than {MAX_ENTRIES} entries");
                return Err(Error::new(ErrorKind::ResourceExhausted, self.verb, message).with("path", format!("{path:?}")));
            }
            for entry in batch.entries {
                entries.push(answer::entry(self.verb, entry)?);
            }
            if batch.last {
                entries.sort_unstable_by(|one: &DirEntry, other| one.name.cmp(&other.name));
                return Ok(entries);
            }
            answer = self.patiently(Patience::Long, next_answer(&mut link.reader)).await?;
        }
    }

    pub(super) async fn stat(self, path: &str, follow: bool) -> Result<FileStat> {
        match self.ask(Operation::Stat(Stat { path: path.into(), follow }), Patience::Quick).await.map_err(at(path))? {
            (_, Answer::Entry(entry)) => answer::stat(self.verb, entry),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) async fn make_dir(self, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        let operation = Operation::MakeDir(MakeDir { path: path.into(), parents, mode });
        self.order(operation, Patience::Quick).await.map(drop).map_err(at(path))
    }

    pub(super) async fn rename(self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        let operation = Operation::Rename(Rename { from: from.into(), to: to.into(), no_replace });
        self.order(operation, Patience::Quick).await.map(drop).map_err(at(from)).map_err(|error| error.with("to", format!("{to:?}")))
    }

    pub(super) async fn symlink(self, target: &str, path: &str) -> Result<()> {
        let operation = Operation::Symlink(Symlink { target: target.into(), path: path.into() });
        self.order(operation, Patience::Quick).await.map(drop).map_err(at(path))
    }

    pub(super) async fn remove_path(self, path: &str, options: RemoveOptions) -> Result<()> {
        let RemoveOptions { recursive, missing_ok } = options;
        let operation = Operation::Remove(Remove { path: path.into(), recursive, missing_ok });
        self.order(operation, Patience::Long).await.map(drop).map_err(at(path))
    }
}

fn put(path: &str, options: &PutOptions) -> Put {
    Put {
        path: path.into(),
        mode: options.mode,
        owner: options.owner.map(|(uid, gid)| Owner { uid, gid }),
        make_parents: options.make_parents,
        no_replace: options.no_replace,
    }
}

/// Names the path in an error.
fn at(path: &str) -> impl Fn(Error) -> Error + '_ {
    move |error| error.with("path", format!("{path:?}"))
}
