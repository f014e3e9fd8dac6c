use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use sandbar_runtime::{Runtime, RuntimeConfig};
use sandbar_server::{Service, Token};
use tokio::net::TcpListener;

/// Tells a process that it is a server, and on which state folder.
const SERVER: &str = "SANDBAR_CONFORMANCE_SERVER";

/// A server in a process of its own, which ends with this one.
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// What opens it.
    pub token: String,
    /// It stops when this is closed.
    _process: Child,
}

impl Server {
    pub fn start(home: &Path) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("no server: {error}");
        let mut command = Command::new(env::current_exe().map_err(cannot)?);
        command.env(SERVER, home).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(cannot)?;
        let mut url = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut url).map_err(cannot)?;
        }
        let token = Token::of(home).map_err(|error| error.chain())?.secret().to_owned();
        if url.is_empty() {
            return Err("the server did not say where it listens".to_owned());
        }
        Ok(Self { url: url.trim().to_owned(), token, _process: process })
    }
}

/// In a server: serves until whoever started it is gone. `None` in any other process.
pub fn serve() -> Option<ExitCode> {
    let home = PathBuf::from(env::var_os(SERVER)?);
    let served = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(run(home)));
    Some(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    })
}

async fn run(home: PathBuf) -> Result<(), String> {
    let token = Token::of(&home).map_err(|error| error.chain())?;
    let runtime = Runtime::open(RuntimeConfig::new(&home)).await.map_err(|error| error.chain())?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    writeln!(io::stdout(), "http://{address}").and_then(|()| io::stdout().flush()).map_err(|error| error.to_string())?;
    let (gone, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = gone.send(());
    });
    let stop = async { drop(told.await) };
    Service::new(runtime, token).run(listener, stop).await;
    Ok(())
}
