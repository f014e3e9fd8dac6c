//! How much may leave a sandbox: bytes, connections, a rate. What is over ends in a refusal.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    egress::{assert_reached, assert_refused},
    support::{Case, Client, EVERYWHERE, Home, Stage, eventually, processes_with},
};

pub const CASES: &[Case] = &[
    Case::new("egress::a_limit_of_bytes_ends_in_refusals_and_lasts", spent).on(EVERYWHERE).staged().brief_on(&["gvisor-root"]),
    Case::new("egress::who_has_used_up_all_processes_still_connects", used_up)
        .on(&["container-root", "docker-runc"])
        .staged()
        .needs_beside(&["/usr/bin/python3"]),
    Case::new("egress::connections_over_a_limit_are_refused_and_a_rate_is_kept", limited)
        .on(EVERYWHERE)
        .staged()
        .brief_on(&["gvisor-root"]),
    Case::new("egress::gibibytes_pass_and_take_no_memory", large).on(EVERYWHERE).staged(),
    Case::new("egress::two_thousand_connections_are_open_at_once_and_cost_little", many).on(EVERYWHERE).staged(),
];

/// Says so many bytes to the server that says everything again, and counts what comes.
fn echo(count: u32) -> String {
    format!("exec 3<>/dev/tcp/allowed.test/7000 && {{ head -c {count} /dev/zero >&3 & head -c {count} <&3 | wc -c; }}")
}

fn spent(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,max-bytes=20000"]);
    let say = |count: u32| home.sandbar(&["exec", &id, "--", "bash", "-c", &echo(count)]).text();
    assert_eq!(say(5000), "5000\n");
    assert_ne!(say(15000), "15000\n");
    // What is cut off has its bytes beside the reason.
    let mut cut = serde_json::Value::Null;
    eventually("it is in the log", || {
        let log = home.ok(&["net", "log", "--json", &id]);
        let mut records = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let found = records.find(|record| record["event"] == "refused" && record["port"] == 7000);
        found.is_some_and(|record| {
            cut = record;
            true
        })
    });
    assert!(cut["rule"] == "max-bytes=20000" && cut["sent"].as_u64().unwrap() + cut["received"].as_u64().unwrap() <= 10000, "{cut}");
    let refused = || {
        assert_refused(&home, &id, &["http://allowed.test/"]);
        let log = home.ok(&["net", "log", &id]);
        assert!(log.contains("max-bytes=20000  the sandbox's limit of 20000 bytes is reached"), "{log}");
    };
    // The server may hear late that what was over the limit was cut.
    eventually("it is cut off outside", || stage.seen().iter().any(|line| line == "reset 93.184.215.14 7000"));
    let seen = stage.all_seen();
    refused();
    // It does not begin anew with a life, nor with somebody else who decides.
    home.ok(&["stop", &id]);
    home.ok(&["start", &id]);
    refused();
    // Names carry something out as well.
    assert_eq!(stage.all_seen(), seen);
    home.ok(&["net", "set", &id, "allow=allowed.test,max-bytes=1M"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    // Only what it spent itself is counted.
    let fork = home.ok(&["fork", &id]);
    home.ok(&["net", "set", &fork, "allow=allowed.test,max-bytes=20000"]);
    assert_reached(&home, &fork, &["http://allowed.test/"], "you reached");
    home.close();
}

/// Has as many processes as it gets, and connects.
const USED_UP: &str = "
import os, signal, time, urllib.request
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except BlockingIOError:
    pass
print('children', len(children) < 1000, flush=True)
print(urllib.request.urlopen('http://allowed.test/').read(), flush=True)
for child in children:
    os.kill(child, signal.SIGKILL)
";

fn used_up(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--pids", "40", "--net", "allow=allowed.test"]);
    let said = home.ok(&["exec", &id, "--", "/usr/bin/python3", "-c", USED_UP]);
    assert!(said.starts_with("children True\n") && said.contains("you reached"), "{said}");
    // Whoever asked for the connection is not named; nothing else is different.
    assert!(home.ok(&["net", "log", &id]).contains("allowed"));
    assert_eq!(home.ok(&["exec", &id, "--", "echo", "alive"]), "alive");
    home.close();
}

fn limited(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,max-connections=1"]);
    let script =
        "exec 3<>/dev/tcp/allowed.test/7000; echo hello >&3; read -r line <&3; echo $line; read -r line; exec 3>&-; echo closed; cat";
    let (open, mut input) = Client::start_with_input(home.command(&["exec", "-i", &id, "--", "bash", "-c", script]), &["exec"]);
    let mut open = open;
    open.wait_for_line("hello");
    assert_refused(&home, &id, &["http://allowed.test/"]);
    let log = home.ok(&["net", "log", &id]);
    assert!(log.contains("max-connections=1  1 connections are open"), "{log}");
    input.write_all(b"go\n").unwrap();
    open.wait_for_line("closed");
    eventually("the connection has ended", || home.ok(&["net", "log", &id]).contains("ended"));
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    drop(input);
    assert_eq!(open.finish().code, 0);
    home.ok(&["net", "set", &id, "allow=allowed.test,max-rate=100K"]);
    let begun = Instant::now();
    assert_eq!(home.ok(&["exec", &id, "--", "bash", "-c", &echo(102_400)]), "102400");
    // There and back again: two seconds.
    assert!(begun.elapsed() > Duration::from_millis(1800), "it took {:?}", begun.elapsed());
    home.close();
}

/// Opens so many connections to a host, each of which is answered once, and then speaks on each again when it is told to.
const MANY: &str = "
ulimit -n $(ulimit -Hn)
speak() {
    printf $2 >&$1 && read -r -t 60 -N ${#2} said <&$1 && [ $said = $2 ] || exit 1
}
streams=()
for ((number = 0; number < $0; number++)); do
    exec {stream}<>/dev/tcp/$1/7000 || exit 1
    streams+=($stream)
    printf -v word %08d $number
    speak $stream $word
done
echo open
read -r line
for stream in ${streams[@]}; do speak $stream again; done
echo spoken
read -r line
";

/// Who decides about a sandbox.
pub fn keeper(home: &Home, id: &str) -> u32 {
    processes_with(&format!("keeper\0--home\0{}\0{id}", home.state().display()))[0]
}

/// Bytes of a process that are in memory and its own. What it has read of its program is not: that counts as private in a moment in which nobody else runs it.
pub fn own_memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |field: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    kib("Private_Dirty:") << 10
}

fn many(outer: &Home) {
    /// An emulated machine takes its time.
    const PATIENCE: Duration = Duration::from_secs(300);
    /// What one costs whoever decides about it: its task, its two sockets, a line of the log on its way.
    const EACH: u64 = 16 << 10;
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    // A device of Firecracker's has 1,023 connections, and some are left for the host's own.
    let most = if home.wall.provider == "firecracker" { 768 } else { 2048 };
    let count = most - 48;
    let id = home.create(&["--net", "allow=allowed.test,93.184.215.14:7000"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    let keeper = keeper(&home, &id);
    let before = own_memory(keeper);
    // An address, for each name would be asked twice, which takes longer than the rest in an emulated machine.
    let words = ["exec", "-i", &id, "--", "bash", "-c", MANY, &count.to_string(), "93.184.215.14"];
    let (mut client, mut input) = Client::start_with_input(home.command(&words), &["exec"]);
    client.wait_for_line("open");
    let cost = own_memory(keeper).saturating_sub(before);
    assert!(cost < count * EACH, "{count} connections took {} KiB", cost >> 10);
    input.write_all(b"go\n").unwrap();
    client.wait_for_line("spoken");
    // The bound is not far, and what is over is refused, not hung.
    let over = home.start(&["exec", &id, "--", "bash", "-c", MANY, "100", "allowed.test"]).finish_within(PATIENCE);
    assert_ne!(over.code, 0, "{over}");
    let log = home.ok(&["net", "log", &id]);
    assert!(log.contains(&format!("{most} connections are open")), "{}", log.lines().last().unwrap());
    input.write_all(b"go\n").unwrap();
    assert_eq!(client.finish().code, 0);
    eventually("they have ended", || home.sandbar(&["exec", &id, "--", "curl", "-sS", "-m", "20", "http://allowed.test/"]).code == 0);
    home.close();
}

fn large(outer: &Home) {
    const MOST: u64 = 16 << 20;
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    // An emulated machine passes seven MiB in a second.
    let size: u64 = if home.wall.is_machine() { 1 << 30 } else { 10 << 30 };
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    let keeper = keeper(&home, &id);
    let before = own_memory(keeper);
    let (is_over, mut peak) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(Ordering::Relaxed) {
                peak = own_memory(keeper).max(peak);
                thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        let script = format!("exec 3<>/dev/tcp/allowed.test/7004; head -c {size} <&3 | tail -c 1 | wc -c");
        let got = home.start(&["exec", &id, "--", "bash", "-c", &script]).finish_within(Duration::from_secs(1200));
        is_over.store(true, Ordering::Relaxed);
        assert_eq!((got.code, got.text().as_str()), (0, "1\n"), "{got}");
        peak = watch.join().unwrap();
    });
    assert!(peak < before + MOST, "it took {} KiB, and {} KiB before", peak >> 10, before >> 10);
    let received = || -> u64 { home.json(&["stats", "--json", &id])["network_received_bytes"].as_u64().unwrap() };
    eventually("it is counted", || received() >= size);
    home.close();
}
