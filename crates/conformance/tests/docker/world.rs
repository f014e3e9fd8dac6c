use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sandbar_core::{Error, ExecRequest, State};
use sandbar_runtime::{CreateRequest, Runtime, RuntimeConfig, Sandbox};
use tempfile::TempDir;

use crate::{
    busybox,
    engine::{self, Engine},
};

/// Long enough for a loaded machine; nothing waits for it that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder on an engine of this test's own.
pub struct World {
    pub home: TempDir,
    pub socket: PathBuf,
}

impl World {
    /// On an engine of this kind, which is started.
    ///
    /// # Errors
    /// What is missing for that.
    pub fn with(kind: &Engine<'_>) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("an engine of its own needs root".to_owned());
        }
        // Where it is, is noted there for other processes, of which there are none.
        let note = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (socket, _) = engine::of_run(note.path(), "faults", kind)?;
        Ok(Self { home: tempfile::tempdir().map_err(|error| error.to_string())?, socket })
    }

    pub async fn runtime(&self) -> Runtime {
        self.runtime_by(&self.socket).await
    }

    /// A runtime that reaches the engine at `socket`, as soon as it answers there.
    pub async fn runtime_by(&self, socket: &Path) -> Runtime {
        let mut config = RuntimeConfig::new(self.home.path());
        config.docker_host = Some(format!("unix://{}", socket.display()));
        let runtime = Runtime::open(config).await.unwrap();
        let begun = Instant::now();
        while let probe = runtime.providers().get("docker").unwrap().probe().await
            && !probe.usable
        {
            assert!(begun.elapsed() < PATIENCE, "{}; {}", probe.verdict, engine::last_words(&self.socket));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        busybox::image(runtime.images(), self.home.path()).await.unwrap();
        runtime
    }

    pub fn pid(&self) -> u32 {
        fs::read_to_string(self.socket.with_file_name("pid")).unwrap().trim().parse().unwrap()
    }

    /// Kills the engine at once; gives the command line that it had.
    pub fn kill(&self) -> Vec<String> {
        let pid = self.pid();
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let held = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&held, rustix::process::Signal::KILL).unwrap();
        let mut ended = [rustix::event::PollFd::new(&held, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
        line.split_terminator('\0').map(str::to_owned).collect()
    }

    /// Starts it again. The keeper of the run ends this one too.
    #[expect(clippy::zombie_processes, reason = "it outlives this test's process, which cannot wait for it")]
    pub async fn start_again(&self, line: &[String]) {
        // Its own helper ends with it, and must be gone altogether: an engine takes a zombie for one that works.
        let helper = fs::read_to_string(self.socket.with_file_name("exec/containerd/containerd.pid")).unwrap_or_default();
        let begun = Instant::now();
        while !helper.trim().is_empty() && Path::new("/proc").join(helper.trim()).exists() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the engine's helper does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = fs::OpenOptions::new().append(true).open(self.socket.with_file_name("log")).unwrap();
        // The number in its file may be another process's by now.
        fs::remove_file(self.socket.with_file_name("pid")).unwrap();
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap();
    }
}

/// A sandbox of this wall.
pub fn request() -> CreateRequest {
    CreateRequest { provider: Some("docker".to_owned()), image: Some("busybox".to_owned()), ..CreateRequest::default() }
}

/// What a shell line prints.
pub async fn say(sandbox: &Sandbox, line: &str) -> Result<String, Error> {
    Ok(sandbox.exec(ExecRequest::shell(line)).await?.stdout_text().trim().to_owned())
}

/// What is true of it. An agent on a busy machine may be silent for longer than a status waits: one that is in doubt is asked again.
pub async fn state(sandbox: &Sandbox) -> State {
    let begun = Instant::now();
    loop {
        let summary = sandbox.summary().await.unwrap();
        if !summary.in_doubt || begun.elapsed() > PATIENCE {
            return summary.state;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The containers that the engine has.
pub fn left(world: &World) -> Vec<String> {
    let folder = Path::new("root/containers");
    let entries = fs::read_dir(world.socket.with_file_name(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
