//! The engine: requests with deadlines, and what it is.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker as Client, errors::Error as Said, models::SystemInfo};
use sandbar_core::{Error, ErrorKind, Isolation, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Handle,
    sync::OnceCell,
    time::timeout,
};

use super::{
    endpoint::Endpoint,
    error::{OPERATION, explain, late},
};
use crate::host::kernel;

/// What a request may take that the engine answers from memory.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// What a request may take that makes, starts or removes a container: seconds on a busy machine.
pub(super) const SLOW: Duration = Duration::from_secs(60);
/// What a question may take that is asked from where nobody can wait for long.
const MOMENT: Duration = Duration::from_secs(2);
/// Bytes of an answer to a request that the library does not have.
const LONGEST_ANSWER: u64 = 64 << 10;
/// What the library waits for an answer's head. Our own deadlines are shorter, but for transfers.
const LIBRARY_SECONDS: u64 = 3600;

/// One engine, spoken to on a thread of its own: connections are kept for the next request, and must not end with the runtime of whoever asked first.
#[derive(Clone)]
pub(super) struct Engine(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    client: Client,
    /// Speaking the version that both know.
    negotiated: OnceCell<Client>,
    about: OnceLock<Arc<About>>,
}

/// What an engine is, as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) version: String,
    /// Names of its runtimes, with the programs behind them where it tells.
    pub(super) runtimes: Vec<(String, String)>,
    /// Those of them that are told to let raw sockets be, which gVisor's packet filter is set by.
    pub(super) raw_sockets: Vec<String>,
    pub(super) default_runtime: String,
    /// `overlay2` …
    pub(super) driver: String,
    /// Whether a layer on its disk is one of this host's own form.
    pub(super) layers_are_overlay: bool,
    /// `cgroup v1`, with what it can limit.
    pub(super) groups: String,
    pub(super) limits_memory: bool,
    pub(super) limits_cpu: bool,
    pub(super) limits_pids: bool,
    pub(super) experimental: bool,
    /// Where it keeps its data.
    pub(super) root: PathBuf,
}

impl Engine {
    /// The engine at this address. Speaks to nobody yet.
    ///
    /// # Errors
    /// `Internal` when the address cannot be used at all.
    pub(super) fn at(endpoint: Endpoint) -> Result<Self> {
        let client = match &endpoint {
            Endpoint::Unix(path) => Client::connect_with_unix(&path.to_string_lossy(), LIBRARY_SECONDS, API_DEFAULT_VERSION),
            Endpoint::Tcp(address) => Client::connect_with_http(&format!("http://{address}"), LIBRARY_SECONDS, API_DEFAULT_VERSION),
        };
        let client = client.map_err(|error| explain(&endpoint, "reach the engine", error))?;
        Ok(Self(Arc::new(Inner { endpoint, client, negotiated: OnceCell::new(), about: OnceLock::new() })))
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Whether it is an engine of this host: folders of this host can be mounted, its processes are this host's.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.0.endpoint, Endpoint::Unix(_))
    }

    /// Asks with a deadline. `what` is the object of `cannot`. Whoever stops waiting does not cut the request short.
    ///
    /// # Errors
    /// Those of the engine.
    pub(super) async fn ask<T, Answer>(
        &self,
        what: &str,
        patience: Duration,
        question: impl FnOnce(Client) -> Answer + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        Answer: Future<Output = Result<T, Said>> + Send,
    {
        self.try_ask(what, patience, question).await?.map_err(|error| explain(self.endpoint(), what, error))
    }

    /// The same, with the engine's refusal as it is.
    ///
    /// # Errors
    /// `TimedOut`.
    pub(super) async fn try_ask<T, Answer>(
        &self,
        what: &str,
        patience: Duration,
        question: impl FnOnce(Client) -> Answer + Send + 'static,
    ) -> Result<Result<T, Said>>
    where
        T: Send + 'static,
        Answer: Future<Output = Result<T, Said>> + Send,
    {
        let engine = Arc::clone(&self.0);
        let asked = handle()?.spawn(async move { timeout(patience, async { question(engine.client().await?).await }).await });
        match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(late(self.endpoint(), what, patience.as_secs())),
            Err(error) => Err(Error::new(ErrorKind::Internal, OPERATION, "a request ended early").with_source(error)),
        }
    }

    /// A request that the library does not have: without a body, and with nothing in the answer but whether it was done.
    ///
    /// # Errors
    /// Those of the engine.
    pub(super) async fn post(&self, what: &str, path: &str) -> Result<()> {
        let Endpoint::Unix(socket) = self.endpoint().clone() else {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, format!("cannot {what}: the engine is not on this host")));
        };
        let request = format!("POST {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n");
        self.ask(what, SLOW * 5, |_| async move {
            let mut stream = UnixStream::connect(socket).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
            let answer = String::from_utf8_lossy(&answer);
            let status = answer.split_whitespace().nth(1).and_then(|word| word.parse().ok());
            match status.ok_or_else(|| io::Error::other("the engine's answer is no HTTP"))? {
                200..=304 => Ok(()),
                status_code => {
                    let message = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned();
                    Err(Said::DockerResponseServerError { status_code, message })
                }
            }
        })
        .await
    }

    /// Asks from where nothing can be awaited. Blocks for at most two seconds.
    ///
    /// # Errors
    /// Those of the engine.
    pub(super) fn ask_now<T, Answer>(&self, what: &str, question: impl FnOnce(Client) -> Answer + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        Answer: Future<Output = Result<T, Said>> + Send,
    {
        let engine = Arc::clone(&self.0);
        let (sender, answered) = mpsc::channel();
        handle()?.spawn(async move {
            let _ = sender.send(timeout(MOMENT, async { question(engine.client().await?).await }).await);
        });
        match answered.recv_timeout(MOMENT + Duration::from_millis(200)) {
            Ok(Ok(answer)) => answer.map_err(|error| explain(self.endpoint(), what, error)),
            _ => Err(late(self.endpoint(), what, MOMENT.as_secs())),
        }
    }

    /// What the engine is; asked once.
    ///
    /// # Errors
    /// Those of the engine.
    pub(super) async fn about(&self) -> Result<Arc<About>> {
        if let Some(about) = self.0.about.get() {
            return Ok(Arc::clone(about));
        }
        let said = self.ask("ask the engine what it is", QUICK, |client| async move { client.info().await }).await?;
        Ok(self.remember(&said))
    }

    /// The same from where nothing can be awaited.
    ///
    /// # Errors
    /// Those of the engine.
    pub(super) fn about_now(&self) -> Result<Arc<About>> {
        if let Some(about) = self.0.about.get() {
            return Ok(Arc::clone(about));
        }
        let said = self.ask_now("ask the engine what it is", |client| async move { client.info().await })?;
        Ok(self.remember(&said))
    }

    fn remember(&self, said: &SystemInfo) -> Arc<About> {
        Arc::clone(self.0.about.get_or_init(|| Arc::new(About::of(said))))
    }
}

impl Inner {
    async fn client(&self) -> Result<Client, Said> {
        self.negotiated.get_or_try_init(|| self.client.clone().negotiate_version()).await.cloned()
    }
}

impl About {
    fn of(said: &SystemInfo) -> Self {
        let status = |key: &str, wanted: &str| {
            let lines = said.driver_status.iter().flatten();
            lines.into_iter().any(|line| line.first().is_some_and(|name| name == key) && line.get(1).is_some_and(|value| value == wanted))
        };
        let driver = said.driver.clone().unwrap_or_default();
        let version = said.cgroup_version.map(|version| version.to_string()).filter(|version| !version.is_empty());
        let runtimes = said.runtimes.iter().flatten().map(|(name, runtime)| (name.clone(), runtime.path.clone().unwrap_or_default()));
        let mut runtimes: Vec<_> = runtimes.collect();
        runtimes.sort();
        let arguments = said.runtimes.iter().flatten().map(|(name, runtime)| (name, runtime.runtime_args.iter().flatten()));
        let raw = arguments.filter(|(_, words)| words.clone().any(|word| is_set(word, "net-raw")));
        Self {
            version: said.server_version.clone().unwrap_or_default(),
            runtimes,
            raw_sockets: raw.map(|(name, _)| name.clone()).collect(),
            default_runtime: said.default_runtime.clone().unwrap_or_else(|| "runc".to_owned()),
            layers_are_overlay: driver == "overlay2" && status("Native Overlay Diff", "true") && !status("userxattr", "true"),
            driver,
            groups: format!("cgroup v{}, by the engine", version.as_deref().unwrap_or("1")),
            limits_memory: said.memory_limit.unwrap_or(false),
            limits_cpu: said.cpu_cfs_quota.unwrap_or(false),
            limits_pids: said.pids_limit.unwrap_or(false),
            experimental: said.experimental_build.unwrap_or(false),
            root: said.docker_root_dir.clone().unwrap_or_default().into(),
        }
    }

    /// What a runtime makes of a sandbox, by its name and program; the weakest for one that nobody here knows.
    pub(super) fn isolation_of(&self, runtime: &str) -> Isolation {
        let program = self.runtimes.iter().find(|(name, _)| name == runtime).map_or("", |(_, path)| path.as_str());
        let program = program.rsplit('/').next().unwrap_or_default();
        let is = |words: &[&str]| [runtime, program].iter().any(|text| words.iter().any(|word| text.contains(word)));
        if is(&["runsc", "gvisor"]) {
            Isolation::UserKernel
        } else if is(&["kata", "krun", "runu", "firecracker"]) {
            Isolation::Vm
        } else {
            Isolation::Namespaces
        }
    }

    /// Refuses a runtime whose kernel does not let the agent redirect what would leave, as far as the engine knows.
    ///
    /// # Errors
    /// `Unsupported`, with what would.
    pub(super) fn require_leaving(&self, runtime: &str) -> Result<()> {
        let (why, hint) = match self.isolation_of(runtime) {
            Isolation::UserKernel if self.raw_sockets.iter().any(|name| name == runtime) => return Ok(()),
            Isolation::Namespaces if kernel::filters_packets() => return Ok(()),
            Isolation::UserKernel => (
                "the agent may not redirect what would leave: runsc takes raw sockets away without --net-raw",
                "add --net-raw to the runtimeArgs of the runtime in the engine's daemon.json (in a script the engine does not see it), or use --on gvisor",
            ),
            Isolation::Namespaces => ("this host's kernel has no packet filter (nf_tables)", "--on qemu has a kernel of its own"),
            _ => ("nobody has shown what this runtime's kernel makes of it", "--on gvisor and --on qemu have rules, --runtime runc too"),
        };
        Err(Error::new(ErrorKind::Unsupported, OPERATION, "with this runtime nothing may leave the sandbox")
            .with("runtime", runtime)
            .with("why", why)
            .with_hint(hint))
    }

    /// The runtime of a sandbox: the one that is named, which the engine must have, else the engine's default.
    ///
    /// # Errors
    /// `InvalidInput`, with those that there are.
    pub(super) fn runtime(&self, named: Option<&str>) -> Result<String> {
        let Some(named) = named else { return Ok(self.default_runtime.clone()) };
        if self.runtimes.iter().any(|(name, _)| name == named) {
            return Ok(named.to_owned());
        }
        let names: Vec<&str> = self.runtimes.iter().map(|(name, _)| name.as_str()).collect();
        Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the engine has no such runtime")
            .with("runtime", format!("{named:?}"))
            .with_hint(format!("it has {}; others are added in its daemon.json", names.join(", "))))
    }
}

/// Whether an argument sets a flag, as Go's programs take them.
fn is_set(argument: &str, flag: &str) -> bool {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
    name.and_then(|name| name.strip_prefix(flag)).is_some_and(|rest| matches!(rest, "" | "=true" | "=1" | "=t" | "=T" | "=TRUE" | "=True"))
}

/// The thread that all requests of this process run on.
fn handle() -> Result<Handle> {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let cannot = |error| Error::io(OPERATION, "cannot start the thread that speaks to the engine", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let handle = runtime.handle().clone();
    let spawned = thread::Builder::new().name("sandbar-engine".to_owned()).spawn(move || runtime.block_on(std::future::pending::<()>()));
    spawned.map_err(cannot)?;
    // Of two threads that come here at once, the one that loses leaves an idle thread behind.
    Ok(HANDLE.get_or_init(|| handle).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        let runtime = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        About {
            runtimes: vec![runtime("runc", "runc"), runtime("strong", "/opt/runsc"), runtime("vm", "/usr/bin/kata-runtime")],
            default_runtime: "runc".to_owned(),
            ..About::default()
        }
    }

    #[test]
    fn isolation_follows_the_runtime_and_is_the_weakest_for_an_unknown_one() {
        let isolation = |name: &str| about().isolation_of(name);
        assert_eq!(isolation("runc"), Isolation::Namespaces);
        assert_eq!(isolation("strong"), Isolation::UserKernel);
        assert_eq!(isolation("vm"), Isolation::Vm);
        assert_eq!(isolation("whatever"), Isolation::Namespaces);
    }

    #[test]
    fn what_leaves_takes_a_kernel_that_lets_the_agent_redirect_it() {
        let runtime = |words: &[&str]| bollard::models::Runtime {
            path: Some("/usr/bin/runsc".to_owned()),
            runtime_args: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..Default::default()
        };
        let runtimes = [("plain", runtime(&["--net-raw=false", "--overlay2=none"])), ("raw", runtime(&["--overlay2=none", "--net-raw"]))];
        let runtimes = runtimes.into_iter().map(|(name, runtime)| (name.to_owned(), runtime)).collect();
        let about = About::of(&SystemInfo { runtimes: Some(runtimes), ..SystemInfo::default() });
        about.require_leaving("raw").unwrap();
        let error = about.require_leaving("plain").unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.hint().is_some_and(|hint| hint.contains("--net-raw")), "{error}");
        assert!(self::about().require_leaving("vm").is_err());
    }

    #[test]
    fn a_runtime_that_the_engine_does_not_have_is_refused_with_those_it_has() {
        assert_eq!(about().runtime(None).unwrap(), "runc");
        assert_eq!(about().runtime(Some("strong")).unwrap(), "strong");
        let error = about().runtime(Some("runsc")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.hint().is_some_and(|hint| hint.contains("strong")));
    }
}
