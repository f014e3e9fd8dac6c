//! What leaves a sandbox, on a stage: a network namespace that is the host, and one that is the internet.

use std::time::Duration;

use crate::support::{Case, Client, EVERYWHERE, Home, Stage, eventually};

const WALLS: &[&str] = &["container-root", "container-rootless", "gvisor-root", "gvisor-rootless"];

/// The slow ones in which a life takes seconds, and not a minute.
const BRIEFLY: &[&str] = &["gvisor-root", "gvisor-rootless", "docker-runsc", "qemu-tcg"];

pub const CASES: &[Case] = &[
    Case::new("egress::an_allowed_name_is_reached_and_nothing_else", allowed).on(WALLS).staged().brief(),
    Case::new("egress::a_refusal_comes_at_once_and_nothing_is_looked_up", refused).on(WALLS).staged(),
    Case::new("egress::open_reaches_no_private_address_by_whatever_name", private).on(WALLS).staged(),
    Case::new("egress::what_a_client_shows_must_agree_with_the_name", shown).on(WALLS).staged(),
    Case::new("egress::tls_that_names_nobody_reaches_what_the_address_alone_may", nameless).on(WALLS).staged(),
    Case::new("egress::rules_of_the_configuration_hold_where_no_others_are_asked_for", configured).on(WALLS).staged(),
    Case::new("egress::ipv6_is_decided_about_as_ipv4_is", ipv6).on(WALLS).staged(),
    Case::new("egress::a_change_of_the_rules_holds_at_once", changed).on(WALLS).staged(),
    Case::new("egress::root_inside_changes_nothing_about_it", attacked).on(WALLS).staged().brief(),
    Case::new("egress::every_decision_is_in_the_log", logged).on(WALLS).staged(),
    Case::new("egress::a_flood_of_refusals_washes_nothing_out_of_the_log", flooded).on(&["container-root"]).staged(),
    Case::new("egress::it_holds_after_a_stop_a_restore_and_in_forks", lasting).on(EVERYWHERE).staged().brief_on(BRIEFLY),
    Case::new("egress::a_keeper_that_was_killed_allows_nothing_and_comes_back", killed).on(WALLS).staged(),
    Case::new("egress::a_keeper_that_is_killed_in_the_middle_is_no_end", broken_off).on(WALLS).staged(),
    Case::new("egress::rules_are_refused_where_nobody_could_keep_them", unclaimed).on(&["dangerous-host"]).brief(),
];

/// What curl prints, and its status.
pub fn curl(home: &Home, id: &str, words: &[&str]) -> (i32, String) {
    let finished = home.sandbar(&[&["exec", id, "--", "curl", "-sS", "-m", "20"], words].concat());
    (finished.code, format!("{}{}", finished.text(), finished.stderr))
}

/// Fails unless the address is not reached, without waiting.
pub fn assert_refused(home: &Home, id: &str, words: &[&str]) {
    let (code, said) = curl(home, id, words);
    // Not resolved, not connected, TLS not connected, an empty answer, reset before it was sent or after; 28 would be a timeout.
    assert!([6, 7, 35, 52, 55, 56].contains(&code), "{words:?}: {code}: {said}\n{}", home.ok(&["net", "log", id]));
}

pub fn assert_reached(home: &Home, id: &str, words: &[&str], text: &str) {
    let (code, said) = curl(home, id, words);
    assert!(code == 0 && said.contains(text), "{words:?}: {code}: {said}\n{}", home.ok(&["net", "log", id]));
}

/// Waits until the log says so: what is cut off is told inside first.
pub fn assert_logged(home: &Home, id: &str, text: &str) {
    eventually(&format!("the log says {text:?}"), || home.ok(&["net", "log", id]).contains(text));
}

fn allowed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let reached = "you reached 93.184.215.14 as allowed.test\n";
    let rules = ["--net", "allow=allowed.test:80,allowed.test:443,*.test:22,*.test:7001"];
    // By the command itself, whose sandbox ends with it, and by a keeper.
    let run = home.sandbar(&home.run_args(&rules, &["curl", "-sS", "-m", "20", "http://allowed.test/"]));
    assert_eq!((run.code, run.text().as_str()), (0, reached), "{run}");
    let id = home.create(&rules);
    assert_reached(&home, &id, &["http://allowed.test/"], reached);
    assert_reached(&home, &id, &["-k", "https://allowed.test/"], "s_server");
    // A server that speaks first.
    let banner = home.ok(&["exec", &id, "--", "bash", "-c", "exec 3<>/dev/tcp/other.test/22; read -r line <&3; echo $line"]);
    assert!(banner.starts_with("SSH-2.0-test"), "{banner}");
    // What breaks off outside breaks off inside.
    let script = "exec 3<>/dev/tcp/other.test/7001; read -r line <&3; echo $line; echo more >&3; cat <&3 2>&1";
    let half = home.sandbar(&["exec", &id, "--", "bash", "-c", script]);
    assert_eq!((half.code, half.text().as_str()), (1, "half\ncat: -: Connection reset by peer\n"), "{half}");
    for words in [&["http://allowed.test:7000/"][..], &["http://other.test/"], &["http://93.184.215.14/"], &["http://denied.example/"]] {
        assert_refused(&home, &id, words);
    }
    stage.assert_not_seen("tcp 93.184.215.15 80");
    stage.assert_not_seen(" 7000");
    // All of that is counted, and written down within a second.
    eventually("what has passed is counted", || {
        let stats = home.json(&["stats", "--json", &id]);
        let at_least = |name: &str, least: u64| stats[name].as_u64().is_some_and(|count| count >= least);
        at_least("network_sent_bytes", 100)
            && at_least("network_received_bytes", 500)
            && at_least("network_allowed", 4)
            && at_least("network_refused", 4)
    });
    home.close();
}

/// Asks a name server by hand: by a datagram, then by a connection.
const ASK: &str = "
import socket, struct, sys
server, name = sys.argv[1:]
labels = b''.join(bytes([len(label)]) + label.encode() for label in name.split('.'))
question = b'\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00' + labels + b'\\x00\\x00\\x01\\x00\\x01'
family = socket.AF_INET6 if ':' in server else socket.AF_INET
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.settimeout(10)
datagrams.connect((server, 53))
datagrams.send(question)
print(datagrams.recv(1024)[3] & 15)
stream = socket.create_connection((server, 53), 10)
stream.sendall(struct.pack('>H', len(question)) + question)
print(stream.recv(1024)[5] & 15)
";

fn refused(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    for words in [&["http://secret.denied.example/"][..], &["http://93.184.215.14/"], &["-k", "https://93.184.215.14/"]] {
        assert_refused(&home, &id, words);
    }
    for server in ["127.0.0.53", "8.8.8.8", "9.9.9.9", "2001:4860:4860::8888"] {
        let codes = home.ok(&["exec", &id, "--", "/usr/bin/python3", "-c", ASK, server, "secret.denied.example"]);
        assert_eq!(codes, "3\n3", "{server}");
    }
    // What is no TCP.
    let quic = home.sandbar(&["exec", &id, "--", "bash", "-c", "exec 3<>/dev/udp/93.184.215.14/443; echo x >&3; cat <&3"]);
    assert!(quic.code != 0 && quic.stderr.contains("refused"), "{quic}");
    // Not even this one was looked up: nobody has connected to it.
    assert_eq!(stage.all_seen(), Vec::<String>::new());
    home.close();
}

fn private(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached 93.184.215.14 as allowed.test");
    assert_reached(&home, &id, &["http://93.184.215.15/"], "you reached 93.184.215.15 as 93.184.215.15");
    for name in ["private.test", "metadata.test", "loop.test"] {
        assert_refused(&home, &id, &[&format!("http://{name}/")]);
    }
    for address in ["10.0.0.5", "169.254.169.254", "192.168.1.1", "203.0.113.1", "203.0.113.2", "[fd00:ec2::254]", "[::ffff:10.0.0.5]"] {
        assert_refused(&home, &id, &["-g", &format!("http://{address}/")]);
    }
    // The second time it means something else; what counts is what it means when it is connected to.
    assert_reached(&home, &id, &["http://rebind.test/"], "you reached 93.184.215.14");
    assert_refused(&home, &id, &["http://rebind.test/"]);
    for address in ["tcp 10.0.0.5", "tcp 169.254", "tcp 192.168", "tcp 203", "tcp fd00", "tcp 127"] {
        stage.assert_not_seen(address);
    }
    // Of several addresses only those of the internet are connected to; where none is, nothing is.
    assert_reached(&home, &id, &["http://mixed.test/"], "you reached 93.184.215.14 as mixed.test");
    stage.assert_not_seen("tcp 10.");
    // Where the rules list the network, its names and addresses are reached.
    home.ok(&["net", "set", &id, "allow=private.test,10.0.0.0/8"]);
    assert_reached(&home, &id, &["http://private.test/"], "you reached 10.0.0.5 as private.test");
    assert_reached(&home, &id, &["http://10.0.0.5/"], "you reached 10.0.0.5");
    home.close();
}

fn shown(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,deny=other.test,open"]);
    assert_refused(&home, &id, &["-H", "Host: other.test", "http://allowed.test/"]);
    assert_refused(&home, &id, &["-k", "--connect-to", "other.test:443:allowed.test:443", "https://other.test/"]);
    // By the address, with a name that is refused.
    assert_refused(&home, &id, &["-H", "Host: other.test", "http://93.184.215.15/"]);
    assert_refused(&home, &id, &["-k", "--resolve", "other.test:443:93.184.215.15", "https://other.test/"]);
    // A proxy is a server like others.
    assert_refused(&home, &id, &["-x", "http://allowed.test:80", "http://other.test/"]);
    assert_refused(&home, &id, &["-p", "-x", "http://allowed.test:80", "https://other.test/"]);
    assert_reached(&home, &id, &["-H", "Host: allowed.test:80", "http://allowed.test/"], "as allowed.test:80");
    for reason in ["the server name of TLS is other.test", "the host of HTTP is other.test", "the target of HTTP is other.test"] {
        assert_logged(&home, &id, reason);
    }
    home.close();
}

/// By the name, as what has no name: curl names no server in TLS where the host of the URL is an address.
pub const NAMELESS: &[&str] = &["-k", "--connect-to", "93.184.215.14:443:allowed.test:443", "https://93.184.215.14/"];

fn nameless(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,93.184.215.15:443"]);
    assert_reached(&home, &id, &["-k", "https://allowed.test/"], "s_server");
    assert_refused(&home, &id, NAMELESS);
    assert_logged(&home, &id, "TLS names no server, and allowed.test was resolved: no rule allows 93.184.215.14 alone");
    // Whoever goes to an address has no name to show.
    assert_reached(&home, &id, &["-k", "https://93.184.215.15/"], "s_server");
    for rules in ["allow=allowed.test,93.184.215.14:443", "open"] {
        home.ok(&["net", "set", &id, rules]);
        assert_reached(&home, &id, NAMELESS, "s_server");
    }
    home.close();
}

fn configured(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home_with(&outer.wall, "network = \"allow=allowed.test:80,max-connections=7\"\n");
    let id = home.create(&[]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    assert_refused(&home, &id, &["http://other.test/"]);
    let log = home.ok(&["net", "log", &id]);
    assert!(log.contains("allow=allowed.test:80"), "{log}");
    let kept = home.json(&["inspect", &id])["spec"]["network"].to_string();
    assert!(kept.contains("allow=allowed.test:80") && kept.contains("max-connections=7"), "{kept}");
    // What is asked for takes the place of all of it.
    let id = home.create(&["--net", "allow=other.test"]);
    assert_reached(&home, &id, &["http://other.test/"], "you reached");
    assert_refused(&home, &id, &["http://allowed.test/"]);
    let id = home.create(&["--net", "none"]);
    assert_ne!(curl(&home, &id, &["http://allowed.test/"]).0, 0);
    // What is no policy is told, and nothing is made.
    std::fs::write(home.state().join("sandbar.toml"), "network = \"allow=a b\"\n").unwrap();
    let refused = home.sandbar(&home.run_args(&[], &["true"]));
    assert!(refused.code == 125 && refused.stderr.contains("sandbar.toml"), "{refused}");
    std::fs::write(home.state().join("sandbar.toml"), "").unwrap();
    home.close();
}

fn ipv6(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=v6.test:80,[2606:4700::2222]:80"]);
    assert_reached(&home, &id, &["http://v6.test/"], "you reached 2606:4700::1111 as v6.test");
    assert_reached(&home, &id, &["-g", "http://[2606:4700::2222]/"], "you reached 2606:4700::2222");
    assert_refused(&home, &id, &["-g", "http://[2606:4700::1111]/"]);
    assert_refused(&home, &id, &["-g", "http://[2606:4700::2222]:22/"]);
    home.close();
}

fn changed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "deny=*"]);
    assert_refused(&home, &id, &["http://allowed.test/"]);
    home.ok(&["net", "set", &id, "allow=allowed.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    let script = "exec 3<>/dev/tcp/allowed.test/7000; echo hello >&3; cat <&3 2>&1; echo over";
    let mut open = home.start(&["exec", &id, "--", "bash", "-c", script]);
    open.wait_for_line("hello");
    home.ok(&["net", "set", &id, "none"]);
    open.wait_for_line("cat: -: Connection reset by peer");
    open.wait_for_line("over");
    assert_eq!(open.finish().code, 0);
    // The server does not take it for an end either.
    eventually("it is cut off outside", || stage.seen().iter().any(|line| line == "reset 93.184.215.14 7000"));
    assert_refused(&home, &id, &["http://allowed.test/"]);
    let sealed = home.create(&[]);
    let refused = home.sandbar(&["net", "set", &sealed, "open"]);
    assert!(refused.code == 125 && refused.stderr.contains("--net"), "{refused}");
    let nonsense = home.sandbar(&["net", "set", &id, "allow=a b"]);
    assert_ne!(nonsense.code, 0, "{nonsense}");
    home.close();
}

/// Raw packets, by which routes and redirections would not matter.
const RAW: &str = "
import socket
for family, kind in [(socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW), (socket.AF_INET6, socket.SOCK_RAW), (40, socket.SOCK_STREAM)]:
    try:
        socket.socket(family, kind, socket.IPPROTO_ICMP if kind == socket.SOCK_RAW else 0)
        print('made', family, kind)
    except OSError:
        pass
";

fn attacked(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    for line in [
        "ip route flush table main",
        "ip -6 route del local default dev lo",
        "ip route replace 10.0.0.0/8 dev lo",
        "ip address add 10.0.0.5/32 dev lo",
        "ip link add net9 type dummy",
        "ip link set lo down",
        "ip rule add priority 1 blackhole",
        "unshare --user --net true",
        "unshare --net true",
        "nsenter --net=/proc/1/ns/net ip link set lo down",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ] {
        let tried = home.sandbar(&["exec", "-u", "0", &id, "--", "bash", "-c", line]);
        // A kernel of the sandbox's own gives namespaces, and settings of its own, to everybody; what counts is below.
        let own = home.wall.is_gvisor() && (line.starts_with("unshare --user") || line.contains("/proc/sys"));
        assert!(own || tried.code != 0, "{tried}");
    }
    let elsewhere = ["exec", "-u", "0", &id, "--", "unshare", "--user", "--net", "curl", "-sS", "-m", "5", "http://93.184.215.14/"];
    assert_ne!(home.sandbar(&elsewhere).code, 0);
    assert_eq!(home.ok(&["exec", "-u", "0", &id, "--", "/usr/bin/python3", "-c", RAW]), "");
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    assert_refused(&home, &id, &["http://other.test/"]);
    assert_refused(&home, &id, &["http://10.0.0.5/"]);
    stage.assert_not_seen("tcp 10.");
    home.close();
}

fn logged(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test:80"]);
    let mut following = home.start(&["net", "log", "--follow", "--json", &id]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    assert_refused(&home, &id, &["http://denied.example/"]);
    let read = || -> Vec<serde_json::Value> {
        home.ok(&["net", "log", "--json", &id]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let find = |event: &str, protocol: &str, name: &str| {
        let is = |record: &&serde_json::Value| record["event"] == event && record["protocol"] == protocol && record["name"] == name;
        read().iter().find(is).cloned()
    };
    eventually("the end of the connection is in the log", || find("ended", "tcp", "allowed.test").is_some());
    let ended = find("ended", "tcp", "allowed.test").unwrap();
    assert_eq!((&ended["address"], &ended["port"]), (&"93.184.215.14".into(), &80.into()), "{ended}");
    assert_eq!((&ended["rule"], &ended["claimed_process"]), (&"allow=allowed.test:80".into(), &"curl".into()), "{ended}");
    assert!(ended["sent"].as_u64().unwrap() > 50 && ended["received"].as_u64().unwrap() > 50, "{ended}");
    assert!(find("allowed", "dns", "allowed.test").is_some() && find("allowed", "tcp", "allowed.test").is_some());
    let denied = find("refused", "dns", "denied.example").unwrap();
    assert_eq!((&denied["rule"], &denied["reason"]), (&serde_json::Value::Null, &"no rule allows it".into()), "{denied}");
    let text = home.ok(&["net", "log", &id]);
    assert!(text.contains("refused  dns  denied.example"), "{text}");
    // Who follows has read it all when the sandbox ends.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(following.take_stdout())).map(Result::unwrap);
    // It has begun, which takes its time on a busy machine.
    let first = lines.next();
    home.ok(&["rm", "-f", &id]);
    let names: Vec<String> = first.into_iter().chain(lines).filter(|line| line.contains("denied.example")).collect();
    // IPv4's address was asked for, and IPv6's.
    assert_eq!(names.len(), text.matches("denied.example").count(), "{names:?}");
    assert_eq!(following.finish().code, 0);
    home.close();
}

/// Asks for so many names, each of which is another one and as long as names may be.
const FLOOD: &str = "
import socket, struct, sys
ends = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ends.settimeout(20)
ends.connect(('127.0.0.53', 53))
for number in range(int(sys.argv[1])):
    labels = b''.join(b'\\x3c' + (b'%060d' % number) for _ in range(3))
    ends.send(struct.pack('>HHHHHH', number & 0xffff, 0x100, 1, 0, 0, 0) + labels + b'\\x07example\\0\\0\\1\\0\\1')
    assert ends.recv(1024)[3] & 15 == 3
";

fn flooded(outer: &Home) {
    /// Of some 400 bytes each in the log, twice as many as it has room for.
    const NAMES: u64 = 40_000;
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    assert_refused(&home, &id, &["http://secret.denied.example/"]);
    assert_refused(&home, &id, &["http://10.0.0.5:81/"]);
    let flood =
        home.start(&["exec", &id, "--", "/usr/bin/python3", "-c", FLOOD, &NAMES.to_string()]).finish_within(Duration::from_secs(600));
    assert_eq!(flood.code, 0, "{flood}");
    let log = home.ok(&["net", "log", "--json", &id]);
    let records: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!((records.len() as u64) < NAMES, "nothing has left the log: {}", records.len());
    let has = |event: &str, field: &str, value: &str| records.iter().any(|record| record["event"] == event && record[field] == value);
    assert!(has("allowed", "name", "allowed.test") && has("ended", "name", "allowed.test"), "{:?}", &records[..5]);
    assert!(has("refused", "name", "secret.denied.example") && has("refused", "address", "10.0.0.5"), "{:?}", &records[..5]);
    let last = format!("{:060}.{0:060}.{0:060}.example", NAMES - 1);
    assert_eq!(records.last().unwrap()["name"], last.as_str());
    home.close();
}

fn lasting(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let holds = |id: &str| {
        assert_reached(&home, id, &["http://allowed.test/"], "you reached");
        assert_refused(&home, id, &["http://other.test/"]);
    };
    holds(&id);
    let checkpoint = home.ok(&["checkpoint", &id]);
    // What is open ends outside, and does not hang.
    let open = || {
        let script = "exec 3<>/dev/tcp/allowed.test/7005; echo open >&3; read -r line <&3; echo $line; cat <&3";
        let mut client = Client::start(home.command(&["exec", &id, "--", "bash", "-c", script]), &["exec"]);
        client.wait_for_line("open");
        client
    };
    let ended = |count| {
        let ends = ["reset 93.184.215.14 7005", "end 93.184.215.14 7005"];
        eventually("what was open has ended", || stage.seen().iter().filter(|line| ends.contains(&line.as_str())).count() == count);
    };
    let before = open();
    home.ok(&["stop", &id]);
    assert_ne!(before.finish().code, 0);
    ended(1);
    home.ok(&["start", &id]);
    holds(&id);
    let before = open();
    home.ok(&["restore", &id, &checkpoint]);
    assert_ne!(before.finish().code, 0);
    ended(2);
    holds(&id);
    let fork = home.ok(&["fork", &id]);
    holds(&fork);
    home.close();
}

fn killed(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let script = "echo ready; read -r line; curl -sS -m 30 http://allowed.test/";
    let (mut waiting, mut input) =
        crate::support::Client::start_with_input(home.command(&["exec", "-i", &id, "--", "bash", "-c", script]), &["exec"]);
    // A command that begins after the keeper was killed brings another one, this one too.
    waiting.wait_for_line("ready");
    let keepers = || crate::support::processes_with(&format!("keeper\0--home\0{}\0{id}", home.state().display()));
    eventually("there is a keeper", || keepers().len() == 1);
    rustix::process::kill_process(rustix::process::Pid::from_raw(keepers()[0].cast_signed()).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    eventually("there is no keeper", || keepers().is_empty());
    // It asks, and nobody answers.
    std::io::Write::write_all(&mut input, b"go\n").unwrap();
    stage.assert_not_seen("tcp");
    // Whatever command comes next brings another one, which answers.
    assert_eq!(home.ids(), [id.as_str()]);
    let waited = waiting.finish();
    assert_eq!((waited.code, waited.text().as_str()), (0, "you reached 93.184.215.14 as allowed.test\n"), "{waited}");
    // And one that was never started, since who made the sandbox was killed.
    let made = ["create", "--on", home.wall.provider, "--name", "orphan", "--net", "allow=allowed.test"];
    let mut command = home.command(&made);
    command.env("SANDBAR_FAULT", "create.finished");
    let killed = crate::support::Client::start(command, &made).finish();
    assert_eq!(killed.code, 137, "{killed}");
    assert_reached(&home, "orphan", &["http://allowed.test/"], "you reached");
    assert_refused(&home, "orphan", &["http://other.test/"]);
    home.close();
}

fn broken_off(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let script = "exec 3<>/dev/tcp/allowed.test/7000; echo hello >&3; cat <&3 2>&1; echo over";
    let mut open = home.start(&["exec", &id, "--", "bash", "-c", script]);
    open.wait_for_line("hello");
    let keepers = crate::support::processes_with(&format!("keeper\0--home\0{}\0{id}", home.state().display()));
    let keeper = rustix::process::Pid::from_raw(keepers[0].cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    open.wait_for_line("cat: -: Connection reset by peer");
    open.wait_for_line("over");
    assert_eq!(open.finish().code, 0);
    // Whatever command comes next brings another one.
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    home.close();
}

fn unclaimed(home: &Home) {
    let refused = home.sandbar(&home.run_args(&["--net", "allow=example.com"], &["true"]));
    assert!(refused.code == 125 && refused.stderr.contains("does not have network-rules"), "{refused}");
    assert!(refused.stderr.contains("--on container"), "{refused}");
}
