use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use super::{
    Home, Wall, eventually,
    internet::{NAME_SERVER, OWN, OWN_SECOND, OWN_V6, ROLE},
};

/// What the internet's servers are certified for, by themselves.
const CERTIFICATE: &str = "
[req]
distinguished_name = name
x509_extensions = extensions
[name]
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:allowed.test, DNS:other.test, DNS:v6.test, DNS:packages.test
";

/// Listens at these addresses.
const LISTENER: &str = "
import socket, sys, threading
def connections(listener):
    while True:
        stream, _ = listener.accept()
        stream.recv(4096)
        stream.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\nConnection: close\\r\\n\\r\\nthe host\\n')
        stream.close()
def datagrams(ends):
    while True:
        said, whom = ends.recvfrom(65536)
        ends.sendto(said, whom)
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    threading.Thread(target=connections, args=[socket.create_server((address, 80), family=family)]).start()
    ends = socket.socket(family, socket.SOCK_DGRAM)
    ends.bind((address, 7000))
    threading.Thread(target=datagrams, args=[ends]).start()
print('ready', flush=True)
";

/// Two network namespaces of the test's own: one is the host, the other the internet. No packet leaves the machine, whatever the defect.
pub struct Stage {
    host: Namespace,
    internet: Namespace,
    seen: Arc<Mutex<Vec<String>>>,
    /// What the internet's servers read.
    folder: tempfile::TempDir,
}

/// A process with namespaces, which ends with its standard input.
struct Namespace {
    child: Child,
    input: Option<ChildStdin>,
}

impl Namespace {
    /// Starts it; returns when it has said a first line.
    fn begin(options: &[&str], program: &[&str], role: Option<&Path>) -> (Self, BufReader<std::process::ChildStdout>) {
        let mut command = Command::new("unshare");
        command.args(options).arg("--").args(program).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(folder) = role {
            command.env(ROLE, folder);
        }
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        if role.is_none() {
            input.write_all(b"up\n").unwrap();
        }
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "{program:?}");
        (Self { child, input: Some(input) }, output)
    }

    /// Runs a script in it.
    fn run(&self, script: &str) {
        let target = self.child.id().to_string();
        let mut command = Command::new("nsenter");
        let done = command.args(["--net", "--mount", "--target", &target, "--", "sh", "-ec", script]).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Somebody who listens on the stage's host.
pub struct HostListener {
    child: Child,
}

impl Drop for HostListener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    /// Programs that it takes, and that what is inside needs.
    pub const NEEDS: &[&str] =
        &["/usr/bin/curl", "/usr/bin/openssl", "/usr/bin/unshare", "/usr/bin/setpriv", "/usr/bin/chrt", "/sbin/ip", "/bin/bash"];

    /// Builds it. Only root can.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sandbar-stage-").tempdir_in("/tmp").unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=stage"]);
        std::fs::write(folder.path().join("stage.cnf"), CERTIFICATE).unwrap();
        openssl.args(["-config", "stage.cnf"]);
        let made = openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&folder).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let own = std::env::current_exe().unwrap();
        // The internet is other machines, which are not busy when this one is.
        let program = ["chrt", "--other", "0", "nice", "-n", "-10", own.to_str().unwrap()];
        let (mut internet, mut said) = Namespace::begin(&["--net", "--mount"], &program, Some(folder.path()));
        let (host, _) = Namespace::begin(&["--net", "--mount"], &["cat"], None);
        host.run(&format!(
            "ip link set lo up
            ip link add host0 type veth peer name net0 netns {}
            ip address add 203.0.113.1/30 dev host0
            ip address add 2001:db8::1/64 dev host0 nodad
            ip link set host0 up
            ip address add {OWN}/32 dev lo
            ip address add 93.184.217.4/30 dev lo
            ip address add {OWN_SECOND}/30 dev lo
            ip address add {OWN_V6}/128 dev lo nodad
            echo 'nameserver {NAME_SERVER}' > {folder}/resolv.conf
            chmod -R a+rX {folder}
            mount --bind {folder}/resolv.conf /etc/resolv.conf",
            internet.child.id(),
            folder = folder.path().display()
        ));
        internet.run(
            "ip link set lo up
            ip address add 203.0.113.2/30 dev net0
            ip address add 2001:db8::2/64 dev net0 nodad
            ip link set net0 up
            ip route add local 0.0.0.0/0 dev lo
            ip -6 route add local ::/0 dev lo table main
            ip address add 2001:4860:4860::8888/128 dev lo nodad
            ip address add 2606:4700::1111/128 dev lo nodad",
        );
        host.run("ip route add default via 203.0.113.2; ip -6 route add default via 2001:db8::2");
        internet.input.as_mut().unwrap().write_all(b"serve\n").unwrap();
        let mut line = String::new();
        while line != "serving\n" {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "the internet has ended");
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        thread::spawn(move || said.lines().map_while(Result::ok).for_each(|line| told.lock().unwrap().push(line)));
        Self { host, internet, seen, folder }
    }

    /// Has somebody listen on its host, at loopback, at the address that it has for the internet, and at those that look like the internet's: `the host` is what port 80 says, and UDP's port 7000 says everything again.
    pub fn listen_on_host(&self) -> HostListener {
        let mut command = self.command("/usr/bin/python3");
        command.args(["-c", LISTENER]);
        command.args(["127.0.0.1", "203.0.113.1"]);
        command.args([OWN.to_string(), OWN_SECOND.to_string(), OWN_V6.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        HostListener { child }
    }

    /// A program on its host, not started.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.host.child.id().to_string(), "--", program]);
        command
    }

    /// The words before those of a program on its host.
    pub fn enter(&self) -> String {
        format!("nsenter --net --mount --target {} --", self.host.child.id())
    }

    /// Questions of `ping` that have reached the internet, of both versions.
    pub fn pings(&self) -> u64 {
        let target = self.internet.child.id().to_string();
        let mut command = Command::new("nsenter");
        let told = command.args(["--net", "--target", &target, "--", "cat", "/proc/net/snmp", "/proc/net/snmp6"]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let mut icmp = told.lines().filter_map(|line| line.strip_prefix("Icmp: "));
        let (names, counts) = (icmp.next().unwrap(), icmp.next().unwrap());
        let four = names.split_whitespace().zip(counts.split_whitespace()).find(|(name, _)| *name == "InEchos").unwrap().1;
        let six = told.lines().find_map(|line| line.strip_prefix("Icmp6InEchos")).unwrap().trim();
        four.parse::<u64>().unwrap() + six.parse::<u64>().unwrap()
    }

    /// A state folder for sandboxes of its host.
    pub fn home(&self, wall: &Wall) -> Home {
        self.home_with(wall, "")
    }

    /// As [`home`](Self::home), where the internet's servers are believed.
    pub fn believing_home(&self, wall: &Wall) -> Home {
        let authorities = self.folder.path().join("cert.pem");
        self.home_with(wall, &format!("authorities = {authorities:?}\n"))
    }

    /// As [`home`](Self::home), with this in `sandbar.toml`.
    pub fn home_with(&self, wall: &Wall, config: &str) -> Home {
        let home = Home::new(&wall.on_stage(self.host.child.id()));
        home.furnish(config);
        home
    }

    /// The folder of the internet's servers: `cert.pem`, by which they are believed, and `packages`, which is served where it is there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What has reached the internet and is told by now: `dns NAME`, `tcp ADDRESS PORT`, `reset ADDRESS 7000`, `udp ADDRESS PORT`, `http HOST VERSION PATH HEADERS`.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// As [`seen`](Self::seen), with everything that has come to its servers' sockets: they may be late to take it, and we to hear of it. What a server
    /// tells only when a connection has ended has to be waited for first.
    pub fn all_seen(&self) -> Vec<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let fence = format!("fence {}", COUNT.fetch_add(1, Ordering::Relaxed));
        writeln!(self.internet.input.as_ref().unwrap(), "{fence}").unwrap();
        eventually("all is told", || self.seen().contains(&fence));
        let mut seen = self.seen.lock().unwrap();
        seen.retain(|line| *line != fence);
        seen.clone()
    }

    /// Fails if something that reached the internet has this text.
    pub fn assert_not_seen(&self, text: &str) {
        let seen = self.all_seen();
        assert!(!seen.iter().any(|line| line.contains(text)), "{text:?} was seen: {seen:#?}");
    }
}
