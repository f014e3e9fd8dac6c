//! A shell in the place of a machine's monitor: what it finds of the host.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A user of the host that nobody is.
const USER: u32 = 1_234_567;

/// What surrounds it: a machine's own folder with a file to read and one to write, and others that it has no business with.
struct Host {
    home: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for folder in ["own", "shared", "other"] {
            fs::create_dir(home.path().join(folder)).unwrap();
        }
        for file in ["own/disk", "own/log", "shared/image", "shared/beside", "other/disk", "ledger"] {
            fs::write(home.path().join(file), format!("content of {file}\n")).unwrap();
            // As open as can be: it is not modes that keep it out.
            fs::set_permissions(home.path().join(file), fs::Permissions::from_mode(0o666)).unwrap();
        }
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A shell that has been told to run a script. What one before it listened on is gone, as it is when a machine is started again.
    fn shell(&self, user: Option<u32>, script: &str) -> Child {
        let _ = fs::remove_file(self.path("own/wire.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar-agent"));
        command.args(["confine", "0", &user.map_or_else(|| "-".to_owned(), |user| user.to_string()), "listen", "wire.sock"]);
        for path in ["/usr", "/etc/ld.so.cache"].map(Path::new).into_iter().filter(|path| path.exists()) {
            command.arg("read").arg(path);
        }
        command.arg("read").arg(self.path("shared/image")).arg("write").arg(self.path("own/disk"));
        command.args(["device", "/dev/null", "--", "/usr/bin/sh", "-c", script]);
        command.env_clear().env("PATH", "/usr/bin").env("HOME", self.home.path()).current_dir(self.path("own"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    fn told(&self, user: Option<u32>, script: &str) -> String {
        let output = self.shell(user, script).wait_with_output().unwrap();
        assert!(output.status.success(), "{script}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The users it can become here: another one where that is possible.
fn users() -> Vec<Option<u32>> {
    let is_root = rustix::process::geteuid().is_root();
    [None].into_iter().chain(is_root.then_some(Some(USER))).collect()
}

#[test]
fn nothing_is_read_but_what_it_is_given() {
    for user in users() {
        let host = Host::new();
        if user.is_some() {
            chown(host.path("own/disk"), user, user).unwrap();
        }
        let told = host.told(user, "cat ../shared/image; cat disk; echo written > disk");
        assert_eq!(told, "content of shared/image\ncontent of own/disk\n", "as {user:?}");
        assert_eq!(fs::read_to_string(host.path("own/disk")).unwrap(), "written\n");
        let secrets = ["own/log", "shared/beside", "other/disk", "ledger"].map(|name| host.path(name).display().to_string());
        for path in secrets {
            let told = host.told(user, &format!("cat {path} 2>/dev/null || echo refused; (echo x >> {path}) 2>/dev/null; true"));
            assert_eq!(told, "refused\n", "{path} as {user:?}");
        }
        // The system's own are not written to: if this failed, the host would have it.
        for path in ["/etc/shadow", "/etc/passwd", "/etc/machine-id", "/proc/1/environ", "/proc/self/environ"] {
            let told = host.told(user, &format!("cat {path} 2>/dev/null || echo refused"));
            assert_eq!(told, "refused\n", "{path} as {user:?}");
        }
        let told = host.told(user, "for path in new ../new ../shared/image; do (echo x > $path) 2>/dev/null && echo $path; done; true");
        assert_eq!(told, "", "written as {user:?}");
        assert_eq!(fs::read_to_string(host.path("shared/image")).unwrap(), "content of shared/image\n");
        assert_eq!(fs::read_to_string(host.path("ledger")).unwrap(), "content of ledger\n");
        let listed = host.told(user, "ls .. / /home /root /tmp /var 2>/dev/null; true");
        assert!(!listed.contains("ledger") && !listed.contains("other"), "as {user:?}: {listed}");
    }
}

#[test]
fn it_has_no_right_and_reaches_nobody() {
    for user in users() {
        let host = Host::new();
        let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut shell = host.shell(user, &format!("kill -9 {} 2>/dev/null && echo killed; echo ready; read line", bystander.id()));
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "as {user:?}");
        assert!(bystander.try_wait().unwrap().is_none());
        let of = |name: &str| PathBuf::from(format!("/proc/{}/{name}", shell.id()));
        let status = fs::read_to_string(of("status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!(field("NoNewPrivs:"), "1");
        if let Some(user) = user {
            assert!(["Uid:", "Gid:"].iter().all(|name| field(name).split_whitespace().all(|id| id == user.to_string())), "{status}");
            assert!(
                ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"].iter().all(|name| field(name).chars().all(|digit| digit == '0')),
                "{status}"
            );
            assert_eq!(field("Groups:"), "");
            for kind in ["mnt", "net", "ipc", "uts"] {
                assert_ne!(
                    fs::read_link(of("ns").join(kind)).unwrap(),
                    fs::read_link(Path::new("/proc/self/ns").join(kind)).unwrap(),
                    "{kind}"
                );
            }
            let root: Vec<_> = fs::read_dir(of("root")).unwrap().flatten().map(|entry| entry.file_name()).collect();
            assert!(!root.iter().any(|name| name == "proc" || name == "sys" || name == "home"), "{root:?}");
            let null = fs::metadata(of("root/dev/null")).unwrap();
            assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
        }
        // The socket is there, and whoever connects waits for it to be taken.
        UnixStream::connect(host.path("own/wire.sock")).unwrap().write_all(b"waits").unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
        let mut rest = Vec::new();
        assert!(UnixStream::connect(host.path("own/wire.sock")).and_then(|mut socket| socket.read_to_end(&mut rest)).is_err());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}

#[test]
fn what_cannot_be_confined_does_not_run() {
    let host = Host::new();
    let agent = env!("CARGO_BIN_EXE_sandbar-agent");
    let run = |words: &[&str]| {
        let output = Command::new(agent).arg("confine").args(words).current_dir(host.path("own")).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}");
    };
    run(&["0", "-", "read"]);
    run(&["0", "-", "other", "/usr", "--", "/usr/bin/echo", "ran"]);
    // Nobody's child with that number.
    run(&["1", "-", "read", "/usr", "--", "/usr/bin/echo", "ran"]);
    run(&["0", "-", "listen", "no/such/folder.sock", "read", "/usr", "--", "/usr/bin/echo", "ran"]);
    if rustix::process::geteuid().is_root() {
        run(&["0", "1234567", "read", "/no/such/file", "--", "/usr/bin/echo", "ran"]);
    }
}
