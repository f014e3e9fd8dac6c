//! The user's own `ssh`: its configuration, agent, known hosts and jump hosts decide who is reached and how.
//!
//! Nothing has to be installed there. The program is put once into the cache folder of the user there, named by its digest. Each operation starts
//! it as `serve --stdio`: a server for one connection, which is the channel's standard input and output. So no daemon is left there, and no
//! port or socket that others could find; who may log in may use it. Channels share one connection, which `ssh` keeps for a minute.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    process::Stdio,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sandbar_core::{Connection, Context as _, Error, ErrorKind, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{Mutex, OnceCell},
    time::timeout,
};

use super::{
    address::{Address, Scheme},
    problem::OPERATION,
};

/// What a login may take: somebody may have to touch a key.
const LOGIN: Duration = Duration::from_secs(60);
/// What putting the program there may take.
const UPLOAD: Duration = Duration::from_secs(600);
/// Bytes that a login may print (by its shell's start-up files) before the program is heard of.
const LONGEST_GREETING: usize = 64 << 10;
/// Bytes of complaints that are told.
const LONGEST_COMPLAINT: usize = 2 << 10;
/// How long complaints are waited for: `ssh` has written them when it ends, but what it leaves behind holds the pipe.
const COMPLAINT: Duration = Duration::from_millis(200);
/// What is put there instead of this program, where [`SshOptions`] name none.
const UPLOADED: &str = "SANDBAR_SSH_PROGRAM";

/// Beneath the cache folder of the user there.
const FOLDER: &str = r#""${XDG_CACHE_HOME:-$HOME/.cache}/sandbar""#;
/// What the other side says first.
const READY: &str = "sandbar-ready";
const MISSING: &str = "sandbar-missing";

/// How `ssh://` is to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SshOptions {
    /// OpenSSH's client; `ssh` on `PATH` when `None`.
    pub ssh: Option<PathBuf>,
    /// A `sandbar` that runs on the other hosts, where this program does not: the one that `SANDBAR_SSH_PROGRAM` names, or this one, when `None`.
    pub upload: Option<PathBuf>,
}

impl SshOptions {
    fn upload(&self) -> Option<PathBuf> {
        self.upload.clone().or_else(|| std::env::var_os(UPLOADED).filter(|path| !path.is_empty()).map(PathBuf::from))
    }
}

/// Logins, by the user's own `ssh`.
#[derive(Clone, Default)]
pub(super) struct Login(Arc<Inner>);

#[derive(Default)]
struct Inner {
    options: SshOptions,
    program: OnceCell<Program>,
    /// One upload at a time.
    uploading: Mutex<()>,
}

/// What is put there.
#[derive(Clone)]
struct Program {
    path: PathBuf,
    digest: String,
}

impl Login {
    pub(super) fn new(options: SshOptions) -> Self {
        Self(Arc::new(Inner { options, ..Inner::default() }))
    }

    /// A byte stream to a server that is started there for it.
    pub(super) async fn dial(&self, address: &Address) -> Result<Connection> {
        let program = self.program().await?;
        let options = &self.0.options;
        match channel(options, address, &program.digest).await? {
            Channel::Ready(stream) => return Ok(stream),
            Channel::Missing(system) => {
                let _turn = self.0.uploading.lock().await;
                upload(options, address, &program, &system).await?;
            }
        }
        match channel(options, address, &program.digest).await? {
            Channel::Ready(stream) => Ok(stream),
            Channel::Missing(_) => Err(unavailable("the program that was put there is gone again", address)),
        }
    }

    async fn program(&self) -> Result<Program> {
        let found = self.0.program.get_or_try_init(|| async {
            let path = match self.0.options.upload() {
                Some(path) => path,
                None => std::env::current_exe().context(OPERATION, || "cannot find sandbar's own program".to_owned())?,
            };
            let read = path.clone();
            let content = tokio::task::spawn_blocking(move || std::fs::read(read)).await.map_err(io::Error::other).and_then(|read| read);
            let content = content.context(OPERATION, || format!("cannot read {}", path.display()))?;
            let digest = hex::encode(Sha256::digest(&content));
            Ok::<_, Error>(Program { path, digest })
        });
        found.await.cloned()
    }
}

/// Removes what was put there, and ends the connection that `ssh` keeps.
///
/// # Errors
/// `Unavailable` when the login fails; `InvalidInput` for another kind of address.
pub async fn clean(options: &SshOptions, address: &Address) -> Result<()> {
    if address.scheme != Scheme::Ssh {
        let message = "only ssh:// puts something onto a host";
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message).with("address", address));
    }
    let removed = talk(options, address, &format!("rm -rf {FOLDER} && echo {READY}"), None, LOGIN).await;
    // It may have ended already.
    let _ =
        ssh(options, address)?.args(["-O", "exit"]).arg("--").arg(&address.host).stderr(Stdio::null()).stdout(Stdio::null()).status().await;
    removed.map(drop)
}

fn unavailable(message: &str, address: &Address) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, message).with("host", address.origin())
}

/// `ssh` with what makes its channels share a connection, and notice when it is dead.
fn ssh(options: &SshOptions, address: &Address) -> Result<Command> {
    let mut command = Command::new(options.ssh.as_deref().unwrap_or(Path::new("ssh")));
    command.args(["-T", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]);
    command.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]);
    command.arg("-o").arg(format!("ControlPath={}/%C", control_folder()?.display()));
    if let Some(user) = &address.user {
        command.args(["-l", user]);
    }
    if let Some(port) = address.port {
        command.args(["-p", &port.to_string()]);
    }
    command.kill_on_drop(true);
    Ok(command)
}

/// Short, as the path of a socket must be, and this user's alone.
fn control_folder() -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let me = rustix::process::geteuid().as_raw();
    let folder = Path::new("/tmp").join(format!("sandbar-ssh-{me}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    if made.is_err() {
        let found = std::fs::symlink_metadata(&folder).context(OPERATION, || format!("cannot use {}", folder.display()))?;
        if !found.is_dir() || found.uid() != me || found.mode() & 0o077 != 0 {
            let message = "the folder of ssh's sockets is somebody else's, or others may use it";
            return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, message).with("path", folder.display()));
        }
    }
    Ok(folder)
}

/// A script for `sh`, whatever shell the user there has.
fn for_sh(script: &str) -> String {
    format!("exec sh -c '{}'", script.replace('\'', r"'\''"))
}

enum Channel {
    Ready(Box<Stream>),
    /// What the system there is: `Linux x86_64`.
    Missing(String),
}

async fn channel(options: &SshOptions, address: &Address, digest: &str) -> Result<Channel> {
    let script = format!(
        "p={FOLDER}/sandbar-{digest}; if [ -x \"$p\" ]; then echo {READY}; exec \"$p\" serve --stdio; fi; echo \"{MISSING} $(uname -s) $(uname -m)\""
    );
    let mut stream = Stream::start(options, address, &script)?;
    match timeout(LOGIN, stream.greeting()).await {
        Ok(Ok(line)) if line == READY => Ok(Channel::Ready(Box::new(stream))),
        Ok(Ok(line)) => Ok(Channel::Missing(line.strip_prefix(MISSING).unwrap_or(&line).trim().to_owned())),
        Ok(Err(error)) => Err(stream.complaint(address, Some(error)).await),
        Err(_) => Err(stream.complaint(address, None).await),
    }
}

/// Puts the program there under another name, tries it, and gives it its name if it runs.
async fn upload(options: &SshOptions, address: &Address, program: &Program, system: &str) -> Result<()> {
    let here = format!("{} {}", if cfg!(target_os = "linux") { "Linux" } else { std::env::consts::OS }, std::env::consts::ARCH);
    if system != here && options.upload().is_none() {
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, "this program does not run on the other host's system")
            .with("its system", format!("{system:?}"))
            .with("this program's", here)
            .with_hint(format!("name one that does in {UPLOADED}, or as `upload` in the configuration's `[ssh]`")));
    }
    let Program { path, digest } = program;
    let version = env!("CARGO_PKG_VERSION");
    let script = format!(
        "umask 077; d={FOLDER}; mkdir -p \"$d\" || exit; t=\"$d/.new-$$\"; trap \"rm -f \\\"$t\\\"\" EXIT; cat > \"$t\" || exit; chmod 700 \"$t\"; \
         if command -v sha256sum >/dev/null; then set -- $(sha256sum \"$t\"); [ \"$1\" = {digest} ] || {{ echo \"what arrived is not what was sent\" >&2; exit 1; }}; fi; \
         v=$(\"$t\" version) || exit; [ \"$v\" = \"sandbar {version}\" ] || {{ echo \"it says it is $v\" >&2; exit 1; }}; \
         mv \"$t\" \"$d/sandbar-{digest}\" && echo {READY}"
    );
    talk(options, address, &script, Some(path), UPLOAD).await.map_err(|error| {
        Error::new(error.kind(), OPERATION, "sandbar's program could not be put onto the other host, or does not run there")
            .with("program", path.display())
            .with_source(error)
            .with_hint(format!("a program that is linked statically runs on any Linux; {UPLOADED} names another one"))
    })
}

/// Has a script run to its end, with a file as its input; it must say that it is ready.
async fn talk(options: &SshOptions, address: &Address, script: &str, input: Option<&Path>, patience: Duration) -> Result<()> {
    let mut stream = Stream::start(options, address, script)?;
    let talked = async {
        if let (Some(path), Some(pipe)) = (input, stream.input.as_mut()) {
            let mut file = tokio::fs::File::open(path).await?;
            // If it ends before it has everything, it says why.
            let _ = tokio::io::copy(&mut file, pipe).await;
        }
        // The end of the input: only a pipe that is gone has one.
        stream.input = None;
        stream.greeting().await
    };
    match timeout(patience, talked).await {
        Ok(Ok(line)) if line == READY => Ok(()),
        Ok(Ok(_)) => Err(stream.complaint(address, None).await),
        Ok(Err(error)) => Err(stream.complaint(address, Some(error)).await),
        Err(_) => Err(stream.complaint(address, None).await),
    }
}

/// Standard input and output of a command there.
struct Stream {
    child: Child,
    /// `None` once its end was said.
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: ChildStderr,
}

impl Stream {
    fn start(options: &SshOptions, address: &Address, script: &str) -> Result<Self> {
        let mut command = ssh(options, address)?;
        command.arg("--").arg(&address.host).arg(for_sh(script));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::io(OPERATION, "ssh cannot be started", error).with_hint("ssh:// goes by OpenSSH's own ssh: install openssh-client")
        })?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Internal, OPERATION, "ssh has no pipes"));
        };
        Ok(Self { child, input: Some(input), output, errors })
    }

    /// The first line of ours, after whatever a login prints. Not a byte more is read.
    async fn greeting(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        for _ in 0..LONGEST_GREETING {
            match self.output.read_u8().await? {
                b'\n' => {
                    let text = String::from_utf8_lossy(&line).trim().to_owned();
                    if text == READY || text.starts_with(MISSING) {
                        return Ok(text);
                    }
                    line.clear();
                }
                byte => line.push(byte),
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the login prints too much"))
    }

    /// Why there is no such line.
    async fn complaint(&mut self, address: &Address, error: Option<io::Error>) -> Error {
        let mut said = Vec::new();
        let mut complaints = (&mut self.errors).take(LONGEST_COMPLAINT as u64);
        let _ = timeout(COMPLAINT, complaints.read_to_end(&mut said)).await;
        let _ = self.child.start_kill();
        let said = String::from_utf8_lossy(&said).lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let message = if said.is_empty() { "the login fails, or does not answer".to_owned() } else { format!("ssh says: {said}") };
        let told = unavailable(&message, address).with_hint(format!("does `ssh {}` work?", address.host));
        match error {
            Some(error) => told.with_source(error),
            None => told,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(context, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().map_or(Poll::Ready(Ok(())), |input| Pin::new(input).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(context))?;
        self.input = None;
        Poll::Ready(Ok(()))
    }
}
