//! The user's own `ssh`: its configuration, agent, known hosts and jump hosts decide who is reached and how.
//!
//! Nothing has to be installed there. The program is put once into the cache folder of the user there, named by its digest. Whoever may log in may use it.
//!
//! A login keeps one connection, which `ssh` shares among all that this user does, for a minute after the last; where the user's configuration says how, as that
//! says. Over it a socket here ([`Door`]) leads to a server there, which listens on a socket of that user's alone and ends when nobody has come for a while. So an
//! operation takes neither a process here nor one there, nor a shell with its start-up files. Where the host does not lead sockets, each operation is a channel with
//! `serve --stdio` at its end: a server for one connection.
//!
//! | module | noun |
//! |---|---|
//! | `route` | how `ssh` is called for a host |
//! | `stream` | a command there, as a byte stream |
//! | `door` | a socket here that leads to one there |
//! | `linkage` | whether a program needs a C library there |

mod door;
mod linkage;
mod route;
mod stream;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use sandbar_core::{Connection, Context as _, Error, ErrorKind, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};

use self::{
    door::Door,
    route::{Route, unavailable},
    stream::{Greeting, MISSING, READY, Stream},
};
use super::{
    address::{Address, Scheme},
    problem::OPERATION,
};

/// What a login may take: somebody may have to touch a key.
const LOGIN: Duration = Duration::from_secs(60);
/// What putting the program there may take.
const UPLOAD: Duration = Duration::from_secs(600);
/// What is put there instead of this program, where [`SshOptions`] name none.
const UPLOADED: &str = "SANDBAR_SSH_PROGRAM";

/// Beneath the cache folder of the user there.
const FOLDER: &str = r#""${XDG_CACHE_HOME:-$HOME/.cache}/sandbar""#;

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
    /// By host.
    routes: std::sync::Mutex<HashMap<Address, Arc<OnceCell<Route>>>>,
    /// One upload at a time.
    uploading: Mutex<()>,
}

/// What is put there.
#[derive(Clone)]
struct Program {
    path: PathBuf,
    digest: String,
    /// The dynamic loader that it needs there.
    loader: Option<String>,
}

impl Program {
    /// A script that does something with it, as `$p`, if it is there.
    fn script(&self, what: &str) -> String {
        let digest = &self.digest;
        format!("p={FOLDER}/sandbar-{digest}; if [ -x \"$p\" ]; then {what}; exit; fi; echo \"{MISSING} $(uname -s) $(uname -m)\"")
    }

    /// Serves the channel.
    fn serve_channel(&self) -> String {
        self.script(&format!("echo {READY}; exec \"$p\" serve --stdio"))
    }

    /// Has a server listen beside the program, and says where. The shell does not wait for its end.
    fn serve_socket(&self) -> String {
        // A socket's path has at most 107 bytes (unix(7)).
        let name = &self.digest[..16];
        let start = format!("r=$({{ \"$p\" serve --socket {FOLDER}/{name}.socket </dev/null 2>/dev/null & }} | head -n 1)");
        self.script(&format!("{start}; echo \"{READY} $r\""))
    }
}

impl Login {
    pub(super) fn new(options: SshOptions) -> Self {
        Self(Arc::new(Inner { options, ..Inner::default() }))
    }

    /// A byte stream to a server there.
    pub(super) async fn dial(&self, address: &Address) -> Result<Connection> {
        let program = self.program().await?;
        let door = Door::to(&self.0.options, address, &program.digest)?;
        if let Ok(stream) = door.enter().await {
            return Ok(Box::new(stream));
        }
        let cell = Arc::clone(self.0.routes.lock().unwrap_or_else(PoisonError::into_inner).entry(address.origin()).or_default());
        let route = cell.get_or_init(|| Route::to(&self.0.options, address)).await;
        if let Some(stream) = self.open(&door, route, &program).await? {
            return Ok(stream);
        }
        let (stream, _) = self.start(route, &program, &program.serve_channel()).await?;
        Ok(Box::new(stream))
    }

    /// Makes the door, and goes through. `None` where the host leads no sockets.
    async fn open(&self, door: &Door, route: &Route, program: &Program) -> Result<Option<Connection>> {
        if door.is_shut() {
            return Ok(None);
        }
        let (_turn, waited) = door.turn().await?;
        if let Ok(stream) = door.enter().await {
            return Ok(Some(Box::new(stream)));
        }
        if waited {
            // Who had the turn has failed; why, a channel tells, and all who waited try at the same time.
            return Ok(None);
        }
        let (_, there) = self.start(route, program, &program.serve_socket()).await?;
        door.lead(route, &there).await?;
        match door.enter().await {
            Ok(stream) => return Ok(Some(Box::new(stream))),
            // It is only slow.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(_) => door.shut(),
        }
        Ok(None)
    }

    /// Has a script of the program's run there, which is put there first if it is missing. With what the script has said.
    async fn start(&self, route: &Route, program: &Program, script: &str) -> Result<(Stream, String)> {
        let system = match begin(route, script).await? {
            (stream, Greeting::Ready(said)) => return Ok((stream, said)),
            (_, Greeting::Missing(system)) => system,
        };
        let turn = self.0.uploading.lock().await;
        upload(&self.0.options, route, program, &system).await?;
        drop(turn);
        match begin(route, script).await? {
            (stream, Greeting::Ready(said)) => Ok((stream, said)),
            (_, Greeting::Missing(_)) => Err(unavailable("the program that was put there is gone again", &route.address)),
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
            Ok::<_, Error>(Program { path, digest, loader: linkage::loader(&content) })
        });
        found.await.cloned()
    }
}

async fn begin(route: &Route, script: &str) -> Result<(Stream, Greeting)> {
    let mut stream = Stream::start(route, script)?;
    match timeout(LOGIN, stream.greeting()).await {
        Ok(Ok(greeting)) => Ok((stream, greeting)),
        Ok(Err(error)) => Err(stream.complaint(route, Some(error)).await),
        Err(_) => Err(stream.complaint(route, None).await),
    }
}

/// Removes what was put there, and ends the connection that `ssh` keeps for us; one that the user's own configuration shares goes on. A server that still listens there ends when its socket is gone.
///
/// # Errors
/// `Unavailable` when the login fails; `InvalidInput` for another kind of address.
pub async fn clean(options: &SshOptions, address: &Address) -> Result<()> {
    if address.scheme != Scheme::Ssh {
        let message = "only ssh:// puts something onto a host";
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message).with("address", address));
    }
    let route = Route::to(options, address).await;
    let removed = talk(&route, &format!("rm -rf {FOLDER} && echo {READY}"), None, LOGIN).await;
    if !route.shares {
        // It may have ended already.
        route.control(&["-O", "exit"]).await?;
    }
    Door::forget(options, address)?;
    removed
}

/// Puts the program there under another name, tries it, and gives it its name if it runs.
async fn upload(options: &SshOptions, route: &Route, program: &Program, system: &str) -> Result<()> {
    let here = format!("{} {}", if cfg!(target_os = "linux") { "Linux" } else { std::env::consts::OS }, std::env::consts::ARCH);
    if system != here && options.upload().is_none() {
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, "this program does not run on the other host's system")
            .with("its system", format!("{system:?}"))
            .with("this program's", here)
            .with_hint(format!("name one that does in {UPLOADED}, or as `upload` in the configuration's `[ssh]`")));
    }
    let Program { path, digest, loader } = program;
    let version = env!("CARGO_PKG_VERSION");
    // Before it is sent: it is large.
    let needs =
        loader.as_ref().map(|loader| format!("[ -e {loader} ] || {{ echo \"there is no {loader}\" >&2; exit 1; }}; ")).unwrap_or_default();
    let script = format!(
        "{needs}umask 077; d={FOLDER}; mkdir -p \"$d\" || exit; t=\"$d/.new-$$\"; trap \"rm -f \\\"$t\\\"\" EXIT; cat > \"$t\" || exit; chmod 700 \"$t\"; \
         if command -v sha256sum >/dev/null; then set -- $(sha256sum \"$t\"); [ \"$1\" = {digest} ] || {{ echo \"what arrived is not what was sent\" >&2; exit 1; }}; fi; \
         v=$(\"$t\" version) || exit; [ \"$v\" = \"sandbar {version}\" ] || {{ echo \"it says it is $v\" >&2; exit 1; }}; \
         mv \"$t\" \"$d/sandbar-{digest}\" && echo {READY}"
    );
    talk(route, &script, Some(path), UPLOAD).await.map_err(|error| {
        Error::new(error.kind(), OPERATION, "sandbar's program could not be put onto the other host, or does not run there")
            .with("program", path.display())
            .with_source(error)
            .with_hint(match loader {
                None => format!("{UPLOADED} names another one"),
                Some(_) => format!(
                    "this one is linked dynamically, so it runs only where the C library is of the same kind and no older; one that is linked \
                     statically runs on any Linux: name it in {UPLOADED}"
                ),
            })
    })
}

/// Has a script run to its end, with a file as its input; it must say that it is ready.
async fn talk(route: &Route, script: &str, input: Option<&Path>, patience: Duration) -> Result<()> {
    let mut stream = Stream::start(route, script)?;
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
        Ok(Ok(Greeting::Ready(_))) => Ok(()),
        Ok(Ok(Greeting::Missing(_))) | Err(_) => Err(stream.complaint(route, None).await),
        Ok(Err(error)) => Err(stream.complaint(route, Some(error)).await),
    }
}
