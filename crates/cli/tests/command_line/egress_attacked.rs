//! What somebody inside tries to get out by, or to wear out whoever decides, on the stage of what leaves.

use std::{
    fs,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};

use crate::{
    egress::{assert_logged, assert_reached, assert_refused},
    egress_limits::{keeper, own_memory},
    support::{Case, Client, EVERYWHERE, Home, OWN, OWN_SECOND, OWN_V6, Stage, eventually, processes_of_sandbox, processes_with},
};

const PYTHON: &[&str] = &["/usr/bin/python3"];
/// Where the agent is a process of this host.
const SEEN: &[&str] = &["container-root", "container-rootless", "docker-runc"];

pub const CASES: &[Case] = &[
    Case::new("egress::this_machine_is_not_reached_by_its_own_public_addresses", own).on(EVERYWHERE).staged(),
    Case::new("egress::names_are_not_asked_for_over_https_or_tls", hidden_names).on(EVERYWHERE).staged(),
    Case::new("egress::each_request_of_a_connection_is_looked_at", requests)
        .on(EVERYWHERE)
        .staged()
        .needs_beside(PYTHON)
        .brief_on(&["gvisor-root"]),
    Case::new("egress::every_question_is_answered_and_most_are_refused", questions)
        .on(EVERYWHERE)
        .staged()
        .needs_beside(PYTHON)
        .brief_on(&["gvisor-root"]),
    Case::new("egress::there_is_no_ping", ping).on(EVERYWHERE).staged().needs_beside(PYTHON),
    Case::new("egress::root_inside_removes_no_rule_of_the_packet_filter", filter)
        .on(EVERYWHERE)
        .staged()
        .needs_beside(PYTHON)
        .brief_on(&["gvisor-root"]),
    Case::new("egress::an_agent_that_is_killed_ends_its_connections_and_nothing_new_leaves", killed_agent).on(SEEN).staged(),
    Case::new("egress::connections_that_are_reset_or_half_closed_leave_nothing", storms)
        .on(EVERYWHERE)
        .staged()
        .needs_beside(PYTHON)
        .brief_on(&["gvisor-root"]),
    Case::new("egress::those_who_speak_slowly_hold_nobody_up", slow)
        .on(EVERYWHERE)
        .staged()
        .needs_beside(PYTHON)
        .brief_on(&["gvisor-root"]),
    Case::new("egress::who_does_not_read_holds_the_other_side_back", held_back).on(EVERYWHERE).staged().needs_beside(PYTHON),
    Case::new("egress::a_client_that_breaks_off_its_request_is_gone_for_the_server_too", gone).on(EVERYWHERE).staged().needs_beside(PYTHON),
];

/// Whoever decides about a sandbox.
fn python(home: &Home, id: &str, words: &[&str]) -> String {
    /// An emulated processor takes its time.
    const PATIENCE: Duration = Duration::from_secs(300);
    let told = home.start(&[&["exec", "-u", "0", id, "--", "/usr/bin/python3", "-c"], words].concat()).finish_within(PATIENCE);
    assert_eq!(told.code, 0, "{told}");
    told.text().trim().to_owned()
}

fn own(outer: &Home) {
    let stage = Stage::new();
    let _listener = stage.listen_on_host();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    let addresses =
        [format!("http://{OWN}/"), format!("http://{OWN_SECOND}/"), format!("http://[{OWN_V6}]/"), format!("http://[::ffff:{OWN}]/")];
    let names = ["http://own.test/", "http://second.test/"];
    let all = || addresses.iter().map(String::as_str).chain(names);
    // A network in which they are does not list them.
    for rules in ["open", "allow=93.184.217.0/24,2606:4700::/32,open", "allow=*"] {
        home.ok(&["net", "set", &id, rules]);
        for address in all() {
            assert_refused(&home, &id, &["-g", address]);
        }
        assert_reached(&home, &id, &["http://93.184.217.9/"], "you reached 93.184.217.9");
    }
    assert!(home.ok(&["net", "log", &id]).contains("93.184.217.1 is this machine's own, which only a rule with the address allows"));
    home.ok(&["net", "set", &id, &format!("allow={OWN}:80,{OWN_SECOND}:80,[{OWN_V6}]:80,open")]);
    for address in all() {
        assert_reached(&home, &id, &["-g", address], "the host");
    }
    home.close();
}

fn hidden_names(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    for words in [
        &["-k", "https://8.8.8.8/dns-query"][..],
        &["-k", "https://dns.google/dns-query"],
        &["-k", "https://dns.google:853/"],
        &["-k", "https://8.8.8.8:853/"],
        &["-k", "-g", "https://[2001:4860:4860::8888]/dns-query"],
        &["-k", "--doh-insecure", "--doh-url", "https://8.8.8.8/dns-query", "http://allowed.test/"],
    ] {
        assert_refused(&home, &id, words);
    }
    // Nothing was looked up, nor connected to.
    assert_eq!(stage.all_seen(), Vec::<String>::new());
    home.close();
}

/// Sends requests to a server on one connection each, and prints what it is told: the status of each answer, or its last word.
const REQUESTS: &str = "
import socket, sys, time
def connect(where=sys.argv[1], port=7006):
    return socket.create_connection((where, port), 60)
def answer(stream):
    lines = []
    while (line := stream.readline().strip()):
        lines.append(line)
    length = [int(line.split(b':')[1]) for line in lines if line.lower().startswith(b'content-length:')]
    body = stream.read(length[0]).decode() if length else ''
    return body.split()[-1] if lines[0].split()[1] == b'200' and body else lines[0].split()[1].decode()
get = lambda host, version='1.1': f'GET / HTTP/{version}\\r\\n{host}\\r\\n'.encode()
good, other, nobody = get('Host: allowed.test\\r\\n'), get('Host: other.test\\r\\n'), get('Connection: keep-alive\\r\\n', '1.0')
for requests in [[good, other, good], [good + other + good], [nobody, other], [good, get('Host: allowed.test\\r\\nHost: other.test\\r\\n')]]:
    with connect() as ends, ends.makefile('rb') as stream:
        for request in requests:
            ends.sendall(request)
            for _ in range(request.count(b'GET ')):
                print(answer(stream), end=' ')
    print()
with connect() as ends, ends.makefile('rb') as stream:
    for piece in [b'G', b'ET / HTTP/1.1', b'\\r\\nHost: allo', b'wed.test\\r\\n\\r', b'\\n']:
        ends.sendall(piece)
        time.sleep(0.1)
    ends.shutdown(socket.SHUT_WR)
    print(answer(stream), stream.read())
def words(stream):
    try:
        return stream.readline()
    except ConnectionResetError:
        return 'reset'
for following in [b'word\\n', other]:
    with connect() as ends, ends.makefile('rb') as stream:
        ends.sendall(b'CONNECT allowed.test:7006 HTTP/1.1\\r\\nHost: allowed.test:7006\\r\\n\\r\\n')
        status = answer(stream)
        print(status, end=' ')
        if status == '200':
            ends.sendall(following)
            print(words(stream), end=' ')
    print()
for line in ['GET http://other.test/', 'GET /', 'GET\\x0b/\\x0bHTTP/1.1', 'get\\t/\\xa0HTTP/1.1']:
    with connect() as ends, ends.makefile('rb') as stream:
        ends.sendall(line.encode('latin-1') + b'\\r\\nHost: other.test\\r\\n\\r\\n')
        print(words(stream), end=' ')
print()
with connect(port=7000) as ends, ends.makefile('rb') as stream:
    ends.sendall(b'{\"is\": [1')
    print(stream.read(9))
";

fn requests(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,deny=other.test,open"]);
    let said = python(&home, &id, &[REQUESTS, "allowed.test"]);
    let all = [
        "allowed.test 421 allowed.test ",
        "allowed.test 421 allowed.test ",
        "nobody 421 ",
        "allowed.test 400 ",
        "allowed.test b''",
        "405 ",
        "405 ",
        "reset reset reset reset ",
        "b'{\"is\": [1'",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), all);
    // By the address, where only what is refused may not be said.
    let said = python(&home, &id, &[REQUESTS, "93.184.215.14"]);
    let mut by_address = all;
    // Where a server may be a proxy, which must not go on with requests.
    [by_address[5], by_address[6]] = ["200 b'word\\n' ", "200 b'' "];
    assert_eq!(said.lines().collect::<Vec<_>>(), by_address);
    stage.assert_not_seen("request other.test");
    for reason in ["the host of HTTP is other.test, and allowed.test was resolved", "the host of HTTP is other.test: ", "several hosts"] {
        assert_logged(&home, &id, reason);
    }
    home.close();
}

/// Asks by a datagram and by a connection: of the class CH, two questions, an update, and the root; the codes.
const QUESTIONS: &str = "
import socket, struct
header = lambda flags, count: struct.pack('>HHHHHH', 0x1234, flags, count, 0, 0, 0)
name = b'\\x07version\\x04bind\\x00'
texts = name + struct.pack('>HH', 16, 3)
address = name + struct.pack('>HH', 1, 1)
for question in [header(0x100, 1) + texts, header(0x100, 2) + address + address, header(0x2800, 1) + address, header(0x100, 1) + b'\\0\\0\\2\\0\\1']:
    ends = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ends.settimeout(20)
    ends.connect(('8.8.8.8', 53))
    ends.send(question)
    answer = ends.recv(1024)
    assert answer[:2] == question[:2] and answer[2] & 0x80, answer
    stream = socket.create_connection(('8.8.8.8', 53), 20)
    stream.sendall(struct.pack('>H', len(question)) + question)
    assert stream.recv(1024)[2:] == answer
    print(answer[3] & 15, end=' ')
";

fn questions(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    assert_eq!(python(&home, &id, &[QUESTIONS]), "5 1 4 5");
    assert_eq!(stage.all_seen(), Vec::<String>::new());
    home.close();
}

/// Pings with a socket for which one need not be root.
const PING: &str = "
import socket
for family, protocol, kind, address in [(socket.AF_INET, socket.IPPROTO_ICMP, 8, '93.184.215.14'), (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, '2606:4700::1111')]:
    try:
        ends = socket.socket(family, socket.SOCK_DGRAM, protocol)
        ends.settimeout(5)
        ends.connect((address, 0))
        ends.send(bytes([kind, 0, 0, 0, 0, 0, 0, 1]) + b'ping')
        ends.recv(1024)
        print('answered', end=' ')
    except TimeoutError:
        print('lost', end=' ')
    except OSError:
        print('refused', end=' ')
";

fn ping(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    let said = python(&home, &id, &[PING]);
    // gVisor's own kernel answers to every IPv4 address, all of which are its loopback's. To an IPv6 address it takes the question, and nobody answers.
    let expected = if home.wall.is_gvisor() { "answered lost" } else { "refused refused" };
    assert_eq!(said, expected);
    assert_eq!(stage.pings(), 0);
    // A server that is there is one to be reached.
    assert_reached(&home, &id, &["http://93.184.215.14/"], "you reached");
    home.close();
}

/// Has the kernel remove every table of nf_tables, and says what it says.
const FLUSH: &str = "
import socket, struct
def message(kind, flags, family, resource):
    return struct.pack('=IHHII', 20, kind, flags, 1, 0) + bytes([family, 0]) + struct.pack('>H', resource)
try:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    kernel.settimeout(5)
    # NFNL_MSG_BATCH_BEGIN, NFT_MSG_DELTABLE of all families, NFNL_MSG_BATCH_END.
    kernel.send(message(0x10, 1, 0, 10) + message(10 << 8 | 2, 5, 0, 0) + message(0x11, 1, 0, 10))
    said = kernel.recv(4096)
    code = struct.unpack('=i', said[16:20])[0]
    print('removed' if code == 0 else 'refused')
except OSError:
    print('refused')
";

fn filter(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_eq!(python(&home, &id, &[FLUSH]), "refused");
    for line in ["iptables -F", "iptables -t nat -F", "iptables-legacy -t nat -F", "ip6tables -t nat -F", "nft flush ruleset"] {
        let tried = home.sandbar(&["exec", "-u", "0", &id, "--", "sh", "-c", line]);
        assert_ne!(tried.code, 0, "{tried}");
    }
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    assert_refused(&home, &id, &["http://other.test/"]);
    assert_refused(&home, &id, &["http://93.184.215.14/"]);
    home.close();
}

fn killed_agent(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let script = format!(
        "exec 3<>/dev/tcp/allowed.test/7005; echo hello >&3; read -r line <&3; echo $line; while :; do curl -s -m 5 http://allowed.test/ >&2; done; # {id}"
    );
    let mut open = home.start(&["exec", &id, "--", "bash", "-c", &script]);
    open.wait_for_line("hello");
    let is_first =
        |status: String| status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().skip(2).last() == Some("1"));
    let first = |pid: &rustix::process::Pid| fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).is_ok_and(is_first);
    let inside = processes_with(&format!("done; # {id}"));
    let agent = processes_of_sandbox(&home, &id, &inside).into_iter().find(first).unwrap();
    kill_process(agent, Signal::KILL).unwrap();
    let ends = ["reset 93.184.215.14 7005", "end 93.184.215.14 7005"];
    eventually("it ends outside", || stage.seen().iter().any(|line| ends.contains(&line.as_str())));
    open.finish();
    // Whoever asks is gone; what was decided before has been seen by now.
    let try_again = || home.sandbar(&["exec", &id, "--", "curl", "-sS", "-m", "5", "http://allowed.test/"]);
    assert_ne!(try_again().code, 0);
    let seen = stage.all_seen();
    assert_ne!(try_again().code, 0);
    assert_eq!(stage.all_seen(), seen);
    home.close();
}

/// Makes so many connections: one is reset, the next says its end first and hears the other's, the third is reset after it has said its end.
const STORM: &str = "
import socket, struct, sys
for number in range(int(sys.argv[1])):
    stream = socket.create_connection(('allowed.test', 7000), 60)
    if number % 3:
        stream.sendall(b'word')
        stream.shutdown(socket.SHUT_WR)
    if number % 3 == 1:
        said = b''
        while more := stream.recv(100):
            said += more
        assert said == b'word', said
    else:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    stream.close()
print('over')
";

fn storms(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_eq!(python(&home, &id, &[STORM, "10"]), "over");
    let open = || fs::read_dir(format!("/proc/{}/fd", keeper(&home, &id))).unwrap().count();
    let told = |word: &str| home.ok(&["net", "log", &id]).lines().filter(|line| line.contains(word) && line.contains("  tcp  ")).count();
    eventually("the first have ended", || told("  ended  ") == told("  allowed  "));
    let before = open();
    let mut client = home.start(&["exec", &id, "--", "/usr/bin/python3", "-c", STORM, "2000"]);
    client.wait_for_line("over");
    assert_eq!(client.finish().code, 0);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    eventually("all descriptors are closed", || open() <= before);
    home.close();
}

/// Says the head of a request on so many connections, one byte of each a second, until a line comes; then the rest of it.
const SLOW: &str = "
import select, socket, sys
streams = [socket.create_connection(('allowed.test', 80), 60) for _ in range(int(sys.argv[1]))]
head = b'GET / HTTP/1.1\\r\\nX-Slow: ' + b'x' * 4000
for at in range(len(head)):
    for stream in streams:
        stream.sendall(head[at:at + 1])
    if at == 2:
        print('slow', flush=True)
    if select.select([sys.stdin], [], [], 1)[0]:
        break
rest = head[at + 1:at + 30] + b'\\r\\nHost: other.test\\r\\n\\r\\n'
for stream in streams:
    stream.sendall(rest)
    try:
        assert stream.recv(100) == b'', 'it was answered'
    except ConnectionResetError:
        pass
print('refused', flush=True)
";

fn slow(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let words = ["exec", "-i", &id, "--", "/usr/bin/python3", "-c", SLOW, "200"];
    let (mut client, mut input) = Client::start_with_input(home.command(&words), &["exec"]);
    client.wait_for_line("slow");
    for _ in 0..3 {
        assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    }
    // What they show in the end is judged all the same.
    input.write_all(b"go\n").unwrap();
    client.wait_for_line("refused");
    assert_eq!(client.finish().code, 0);
    let refused = || home.ok(&["net", "log", &id]).lines().filter(|line| line.contains("the host of HTTP is other.test")).count();
    eventually("all are in the log", || refused() >= 200);
    assert_eq!(refused(), 200);
    home.close();
}

/// Is sent zeros and reads none, or sends them to somebody who reads none, over plain HTTP as well; then ends when a line comes.
const STOPPED: &str = "
import socket, sys, threading
def connect(port):
    return socket.create_connection(('allowed.test', port), 60)
unread = connect(7004)
unread.sendall(b'\\0')
def send(head):
    ends = connect(7007)
    ends.sendall(head)
    while True:
        ends.sendall(bytes(1 << 20))
for head in [b'\\0', b'POST / HTTP/1.1\\r\\nHost: allowed.test\\r\\nContent-Length: 1000000000000\\r\\n\\r\\n']:
    threading.Thread(target=send, args=[head], daemon=True).start()
print('begun', flush=True)
sys.stdin.readline()
unread.settimeout(20)
total = 0
while total < 64 << 20:
    total += len(unread.recv(1 << 20))
print('read', flush=True)
";

fn held_back(outer: &Home) {
    /// What sockets, pipes and buffers on the way may hold of all three together, and what whoever decides may.
    const ON_THE_WAY: u64 = 48 << 20;
    const MOST: u64 = 4 << 20;
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    let keeper = keeper(&home, &id);
    let before = own_memory(keeper);
    let words = ["exec", "-i", &id, "--", "/usr/bin/python3", "-c", STOPPED];
    let (mut client, mut input) = Client::start_with_input(home.command(&words), &["exec"]);
    client.wait_for_line("begun");
    let passed = || {
        let stats = home.json(&["stats", "--json", &id]);
        ["network_sent_bytes", "network_received_bytes"].map(|name| stats[name].as_u64().unwrap())
    };
    // It is written down once a second.
    let mut last = passed();
    eventually("nothing passes any more", || {
        thread::sleep(Duration::from_secs(2));
        let now = passed();
        let stands = now == last && now.iter().all(|bytes| *bytes > 64 << 10);
        last = now;
        stands
    });
    assert!(last.iter().sum::<u64>() < ON_THE_WAY, "{last:?} bytes have passed, and nobody reads");
    let cost = own_memory(keeper).saturating_sub(before);
    assert!(cost < MOST, "it took {} KiB", cost >> 10);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    input.write_all(b"go\n").unwrap();
    client.wait_for_line("read");
    client.finish();
    home.close();
}

/// Asks a server that never answers, and breaks off when a line comes.
const GONE: &str = "
import socket, struct, sys
ends = socket.create_connection(('allowed.test', 7008), 60)
ends.sendall(b'GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n')
print('asked', flush=True)
sys.stdin.readline()
ends.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
ends.close()
";

fn gone(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    let words = ["exec", "-i", &id, "--", "/usr/bin/python3", "-c", GONE];
    let (mut client, mut input) = Client::start_with_input(home.command(&words), &["exec"]);
    client.wait_for_line("asked");
    eventually("the server is asked", || stage.seen().iter().any(|line| line == "tcp 93.184.215.14 7008"));
    input.write_all(b"go\n").unwrap();
    assert_eq!(client.finish().code, 0);
    let begun = Instant::now();
    eventually("the server sees it", || stage.seen().iter().any(|line| line.ends_with(" 93.184.215.14 7008") && !line.starts_with("tcp ")));
    // One that only said its end could wait for its answer for a minute.
    assert!(begun.elapsed() < Duration::from_secs(30), "after {:?}", begun.elapsed());
    home.close();
}
