use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{Served, answers, engine, output, run, words};
use crate::{Result, case::life::Bare};

/// The image that the containers have; made by [`Docker::prepare`], so that nothing is downloaded.
const IMAGE: &str = "sandbar-bench-host";
/// The container that `exec` is measured in.
const NAME: &str = "sandbar-bench";
/// How long an engine of this run's own may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The host folders of the image `host`, by docker's options.
const MOUNTS: &str = "-v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro -v /bin:/bin:ro";

/// An engine, by its own command.
pub struct Docker {
    host: String,
}

impl Docker {
    /// The engine that answers here, or one that is started for this run and ends with it.
    pub async fn find() -> Option<&'static Self> {
        static FOUND: OnceCell<Option<Docker>> = OnceCell::const_new();
        FOUND.get_or_init(Self::look).await.as_ref()
    }

    async fn look() -> Option<Self> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        if answers("docker", &["--host", &host, "info"]).await {
            return Some(Self { host });
        }
        if !answers("docker", &["--version"]).await {
            return None;
        }
        /// Where the engine is noted, for as long as this process.
        static NOTES: Mutex<Option<TempDir>> = Mutex::new(None);
        let notes = TempDir::new().ok()?;
        let (socket, _) = engine::of_run(notes.path(), "bench", &engine::Engine::of("runc")).ok()?;
        *NOTES.lock().ok()? = Some(notes);
        let host = format!("unix://{}", socket.display());
        let begun = Instant::now();
        while !answers("docker", &["--host", &host, "info"]).await {
            if begun.elapsed() > PATIENCE {
                crate::table::paragraph(&format!("No docker engine could be started: {}", engine::last_words(&socket)));
                return None;
            }
            // It makes its socket when it is ready, and nobody tells.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(Self { host })
    }

    /// Its address, in the form of `DOCKER_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn arguments(&self, line: &str) -> Vec<String> {
        words(&format!("--host {} {line}", self.host))
    }

    async fn run(&self, line: &str) -> Result {
        run("docker", &self.arguments(line)).await
    }

    async fn import(&self, what: &str) -> Result {
        run("sh", &["-c".into(), format!("tar {what} | docker --host {} import - {IMAGE}", self.host)]).await
    }

    /// Makes an empty image and starts a container that idles.
    pub async fn prepare(&self) -> Result {
        self.import("-cf - -T /dev/null").await?;
        self.run(&format!("rm -f {NAME}")).await?;
        self.run(&format!("run -d --name {NAME} --network none {MOUNTS} {IMAGE} /bin/sleep 1000000")).await
    }

    /// Makes an image of a tree, with the programs that are measured.
    pub async fn prepare_tree(&self, tree: &Path) -> Result {
        self.import(&format!("-C '{}' -cf - .", tree.display())).await
    }

    /// Create, one command, destroy, with the host's programs.
    pub async fn once(&self) -> Result {
        self.run(&format!("run --rm --network none {MOUNTS} {IMAGE} /bin/true")).await
    }

    /// Create, one command, destroy, with the image alone.
    pub async fn once_bare(&self) -> Result {
        self.run(&format!("run --rm --network none {IMAGE} /bin/true")).await
    }

    /// One command in the container that idles.
    pub async fn exec_idle(&self) -> Result {
        self.run(&format!("exec {NAME} /bin/true")).await
    }

    /// What a program prints in a container on a bridge of the engine's, which is made for it.
    pub async fn python_on_a_bridge(&self, program: &str) -> Result<String> {
        self.import("-cf - -T /dev/null").await?;
        self.run(&format!("network create --driver bridge {NAME}")).await?;
        let mut arguments = self.arguments(&format!("run --rm --network {NAME} {MOUNTS} {IMAGE} python3 -c"));
        arguments.push(program.to_owned());
        let said = output("docker", &arguments).await;
        self.run(&format!("network rm {NAME}")).await?;
        self.run(&format!("rmi -f {IMAGE}")).await?;
        said
    }

    /// A server in a container on a bridge of the engine's, whose port is published.
    pub async fn serve(&self, program: &str, port: u16, inside: u16) -> Result<Served> {
        self.import("-cf - -T /dev/null").await?;
        self.run(&format!("network create --driver bridge {NAME}")).await?;
        let publish = format!("-p 127.0.0.1:{port}:{inside}");
        let mut arguments = self.arguments(&format!("run -i --rm --network {NAME} {publish} {MOUNTS} {IMAGE} python3 -c"));
        arguments.push(program.to_owned());
        Served::begin("docker", &arguments).await
    }

    /// Removes what that took.
    pub async fn stop_serving(&self) -> Result {
        self.run(&format!("network rm {NAME}")).await?;
        self.run(&format!("rmi -f {IMAGE}")).await
    }

    /// Removes what was prepared.
    pub async fn clean(&self) -> Result {
        self.run(&format!("rm -f {NAME}")).await?;
        self.run(&format!("rmi -f {IMAGE}")).await
    }

    async fn start(&self, image: &str, name: &str) -> Result {
        self.run(&format!("run -d --name {name} --network none {image} /bin/sleep 1000000")).await?;
        self.exec(name).await
    }
}

impl Bare for Docker {
    const WORDS: [&str; 4] =
        ["`docker run` + `docker exec`", "`docker exec`", "`docker commit`", "`docker run` of what was committed + `docker exec`"];

    async fn create(&self, name: &str) -> Result {
        self.start(IMAGE, name).await
    }

    async fn exec(&self, name: &str) -> Result {
        self.run(&format!("exec {name} /bin/true")).await
    }

    async fn checkpoint(&self, name: &str) -> Result {
        self.run(&format!("commit {name} {IMAGE}-{name}")).await
    }

    async fn restore(&self, of: &str, name: &str) -> Result {
        self.start(&format!("{IMAGE}-{of}"), name).await
    }

    async fn end(&self, name: &str) -> Result {
        self.run(&format!("rm -f {name}")).await?;
        self.run(&format!("rmi -f {IMAGE}-{name}")).await
    }

    /// The container's own id, which its shim is told.
    async fn mark(&self, name: &str) -> Result<String> {
        let listed = output("docker", &self.arguments(&format!("ps --quiet --no-trunc --filter name={name}"))).await?;
        let id = listed.trim();
        if id.len() == 64 { Ok(id.to_owned()) } else { Err(format!("not one container of the name {name}: {id:?}").into()) }
    }
}
