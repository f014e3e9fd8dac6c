use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddrV4,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::sshd::{Sshd, address_of_its_own};

/// Long enough for a loaded machine; nothing waits for it that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder, and the real command on it.
pub struct Home(pub TempDir);

impl Home {
    pub fn new() -> Self {
        let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        Self(tempfile::Builder::new().prefix("sandbar-remote-").tempdir_in(parent).unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command.env("SANDBAR_HOME", self.path()).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints, where it succeeds.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What it complains of, where it fails.
    pub fn complains(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What is listed of a sandbox's state. Its agent on a busy machine may be silent for longer than a status waits: while it is in doubt, it is listed
    /// again.
    pub fn state(&self, id: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let listed: Value = serde_json::from_str(&self.says(&["ls", "--json"])).unwrap();
            let told = listed.as_array().unwrap().iter().find(|told| told["id"] == id).unwrap();
            if told["in_doubt"] != true || Instant::now() >= until {
                return told["state"].as_str().unwrap().to_owned();
            }
        }
    }

    pub fn ids(&self) -> Vec<String> {
        self.says(&["ls", "-q"]).lines().map(str::to_owned).collect()
    }
}

/// Removes what is left in a state folder.
fn clear(home: &Home) {
    let ids = String::from_utf8(home.run(&["ls", "-q"]).stdout).unwrap_or_default();
    for id in ids.lines() {
        home.run(&["rm", "-f", id]);
    }
}

/// The other host, by a server on loopback.
pub struct There {
    pub home: Home,
    pub url: String,
    process: Child,
}

impl There {
    pub fn new() -> Self {
        Self::at(&format!("{}:0", address_of_its_own()), &[])
    }

    /// One with these options.
    pub fn serving(options: &[&str]) -> Self {
        Self::at("127.0.0.1:0", options)
    }

    fn at(listen: &str, options: &[&str]) -> Self {
        let home = Home::new();
        let (process, url) = Self::start(&home, listen, options);
        Self { home, url, process }
    }

    fn start(home: &Home, listen: &str, options: &[&str]) -> (Child, String) {
        let mut process = home.command(&[&["serve", "--listen", listen], options].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (process, line.trim().to_owned())
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Has it do nothing, and know nothing of it, until it is killed.
    pub fn halt(&self) {
        use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    /// Bytes that have come for it, and that it has not read.
    pub fn unread(&self) -> usize {
        let address: SocketAddrV4 = self.url.strip_prefix("http://").unwrap().parse().unwrap();
        // As proc(5) writes it, on a machine whose lowest byte is the first.
        let local = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let of_it = sockets.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (at, _, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let (_, received) = queues.split_once(':')?;
            // 01 is connected.
            (at == local && state == "01").then(|| usize::from_str_radix(received, 16).unwrap())
        });
        of_it.max().unwrap_or_default()
    }

    /// Asks it to read its certificate again.
    pub fn hang_up(&self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), rustix::process::Signal::HUP).unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            match self.process.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < until, "the server does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Another one at the same address, which nobody else has taken meanwhile.
    pub fn again(&mut self) {
        let address = self.url.strip_prefix("http://").unwrap().to_owned();
        (self.process, _) = Self::start(&self.home, &address, &[]);
    }

    /// A state folder here, with a context `there`.
    pub fn here(&self) -> Home {
        let here = Home::new();
        let key = self.home.path().join("server-token");
        here.says(&["context", "add", "there", &format!("{}/container", self.url), "--key-file", key.to_str().unwrap()]);
        here
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        clear(&self.home);
    }
}

/// A login on loopback, and the other host's state folder behind it.
pub struct Login {
    pub folder: TempDir,
    pub there: Home,
    pub url: String,
    sshd: Sshd,
}

impl Login {
    /// One, or why there can be none here.
    pub fn new() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("sandbar-sshd-").tempdir_in("/var/tmp").unwrap();
        let there = Home::new();
        let sshd = Sshd::start(folder.path(), there.path(), &folder.path().join("cache"), "")?;
        Ok(Self { url: sshd.url.clone(), folder, there, sshd })
    }

    /// The command, with that `ssh` on its `PATH`.
    pub fn command(&self, here: &Home, arguments: &[&str]) -> Command {
        let mut command = here.command(arguments);
        let folder = self.sshd.client.parent().unwrap();
        command.env("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()));
        command
    }

    /// Has `ssh` called with these options of the user's from now on, and gives what tells of the calls.
    pub fn calls(&self, options: &str) -> impl Fn() -> Vec<String> + use<> {
        let calls = self.folder.path().join("calls");
        let script = fs::read_to_string(&self.sshd.client).unwrap();
        let script = script.replace("exec /usr/bin/ssh", &format!("echo \"$*\" >> {}\nexec /usr/bin/ssh {options}", calls.display()));
        fs::write(&self.sshd.client, script).unwrap();
        move || fs::read_to_string(&calls).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// What is put there is changed on its way, until what is returned is called.
    pub fn spoil_uploads(&self) -> impl Fn() + use<> {
        let (client, whole) = (self.sshd.client.clone(), self.folder.path().join("whole"));
        fs::copy(&client, &whole).unwrap();
        let ssh = whole.display();
        let script =
            format!("#!/bin/sh\ncase \"$*\" in\n*'cat > '*) {{ cat; echo more; }} | {ssh} \"$@\" ;;\n*) exec {ssh} \"$@\" ;;\nesac\n");
        fs::write(&client, script).unwrap();
        move || assert!(fs::copy(&whole, &client).is_ok())
    }

    /// Has `ssh` go by this configuration alone from now on: it says which key to use, or an agent has it.
    pub fn configure(&self, text: &str) {
        let (configuration, known) = (self.folder.path().join("ssh_config"), self.folder.path().join("known"));
        let always = format!(
            "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile {}\n  IdentityFile none\n  LogLevel ERROR\n",
            known.display()
        );
        fs::write(&configuration, format!("{text}{always}")).unwrap();
        fs::write(&self.sshd.client, format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", configuration.display())).unwrap();
    }

    /// How many servers wait there at sockets.
    pub fn serving(&self) -> usize {
        let cache = self.folder.path().join("cache").display().to_string();
        let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).starts_with(&cache) && String::from_utf8_lossy(line).contains("--socket")).count()
    }

    /// Cuts every connection that is open, without a word to either side.
    pub fn cut(&self) {
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let parent = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<u32>().ok()
        };
        let serving: Vec<_> = pids.filter(|pid| parent(*pid) == Some(self.sshd.daemon.id())).collect();
        assert!(!serving.is_empty(), "nothing was connected");
        for pid in serving {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
        }
    }

    pub fn says(&self, here: &Home, arguments: &[&str]) -> String {
        let output = self.command(here, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

/// An agent that has a key.
pub struct Agent(Child);

impl Agent {
    pub fn new(socket: &Path, key: &Path) -> Self {
        let mut agent = Command::new("ssh-agent");
        let agent = Self(agent.arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < until, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut add = Command::new("ssh-add");
        assert!(add.arg("-q").arg(key).env("SSH_AUTH_SOCK", socket).status().unwrap().success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.command(&self.there, &["context", "clean", &self.url]).output();
        clear(&self.there);
    }
}
